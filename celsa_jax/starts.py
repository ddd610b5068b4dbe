"""Where training begins: every item with a few factors, at values that the data give.

Factors stand for items (`neighbours`) or clusters of items (`clusters`), and an item begins with
its own and the most similar others. Cosines of co-occurrence as item similarities: Sarwar et al.,
"Item-based Collaborative Filtering Recommendation Algorithms" (WWW 2001); the exponent alpha as a
weight of popularity: Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms" (TOIS
2004).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import tqdm

from celsa_jax.errors import InputError
from celsa_jax.sparse.threads import in_threads, n_cores

_ENTRIES_AT_ONCE = 1 << 22  # of a block of co-occurrences: some 100 MB in a thread
_ROWS_AT_ONCE = 1 << 15
_LOW = np.uint64(0xFFFFFFFF)


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


def neighbours(matrix: sp.csr_matrix, k0: int, alpha: float, seed: int) -> Start:
    """Factor f belongs to item f; an item begins with its own and its nearest items' factors.

    An item's own factor begins at 1, its k0 - 1 nearest others at their similarity, co-occurrence
    / (count_i * count_j)^alpha, over the item's largest. Where fewer co-occur with it, other
    factors follow, drawn at random with tiny values. Ties go to the lower index. The number of
    threads changes nothing.

    Args:
      matrix: [n_users, n_items], binary CSR; every item has interactions.
      k0: factors an item, at least 1; more than n_items count as n_items.
      alpha: exponent of the counts: 0.5 makes cosines, less favours popular neighbours.
      seed: of the factors drawn at random.

    Raises:
      InputError: k0 or alpha is out of range, or an item has no interactions.
    """
    _check(matrix, k0, alpha)
    return _start(matrix, matrix, np.arange(matrix.shape[1]), k0, alpha, seed)


def _check(matrix: sp.csr_matrix, k0: int, alpha: float) -> None:
    if k0 < 1:
        raise InputError(f"k0 is {k0}; an item begins with at least 1 factor")
    if not np.isfinite(alpha):
        raise InputError(f"alpha is {alpha}; give a finite number, 0.5 for cosines")
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    if not counts.all():
        raise InputError(
            f"the item at position {np.argmin(counts)} has no interactions; leave such items out"
        )


def _start(
    matrix: sp.csr_matrix,
    by_factor: sp.csr_matrix,
    own: np.ndarray,
    k0: int,
    alpha: float,
    seed: int,
) -> Start:
    """Every item's own factor at 1, its nearest others, and random ones where these are too few.

    Args:
      matrix: [n_users, n_items], binary CSR.
      by_factor: [n_users, n_factors] CSR, how often users had an item of a factor.
      own: [n_items], the factor of each item.
      k0, alpha, seed: as in `neighbours`.
    """
    n_items, n_factors = len(own), by_factor.shape[1]
    k0 = min(k0, n_factors)
    columns, values = np.zeros((n_items, k0), np.int32), np.zeros((n_items, k0), np.float32)
    _put_nearest(columns[:, 1:], values[:, 1:], matrix, by_factor, own, alpha)
    rng = np.random.default_rng(seed)
    places = rng.random(n_items)
    for first in range(0, n_items, _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        largest = values[rows].max(axis=1, keepdims=True)
        np.divide(values[rows], largest, out=values[rows], where=largest > 0)
        columns[rows, 0], values[rows, 0] = own[rows], 1
        _complete(columns[rows], values[rows], n_factors, places[rows], rng)
    return Start(columns, values, n_factors)


def _put_nearest(
    columns: np.ndarray,
    values: np.ndarray,
    matrix: sp.csr_matrix,
    by_factor: sp.csr_matrix,
    own: np.ndarray,
    alpha: float,
) -> None:
    """Puts the k most similar factors of every item, in no order, and their similarities.

    The item's own is none of them. Similarity here is co-occurrence / count_f^alpha; what an item
    counts itself is the same for all. Where fewer co-occur, values of 0 are left.

    Args:
      columns, values: [n_items, k], written to.
      matrix, by_factor, own, alpha: as in `_start`.
    """
    n_items, k = columns.shape
    if k == 0:
        return
    by_item = matrix.T.tocsr().astype(np.float32)
    # Co-occurrences are added up as whole numbers, which float32 holds exactly: equal ones tie.
    by_factor = by_factor.astype(np.float32)
    counts = np.asarray(by_factor.sum(axis=0, dtype=np.float64)).ravel()
    weights = ((counts / counts.min()) ** -alpha).astype(np.float32)
    bounds = _blocks(by_item, by_factor)
    bar = tqdm.tqdm(total=n_items, unit="item", desc="start", mininterval=1, disable=None)

    def of_block(at: int) -> None:
        first, last = bounds[at], bounds[at + 1]
        together = by_item[first:last] @ by_factor
        similar = together.data * weights[together.indices]
        similar[together.indices == np.repeat(own[first:last], np.diff(together.indptr))] = 0
        # The bits of positive floats order as the floats do, so that one integer holds what is
        # compared first, the similarity, and what breaks ties, the complement of the factor.
        keys = similar.view(np.uint32).astype(np.uint64) << 32
        keys |= _LOW - together.indices.astype(np.uint64)
        best = np.zeros((last - first, k), np.uint64)
        for row, (start, end) in enumerate(itertools.pairwise(together.indptr)):
            mine = keys[start:end]
            if len(mine) > k:
                mine = np.partition(mine, len(mine) - k)[len(mine) - k :]
            best[row, : len(mine)] = mine
        columns[first:last] = _LOW - (best & _LOW)
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


def _complete(
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
    values[rows, places] = 1e-3 * rng.standard_normal(len(rows), np.float32)
    _sort_rows(columns, values)


def _sort_rows(columns: np.ndarray, values: np.ndarray) -> None:
    """Sorts the entries of every row by column, in place."""
    order = np.argsort(columns, axis=1)
    columns[:], values[:] = (np.take_along_axis(a, order, axis=1) for a in (columns, values))
