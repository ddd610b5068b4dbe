"""Groups of items by a label, or by their strongest factor and its sign (arXiv 2602.09935)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def strongest_pairs(
    embeddings: sp.spmatrix | sp.sparray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puts each item where its weight is largest in size: (argmax_f |A_if|, sign of that entry).

    A pair (factor, sign) is one number, 2 f for + and 2 f + 1 for -. Ties go to the lower factor.

    Args:
      embeddings: A, items x factors, sparse; used as float32.

    Returns:
      The pairs that items have, [n_groups] int64, ascending; which of these is each item's,
      [n_items] int64, -1 for an item without weights; and |A_if| there, [n_items] float32.

    Example:
      >>> strongest_pairs(sp.csr_matrix([[0.5, -1.0], [0.0, 1.0], [0.5, -0.5]]))
      (array([0, 2, 3]), array([2, 1, 0]), array([1. , 1. , 0.5], dtype=float32))
    """
    matrix = sp.csr_matrix(embeddings, dtype=np.float32).sorted_indices()
    matrix.eliminate_zeros()
    size, lengths = np.abs(matrix.data), np.diff(matrix.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    known = np.flatnonzero(lengths)
    best = np.lexsort((matrix.indices, -size, rows))[matrix.indptr[known]]
    pair = 2 * matrix.indices[best].astype(np.int64) + (matrix.data[best] < 0)
    pairs, group = np.unique(pair, return_inverse=True)
    of_item, strength = np.full(len(lengths), -1), np.zeros(len(lengths), np.float32)
    of_item[known], strength[known] = group, size[best]
    return pairs, of_item, strength


def members(
    labels: np.ndarray, n_labels: int, strength: np.ndarray | None = None
) -> list[np.ndarray]:
    """The positions under each label 0 ... n_labels - 1, in order or strongest first.

    Positions with label -1 are under none; equal strengths stay in order.
    """
    order = (
        np.argsort(labels, kind="stable") if strength is None else np.lexsort((-strength, labels))
    )
    starts = np.searchsorted(labels[order], np.arange(n_labels + 1))
    return np.split(order, starts)[1:-1]


def membership(labels: np.ndarray, n_labels: int) -> sp.csr_matrix:
    """CSR [n_labels, n] float32: 1 where a position is under a label; label -1 is none."""
    inside = np.flatnonzero(labels >= 0)
    ones = np.ones(len(inside), np.float32)
    return sp.csr_matrix((ones, (labels[inside], inside)), (n_labels, len(labels)))
