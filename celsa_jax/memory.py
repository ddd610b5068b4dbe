"""How much device memory training takes, told before anything is allocated."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib

import jax

from celsa_jax.errors import InputError
from celsa_jax.evaluation.protocol import users_at_once
from celsa_jax.products import capacity, dense_pays, users_in_block

log = logging.getLogger(__name__)

# Bytes of a place: column, weight and up to two moments, and in a step gradient, values, an update.
_PLACE = 4 + 4 + 2 * 4 + 3 * 4
_GATHERED = 58  # and its layout and what gathers over all items pass on, as compilers plan it
_JUDGED, _SERVED = 12, 24  # bytes of a score, and of a non-zero, in validation
_CONTAINER = pathlib.Path("/sys/fs/cgroup/memory.max")  # Linux: bytes, or "max"
_SCORES = 20  # an entry of users x items: x twice, products, scores and their gradient


def training_bytes(
    n_items: int,
    n_factors: int,
    k: int,
    batch_size: int,
    n_columns: int,
    n_users: int,
    n_interactions: int,
) -> int:
    """About what a device holds at once in a training step, users included.

    A CPU holds the scores of validation, too, which is done on the host.

    Args:
      n_items: rows of the state on the device.
      n_factors: d.
      k: weights of an item at the start.
      batch_size: users in a step.
      n_columns: items that a step scores.
      n_users, n_interactions: those on the device, with their interactions.
    """
    dense = dense_pays(n_items, n_factors, k, device_bytes())
    places = capacity(k, n_factors, dense)
    state = _PLACE * n_items * places
    users = min(batch_size, users_in_block(n_columns, dense))
    step = (_SCORES * n_columns + 2 * 4 * n_factors) * users
    if dense:
        step += 4 * 4 * n_columns * n_factors
    elif n_columns == n_items:
        step += _GATHERED * n_items * places
    if jax.default_backend() == "cpu":
        judged = _JUDGED * users_at_once(n_items) + _SERVED * min(k, n_factors)
        step = max(step, n_items * judged)
    return state + step + 4 * (n_users + n_interactions)


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
    log.info("memory: training takes about %.2f GB of %.1f", needed / 1e9, there / 1e9)
    if needed > there:
        raise InputError(
            f"training would take about {needed / 1e9:.1f} GB, and the device has "
            f"{there / 1e9:.1f}; lower config.sparsity.start_nnz, config.train.batch_size or, at a "
            "random start, config.model.n_factors, set config.train.n_negatives, or with many "
            "users config.train.chunk_users"
        )
