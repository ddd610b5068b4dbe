"""Groups of items that share their strongest factor and its sign (arXiv 2602.09935)."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import scipy.sparse as sp

from celsa_jax.sparse.rows import split_signs


@dataclasses.dataclass(frozen=True)
class Groups:
    """A partition of the items that have weights; immutable.

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


def inverted_index(embeddings: sp.spmatrix | sp.sparray) -> sp.csr_matrix:
    """All items of each (factor, sign), not the dominated alone.

    Returns:
      CSR [2 n_factors, n_items]: row 2 f holds the items with a positive weight on factor f, row
      2 f + 1 those with a negative one; values are the sizes |A_if| of the weights.
    """
    return split_signs(sp.csr_matrix(embeddings)).T.tocsr()


def by_strength(labels: np.ndarray, strength: np.ndarray, n_labels: int) -> list[np.ndarray]:
    """The positions under each label 0 ... n_labels - 1, strongest first; label -1 is left out.

    Equal strengths are ordered by position.
    """
    order = np.lexsort((-strength, labels))
    starts = np.searchsorted(labels[order], np.arange(n_labels + 1))
    return [order[a:b] for a, b in itertools.pairwise(starts)]
