"""The two engines behind `Recommender`: SciPy products, and compiled scans of the stored formats.

Their `rank` returns positions among the candidates, [n_users, k] int32 (-1 where nothing is left),
and scores, [n_users, k] float32.
"""

from __future__ import annotations

import functools
import pathlib
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from celsa_jax.files import naming
from celsa_jax.sparse.embeddings import SparseEmbeddings
from celsa_jax.sparse.formats import Rows
from celsa_jax.sparse.rows import top_k
from celsa_jax.sparse.threads import in_threads, n_cores

FEW_USERS = 8  # from here on scanning all rows for many users at once beats their lists
_SCORES_AT_ONCE = 1 << 24  # of the SciPy engine: 64 MiB
_USERS_AT_ONCE = 1 << 12  # of a thread of the Numba engine: what it has not ranked yet takes memory


class Request(NamedTuple):
    """What an engine is asked.

    Attributes:
      history: CSR [n_users, n_items], sorted int32 columns, finite float32 values, which weigh the
        rows of A as they are.
      seen: CSR [n_users, n_candidates], sorted columns; what must not be recommended.
      k: items a user, at most the number of candidates.
      candidates: ascending positions of the items to choose from; None for all.
      n_threads: threads over users.
      scale: [n_items] float32 that scores are multiplied by; None to leave them.
    """

    history: sp.csr_matrix
    seen: sp.csr_matrix
    k: int
    candidates: np.ndarray | None
    n_threads: int
    scale: np.ndarray | None = None


class ScipyEngine:
    """The reference: sparse products over the decoded matrix."""

    def __init__(self, embeddings: SparseEmbeddings):
        self.rows = embeddings.tocsr()
        self.columns = self.rows.T.tocsr()  # the transpose by rows is A by columns

    @property
    def nbytes(self) -> int:
        """Bytes held for scoring."""
        matrices = (self.rows, self.columns)
        return sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in matrices)

    def rank(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        history, seen, k, candidates, n_threads, scale = request
        columns = self.columns if candidates is None else self.columns[:, candidates]
        if scale is not None and candidates is not None:
            scale = scale[candidates]
        at_once = max(1, _SCORES_AT_ONCE // seen.shape[1])

        def rank_block(first: int) -> tuple[np.ndarray, np.ndarray]:
            latent = encode(history[first : first + at_once], self.rows)
            excluded = seen[first : first + at_once]
            scores = (latent @ columns).toarray()
            if scale is not None:
                scores *= scale
            users = np.repeat(np.arange(len(scores)), np.diff(excluded.indptr))
            scores[users, excluded.indices] = -np.inf  # entries of weight 0 among them
            best = top_k(scores, k)
            values = np.take_along_axis(scores, best, axis=1)
            return np.where(values == -np.inf, -1, best), values

        blocks = in_threads(rank_block, range(0, history.shape[0], at_once), n_threads)
        items, scores = (np.concatenate(part) for part in zip(*blocks, strict=True))
        return items, scores


class NumbaEngine:
    """Compiled: the lists of active factors for a few users, all rows at once for many."""

    def __init__(self, embeddings: SparseEmbeddings):
        from celsa_jax.sparse import kernels

        self.kernels = kernels
        # Where compiled code is written to, which can be full.
        self.cached = pathlib.Path(kernels.fill_lists.stats.cache_path or ".")
        self.rows = embeddings.rows()
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
        fill = functools.partial(self.kernels.fill_lists, self.rows, lists)
        with naming(self.cached):
            in_threads(fill, range(n_blocks), n_cores())
        return lists

    @property
    def nbytes(self) -> int:
        """Bytes held for scoring, the lists among them once they are built."""
        held = (*self.rows, *vars(self).get("lists", ()))
        return sum(array.nbytes for array in held if array is not None)

    def rank(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        history, seen, k, candidates, n_threads, scale = request
        rows, scored = self.rows, self.rows
        if scale is not None:
            scored = rows._replace(scale=scale if rows.scale is None else rows.scale * scale)
        n_users = history.shape[0]
        arrays = (history.indptr.astype(np.int64), history.indices, history.data)
        excluded = (seen.indptr.astype(np.int64), seen.indices)
        histories = self.kernels.Histories(*arrays, *excluded)
        by_lists = candidates is None and n_users < FEW_USERS
        lists = self.lists if by_lists else None
        scored = scored if candidates is None else _take_rows(scored, candidates)
        items = np.empty((n_users, k), np.int32)
        scores = np.empty((n_users, k), np.float32)

        lanes = self.kernels.LANES
        group = 1 if by_lists else lanes if n_users >= lanes * n_threads else lanes // 4
        size = -(-min(-(-n_users // n_threads), _USERS_AT_ONCE) // group) * group

        def rank_users(first: int) -> None:
            users = first, min(first + size, n_users)
            # Room enough that most never fill it: about k scores pass the first threshold.
            keys = np.empty((users[1] - first, 2 * k + 64), np.uint64)
            if by_lists:
                self.kernels.recommend_by_lists(rows, scored, lists, histories, *users, k, keys)
            else:
                self.kernels.recommend_by_rows(
                    rows, scored, histories, *users, self.n_factors, k, keys
                )
            best = keys[:, :k]
            best.sort(axis=1)
            items[slice(*users)], scores[slice(*users)] = _read_keys(best[:, ::-1])

        with naming(self.cached):
            in_threads(rank_users, range(0, n_users, size), n_threads)
        return items, scores


def encode(history: sp.csr_matrix, rows: sp.csr_matrix) -> sp.csr_matrix:
    """Latent vectors, sums of weighted rows, with sorted factors."""
    latent = history @ rows
    latent.eliminate_zeros()
    latent.sort_indices()
    return latent


def _read_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and scores of `kernels` keys; -1 and -inf for a key of 0."""
    upper, lower = (keys >> 32).astype(np.uint32), keys.astype(np.uint32)
    sign = np.uint32(1 << 31)
    scores = np.where(upper & sign, upper & ~sign, ~upper).view(np.float32)
    is_item = keys > 0
    items = np.where(is_item, ~lower, 0).astype(np.int32)
    return np.where(is_item, items, -1), np.where(is_item, scores, np.float32(-np.inf))


def _take_rows(rows: Rows, chosen: np.ndarray) -> Rows:
    """The chosen rows, in their order."""
    lengths = rows.starts[chosen + 1] - rows.starts[chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    at = np.repeat(rows.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
    arrays = (starts, rows.factors[at], rows.codes[at])
    for array in arrays:
        array.flags.writeable = False  # one compilation with what a file maps
    return Rows(*arrays, rows.table, None if rows.scale is None else rows.scale[chosen])
