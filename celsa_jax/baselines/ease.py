"""EASE: the closed-form item-item model (Steck, WWW 2019, equation 8)."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from celsa_jax.sparse.retrieval import Scorer


def ease(matrix: sp.csr_matrix, l2: float) -> np.ndarray:
    """B = I - P / diag(P) with P = (X^T X + l2 I)^-1; the diagonal of B is zero.

    Args:
      matrix: X, CSR [n_users, n_items].
      l2: the ridge penalty, above 0.

    Returns:
      [n_items, n_items] float32; a history x scores x B. Float64 work of 8 n_items^2 bytes.
    """
    gram = (matrix.T.astype(np.float64) @ matrix).toarray()
    gram[np.diag_indices_from(gram)] += l2
    factor, info = scipy.linalg.lapack.dpotrf(gram.T, lower=1, overwrite_a=1)
    inverse, info_inverse = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info or info_inverse:
        raise ValueError(f"the regularised Gram matrix is not positive definite (l2 = {l2})")
    lower = np.tril(inverse)
    precision = lower + np.tril(inverse, -1).T
    weights = (precision / -np.diag(precision)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights


def ease_scorer(weights: np.ndarray) -> Scorer:
    return lambda history: history @ weights


def popularity_scorer(matrix: sp.csr_matrix) -> Scorer:
    """Every user gets the items in the order of their training counts."""
    counts = np.asarray(matrix.sum(axis=0), np.float32).ravel()
    return lambda history: np.tile(counts, (history.shape[0], 1))
