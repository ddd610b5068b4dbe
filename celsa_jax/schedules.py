"""Non-zeros a row as a function of progress through the pruning phase.

Every schedule maps progress p in [0, 1] to a real number of non-zeros between the width d
(`n_factors`) and the target k; `nnz_at` rounds it. s_f = 1 - k/d is the final sparsity. Progress is
an array of NumPy, or of JAX, which may trace it; a mask changes where `nnz_at` does (`plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # of NumPy or of JAX
Schedule = Callable[[Array, int, int], Array]


def cubic(p: Array, d: int, k: int) -> Array:
    """d (1 - s) with s = s_f (1 - (1 - p)^3) (Zhu and Gupta 2017, equation 1)."""
    return d * (1 - (1 - k / d) * (1 - (1 - p) ** 3))


def linear(p: Array, d: int, k: int) -> Array:
    """d + (k - d) p."""
    return d + (k - d) * p


def cosine(p: Array, d: int, k: int) -> Array:
    """d (1 - s) with s = s_f (1 - cos(pi p)) / 2."""
    return d * (1 - (1 - k / d) * (1 - _like(p).cos(np.pi * p)) / 2)


def exponential(p: Array, d: int, k: int) -> Array:
    """d (k/d)^p."""
    return d * (k / d) ** p


def exponential_half(p: Array, d: int, k: int) -> Array:
    """d at p = 0, then (d/2) (2k/d)^p (Compressed ELSA, arXiv 2602.09935)."""
    xp = _like(p)
    return xp.where(p > 0, xp.maximum(d / 2 * (2 * k / d) ** p, k), d)


def step_wise(p: Array, d: int, k: int) -> Array:
    """d, d/4, d/8, ..., k, each level equally long."""
    levels = [float(d)]
    level = d / 4
    while level > k:
        levels.append(level)
        level /= 2
    if k < d:
        levels.append(float(k))
    xp = _like(p)
    return xp.asarray(levels)[xp.minimum((p * len(levels)).astype(int), len(levels) - 1)]


def constant(p: Array, d: int, k: int) -> Array:
    """k from the start."""
    return _like(p).full_like(p, k)


SCHEDULES: dict[str, Schedule] = {
    "cubic": cubic,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "exponential_half": exponential_half,
    "step-wise": step_wise,
    "constant": constant,
}


def nnz_at(schedule: str, progress: Array | float, n_factors: int, target_nnz: int) -> Array:
    """Non-zeros a row at the given progress: int32, exactly `target_nnz` from p = 1 on.

    Example:
      >>> nnz_at("cubic", np.array([0, 0.5, 1]), n_factors=64, target_nnz=16).tolist()
      [64, 22, 16]
    """
    xp = _like(progress)
    p = xp.clip(xp.asarray(progress, dtype=float), 0, 1)
    nnz = xp.rint(SCHEDULES[schedule](p, n_factors, target_nnz)).astype(np.int32)
    return xp.where(p < 1, xp.clip(nnz, target_nnz, n_factors), np.int32(target_nnz))


def _like(array: Array | float) -> Any:
    """The module of functions for an array: `numpy` or `jax.numpy`."""
    return array.__array_namespace__() if hasattr(array, "__array_namespace__") else np
