"""Groups of items that share their strongest factor and its sign (arXiv 2602.09935)."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp

from celsa_jax.sparse.rows import split_signs


@dataclasses.dataclass(frozen=True)
class Groups:
    """A partition of the items that have weights.

    A pair is a (factor, sign), as one number: 2 f for +, 2 f + 1 for -, the columns of
    `celsa_jax.sparse.rows.split_signs`.

    Attributes:
      pairs: [n_groups] int64, ascending: the pair of each group.
      of_item: [n_items] int64, the group of each item; -1 for an item without weights.
      strength: [n_items] float32, |A_if| of the item's pair; 0 without weights.
    """

    pairs: np.ndarray
    of_item: np.ndarray
    strength: np.ndarray

    @property
    def factors(self) -> np.ndarray:
        """[n_groups] int64."""
        return self.pairs // 2

    @property
    def signs(self) -> np.ndarray:
        """[n_groups] int64, 1 or -1."""
        return 1 - 2 * (self.pairs % 2)

    @property
    def sizes(self) -> np.ndarray:
        """[n_groups] int64, items in each."""
        return np.bincount(self.of_item[self.of_item >= 0], minlength=len(self.pairs))


def shown_pair(factor: int, sign: int) -> str:
    """A (factor, sign) as people read it: "12+"."""
    return f"{factor}{'+' if sign > 0 else '-'}"


def extract(embeddings: sp.spmatrix | sp.sparray) -> Groups:
    """Puts each item where its weight is largest in size: (argmax_f |A_if|, sign of that entry).

    Ties go to the lower factor.

    Args:
      embeddings: A, items x factors, sparse; used as float32.

    Example:
      >>> groups = extract(sp.csr_matrix([[0.6, -0.8], [0.0, 1.0], [0.1, -0.9]]))
      >>> groups.factors, groups.signs, groups.of_item
      (array([1, 1]), array([ 1, -1]), array([1, 0, 1]))
    """
    lists = split_signs(sp.csr_matrix(embeddings, dtype=np.float32).sorted_indices())
    lists.eliminate_zeros()
    n_items = lists.shape[0]
    rows = np.repeat(np.arange(n_items), np.diff(lists.indptr))
    strength = np.zeros(n_items, np.float32)
    np.maximum.at(strength, rows, lists.data)
    at_best = np.flatnonzero(lists.data == strength[rows])
    items, first = np.unique(rows[at_best], return_index=True)  # the lower factor comes first
    pairs, group = np.unique(lists.indices[at_best[first]].astype(np.int64), return_inverse=True)
    of_item = np.full(n_items, -1)
    of_item[items] = group
    return Groups(pairs, of_item, strength)


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
