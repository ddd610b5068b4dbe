"""Scores of all items for histories, and the best of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

Scorer = Callable[[sp.csr_matrix], np.ndarray]


def scorer(embeddings: sp.spmatrix | np.ndarray) -> Scorer:
    """The serving scores x A A^T of histories x.

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
    if not sp.issparse(embeddings):
        dense = np.asarray(embeddings, np.float32)
        return lambda history: (history @ dense) @ dense.T
    rows, columns = sp.csr_matrix(embeddings), sp.csr_matrix(embeddings.T)
    return lambda history: (history @ rows @ columns).toarray()


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
    threshold = np.partition(scores, n_items - k, axis=1)[:, n_items - k]
    best = np.empty((len(scores), k), np.int64)
    for user, row in enumerate(scores):
        candidates = np.flatnonzero(row >= threshold[user])
        best[user] = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
    return best
