"""The two engines behind `Recommender`: SciPy products, and compiled scans of the stored formats.

`rank(history, seen, k, candidates, query_factors, n_threads)` takes CSR histories
[n_users, n_items] with sorted int32 columns and finite float32 values, CSR rows of what must not
be recommended, and ascending candidate positions or None; k is at most the number of candidates.
It returns positions [n_users, k] (-1 where nothing is left) and float32 scores.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import scipy.sparse as sp

from celsa_jax.sparse.embeddings import SparseEmbeddings
from celsa_jax.sparse.formats import read
from celsa_jax.sparse.retrieval import top_k
from celsa_jax.sparse.threads import in_threads, n_cores

FEW_USERS = 8  # from here on scanning all rows for many users at once beats their lists
OVERSAMPLING = 10  # candidates for each wanted item in approximate retrieval
_SCORES_AT_ONCE = 1 << 24  # of the SciPy engine: 64 MiB
_USERS_AT_ONCE = 1 << 12  # of a thread of the Numba engine: what it has not ranked yet takes memory


class ScipyEngine:
    """The reference: x A A^T by sparse products over the decoded matrix."""

    def __init__(self, embeddings: SparseEmbeddings):
        self.rows = embeddings.tocsr()
        self.columns = self.rows.T.tocsr()  # the transpose by rows is A by columns

    @property
    def nbytes(self) -> int:
        """Bytes held for scoring."""
        arrays = [getattr(m, a) for m in (self.rows, self.columns) for a in ("data", "indices")]
        return sum(a.nbytes for a in (*arrays, self.rows.indptr, self.columns.indptr))

    def rank(
        self,
        history: sp.csr_matrix,
        seen: sp.csr_matrix,
        k: int,
        candidates: np.ndarray | None,
        query_factors: int | None,
        n_threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        at_once = max(1, _SCORES_AT_ONCE // self.rows.shape[0])

        def rank_block(first: int) -> tuple[np.ndarray, np.ndarray]:
            latent = encode(history[first : first + at_once], self.rows)
            excluded = seen[first : first + at_once]
            scores = self._scores(latent, excluded, candidates)
            if query_factors is not None and candidates is None:
                strong = _strongest(latent, query_factors)
                pool = top_k(self._scores(strong, excluded, candidates), OVERSAMPLING * k)
                missed = np.ones(scores.shape, bool)
                np.put_along_axis(missed, pool, False, axis=1)
                missed[np.diff(latent.indptr) <= query_factors] = False  # ranked exactly
                scores[missed] = -np.inf
            best = top_k(scores, k)
            values = np.take_along_axis(scores, best, axis=1)
            return np.where(values == -np.inf, -1, best), values

        blocks = in_threads(rank_block, range(0, history.shape[0], at_once), n_threads)
        items, scores = (np.concatenate(part) for part in zip(*blocks, strict=True))
        return items, scores

    def _scores(
        self, latent: sp.csr_matrix, seen: sp.csr_matrix, candidates: np.ndarray | None
    ) -> np.ndarray:
        scores = (latent @ self.columns).toarray()
        scores[np.repeat(np.arange(len(scores)), np.diff(seen.indptr)), seen.indices] = -np.inf
        if candidates is not None:
            scores[:, np.isin(np.arange(scores.shape[1]), candidates, invert=True)] = -np.inf
        return scores


class NumbaEngine:
    """Compiled: the lists of active factors for a few users, all rows at once for many."""

    def __init__(self, embeddings: SparseEmbeddings):
        from celsa_jax.sparse import kernels

        self.kernels = kernels
        starts, factors, codes = read(embeddings.arrays, embeddings.starts, embeddings.n_factors)
        self.rows = kernels.Rows(
            starts, factors, codes, embeddings.value_table, embeddings.row_scale
        )
        self.n_factors = embeddings.n_factors

    @functools.cached_property
    def lists(self):
        """Posting lists (`kernels.Lists`), built at the first request that needs them."""
        n_blocks = -(-(len(self.rows.starts) - 1) // self.kernels.BLOCK)
        lists = self.kernels.Lists(
            np.empty((n_blocks, self.n_factors + 1), np.int64),
            np.empty(len(self.rows.codes), np.uint16),
            np.empty_like(self.rows.codes),
        )
        in_threads(
            lambda block: self.kernels.fill_lists(self.rows, lists, block),
            range(n_blocks),
            n_cores(),
        )
        return lists

    @property
    def nbytes(self) -> int:
        """Bytes held for scoring, the lists among them once they are built."""
        held = (*self.rows, *vars(self).get("lists", ()))
        return sum(array.nbytes for array in held if isinstance(array, np.ndarray))

    def rank(
        self,
        history: sp.csr_matrix,
        seen: sp.csr_matrix,
        k: int,
        candidates: np.ndarray | None,
        query_factors: int | None,
        n_threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        n_users = history.shape[0]
        scored = self.rows
        if candidates is not None:
            scored = _take_rows(self.rows, candidates)
            seen = seen[:, candidates].sorted_indices()
        histories = self.kernels.Histories(
            history.indptr.astype(np.int64),
            history.indices,
            history.data,
            seen.indptr.astype(np.int64),
            seen.indices,
        )
        by_lists = candidates is None and (n_users < FEW_USERS or query_factors is not None)
        strongest = query_factors or self.n_factors
        pool = min(OVERSAMPLING * k, len(self.rows.starts)) if query_factors else k
        lists = self.lists if by_lists else None
        items = np.empty((n_users, k), np.int32)
        scores = np.empty((n_users, k), np.float32)

        def rank_users(users: tuple[int, int]) -> None:
            # Room enough that most never fill it: about k scores pass the first threshold.
            keys = np.empty((users[1] - users[0], 2 * pool + 64), np.uint64)
            if by_lists:
                self.kernels.recommend_by_lists(
                    self.rows, lists, histories, *users, strongest, pool, k, keys
                )
            else:
                self.kernels.recommend_by_rows(
                    self.rows, scored, histories, *users, self.n_factors, k, keys
                )
            found = keys[:, :k]
            found.sort(axis=1)
            items[slice(*users)], scores[slice(*users)] = _read_keys(found[:, ::-1])

        lanes = self.kernels.LANES
        group = 1 if by_lists else lanes if n_users >= lanes * n_threads else lanes // 4
        n_parts = max(n_threads, -(-n_users // _USERS_AT_ONCE))
        in_threads(rank_users, _split(n_users, n_parts, group), n_threads)
        return items if candidates is None else np.where(items < 0, -1, candidates[items]), scores


def encode(history: sp.csr_matrix, rows: sp.csr_matrix) -> sp.csr_matrix:
    """Latent vectors x A, with sorted factors."""
    latent = history @ rows
    latent.eliminate_zeros()
    latent.sort_indices()
    return latent


def _split(n_users: int, n_parts: int, group: int) -> list[tuple[int, int]]:
    """Ranges of users of about equal length, each a multiple of `group` but for the last."""
    n_groups = -(-n_users // group)
    n_parts = min(n_parts, n_groups)
    ends = [min(n_groups * part // n_parts * group, n_users) for part in range(n_parts + 1)]
    return list(itertools.pairwise(ends))


def _read_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and scores of `kernels` keys; -1 and -inf for a key of 0."""
    upper, lower = (keys >> 32).astype(np.uint32), keys.astype(np.uint32)
    sign = np.uint32(1 << 31)
    scores = np.where(upper & sign, upper & ~sign, ~upper).view(np.float32)
    found = keys > 0
    items = np.where(found, ~lower, 0).astype(np.int32)
    return np.where(found, items, -1), np.where(found, scores, np.float32(-np.inf))


def _strongest(latent: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """The n entries of largest magnitude of each row; ties to the lower factor."""
    latent = latent.copy()
    for first, end in zip(latent.indptr[:-1], latent.indptr[1:], strict=True):
        values = latent.data[first:end]
        values[np.argsort(-np.abs(values), kind="stable")[n:]] = 0
    return latent


def _take_rows(rows, chosen: np.ndarray):
    """The chosen rows of `kernels.Rows`, in their order."""
    lengths = rows.starts[chosen + 1] - rows.starts[chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    at = np.repeat(rows.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
    starts, factors, codes = arrays = (starts, rows.factors[at], rows.codes[at])
    for array in arrays:
        array.flags.writeable = False  # one compilation with what a file maps
    scale = None if rows.scale is None else rows.scale[chosen]
    return rows._replace(starts=starts, factors=factors, codes=codes, scale=scale)
