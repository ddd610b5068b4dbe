"""EASE, the closed-form item-item model (Steck, WWW 2019, equation 8), pruned EASE, popularity."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from celsa_jax.baselines.baseline import Baseline, numbers_within, weights_baseline
from celsa_jax.errors import InputError
from celsa_jax.sparse.formats import BYTES_PER_FACTOR, BYTES_PER_NONZERO
from celsa_jax.sparse.rows import keep_largest

L2 = 100.0


def ease(matrix: sp.csr_matrix, l2: float) -> np.ndarray:
    """B = I - P / diag(P) with P = (X^T X + l2 I)^-1; the diagonal of B is zero.

    With fewer users than items, P is taken from the inverse of a matrix of users by users,
    l2 P = I - X^T (X X^T + l2 I)^-1 X, which is less work.

    Args:
      matrix: X, CSR [n_users, n_items].
      l2: the ridge penalty, above 0.

    Returns:
      [n_items, n_items] float32, 4 n_items^2 bytes; a history x scores x B. The work beside it is
      float64, 8 n_items^2 bytes: with fewer users than items 8 n_users n_items more, otherwise,
      before the result is made, up to 12 n_items^2 more for the non-zeros of X^T X.

    Raises:
      InputError: a penalty that is not above 0, or too small for float64.
    """
    if not l2 > 0:
        raise InputError(f"the penalty l2 of EASE is {l2}; it must be above 0")
    n_users, n_items = matrix.shape
    lower = _scaled_precision(matrix, l2) if n_users < n_items else _precision(matrix, l2)
    for j in range(n_items):  # in place, where whole triangles would be three copies
        lower[j, j + 1 :] = lower[j + 1 :, j]
    precision = lower.T  # symmetric, and its rows are contiguous
    precision /= -np.diag(precision)
    weights = precision.astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights


def _precision(matrix: sp.csr_matrix, l2: float) -> np.ndarray:
    """P, [n_items, n_items] float64 by columns, right on and below the diagonal."""
    factor = _cholesky((matrix.T.astype(np.float64) @ matrix).toarray(), l2)
    return scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0]


def _scaled_precision(matrix: sp.csr_matrix, l2: float) -> np.ndarray:
    """l2 P = I - W^T W with L W = X and L L^T = X X^T + l2 I; otherwise as `_precision`."""
    matrix = matrix.astype(np.float64)
    factor = _cholesky((matrix @ matrix.T).toarray(), l2)
    users = matrix.toarray(order="F")
    users = scipy.linalg.lapack.dtrtrs(factor, users, lower=1, overwrite_b=1)[0]
    del factor
    scaled = scipy.linalg.blas.dsyrk(-1.0, users, trans=1, lower=1)
    scaled[np.diag_indices_from(scaled)] += 1
    if not np.diag(scaled).min() > 1e-9:  # what is left of 1 has lost its digits
        raise _too_small(l2)
    return scaled


def _cholesky(gram: np.ndarray, l2: float) -> np.ndarray:
    """L of L L^T = G + l2 I, float64 by columns, in the place of G."""
    gram[np.diag_indices_from(gram)] += l2
    factor, info = scipy.linalg.lapack.dpotrf(gram.T, lower=1, overwrite_a=1)
    if info:
        raise _too_small(l2)  # not positive definite
    return factor


def _too_small(l2: float) -> InputError:
    return InputError(f"the penalty l2 of EASE is {l2}, too small for float64; give a larger one")


def fit_popularity(train: sp.csr_matrix, *, n_bytes: int = 0, seed: int = 0) -> Baseline:
    """The order of the training counts for every user: one count an item, whatever `n_bytes` is."""
    counts = np.asarray(train.sum(axis=0), np.float32).ravel()
    return Baseline(lambda history: np.tile(counts, (history.shape[0], 1)), float(BYTES_PER_FACTOR))


def fit_ease(train: sp.csr_matrix, *, n_bytes: int = 0, seed: int = 0, l2: float = L2) -> Baseline:
    """EASE at its own size, 4 n_items bytes an item, whatever `n_bytes` is."""
    return weights_baseline(ease(train, l2))


def fit_pruned_ease(
    train: sp.csr_matrix, *, n_bytes: int, seed: int = 0, l2: float = L2
) -> Baseline:
    """EASE of which every row, what an item says of others, keeps its largest weights."""
    return pruned_ease_baseline(ease(train, l2), n_bytes)


def fit_column_pruned_ease(
    train: sp.csr_matrix, *, n_bytes: int, seed: int = 0, l2: float = L2
) -> Baseline:
    """EASE of which every column, what others say of an item, keeps its largest weights.

    The stronger of the two where both were measured: every item keeps something to be recommended
    by.
    """
    return column_pruned_ease_baseline(ease(train, l2), n_bytes)


def pruned_ease_baseline(weights: np.ndarray, n_bytes: int) -> Baseline:
    """Of weights B that `ease` made, so that several sizes can share one inversion."""
    return weights_baseline(keep_largest(weights, numbers_within(n_bytes, BYTES_PER_NONZERO)))


def column_pruned_ease_baseline(weights: np.ndarray, n_bytes: int) -> Baseline:
    """As `pruned_ease_baseline`, by columns."""
    k = numbers_within(n_bytes, BYTES_PER_NONZERO)
    return weights_baseline(keep_largest(weights.T, k).T.tocsr())
