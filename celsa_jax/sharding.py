"""Several devices, of one host or of many: the mesh, and which part of an array lies where.

The mesh has two axes. Rows of the state lie along `item`, and so do the interactions of all users,
by their items; the users of a batch lie along `data`. A step is written for one device and its rows
(`jax.shard_map`), and says what it sums: along `item` the latent vectors of its users, their
gradient and three sums of the loss, along `data` the gradient. So by default all devices are on the
axis of items.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from ml_collections import ConfigDict

from celsa_jax.errors import InputError

log = logging.getLogger(__name__)

DATA, ITEM = "data", "item"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of a run lie.

    Attributes:
      mesh: devices along `data` and `item`.
      n_items: of the catalogue. Matrices have rows beyond these, up to a multiple of the axis:
        zero in W, so that they add nothing to scores, loss or gradient, and false in the mask.
    """

    mesh: Mesh
    n_items: int

    @property
    def n_rows(self) -> int:
        """Rows of a matrix of items, those that fill up the axis included."""
        share = self.mesh.shape[ITEM]
        return -(-self.n_items // share) * share

    def put(self, array: np.ndarray | jax.Array, *axes: str | None) -> jax.Array:
        """An array that every process has, along these axes; each device gets its part alone."""
        array = np.asarray(array)
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    def on_devices(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        """A function of what one device has, for all of them (`jax.shard_map`)."""
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def specs(self, tree: Any) -> Any:
        """Where the arrays of a state lie: matrices of items by their rows, all else whole."""

        def of(leaf: Any) -> PartitionSpec:
            along = leaf.ndim == 2 and leaf.shape[0] == self.n_rows
            return PartitionSpec(*([ITEM] if along else []))

        return jax.tree.map(of, tree)

    def constrain_state(self, tree: Any) -> Any:
        """Inside of jit: a state where it lies (`specs`)."""
        shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.specs(tree))
        return jax.lax.with_sharding_constraint(tree, shardings)


def make_placement(config: ConfigDict, n_items: int) -> Placement | None:
    """The placement that `config.mesh` asks for; None on one device.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    data, items, available = config.mesh.data, config.mesh.item, jax.device_count()
    # The virtual devices of one CPU share its cores; they are for tests, which ask for them.
    virtual = jax.default_backend() == "cpu" and jax.process_count() == 1
    if not items:
        devices = 1 if virtual else available
        items = max(1, devices // data)
        if devices > 1 and devices % data:
            raise InputError(
                f"config.mesh.data is {data}, which does not divide the {devices} devices; change "
                "it, or set config.mesh.item as well"
            )
    if data * items > available or (jax.process_count() > 1 and data * items != available):
        raise InputError(
            f"config.mesh.data x config.mesh.item is {data} x {items}, but there are {available} "
            "devices; make the product fit, or leave config.mesh.item at 0 for all that are left"
        )
    if data * items == 1:
        return None
    mesh = jax.make_mesh(
        (data, items),
        (DATA, ITEM),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=jax.devices()[: data * items],
    )
    log.info("mesh: %d (data) x %d (item) of %d processes", data, items, jax.process_count())
    return Placement(mesh, n_items)


def start_processes(coordinator: str, n_processes: int, process: int) -> None:
    """Joins this process to those of other hosts, before JAX has started a device.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" where a cluster's environment (Slurm, TPU)
        says all there is to know.
      n_processes, process: how many there are and which this is, from 0; not used with "auto".

    Raises:
      InputError: they do not come together.
    """
    # Its handler of SIGTERM would take the place of ours (`stopping`).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        elif 0 <= process < n_processes:
            jax.distributed.initialize(
                coordinator, n_processes, process, cluster_detection_method="deactivate"
            )
        else:
            raise ValueError(f"process {process} of {n_processes}; they count from 0")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"coordinator {coordinator!r}: the processes do not come together "
            f"({str(error).splitlines()[0]}); give HOST:PORT of process 0, how many processes "
            "there are and which this is, or start on a cluster that JAX knows"
        ) from error


def shaped(tree: Any, placement: Placement | None) -> Any:
    """Shapes and dtypes of a state (`jax.eval_shape`), with where each array is to lie."""

    def of(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        where: jax.sharding.Sharding = SingleDeviceSharding(jax.devices()[0])
        if placement is not None:
            where = NamedSharding(placement.mesh, placement.specs(leaf))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(of, tree)


def is_first_process() -> bool:
    """Whether this process is the one that writes files and logs."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Until all processes have come here."""
    multihost_utils.sync_global_devices(what)


def from_first_process(value: int) -> int:
    """What the first process has, in every process; all must call this."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def in_any_process(flag: bool) -> bool:
    """Whether a flag is set in some process; all must call this."""
    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def to_host(array: jax.Array) -> np.ndarray:
    """All of an array, in every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def sum_along(tree: Any, axis: str | None) -> Any:
    """Inside of `shard_map`: the sum of what each device has along an axis, None for one device."""
    return tree if axis is None else jax.lax.psum(tree, axis)


def pad_rows(matrix: jax.Array, n_rows: int, value: int = 0) -> jax.Array:
    """A matrix with rows of a value behind its own, up to so many."""
    padding = ((0, n_rows - matrix.shape[0]), (0, 0))
    return jnp.pad(matrix, padding, constant_values=value)
