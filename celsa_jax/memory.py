"""How much device memory training takes, told before anything is allocated."""

from __future__ import annotations

import logging
import os

import jax

from celsa_jax.errors import InputError

log = logging.getLogger(__name__)

# Bytes an entry of W: itself, two moments, a byte of mask; the gradient and one copy beside them.
_STATE = 4 + 2 * 4 + 1
_STEP = 2 * 4
_SCORES = 10  # an entry of users x items: x, scores and their gradient, some of them in bytes


def training_bytes(
    n_items: int, n_factors: int, batch_size: int, n_users: int, n_interactions: int
) -> int:
    """About what a training step holds at once in its dense phase, batches and users included.

    Args:
      n_items, n_factors: shape of W.
      batch_size: users in a step.
      n_users, n_interactions: those on the device, with their interactions.
    """
    weights = (_STATE + _STEP) * n_items * n_factors
    batch = _SCORES * n_items * batch_size + 2 * 4 * n_factors * batch_size
    return weights + batch + 4 * (n_users + n_interactions)


def device_bytes() -> int:
    """Memory of one device; of a CPU, that of the machine."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
