"""Where training begins: every item with a few factors, at values that the data give.

Factors stand for items (`neighbours`) or clusters of items (`clusters`), and an item begins with
its own and the most similar others. Cosines of co-occurrence as item similarities: Sarwar et al.,
"Item-based Collaborative Filtering Recommendation Algorithms" (WWW 2001); the exponent alpha as a
weight of popularity: Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms" (TOIS
2004). Added to these, for items with few interactions (docs/training.md): counts are shrunk, and
one scale serves all items.
"""

from __future__ import annotations

import itertools
import logging
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import tqdm

from celsa_jax.sparse.rows import from_places
from celsa_jax.sparse.threads import in_threads, n_cores

log = logging.getLogger(__name__)

_ENTRIES_AT_ONCE = 1 << 22  # of a block of co-occurrences: some 100 MB in a thread
_ROWS_AT_ONCE = 1 << 15
_LOW = np.uint64(0xFFFFFFFF)
# Chosen on validation users over the data sets and their thinned copies (`recipe`).
_SHRINKAGE = 80.0  # interactions
_POPULARITY = 0.2
_SCALE_QUANTILE = 0.99


class Start(NamedTuple):
    """What training begins with: exactly k0 factors an item, and their values.

    Attributes:
      columns: [n_items, k0] int32, an item's factors, ascending and distinct.
      values: [n_items, k0] float32.
      n_factors: of the model; columns are below it.
    """

    columns: np.ndarray
    values: np.ndarray
    n_factors: int

    def with_even_rows(self) -> Start:
        """All rows scaled to their median length.

        The length of a row says how readily an item is recommended, which is left to training.
        """
        lengths = np.linalg.norm(self.values, axis=1, keepdims=True)
        return self._replace(values=self.values * (np.median(lengths) / lengths))

    def tocsr(self) -> sp.csr_matrix:
        """[n_items, n_factors] float32."""
        return from_places(self.columns, self.values, self.n_factors)


def neighbours(matrix: sp.csr_matrix, k0: int, alpha: float, seed: int) -> Start:
    """Factor f belongs to item f; an item begins with its own and its nearest items' factors.

    An item's own factor begins at 1, its k0 - 1 nearest others at their similarity, which is
    co-occurrence * w_i * w_j with w = count^0.2 / (count + 80)^alpha, over the 0.99 quantile of the
    items' largest similarities or, where that is more, the item's own largest. Ties go to the lower
    index; where fewer co-occur, random factors follow with tiny values. An item without
    interactions begins at -1, as nobody is to be shown it. The number of threads changes nothing.

    Args:
      matrix: [n_users, n_items], binary CSR with at least one interaction.
      k0: factors an item, at least 1; more than n_items count as n_items.
      alpha: exponent of the counts; less favours popular neighbours.
      seed: of the factors drawn at random.
    """
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    own, weights = np.arange(len(counts)), _weights(counts, alpha)
    return _start(matrix, matrix, own, weights, weights, k0, seed)


def clusters(matrix: sp.csr_matrix, n_factors: int, k0: int, alpha: float, seed: int) -> Start:
    """Each factor belongs to a cluster of items; an item begins with its own and the nearest ones.

    As in `neighbours`, but with alpha + 1/2 for the cluster's count, which takes back that a
    cluster of more items has more co-occurrences. Clusters are made by joining pairs
    (`_agglomerate`), numbered by their first items, and none is empty.

    Args:
      matrix: [n_users, n_items], binary CSR with at least one interaction.
      n_factors: clusters, from 1 to the items that have interactions (`recipe` checks that).
      k0: factors an item, at least 1; more than n_factors count as n_factors.
      alpha, seed: as in `neighbours`.
    """
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    used = np.flatnonzero(counts)
    own = np.arange(len(counts)) % n_factors
    own[used] = _agglomerate(matrix if len(used) == len(own) else matrix[:, used], n_factors)
    of_cluster = np.bincount(own, counts)
    by_cluster = matrix.astype(np.float32) @ _membership(own)
    weights = _weights(of_cluster, alpha + 0.5)
    return _start(matrix, by_cluster, own, _weights(counts, alpha), weights, k0, seed)


def _start(
    matrix: sp.csr_matrix,
    by_factor: sp.csr_matrix,
    own: np.ndarray,
    item_weights: np.ndarray,
    weights: np.ndarray,
    k0: int,
    seed: int,
) -> Start:
    """Every item's own factor at 1, its nearest others, and random ones where these are too few.

    Args:
      matrix: [n_users, n_items], binary CSR.
      by_factor: [n_users, n_factors] CSR, how often users had an item of a factor.
      own: [n_items], the factor of each item, of one without interactions any factor.
      item_weights, weights: [n_items] and [n_factors]; similarity is co-occurrence times these.
        0 where there are no interactions.
      k0, seed: as in `neighbours`.
    """
    n_items, n_factors = len(own), by_factor.shape[1]
    k0 = min(k0, n_factors)
    columns, values = np.zeros((n_items, k0), np.int32), np.zeros((n_items, k0), np.float32)
    _put_nearest(columns[:, 1:], values[:, 1:], matrix, by_factor, weights, own)
    largest = values[:, 1:].max(axis=1, initial=0) * item_weights
    is_used = item_weights > 0
    scale = np.quantile(largest[is_used], _SCALE_QUANTILE) or 1.0
    of_item = (item_weights / np.maximum(largest, scale)).astype(np.float32)[:, None]
    rng = np.random.default_rng(seed)
    places = rng.random(n_items)
    for first in range(0, n_items, _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        values[rows] *= of_item[rows]
        columns[rows, 0], values[rows, 0] = own[rows], np.where(is_used[rows], 1, -1)
        complete(columns[rows], values[rows], n_factors, places[rows], rng)
    return Start(columns, values, n_factors)


def _put_nearest(
    columns: np.ndarray,
    values: np.ndarray,
    matrix: sp.csr_matrix,
    by_factor: sp.csr_matrix,
    weights: np.ndarray,
    own: np.ndarray,
    spread: bool = False,
) -> None:
    """Puts the k most similar factors of every item, in no order, and their similarities.

    The item's own is none of them. Where fewer co-occur, values of 0 are left.

    Args:
      columns, values: [n_items, k], written to.
      matrix, by_factor, weights, own: as in `_start`.
      spread: of equally similar factors not the lowest goes first, to which all would point, but
        the one nearest to the row in XOR, so that equals find each other in pairs.
    """
    n_items, k = columns.shape
    if k == 0:
        return
    by_item = matrix.T.tocsr().astype(np.float32)
    # Co-occurrences are added up as whole numbers, which float32 holds exactly: equal ones tie.
    by_factor = by_factor.astype(np.float32)
    weights = (weights / weights.max()).astype(np.float32)
    bounds = _blocks(by_item, by_factor)
    bar = tqdm.tqdm(total=n_items, unit="item", desc="start", mininterval=1, disable=None)

    def of_block(at: int) -> None:
        first, last = bounds[at], bounds[at + 1]
        together = by_item[first:last] @ by_factor
        similar = together.data * weights[together.indices]
        lengths = np.diff(together.indptr)
        similar[together.indices == np.repeat(own[first:last], lengths)] = 0
        # The bits of positive floats order as the floats do, so that one integer holds what is
        # compared first, the similarity, and below it the factor, flipped, which breaks ties.
        keys = similar.view(np.uint32).astype(np.uint64) << 32
        rows = np.arange(first, last, dtype=np.uint64)[:, None]
        flip = _LOW ^ (rows if spread else np.zeros_like(rows))
        keys |= together.indices.astype(np.uint64) ^ np.repeat(
            flip.ravel(), np.diff(together.indptr)
        )
        best = np.zeros((last - first, k), np.uint64)
        for row, (start, end) in enumerate(itertools.pairwise(together.indptr)):
            mine = keys[start:end]
            if len(mine) > k:
                mine = np.partition(mine, len(mine) - k)[len(mine) - k :]
            best[row, : len(mine)] = mine
        columns[first:last] = (best & _LOW) ^ flip
        values[first:last] = (best >> 32).astype(np.uint32).view(np.float32)
        bar.update(last - first)

    with bar:
        in_threads(of_block, range(len(bounds) - 1), n_cores())


def _blocks(by_item: sp.csr_matrix, by_factor: sp.csr_matrix) -> np.ndarray:
    """Bounds of blocks of items with a limited number of co-occurring pairs, or of one item."""
    lengths = np.diff(by_factor.indptr).astype(np.float64)
    n_pairs = np.minimum(by_item @ lengths, by_factor.shape[1])
    block = (np.cumsum(n_pairs) // _ENTRIES_AT_ONCE).astype(np.int64)
    return np.r_[np.unique(block, return_index=True)[1], len(block)]


def complete(
    columns: np.ndarray,
    values: np.ndarray,
    n_factors: int,
    start: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Random other factors with tiny values in place of values of 0; factors then ascend.

    Args:
      columns, values: [n_rows, k], changed; the factors with values are distinct in a row.
      n_factors: at least k.
      start: [n_rows], random in [0, 1), where the others of each row begin.
      rng: draws the values, in the order of rows.
    """
    n_rows, k = columns.shape
    columns[values == 0] = n_factors
    _sort_rows(columns, values)
    rows, places = np.nonzero(columns == n_factors)
    if not len(rows):
        return
    # The missing are equally spaced, from a random one on, among the factors that a row has not,
    # so that they are distinct. The r-th of these is r and as many more as the row has below it:
    # those whose column less their own place is at most r.
    n_known = (columns < n_factors).sum(axis=1)
    n_free = n_factors - n_known
    spacing = n_free // np.maximum(k - n_known, 1)
    rank = (start * n_free).astype(np.int64)[rows] + (places - n_known[rows]) * spacing[rows]
    rank %= n_free[rows]
    shifted = np.where(columns < n_factors, columns - np.arange(k), n_factors)
    shifted += np.arange(n_rows)[:, None] * (n_factors + 1)
    below = np.searchsorted(shifted.ravel(), rows * (n_factors + 1) + rank, "right") - rows * k
    columns[rows, places] = rank + below
    values[rows, places] = 1e-4 * rng.standard_normal(len(rows), np.float32)
    _sort_rows(columns, values)


def _sort_rows(columns: np.ndarray, values: np.ndarray) -> None:
    """Sorts the entries of every row by column, in place."""
    order = np.argsort(columns, axis=1)
    columns[:], values[:] = (np.take_along_axis(a, order, axis=1) for a in (columns, values))


def _weights(counts: np.ndarray, alpha: float) -> np.ndarray:
    """What co-occurrences are weighed with, from the interactions of items or clusters."""
    return counts**_POPULARITY * (counts + _SHRINKAGE) ** -alpha


def _membership(own: np.ndarray) -> sp.csr_matrix:
    """[n_items, n_clusters], 1 where an item is in a cluster."""
    return sp.csr_matrix((np.ones(len(own), np.float32), own, np.arange(len(own) + 1)))


def _agglomerate(matrix: sp.csr_matrix, n_clusters: int) -> np.ndarray:
    """The cluster of every item, [n_items], by joining the most similar until so many are left.

    Similarity is the cosine of two clusters' columns (how many of the items a user has), over the
    product of their sizes, as in an average over pairs of items: without this, popular clusters
    would attract everything. In every round, each cluster may join its nearest, the most similar
    first, into clusters of at most 2, 4, 8, ... items. This keeps them of like sizes, and rounds
    few where many items are nearest to the same one.
    """
    n_items = matrix.shape[1]
    own, sizes, limit = np.arange(n_items), np.ones(n_items, np.int64), 1
    together = matrix.astype(np.float32)
    n_before = np.inf
    while len(sizes) > n_clusters and (len(sizes) < n_before or limit < n_items):
        n_before = len(sizes)
        limit *= 2
        lengths = np.sqrt(np.bincount(together.indices, np.square(together.data)))
        # Nobody can join a cluster that is full.
        weights = np.where(sizes < limit, 1 / (lengths * sizes), 0)
        nearest = np.zeros((len(sizes), 1), np.int32)
        similar = np.zeros((len(sizes), 1), np.float32)
        itself = np.arange(len(sizes))
        _put_nearest(nearest, similar, together, together, weights, itself, spread=True)
        similarity = similar[:, 0] * weights
        order = np.argsort(-similarity, kind="stable")[: np.count_nonzero(similarity)]
        into = _join(order, nearest[order, 0], sizes, limit, n_clusters)
        own, sizes = into[own], np.bincount(into, sizes).astype(np.int64)
        together = together @ _membership(into)
        log.info("%d clusters of at most %d items", len(sizes), limit)
    # Where clusters are left that no user connects, the smallest join the next smallest.
    order, n_over = np.argsort(sizes, kind="stable"), len(sizes) - n_clusters
    into = np.arange(len(sizes))
    into[order[:n_over]] = order[n_over + np.arange(n_over) % n_clusters]
    firsts, own = np.unique(into[own], return_index=True, return_inverse=True)[1:]
    return np.argsort(np.argsort(firsts))[own]


def _join(
    clusters: np.ndarray, others: np.ndarray, sizes: np.ndarray, limit: int, n_clusters: int
) -> np.ndarray:
    """The new cluster, from 0 on, of every old one.

    Args:
      clusters, others: [n_pairs], joined in this order where the limit allows it.
      sizes: [n_old], of the old clusters.
      limit: of the size of a new one.
      n_clusters: to stop at.
    """
    parent, size, n_left = list(range(len(sizes))), sizes.tolist(), len(sizes)

    def root_of(cluster: int) -> int:
        while parent[cluster] != cluster:
            parent[cluster] = cluster = parent[parent[cluster]]
        return cluster

    for cluster, other in zip(clusters.tolist(), others.tolist(), strict=True):
        if n_left == n_clusters:
            break
        one, two = root_of(cluster), root_of(other)
        if one != two and size[one] + size[two] <= limit:
            parent[two] = one
            size[one] += size[two]
            n_left -= 1
    return np.unique([root_of(c) for c in range(len(parent))], return_inverse=True)[1]
