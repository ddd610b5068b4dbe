"""EASE, the closed-form item-item model (Steck, WWW 2019, equation 8), pruned EASE."""

from __future__ import annotations

import functools

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from celsa_jax.baselines.baseline import Baseline, numbers_within, weights_baseline
from celsa_jax.errors import InputError
from celsa_jax.sparse.formats import BYTES_PER_NONZERO
from celsa_jax.sparse.rows import keep_largest

L2 = 100.0


def ease(matrix: sp.csr_matrix, l2: float, *, dropout: float = 0.0) -> np.ndarray:
    """B = I - P / diag(P) with P = (X^T X + D)^-1 and D diagonal; the diagonal of B is zero.

    B minimises |X - X B|^2 + sum_i D_ii |B_i|^2 with D_ii = l2 + c_i dropout / (1 - dropout) for an
    item i of c_i interactions. With dropout this is the full-rank EDLAE, what dropout of the input
    comes to in the mean (Steck, NeurIPS 2020, "Autoencoders that don't overfit towards the
    identity").

    With fewer users than items, P is taken from the inverse of a matrix of users by users,
    D P = I - X^T (X D^-1 X^T + I)^-1 X D^-1, which is less work.

    Args:
      matrix: X, CSR [n_users, n_items].
      l2: the penalty of an item, above 0.
      dropout: the part of a history that is left out of the input, from 0 to below 1.

    Returns:
      [n_items, n_items] float32, 4 n_items^2 bytes; a history x scores x B. The work beside it is
      float64, 8 n_items^2 bytes: with fewer users than items 8 n_users n_items more, otherwise,
      before the result is made, up to 12 n_items^2 more for the non-zeros of X^T X.

    Raises:
      InputError: an option out of its range, or a penalty too small for float64.
    """
    if not l2 > 0:
        raise InputError(f"the penalty l2 of EASE is {l2}; it must be above 0")
    if not 0 <= dropout < 1:
        raise InputError(f"the dropout of EASE is {dropout}; give one from 0 to below 1")
    counts = np.asarray(matrix.power(2).sum(axis=0), np.float64).ravel()
    penalty = l2 + dropout / (1 - dropout) * counts
    roots = np.sqrt(penalty)
    scaled = matrix.astype(np.float64).multiply(1 / roots).tocsr()  # D becomes the identity
    by_users = matrix.shape[0] < matrix.shape[1]
    try:
        lower = _precision_by_users(scaled) if by_users else _precision(scaled)
    except np.linalg.LinAlgError:
        raise InputError(
            f"the penalty l2 of EASE is {l2}, too small for float64; give a larger one"
        ) from None
    for j in range(len(lower)):  # in place, where whole triangles would be three copies
        lower[j, j + 1 :] = lower[j + 1 :, j]
    precision = lower.T  # symmetric, and its rows are contiguous
    precision *= roots / -np.diag(precision)
    precision /= roots[:, None]
    weights = precision.astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights


def _precision(matrix: sp.csr_matrix) -> np.ndarray:
    """(X^T X + I)^-1, [n_items, n_items] float64 by columns, right on and below the diagonal."""
    factor = _cholesky((matrix.T @ matrix).toarray())
    return scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0]


def _precision_by_users(matrix: sp.csr_matrix) -> np.ndarray:
    """The same as I - W^T W with L W = X and L L^T = X X^T + I."""
    factor = _cholesky((matrix @ matrix.T).toarray())
    users = matrix.toarray(order="F")
    users = scipy.linalg.lapack.dtrtrs(factor, users, lower=1, overwrite_b=1)[0]
    del factor
    precision = scipy.linalg.blas.dsyrk(-1.0, users, trans=1, lower=1)
    precision[np.diag_indices_from(precision)] += 1
    if not np.diag(precision).min() > 1e-9:  # what is left of 1 has lost its digits
        raise np.linalg.LinAlgError
    return precision


def _cholesky(gram: np.ndarray) -> np.ndarray:
    """L of L L^T = G + I, float64 by columns, in the place of G."""
    gram[np.diag_indices_from(gram)] += 1
    factor, info = scipy.linalg.lapack.dpotrf(gram.T, lower=1, overwrite_a=1)
    if info:
        raise np.linalg.LinAlgError  # not positive definite
    return factor


def fit_ease(
    train: sp.csr_matrix,
    *,
    n_bytes: int = 0,
    seed: int = 0,
    l2: float = L2,
    dropout: float = 0.0,
    discount: float = 0.0,
) -> Baseline:
    """`ease` at its own size, 4 n_items bytes an item, whatever `n_bytes` is.

    Args:
      train, n_bytes, seed: see `celsa_jax.baselines`.
      l2, dropout: see `ease`.
      discount: scores are divided by their items' interactions to this power, as in RP3beta
        (Paudel et al., TiiS 2017) and, with factors on the history as well, in linear models of
        Park et al. (SIGIR 2025, "Why is normalization necessary for linear recommenders?").
    """
    weights = ease(train, l2, dropout=dropout)
    counts = np.asarray(train.sum(axis=0)).ravel().clip(1)
    weights /= (counts**discount).astype(np.float32)
    return weights_baseline(weights)


def fit_pruned_ease(
    train: sp.csr_matrix, *, n_bytes: int, seed: int = 0, l2: float = L2
) -> Baseline:
    """EASE of which every row, what an item says of others, keeps its largest weights."""
    return weights_baseline(_pruned(train, n_bytes, l2, 0.0, by_columns=False))


def fit_column_pruned_ease(
    train: sp.csr_matrix, *, n_bytes: int, seed: int = 0, l2: float = L2, dropout: float = 0.0
) -> Baseline:
    """`ease` of which every column, what others say of an item, keeps its largest weights.

    The stronger of the two where both were measured: every item keeps something to be recommended
    by.
    """
    columns = _pruned(train, n_bytes, l2, dropout, by_columns=True)
    return weights_baseline(columns.T.tocsr())


def _pruned(
    train: sp.csr_matrix, n_bytes: int, l2: float, dropout: float, *, by_columns: bool
) -> sp.csr_matrix:
    """The largest weights of every row or, transposed, of every column."""
    k = numbers_within(n_bytes, BYTES_PER_NONZERO)
    return keep_largest(_largest(_Key(train), max(k, _AT_LEAST), l2, dropout, by_columns), k)


class _Key:
    """A matrix as a key of a cache, equal to itself alone."""

    def __init__(self, matrix: sp.csr_matrix):
        self.matrix = matrix

    def __hash__(self) -> int:
        return id(self.matrix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.matrix is other.matrix


_AT_LEAST = 128  # weights of an item: the 1,024 bytes of the largest size in use


@functools.lru_cache(maxsize=32)  # 10 MB each with 10,000 items, and up to a minute to make
def _largest(train: _Key, k: int, l2: float, dropout: float, by_columns: bool) -> sp.csr_matrix:
    weights = ease(train.matrix, l2, dropout=dropout)
    return keep_largest(weights.T if by_columns else weights, k)
