"""Nested clusters of items by Ward's method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils.extmath import randomized_svd

from celsa_jax.errors import InputError
from celsa_jax.segments.groups import membership
from celsa_jax.sparse.rows import unit_rows

_DIMENSIONS = 384
_MOST_POINTS = 16_384  # of Ward's method; their distances take 16 bytes a pair
_LEAST_CENTRES = 4096
_SAMPLE = 50_000
_ROWS_AT_ONCE = 1024


def nested_clusters(
    embeddings: sp.spmatrix | sp.sparray, n_clusters: Sequence[int], seed: int = 0
) -> list[np.ndarray]:
    """Divides the items at several levels, each a coarsening of the next.

    The similarities A A^T (of rows of unit length) are reduced to their 384 leading directions.
    There Ward's method (Ward, JASA 1963) divides the items, and then for each coarser level
    the unit means of the clusters below, whatever their sizes: else what is like nothing would end
    in one large cluster. Above 16,384 items the finest level divides the centres of small
    clusters by k-means, fitted to a sample of 50,000 items.

    Args:
      embeddings: A, items x factors, sparse.
      n_clusters: clusters of each level, in any order.
      seed: of the reduction, k-means and the sample.

    Returns:
      For each level, the coarsest first, [n_items] int64: the cluster of each item, 0 ..., -1
      for an item without weights. Where items are alike, clusters are fewer than asked for.

    Raises:
      InputError: a number of clusters below 1, or no item has weights.

    Example:
      >>> A = sp.csr_matrix([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0, 1.0]])
      >>> coarse, fine = nested_clusters(A, [3, 1])
      >>> coarse.tolist(), len(set(fine.tolist())), bool(fine[0] == fine[1])
      ([0, 0, 0, 0], 3, True)
    """
    if not n_clusters or min(n_clusters) < 1:
        raise InputError(f"n_clusters is {list(n_clusters)}; give whole numbers of at least 1")
    rows = unit_rows(sp.csr_matrix(embeddings, dtype=np.float32))
    rows.eliminate_zeros()
    known = np.flatnonzero(np.diff(rows.indptr))
    if not len(known):
        raise InputError("no item of the embeddings has weights; there is nothing to segment")
    points, of_point = _points(rows[known], max(n_clusters), np.random.default_rng(seed))
    levels = []
    for n in sorted(set(n_clusters), reverse=True):
        label = _ward(points, n)
        of_point = label[of_point]
        levels.append(np.full(rows.shape[0], -1))
        levels[-1][known] = of_point
        points = _unit(membership(label, label.max() + 1) @ points)
    return levels[::-1]


def _points(rows: sp.csr_matrix, n_finest: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """What Ward's method starts from, [n, dimensions], and which of it each row is."""
    n_rows = rows.shape[0]
    sample = np.arange(n_rows)
    if n_rows > _SAMPLE:
        sample = np.sort(rng.choice(n_rows, _SAMPLE, replace=False))
    seed = int(rng.integers(2**31))
    n_dimensions = min(_DIMENSIONS, len(sample), rows.shape[1])
    _, sizes, directions = randomized_svd(rows[sample], n_dimensions, n_iter=2, random_state=seed)

    def reduced(rows: sp.csr_matrix) -> np.ndarray:  # A V = U S; A A^T has the directions U S^2
        return _unit(rows @ directions.T * sizes)

    if n_rows <= _MOST_POINTS:
        return reduced(rows), np.arange(n_rows)
    n_centres = min(max(_LEAST_CENTRES, 2 * n_finest), _MOST_POINTS)
    kmeans = MiniBatchKMeans(n_centres, init="random", n_init=1, max_iter=10, random_state=seed)
    kmeans.set_params(batch_size=4 * n_centres).fit(reduced(rows[sample]))
    centres = _unit(kmeans.cluster_centers_)
    blocks = (rows[first : first + _ROWS_AT_ONCE] for first in range(0, n_rows, _ROWS_AT_ONCE))
    return centres, np.concatenate([np.argmax(reduced(b) @ centres.T, axis=1) for b in blocks])


def _unit(points: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return (points / np.maximum(norms, 1e-12)).astype(np.float32)


def _ward(points: np.ndarray, n_clusters: int) -> np.ndarray:
    """[n] the cluster of each of n points of unit length."""
    if len(points) <= n_clusters:
        return np.arange(len(points))
    distances = cosine_distances(points)
    tree = linkage(np.sqrt(2 * distances, out=distances), "ward")
    return fcluster(tree, n_clusters, "maxclust").astype(np.int64) - 1


def cosine_distances(vectors: np.ndarray | sp.csr_matrix) -> np.ndarray:
    """[n (n - 1) / 2] float64, 1 - cosine of each two of n unit rows, as SciPy's linkage takes."""
    n = vectors.shape[0]
    distances = np.empty(n * (n - 1) // 2)
    end = 0
    for first in range(0, n, _ROWS_AT_ONCE):
        block = vectors[first : first + _ROWS_AT_ONCE] @ vectors.T
        for at, row in enumerate(block.toarray() if sp.issparse(block) else block, first):
            start, end = end, end + n - at - 1
            distances[start:end] = 1 - row[at + 1 :]
    return np.clip(distances, 0, 2, out=distances)
