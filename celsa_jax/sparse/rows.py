"""Rows of a matrix: their largest entries, their lengths, their signs."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

_ENTRIES_AT_ONCE = 1 << 24  # 64 MB in float32


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """[n_users, min(k, n_items)] positions of the highest scores, best first.

    Ties go to the lower position.

    Example:
      >>> top_k(np.array([[0.2, 0.9, 0.2, 0.5]]), 3)
      array([[1, 3, 0]])
    """
    n_items = scores.shape[1]
    k = min(k, n_items)
    if k == 0:
        return np.empty((len(scores), 0), np.int64)
    best = np.empty((len(scores), k), np.int64)
    for user, row in enumerate(scores):
        threshold = np.partition(row, n_items - k)[n_items - k]
        candidates = np.flatnonzero(row >= threshold)
        best[user] = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
    return best


def keep_largest(matrix: np.ndarray | sp.csr_matrix, k: int) -> sp.csr_matrix:
    """The k entries of largest magnitude in every row; ties go to the lower column.

    Args:
      matrix: [n_rows, n_columns], dense or CSR.
      k: at least 1; a row of fewer non-zeros keeps them all.

    Returns:
      CSR float32 of the same shape, columns ascending, without explicit zeros.
    """
    n_rows, n_columns = matrix.shape
    if isinstance(matrix, np.ndarray):
        largest, width = _largest_of_dense, n_columns
    else:
        largest, width = _largest_of_sparse, matrix.nnz // max(n_rows, 1)
    size = max(1, _ENTRIES_AT_ONCE // max(width, 1))
    blocks = [largest(matrix[at : at + size], k) for at in range(0, n_rows, size)]
    empty = sp.csr_matrix((0, n_columns), dtype=np.float32)
    return sp.vstack([empty, *blocks], format="csr")


def row_lengths(matrix: sp.csr_matrix) -> np.ndarray:
    """[n_rows] L2 norms, in float64, where the squares of small values do not vanish."""
    return np.asarray(np.sqrt(matrix.astype(np.float64).power(2).sum(axis=1))).ravel()


def unit_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Every row over its L2 norm, CSR float32 of the same shape; rows of zeros stay."""
    norms = row_lengths(matrix)
    values = matrix.data / np.repeat(np.where(norms > 0, norms, 1), np.diff(matrix.indptr))
    return sp.csr_matrix((values, matrix.indices, matrix.indptr), matrix.shape, np.float32)


def _largest_of_dense(rows: np.ndarray, k: int) -> sp.csr_matrix:
    dense = np.asarray(rows, np.float32)
    columns = np.sort(top_k(np.abs(dense), k), axis=1)
    values = np.take_along_axis(dense, columns, axis=1)
    starts = np.arange(len(dense) + 1) * columns.shape[1]
    kept = sp.csr_matrix((values.ravel(), columns.ravel(), starts), dense.shape)
    kept.eliminate_zeros()
    return kept


def _largest_of_sparse(rows: sp.csr_matrix, k: int) -> sp.csr_matrix:
    rows = sp.csr_matrix(rows, dtype=np.float32, copy=True)
    rows.sum_duplicates()
    of_row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, -np.abs(rows.data), of_row))
    rank = np.arange(rows.nnz) - rows.indptr[of_row]  # in this order, within the row
    rows.data[order[rank >= k]] = 0
    rows.eliminate_zeros()
    return rows


def from_places(columns: np.ndarray, values: np.ndarray, n_columns: int) -> sp.csr_matrix:
    """CSR [n_rows, n_columns] of entries in equally many places a row, zeros among them.

    Args:
      columns: [n_rows, n_places] of the entries; n_columns or more for places not in use.
      values: [n_rows, n_places].
    """
    used = columns < n_columns
    starts = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return sp.csr_matrix((values[used], columns[used], starts), shape=(len(columns), n_columns))


def split_signs(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Non-negative vectors: 2 f for a positive entry of factor f, 2 f + 1 for a negative one.

    Args:
      matrix: item embeddings [n, d].

    Returns:
      CSR [n, 2 d], as many non-zeros.
    """
    indices = 2 * matrix.indices + (matrix.data < 0)
    arrays = (np.abs(matrix.data), indices, matrix.indptr)
    return sp.csr_matrix(arrays, shape=(matrix.shape[0], 2 * matrix.shape[1]))


def positive_items(matrix: sp.csr_matrix) -> tuple[sp.csr_matrix, float]:
    """Non-negative vectors for engines whose queries must not be negative either (`split_signs`).

    In one dimension more stands what the sum of a row's magnitudes lacks to
    the largest such sum.

    Args:
      matrix: item embeddings [n, d].

    Returns:
      CSR [n, 2 d + 1] float32, and that largest sum. An item whose sum is larger needs all anew.
    """
    sums = np.asarray(abs(matrix).sum(axis=1), np.float64).ravel()
    largest = float(sums.max(initial=0))
    lacking = sp.csr_matrix((largest - sums)[:, None])
    return sp.hstack([split_signs(matrix), lacking], "csr", np.float32), largest


def positive_queries(latent: sp.csr_matrix) -> tuple[sp.csr_matrix, np.ndarray]:
    """Latent user vectors [n, d] that score `positive_items`: as the signed ones, plus a constant.

    An entry v of factor f stands at 2 f, and -v at 2 f + 1. To all of them the user's largest
    magnitude c is added: every item gets c times the largest sum of `positive_items` more.

    Returns:
      CSR [n, 2 d + 1] float32, dense in all its dimensions, and c, [n].

    Example:
      >>> items = sp.csr_matrix([[3.0, 0.0], [1.0, -1.0]])
      >>> stored, largest = positive_items(items)
      >>> queries, c = positive_queries(sp.csr_matrix([[1.0, -2.0]]))
      >>> (queries @ stored.T).toarray() - c[:, None] * largest
      array([[3., 3.]], dtype=float32)
    """
    dense = latent.toarray().astype(np.float32)
    shift = np.abs(dense).max(axis=1, initial=0)
    signed = np.stack([dense, -dense], axis=2).reshape(len(dense), 2 * latent.shape[1])
    return sp.csr_matrix(np.hstack([signed + shift[:, None], shift[:, None]])), shift
