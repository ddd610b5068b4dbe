"""The best of scores."""

from __future__ import annotations

import numpy as np


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
