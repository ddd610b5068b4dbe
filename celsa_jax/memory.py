"""How much device memory training takes, told before anything is allocated."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib

import jax

from celsa_jax.errors import InputError

log = logging.getLogger(__name__)

# Bytes an entry of W: itself, two moments, a byte of mask; the gradient and one copy beside them.
_STATE = 4 + 2 * 4 + 1
_STEP = 2 * 4
_CONTAINER = pathlib.Path("/sys/fs/cgroup/memory.max")  # Linux: bytes, or "max"
_SCORES = 10  # an entry of users x items: x, scores and their gradient, some of them in bytes


def training_bytes(
    n_items: int,
    n_factors: int,
    batch_size: int,
    n_users: int,
    n_interactions: int,
    n_columns: int = 0,
    mesh: tuple[int, int] = (1, 1),
) -> int:
    """About what a device holds at once in a training step of the dense phase, users included.

    Args:
      n_items, n_factors: shape of W.
      batch_size: users in a step.
      n_users, n_interactions: those on the device, with their interactions.
      n_columns: items that a step scores (`sampling`); 0 for all.
      mesh: devices that share users, and items.
    """
    data, items = mesh
    rows, users = n_items / items, batch_size / data
    weights = (_STATE + _STEP) * rows * n_factors
    columns = n_columns or n_items
    batch = _SCORES * columns / items * users + 2 * 4 * n_factors * users
    if n_columns:  # their weights, mask and gradient beside those of all, on every device
        batch += (1 + 2 * 4) * columns * n_factors
    return int(weights + batch) + 4 * (n_users + n_interactions // data)


def device_bytes() -> int:
    """Memory of one device; of a CPU, that of the machine, or what its container may take of it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return limit
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no such file, or no limit
        return min(machine, int(_CONTAINER.read_text()))
    return machine


def check_memory(needed: int) -> None:
    """Logs the estimate.

    Raises:
      InputError: the device has less.
    """
    there = device_bytes()
    log.info("memory: training takes about %.1f GB of %.1f", needed / 1e9, there / 1e9)
    if needed > there:
        raise InputError(
            f"training would take about {needed / 1e9:.1f} GB, and the device has "
            f"{there / 1e9:.1f}; lower config.model.n_factors or config.train.batch_size, or with "
            "many users set config.train.chunk_users"
        )
