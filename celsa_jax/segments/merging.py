"""Merging groups whose names and terms mean the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import connected_components

from celsa_jax.errors import InputError
from celsa_jax.segments.groups import members

_ROWS_AT_ONCE = 1024
_ROUNDING = 1e-6  # of cosines in float32
_NEVER = 10.0  # a distance above any between unit vectors


def merge_groups(
    vectors: np.ndarray | sp.spmatrix | sp.sparray, factors: np.ndarray, threshold: float
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Merges the two closest clusters while their cosine is at least the threshold.

    The cosine of two clusters is that of their least similar groups (complete linkage), so any two
    groups of a segment are at least that similar. Groups on opposite signs of one factor never
    share a segment: their vectors would cancel.

    Memory: 9 n^2 bytes, where n groups hang together by cosines of at least the threshold (half of
    it is SciPy's copy of their distances): 0.6 GB if n is 8,192, 2.4 GB if n is 16,384.

    Args:
      vectors: [n_groups, size] dense or sparse, what the names mean: unit rows, or zero rows, which
        are like no other.
      factors: [n_groups] int, of the groups.
      threshold: cosine in (0, 1].

    Returns:
      [n_groups] the segment of each group, numbered by their first groups; and the merges, from the
      highest cosine down, as (left, right, cosine): a node below n_groups is a group, n_groups + m
      is the result of merge m.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"the merge threshold is {threshold:g}; give a cosine above 0, up to 1")
    n_groups = len(factors)
    part = _parts(vectors, threshold)
    merges: list[tuple[float, int, int]] = []
    for inside in members(part, part.max() + 1):
        if len(inside) > 1:
            distances = _distances(vectors[inside], factors[inside])
            merges += _complete_linkage(distances, inside, 1 - threshold + _ROUNDING)
    merges.sort(key=lambda merge: -merge[0])  # within a part they are in this order already
    tree = []
    node = list(range(n_groups))  # by its first group, the node of a cluster
    for at, (cosine, left, right) in enumerate(merges):
        tree.append((node[left], node[right], cosine))
        node[left] = n_groups + at
    edges = np.array([merge[1:] for merge in merges], np.int64).reshape(-1, 2)
    return _connected(edges, n_groups), tree


def _cosines(vectors) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of vectors @ vectors.T, dense, so many at once; each block with its first row."""
    for first in range(0, vectors.shape[0], _ROWS_AT_ONCE):
        block = vectors[first : first + _ROWS_AT_ONCE] @ vectors.T
        yield first, block.toarray() if sp.issparse(block) else np.asarray(block)


def _parts(vectors, threshold: float) -> np.ndarray:
    """[n_groups] numbers of parts: groups that reach the threshold together are of one part."""
    n_groups = vectors.shape[0]
    part = np.arange(n_groups)
    for first, cosines in _cosines(vectors):
        row, column = np.nonzero(cosines >= threshold - _ROUNDING)
        part = _connected(part[np.stack([first + row, column], axis=1)], n_groups)[part]
    return part


def _connected(edges: np.ndarray, n: int) -> np.ndarray:
    """[n] the component of each node of a graph with edges [m, 2], numbered by first nodes."""
    links = sp.csr_matrix((np.ones(len(edges), bool), edges.T), (n, n))
    return connected_components(links, directed=False)[1]


def _distances(vectors, factors: np.ndarray) -> np.ndarray:
    """[n (n - 1) / 2] float64, 1 - cosine of each two groups, as SciPy's linkage takes them."""
    n_groups = len(factors)
    distances = np.empty(n_groups * (n_groups - 1) // 2)
    end = 0
    for first, cosines in _cosines(vectors):
        for at, row in enumerate(cosines, first):
            start, end = end, end + n_groups - at - 1
            later = np.clip(1 - row[at + 1 :].astype(np.float64), 0, 2)
            later[factors[at + 1 :] == factors[at]] = _NEVER
            distances[start:end] = later
    return distances


def _complete_linkage(
    distances: np.ndarray, groups: np.ndarray, longest: float
) -> list[tuple[float, int, int]]:
    """The merges up to a distance, closest first: cosine, and the first group on each side."""
    first = groups.tolist()  # of each node of the tree
    merges = []
    for left, right, distance, _ in linkage(distances, "complete"):
        low, high = sorted((first[int(left)], first[int(right)]))
        first.append(low)
        if distance <= longest:
            merges.append((round(1 - float(distance), 6), low, high))
    return merges
