"""Merging groups whose names and terms mean the same."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.cluster.hierarchy import fcluster, linkage

from celsa_jax.errors import InputError
from celsa_jax.segments.hierarchy import cosine_distances

_ROUNDING = 1e-6  # of cosines in float32
_NEVER = 10.0  # a distance above any between unit vectors


def merge_groups(
    vectors: np.ndarray | sp.csr_matrix, factors: np.ndarray, threshold: float
) -> np.ndarray:
    """Merges the two closest clusters while their cosine is at least the threshold.

    The cosine of two clusters is that of their least similar groups (complete linkage), so any two
    groups of a segment are at least that similar. Groups on opposite signs of one factor never
    share a segment: their vectors would cancel. Memory: 8 n^2 bytes.

    Args:
      vectors: [n_groups, size] dense or sparse, what the names mean: unit rows, or zero rows, which
        are like no other.
      factors: [n_groups] int, of the groups, ascending.
      threshold: cosine in (0, 1].

    Returns:
      [n_groups] int64, the segment of each group, 0 ... .
    """
    if not 0 < threshold <= 1:
        raise InputError(f"the merge threshold is {threshold:g}; give a cosine above 0, up to 1")
    n = len(factors)
    if n == 1:
        return np.zeros(1, np.int64)
    distances = cosine_distances(vectors)
    first = np.flatnonzero(factors[1:] == factors[:-1])
    distances[first * (2 * n - first - 1) // 2] = _NEVER  # from each to the one behind it
    tree = linkage(distances, "complete")
    return fcluster(tree, 1 - threshold + _ROUNDING, "distance").astype(np.int64) - 1
