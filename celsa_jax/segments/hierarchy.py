"""Nested clusters of items by Ward's method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.sparse as sp
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils.extmath import randomized_svd

from celsa_jax.errors import InputError
from celsa_jax.segments.groups import membership, strongest_pairs
from celsa_jax.sparse.rows import unit_rows

_DIMENSIONS = 384
_LITTLE = 1 / 3  # of the items: those with the least evidence
_MOST_POINTS = 16_384  # of Ward's method; their distances take 16 bytes a pair
_LEAST_CENTRES = 4096
_SAMPLE = 50_000
_ROWS_AT_ONCE = 1024


def nested_clusters(
    embeddings: sp.spmatrix | sp.sparray,
    n_clusters: Sequence[int],
    seed: int = 0,
    kin: sp.csr_matrix | None = None,
) -> list[np.ndarray]:
    """Divides the items at several levels, each a coarsening of the next (docs/segments.md).

    Ward's method (Ward, JASA 1963) in the 384 leading directions of the similarities A A^T (of rows
    of unit length), without the third of the items and clusters that has the least evidence. Above
    16,384 items the finest level divides the centres of small clusters by k-means, fitted to a
    sample of 50,000 items.

    Args:
      embeddings: A, items x factors, sparse.
      n_clusters: clusters of each level, in any order.
      seed: of the reduction, k-means and the sample.
      kin: [n_items, n_terms] rows of unit length or zero, such as TF-IDF of authors: items are
        drawn to each other by the product of their rows. None for no kin.

    Returns:
      For each level, the coarsest first, [n_items] int64: the cluster of each item, 0 ..., -1
      for an item without weights. Where items are alike, clusters are fewer than asked for.

    Raises:
      InputError: a number of clusters below 1, or no item has weights.

    Example:
      >>> A = sp.csr_matrix([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0.1], [0, 0, 1.0]])
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
    kin = sp.csr_matrix((rows.shape[0], 0), dtype=np.float32) if kin is None else kin
    rng = np.random.default_rng(seed)
    points, of_item = _points(rows[known], kin[known], max(n_clusters), rng)
    evidence = np.log1p(_n_sharing(rows[known]))
    levels = []
    for n in sorted(set(n_clusters), reverse=True):
        in_point = membership(of_item, len(points))
        label, points = _divide(points, in_point @ evidence / in_point.sum(axis=1).A1, n)
        of_item = label[of_item]
        levels.append(np.full(rows.shape[0], -1))
        levels[-1][known] = of_item
    return levels[::-1]


def _points(
    rows: sp.csr_matrix, kin: sp.csr_matrix, n_finest: int, rng
) -> tuple[np.ndarray, np.ndarray]:
    """What is divided, [n, dimensions], and which of it each row is or is nearest to."""
    n_rows = rows.shape[0]
    sample = np.arange(n_rows)
    if n_rows > _SAMPLE:
        sample = np.sort(rng.choice(n_rows, _SAMPLE, replace=False))
    seed = int(rng.integers(2**31))
    place = _placing(rows, kin, sample, seed)
    if n_rows <= _MOST_POINTS:
        return place(sample), sample
    n_centres = min(max(_LEAST_CENTRES, 2 * n_finest), _MOST_POINTS)
    kmeans = MiniBatchKMeans(n_centres, init="random", n_init=1, max_iter=10, random_state=seed)
    kmeans.set_params(batch_size=4 * n_centres).fit(place(sample))
    centres = _unit(kmeans.cluster_centers_)
    nearest = [np.argmax(place(block) @ centres.T, axis=1) for block in _blocks(n_rows)]
    found, of_row = np.unique(np.concatenate(nearest), return_inverse=True)
    return centres[found], of_row


def _placing(
    rows: sp.csr_matrix, kin: sp.csr_matrix, sample: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """What puts some of the rows into the space of the leading directions of a sample."""
    n_dimensions = min(_DIMENSIONS, len(sample), rows.shape[1])
    _, sizes, directions = randomized_svd(rows[sample], n_dimensions, n_iter=2, random_state=seed)

    def alone(block: np.ndarray) -> np.ndarray:  # A V = U S; A A^T has the directions U S^2
        return _unit(rows[block] @ directions.T * sizes)

    shared = kin[:, kin.getnnz(axis=0) > 1].tocsr()
    sums = np.zeros((shared.shape[1], n_dimensions), np.float32)
    for block in _blocks(rows.shape[0], 16 * _ROWS_AT_ONCE):  # each adds to all of the sums
        sums += shared[block].T @ alone(block)
    totals = np.asarray(shared.sum(axis=0)).ravel()

    def place(block: np.ndarray) -> np.ndarray:
        points, own = alone(block), shared[block]
        itself = np.asarray(own.multiply(own).sum(axis=1))
        weight = (own @ totals)[:, None] - itself
        mean = (own @ sums - itself * points) / np.maximum(weight, 1e-6)
        return _unit(points + np.where(weight > 1e-6, mean, 0))

    return place


def _n_sharing(rows: sp.csr_matrix) -> np.ndarray:
    """[n] how many rows have a weight on the factor of the largest of each; none is empty."""
    pairs, of_row, _ = strongest_pairs(rows)
    return np.bincount(rows.indices, minlength=rows.shape[1])[pairs[of_row] // 2]


def _divide(
    points: np.ndarray, evidence: np.ndarray, n_clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    """[n] the cluster of each of n points of unit length, and the centres of the clusters."""
    telling = np.flatnonzero(evidence >= np.quantile(evidence, _LITTLE))
    if len(telling) < n_clusters:
        telling = np.arange(len(points))
    # Points count once, however many items they are of: else what is like nothing would end in
    # one large cluster.
    label = _ward(points[telling], n_clusters)
    centres = _unit(membership(label, label.max() + 1) @ points[telling])
    nearest = [np.argmax(points[block] @ centres.T, axis=1) for block in _blocks(len(points))]
    of_point = np.concatenate(nearest)
    of_point[telling] = label
    return of_point, centres


def _blocks(n: int, at_once: int = _ROWS_AT_ONCE) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + at_once, n)) for first in range(0, n, at_once))


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
