"""Top-k items for histories, from sparse embeddings on a CPU."""

from __future__ import annotations

import functools
import importlib.util
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.sparse.embeddings import SparseEmbeddings
from celsa_jax.sparse.engines import FEW_USERS, NumbaEngine, ScipyEngine, encode
from celsa_jax.sparse.threads import n_cores

ENGINES = ("auto", "numba", "scipy")
_LARGEST_SCORE = 1e38


class Recommendation(NamedTuple):
    """What `Recommender.recommend_ids` returns.

    Attributes:
      item_ids: [n] external ids, best first; n is at most k.
      scores: [n] float32.
      unknown: ids of the history that the catalogue does not have.
    """

    item_ids: np.ndarray
    scores: np.ndarray
    unknown: list[str]


class Recommender:
    """Ranks the catalogue for histories x by the scores x A A^T (arXiv 2602.09935).

    A user needs a history, not a training run. Results do not depend on the company in which a
    user is scored nor on the number of threads; equal scores go to the lower item position.

    Two engines give the same results, to rounding: `scipy`, sparse products over the decoded
    float32 matrix; and `numba` (`pip install celsa_jax[serve]`), which scans the stored formats
    as they are (int4 unpacked to a byte more a non-zero): all rows for many users at once, or, for
    a few users, the lists of their active factors alone. The lists are built when first needed and
    take as much memory again as the embeddings.

    Args:
      embeddings: the catalogue.
      engine: `numba`, `scipy`, or `auto`: numba if it is installed.
      n_threads: threads over users; 0 for all cores.
      query_factors: approximate retrieval: only this many of a user's strongest factors find
        10 k candidates, which are then scored exactly; worth it from some 100,000 items on. None
        is exact, and so is any choice among given candidates.
    """

    def __init__(
        self,
        embeddings: SparseEmbeddings,
        *,
        engine: str = "auto",
        n_threads: int = 1,
        query_factors: int | None = None,
    ):
        if engine not in ENGINES:
            raise InputError(f"unknown engine '{engine}'; use one of {', '.join(ENGINES)}")
        installed = importlib.util.find_spec("numba") is not None
        if engine == "numba" and not installed:
            raise InputError("engine 'numba' is not installed: pip install 'celsa_jax[serve]'")
        if n_threads < 0:
            raise InputError(f"n_threads is {n_threads}; give 0 (all cores) or more")
        if query_factors is not None and query_factors < 1:
            raise InputError(f"query_factors is {query_factors}; give at least 1, or None")
        if engine == "auto":
            engine = "numba" if installed else "scipy"
        make = NumbaEngine if engine == "numba" else ScipyEngine
        self.embeddings = embeddings
        self.engine = engine
        self.n_threads = n_threads or n_cores()
        self.query_factors = query_factors
        self._engine = make(embeddings)
        self._largest_product = embeddings.n_factors * embeddings.largest**2

    @property
    def nbytes(self) -> int:
        """Bytes held for scoring, item ids apart."""
        return self._engine.nbytes

    def recommend(
        self,
        user_items: sp.spmatrix | sp.sparray,
        k: int = 100,
        *,
        filter_seen: bool = True,
        candidates: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each user.

        Args:
          user_items: histories [n_users, n_items], sparse; values weigh the items (1 as a rule).
          k: items a user; where fewer are admissible, the rest is -1 with score -inf.
          filter_seen: leave out what is in the history.
          candidates: item positions to choose from, in any order; the whole catalogue if None.

        Returns:
          Item positions [n_users, k] int32, best first, and their scores [n_users, k] float32.

        Raises:
          InputError: histories of another number of items, with positions out of range or values
            that are not finite; candidates out of range; k below 1.
        """
        history = self._check(user_items)
        if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
            raise InputError(f"k is {k!r}; give a whole number of at least 1")
        if candidates is not None:
            candidates = self._check_candidates(candidates)
        seen = history if filter_seen else sp.csr_matrix(history.shape, dtype=np.float32)
        n_found = min(k, self.embeddings.n_items if candidates is None else len(candidates))
        items = np.full((history.shape[0], k), -1, np.int32)
        scores = np.full((history.shape[0], k), -np.inf, np.float32)
        if n_found and history.shape[0]:
            items[:, :n_found], scores[:, :n_found] = self._engine.rank(
                history, seen, n_found, candidates, self.query_factors, self.n_threads
            )
        return items, scores

    def recommend_ids(
        self, history: list[str], k: int = 100, *, filter_seen: bool = True
    ) -> Recommendation:
        """The best items for one history of external ids; ids may repeat, which adds weight.

        A history without any known item gets no recommendation.
        """
        if isinstance(history, str | bytes):
            raise InputError("a history is a list of ids, not one text")
        wanted = [str(item) for item in history]
        found = [self._positions[item] for item in wanted if item in self._positions]
        unknown = [item for item in wanted if item not in self._positions]
        row = (np.ones(len(found), np.float32), (np.zeros(len(found), np.int32), found))
        x = sp.csr_matrix(row, shape=(1, self.embeddings.n_items))
        items, scores = self.recommend(x, k, filter_seen=filter_seen)
        n = int((items[0] >= 0).sum()) if found else 0
        return Recommendation(self.embeddings.item_ids[items[0, :n]], scores[0, :n], unknown)

    def similar_items(self, items: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each of `items` (positions), itself included.

        Scores are inner products of rows, the cosine where rows are of unit length. Shapes,
        padding and errors are those of `recommend`.
        """
        items = np.atleast_1d(np.asarray(items))
        self._check_positions(items, "items")
        n_items = self.embeddings.n_items
        shape = (len(items), n_items)
        row = (np.ones(len(items), np.float32), items, np.arange(len(items) + 1))
        return self.recommend(sp.csr_matrix(row, shape=shape), k, filter_seen=False)

    def encode(self, user_items: sp.spmatrix | sp.sparray) -> sp.csr_matrix:
        """The latent vectors x A of histories: CSR [n_users, n_factors] float32, factors sorted."""
        return encode(self._check(user_items), self._rows)

    def warm_up(self) -> None:
        """Builds and compiles ahead what the first requests would wait for."""
        empty = sp.csr_matrix((FEW_USERS, self.embeddings.n_items), dtype=np.float32)
        self.recommend(empty[:1], 1)
        self.recommend(empty, 1, candidates=np.arange(min(1, self.embeddings.n_items)))

    def _check(self, user_items: sp.spmatrix | sp.sparray) -> sp.csr_matrix:
        """Histories as CSR with sorted int32 columns and finite float32 values."""
        if not sp.issparse(user_items) or user_items.ndim != 2:
            raise InputError("histories must be a sparse matrix, users x items")
        n_items = self.embeddings.n_items
        if user_items.shape[1] != n_items:
            raise InputError(
                f"histories have {user_items.shape[1]} items, the embeddings {n_items}"
            )
        history = user_items if user_items.format == "csr" else user_items.tocsr()
        indptr, indices, weights = history.indptr, history.indices, history.data
        # SciPy does not look at the contents of what it is given.
        if indptr[0] or (indptr[1:] < indptr[:-1]).any() or indptr[-1] > len(indices):
            raise InputError("the histories are no CSR matrix: indptr does not fit the indices")
        if len(indices) and (indices.min() < 0 or indices.max() >= n_items):
            at = int(np.argmax((indices < 0) | (indices >= n_items)))
            user = int(np.searchsorted(indptr, at, side="right")) - 1
            raise InputError(
                f"row {user} of the histories has item position {indices[at]}; positions are "
                f"0 to {n_items - 1}"
            )
        if np.iscomplexobj(weights):
            raise InputError("the histories are complex; they must be real")
        weights = weights.astype(np.float32, copy=False)
        if not np.isfinite(weights).all():
            at = int(np.argmin(np.isfinite(weights)))
            user = int(np.searchsorted(indptr, at, side="right")) - 1
            raise InputError(f"row {user} of the histories has a value that is not finite")
        largest = float(np.abs(weights).max(initial=0))
        if largest * len(weights) * self._largest_product > _LARGEST_SCORE:
            raise InputError(
                f"scores may overflow: histories up to {largest:g}, embeddings up to "
                f"{self.embeddings.largest:g}; scale them down"
            )
        if weights is history.data and indices.dtype == np.int32 and history.has_sorted_indices:
            return history
        history = sp.csr_matrix((weights, indices.astype(np.int32), indptr), history.shape)
        return history.sorted_indices()

    def _check_positions(self, positions: np.ndarray, name: str) -> None:
        n_items = self.embeddings.n_items
        if positions.ndim != 1 or (len(positions) and positions.dtype.kind not in "iu"):
            raise InputError(f"{name} must be a list of item positions (whole numbers)")
        wrong = (positions < 0) | (positions >= n_items)
        if wrong.any():
            raise InputError(
                f"{name}: {positions[np.argmax(wrong)]} is no item position; "
                f"positions are 0 to {n_items - 1}"
            )

    def _check_candidates(self, candidates: np.ndarray) -> np.ndarray:
        candidates = np.asarray(candidates)
        self._check_positions(candidates, "candidates")
        return np.unique(candidates).astype(np.int32)

    @functools.cached_property
    def _rows(self) -> sp.csr_matrix:
        return self.embeddings.tocsr()

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {item: i for i, item in enumerate(self.embeddings.item_ids.tolist())}
