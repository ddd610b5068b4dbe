"""Interactions: who liked what, as a sparse binary matrix with external ids."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import scipy.sparse as sp

_IDS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Interactions:
    """A binary user-item matrix and the external ids of its rows and columns.

    Attributes:
      matrix: CSR [n_users, n_items], float32, every stored value 1, column indices sorted.
      user_ids: [n_users] NumPy text, unique, in any order.
      item_ids: [n_items] NumPy text, unique, in any order.
      times: [nnz] int64 seconds since 1970 of the stored entries, or None where unknown.
      fixed_items: whether the items are given, as the columns of a matrix are; then those that
        nobody has stay, so that positions go on to mean the same.
    """

    matrix: sp.csr_matrix
    user_ids: np.ndarray
    item_ids: np.ndarray
    times: np.ndarray | None = None
    fixed_items: bool = False

    def __post_init__(self):
        if self.matrix.shape != (len(self.user_ids), len(self.item_ids)):
            raise ValueError(
                f"a matrix of shape {self.matrix.shape} does not fit "
                f"{len(self.user_ids)} user ids and {len(self.item_ids)} item ids"
            )
        if self.times is not None and len(self.times) != self.matrix.nnz:
            raise ValueError(f"{len(self.times)} times for {self.matrix.nnz} interactions")

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
        cls,
        users: np.ndarray,
        items: np.ndarray,
        user_ids: np.ndarray,
        item_ids: np.ndarray,
        times: np.ndarray | None = None,
        *,
        fixed_items: bool = False,
    ) -> tuple[Interactions, int]:
        """Builds the matrix from codes into the id arrays; each pair is kept once.

        The order of the pairs does not matter: users and items are sorted by id, and ids that
        no pair uses are left out; with `fixed_items` both keep their order, and all items stay.

        Args:
          users, items: [n_pairs] integer codes into `user_ids` and `item_ids`.
          user_ids, item_ids: text arrays of unique ids, in any order.
          times: [n_pairs] int64 seconds since 1970; of a repeated pair the earliest counts.
          fixed_items: see `Interactions`.

        Returns:
          The interactions and the number of repeated pairs left out.

        Example:
          >>> codes, ids = np.array([0, 1, 1]), np.array(["b", "a"])
          >>> data, n_repeated = Interactions.from_pairs(codes, codes, ids, ids)
          >>> data.user_ids.tolist(), data.nnz, n_repeated
          (['a', 'b'], 2, 1)
        """
        users, user_ids = _used(users, user_ids, in_order=fixed_items)
        if not fixed_items:
            items, item_ids = _used(items, item_ids)
        shape = (len(user_ids), len(item_ids))
        matrix = sp.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=shape)
        matrix.data[:] = 1  # repeated pairs were added up
        n_repeated = len(users) - matrix.nnz
        if times is None:
            return cls(matrix, user_ids, item_ids, None, fixed_items), n_repeated
        if n_repeated:
            order = np.lexsort((times, items, users))
            users, items, times = users[order], items[order], times[order]
            first = np.ones(len(users), bool)
            first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
            times = times[first]
        else:
            stored = sp.csr_matrix((times, (users, items)), shape=shape)
            stored.sort_indices()
            times = stored.data
        return cls(matrix, user_ids, item_ids, times, fixed_items), n_repeated

    def digest(self) -> str:
        """SHA-256 of ids, pairs and times: equal data have it, wherever they came from."""
        digest = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids):
            for first in range(0, len(ids), _IDS_AT_ONCE):
                text = "\n" * (first > 0) + "\n".join(ids[first : first + _IDS_AT_ONCE].tolist())
                digest.update(text.encode("utf-8", "surrogatepass"))
        pairs = ((self.matrix.indptr, "<i8"), (self.matrix.indices, "<i4"))
        for array, kind in (*pairs, *([] if self.times is None else [(self.times, "<i8")])):
            digest.update(np.ascontiguousarray(array, kind).data)
        return digest.hexdigest()

    def since(self, start: int) -> np.ndarray:
        """[nnz] bool: which of the stored entries happened from `start` on, in seconds since 1970.

        Raises:
          ValueError: the times are not known.
        """
        if self.times is None:
            raise ValueError("these interactions have no times")
        return self.times >= start

    def take_users(self, rows: np.ndarray) -> Interactions:
        """The given rows (positions or a boolean mask), over the same items."""
        matrix, times = self.matrix[rows], None
        if self.times is not None:
            entries = (self.times, self.matrix.indices, self.matrix.indptr)
            times = sp.csr_matrix(entries, shape=self.matrix.shape)[rows].data
        return dataclasses.replace(self, matrix=matrix, user_ids=self.user_ids[rows], times=times)

    def take_entries(self, kept: np.ndarray) -> Interactions:
        """The same users and items with some of the stored entries alone; `kept` is [nnz] bool."""
        matrix = self.matrix.copy()
        matrix.data = kept.astype(np.float32)
        matrix.eliminate_zeros()
        times = None if self.times is None else self.times[kept]
        return dataclasses.replace(self, matrix=matrix, times=times)

    def onto(self, item_ids: np.ndarray) -> sp.csr_matrix:
        """The users over another catalogue; interactions with items outside of it are left out.

        Args:
          item_ids: [n] text, unique, in any order.

        Returns:
          CSR [n_users, n] float32 of ones, column indices sorted.
        """
        entries = (self.matrix.data, self.matrix.indices, self.matrix.indptr)
        # An empty column stands behind the last: that of items that nobody here has.
        wider = sp.csr_matrix(entries, shape=(self.n_users, self.n_items + 1))
        matrix = wider[:, lookup(self.item_ids, item_ids)]
        matrix.sort_indices()
        return matrix

    def drop_unused_items(self) -> Interactions:
        """The same users over the items that at least one of them has; fixed items all stay."""
        used = self.matrix.getnnz(axis=0) > 0
        if self.fixed_items or used.all():
            return self
        return dataclasses.replace(self, matrix=self.matrix[:, used], item_ids=self.item_ids[used])


def lookup(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[n] positions in `ids` (unique, in any order) of each of `wanted`; -1 where unknown."""
    wanted = np.asarray(wanted)
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    at = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[at] == wanted, at, -1)


def _used(
    codes: np.ndarray, ids: np.ndarray, in_order: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Codes into the ids that are used, which are sorted unless they are `in_order`."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    order = used if in_order else used[np.argsort(ids[used], kind="stable")]
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[codes], ids[order]
