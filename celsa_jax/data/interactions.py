"""Interactions: who liked what, as a sparse binary matrix with external ids."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp


@dataclasses.dataclass(frozen=True)
class Interactions:
    """A binary user-item matrix and the external ids of its rows and columns.

    Attributes:
      matrix: CSR [n_users, n_items], float32, every stored value 1, column indices sorted.
      user_ids: [n_users] NumPy text, unique and sorted.
      item_ids: [n_items] NumPy text, unique and sorted.
    """

    matrix: sp.csr_matrix
    user_ids: np.ndarray
    item_ids: np.ndarray

    def __post_init__(self):
        if self.matrix.shape != (len(self.user_ids), len(self.item_ids)):
            raise ValueError(
                f"a matrix of shape {self.matrix.shape} does not fit "
                f"{len(self.user_ids)} user ids and {len(self.item_ids)} item ids"
            )

    @property
    def n_users(self) -> int:
        return self.matrix.shape[0]

    @property
    def n_items(self) -> int:
        return self.matrix.shape[1]

    @property
    def nnz(self) -> int:
        return self.matrix.nnz

    @classmethod
    def from_pairs(
        cls, users: np.ndarray, items: np.ndarray, user_ids: np.ndarray, item_ids: np.ndarray
    ) -> tuple[Interactions, int]:
        """Builds the matrix from codes into the id arrays; each pair is kept once.

        The order of the pairs does not matter: users and items are sorted by id, and ids that
        no pair uses are left out.

        Args:
          users, items: [n_pairs] integer codes into `user_ids` and `item_ids`.
          user_ids, item_ids: text arrays of unique ids, in any order.

        Returns:
          The interactions and the number of repeated pairs left out.
        """
        users, user_ids = _sorted_codes(users, user_ids)
        items, item_ids = _sorted_codes(items, item_ids)
        shape = (len(user_ids), len(item_ids))
        matrix = sp.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1
        return cls(matrix, user_ids, item_ids), len(users) - matrix.nnz

    def take_users(self, rows: np.ndarray) -> Interactions:
        """The given rows (positions or a boolean mask), over the same items."""
        return Interactions(self.matrix[rows], self.user_ids[rows], self.item_ids)

    def drop_unused_items(self) -> Interactions:
        """The same users over the items that at least one of them has."""
        used = np.flatnonzero(self.matrix.getnnz(axis=0))
        return Interactions(self.matrix[:, used], self.user_ids, self.item_ids[used])


def lookup(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[n] positions in `ids` (unique, in any order) of each of `wanted`; -1 where unknown."""
    wanted = np.asarray(wanted)
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    at = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[at] == wanted, at, -1)


def _sorted_codes(codes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    order = used[np.argsort(ids[used], kind="stable")]
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[codes], ids[order]
