"""Scores of all items for histories."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from celsa_jax.sparse.rows import unit_rows

Scorer = Callable[[sp.csr_matrix], np.ndarray]

_DENSE_SHARE = 1 / 8  # of entries that are not zero: with more, dense products are faster


def scorer(embeddings: sp.spmatrix | np.ndarray) -> Scorer:
    """The serving scores x U A^T of histories x.

    U is A with rows of unit length: what an item says of those who have it does not depend on how
    readily it is recommended.

    Args:
      embeddings: A, items x factors, sparse or dense.

    Returns:
      A function from a CSR matrix of histories [n_users, n_items] to scores of the same shape,
      dense float32. Seen items keep their scores; the caller excludes them.

    Example:
      >>> import numpy as np, scipy.sparse as sp
      >>> score = scorer(np.array([[1, 0], [0.6, 0.8], [0, 1]]))
      >>> score(sp.csr_matrix([[0, 0, 1]], dtype=np.float32))
      array([[0. , 0.8, 1. ]], dtype=float32)
    """
    if not isinstance(embeddings, np.ndarray):
        n_entries = np.prod(embeddings.shape, dtype=float)
        if embeddings.nnz > _DENSE_SHARE * n_entries:
            embeddings = embeddings.toarray()
    if isinstance(embeddings, np.ndarray):
        dense = np.asarray(embeddings, np.float32)
        lengths = np.sqrt(np.einsum("if,if->i", dense, dense, dtype=np.float64))[:, None]
        directions = np.empty_like(dense)  # without a passing array in float64
        np.divide(dense, np.where(lengths > 0, lengths, 1), out=directions, casting="same_kind")
        return lambda history: (history @ directions) @ dense.T
    directions, columns = unit_rows(sp.csr_matrix(embeddings)), sp.csr_matrix(embeddings.T)
    return lambda history: (history @ directions @ columns).toarray()
