"""Sparse vectors for engines that index them and take no negative weight."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


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


def split_queries(latent: sp.csr_matrix) -> sp.csr_matrix:
    """Latent user vectors [n, d] that score `split_signs` items exactly: CSR [n, 2 d].

    Each entry v of factor f becomes v at 2 f and -v at 2 f + 1, so the inner products are those of
    the original vectors. An engine without negative weights in queries either must drop the
    negative entries (`.maximum(0)`), and with them the penalty of factors of opposite sign.
    """
    shape = (latent.shape[0], 2 * latent.shape[1])
    indices = np.stack([2 * latent.indices, 2 * latent.indices + 1], axis=1).ravel()
    values = np.stack([latent.data, -latent.data], axis=1).ravel()
    return sp.csr_matrix((values, indices, 2 * latent.indptr), shape=shape)
