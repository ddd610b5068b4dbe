"""Top-k items for histories, from sparse embeddings on a CPU."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from celsa_jax.arrays import check_sparse
from celsa_jax.errors import InputError
from celsa_jax.sparse.embeddings import SparseEmbeddings
from celsa_jax.sparse.engines import FEW_USERS, NumbaEngine, Request, ScipyEngine, encode
from celsa_jax.sparse.formats import LARGEST_WEIGHT, inverse_lengths
from celsa_jax.sparse.rows import top_k, unit_rows
from celsa_jax.sparse.threads import n_cores

ENGINES = ("auto", "numba", "scipy")
_COSINES_AT_ONCE = 1 << 24  # 64 MB
_MOST_FILLED = 1 << 24  # results where there is nothing to fill them with


class Recommendation(NamedTuple):
    """What `Recommender.recommend_ids` returns.

    Attributes:
      item_ids: [n] external ids, best first; n is at most k.
      scores: [n] float32.
      unknown: ids of the history that the catalogue does not have.
      version: of the model that answered (`SparseEmbeddings.version`).
    """

    item_ids: np.ndarray
    scores: np.ndarray
    unknown: list[str]
    version: str = ""


class Explanation(NamedTuple):
    """What a score is made of: two exact sums, each over float64 parts.

    Attributes:
      score: the item's score for the user, x U A_i^T.
      history: (item position, part) by size of the part: x_j U_j A_i^T for each item j. A part
        below 0 speaks against the item; parts of exactly 0 are left out, here and below.
      factors: (factor, part) by size of the part: (x U)_f A_if.
    """

    score: float
    history: list[tuple[int, float]]
    factors: list[tuple[int, float]]


def as_texts(ids: Iterable, what: str) -> list[str]:
    """A list of ids as text; InputError for one text, which would be taken apart."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InputError(f"{what} is a list of ids, not {ids!r}; give a list")
    return [str(item) for item in ids]


class Recommender:
    """Ranks the catalogue for histories x by the scores x U A^T (arXiv 2602.09935).

    U is A with rows of unit length: the length of an item's row says how readily it is recommended,
    not what it says of those who have it. At unit length this is the paper's x A A^T.

    Results do not depend on the company in which a user is scored nor on the number of threads;
    equal scores go to the lower item position. Two engines give the same, to rounding: `scipy`, and
    `numba` (`pip install celsa_jax[serve]`), which scans the stored formats, and for a few users
    builds lists of the factors, which take as much memory again as the embeddings.

    Args:
      embeddings: the catalogue.
      engine: `numba`, `scipy`, or `auto`: numba if it is installed.
      n_threads: threads over users; 0 for all cores.

    Example:
      >>> import numpy as np
      >>> from celsa_jax.sparse import Recommender, SparseEmbeddings
      >>> rows = np.array([[1, 0], [0.6, 0.8], [0, 1]])
      >>> recommender = Recommender(SparseEmbeddings.from_dense(rows, ["a", "b", "c"]))
      >>> [best] = recommender.recommend_ids([["a"]], k=1)
      >>> best.item_ids.tolist()
      ['b']
    """

    def __init__(
        self,
        embeddings: SparseEmbeddings,
        *,
        engine: str = "auto",
        n_threads: int = 1,
    ):
        if engine not in ENGINES:
            raise InputError(f"unknown engine '{engine}'; use one of {', '.join(ENGINES)}")
        installed = importlib.util.find_spec("numba") is not None
        if engine == "numba" and not installed:
            raise InputError("engine 'numba' is not installed: pip install 'celsa_jax[serve]'")
        if n_threads < 0:
            raise InputError(f"n_threads is {n_threads}; give 0 (all cores) or more")
        if engine == "auto":
            engine = "numba" if installed else "scipy"
        make = NumbaEngine if engine == "numba" else ScipyEngine
        self.embeddings = embeddings
        self.engine = engine
        self.n_threads = n_threads or n_cores()
        self._engine = make(embeddings)

    @property
    def nbytes(self) -> int:
        """Bytes held for scoring; item ids and the lengths of rows (4 an item) apart."""
        return self._engine.nbytes

    def recommend(
        self,
        user_items: sp.spmatrix | sp.sparray,
        k: int = 10,
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
          Item positions [n_users, k] int32, best first, and their scores [n_users, k] float32. An
          empty history says nothing of its user, who is recommended nothing: -1 and -inf.

        Raises:
          InputError: histories of another number of items, with positions out of range or values
            that are not finite or above 1e8; candidates out of range; k below 1, or by millions
            above the items.
        """
        return self._recommend(user_items, k, filter_seen, candidates)

    def recommend_ids(
        self,
        histories: Iterable[Sequence],
        k: int = 10,
        *,
        filter_seen: bool = True,
        candidates: Sequence | None = None,
    ) -> list[Recommendation]:
        """The best items for histories of external ids.

        Args:
          histories: of one user each, lists of ids, which may repeat, which adds weight. One
            without any known item gets no recommendation.
          k: items a user, at most.
          filter_seen: leave out what is in the history.
          candidates: ids to choose from, such as those in stock; ids that the catalogue does not
            have are passed over. The whole catalogue if None.

        Raises:
          InputError: a history is one text instead of a list, or as of `recommend`.
        """
        x, unknown = self._histories([as_texts(history, "a history") for history in histories])
        among = None
        if candidates is not None:
            among = self.positions(as_texts(candidates, "candidates"))
            among = among[among >= 0]
        best, scores = self.recommend(x, k, filter_seen=filter_seen, candidates=among)
        return self._named(best, scores, unknown)

    def similar_ids(self, item_ids: Sequence, k: int = 10) -> list[Recommendation]:
        """The nearest items of each by cosine, itself included, as `similar_items`.

        An item that the catalogue does not have has none.
        """
        x, unknown = self._histories([[item] for item in as_texts(item_ids, "item_ids")])
        best, scores = self._recommend(x, k, filter_seen=False, unit_rows=True)
        return self._named(best, scores, unknown)

    def positions(self, item_ids: Sequence[str]) -> np.ndarray:
        """[n] int32 positions of items by their ids; -1 where the catalogue has none."""
        found = [self._positions.get(item, -1) for item in item_ids]
        return np.array(found, np.int32)

    def similar_items(self, items: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each of `items` (positions), itself included.

        Scores are cosines, so that the norm of a row, which says how readily its item is
        recommended, does not count; 0 with a row of zeros. Shapes, padding and errors are those of
        `recommend`.
        """
        items = self._check_positions(np.atleast_1d(items), "items")
        rows = (np.ones(len(items), np.float32), items, np.arange(len(items) + 1))
        shape = (len(items), self.embeddings.n_items)
        return self._recommend(
            sp.csr_matrix(rows, shape=shape), k, filter_seen=False, unit_rows=True
        )

    def similar_users(
        self,
        user_items: sp.spmatrix | sp.sparray,
        among: sp.spmatrix | sp.sparray,
        k: int = 10,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The users whose latent vectors x U are nearest.

        Args:
          user_items: histories [n_users, n_items], sparse.
          among: those of the users to choose from [n_others, n_items].
          k: users a user; where there are fewer, and for a history without items, the rest is -1
            with cosine -inf. The cosine with such a history is 0.

        Returns:
          Rows of `among` [n_users, k] int32, nearest first, and cosines [n_users, k] float32. Ties
          go to the lower row.
        """
        latent, others = (unit_rows(self.encode(x)) for x in (user_items, among))
        check_k(k, latent.shape[0], others.shape[0])
        n_users, n_ranked = latent.shape[0], min(k, others.shape[0])
        rows = np.full((n_users, k), -1, np.int32)
        cosines = np.full((n_users, k), -np.inf, np.float32)
        others = others.T.tocsr()
        size = max(1, _COSINES_AT_ONCE // max(others.shape[1], 1))
        for first in range(0, n_users if n_ranked else 0, size):
            block = slice(first, first + size)
            products = (latent[block] @ others).toarray()
            rows[block, :n_ranked] = top_k(products, n_ranked)
            cosines[block, :n_ranked] = np.take_along_axis(products, rows[block, :n_ranked], 1)
        nobody = np.diff(latent.indptr) == 0
        rows[nobody], cosines[nobody] = -1, -np.inf
        return rows, cosines

    def explain(self, user_items: sp.spmatrix | sp.sparray, item: int) -> Explanation:
        """Splits the score of an item for one user by the history and by the factors.

        Args:
          user_items: one history [1, n_items], sparse.
          item: its position.

        Raises:
          InputError: more than one history, or no such item.
        """
        [item] = self._check_positions(np.array([item]), "item")
        history = self.by_direction(user_items).astype(np.float64)
        history.sum_duplicates()
        if history.shape[0] != 1:
            raise InputError(f"explain takes one history, not {history.shape[0]}")
        own, row = (self._rows[of].astype(np.float64) for of in (history.indices, [item]))
        by_factor = row.multiply(sp.csr_matrix(history.data[None]) @ own).tocsr()
        by_item = (own @ row.T).toarray()[:, 0] * history.data
        return Explanation(
            float(by_factor.sum()),
            by_size(zip(history.indices.tolist(), by_item.tolist(), strict=True)),
            by_size(zip(by_factor.indices.tolist(), by_factor.data.tolist(), strict=True)),
        )

    def encode(self, user_items: sp.spmatrix | sp.sparray) -> sp.csr_matrix:
        """The latent vectors x U of histories: CSR [n_users, n_factors] float32, factors sorted."""
        return encode(self.by_direction(user_items), self._rows)

    def by_direction(self, user_items: sp.spmatrix | sp.sparray) -> sp.csr_matrix:
        """Histories x over the lengths of the items' rows, so that their product with A is x U.

        Raises:
          InputError: as of `recommend`.
        """
        history = self._check(user_items)
        values = history.data * self._inverse_lengths[history.indices]
        return sp.csr_matrix((values, history.indices, history.indptr), history.shape)

    def warm_up(self) -> None:
        """Builds and compiles ahead what the first requests would wait for."""
        empty = sp.csr_matrix((FEW_USERS, self.embeddings.n_items), dtype=np.float32)
        self.recommend(empty[:1], 1)
        self.recommend(empty, 1, candidates=np.arange(self.embeddings.n_items)[:1])

    def _recommend(
        self,
        user_items: sp.spmatrix | sp.sparray,
        k: int,
        filter_seen: bool,
        candidates: np.ndarray | None = None,
        unit_rows: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `recommend`; with `unit_rows` as if all rows were of unit length."""
        history = self.by_direction(user_items)
        check_k(k, history.shape[0], self.embeddings.n_items)
        seen = history if filter_seen else sp.csr_matrix(history.shape, dtype=np.float32)
        if candidates is not None:
            candidates = np.unique(self._check_positions(candidates, "candidates"))
            candidates = candidates.astype(np.int32)
            seen = seen[:, candidates].sorted_indices()
        n_users, n_ranked = history.shape[0], min(k, seen.shape[1])
        items = np.full((n_users, k), -1, np.int32)
        scores = np.full((n_users, k), -np.inf, np.float32)
        if n_users and n_ranked:
            scale = self._inverse_lengths if unit_rows else None
            request = Request(history, seen, n_ranked, candidates, self.n_threads, scale)
            best, scores[:, :n_ranked] = self._engine.rank(request)
            if candidates is not None:
                best = np.where(best < 0, -1, candidates[best])
            items[:, :n_ranked] = best
            empty = history.indptr[1:] == history.indptr[:-1]
            items[empty], scores[empty] = -1, -np.inf
        return items, scores

    def _check(self, user_items: sp.spmatrix | sp.sparray) -> sp.csr_matrix:
        """Histories as CSR with sorted int32 columns and finite float32 values."""
        if not sp.issparse(user_items) or user_items.ndim != 2:
            raise InputError("histories must be a sparse matrix, users x items")
        n_items = self.embeddings.n_items
        if user_items.shape[1] != n_items:
            raise InputError(
                f"histories have {user_items.shape[1]} items, the embeddings {n_items}"
            )
        history = user_items
        if history.format != "csr":
            try:
                check_sparse(history)
            except ValueError as error:
                raise InputError(f"the histories are no sound matrix: {error}") from None
            history = history.tocsr()
        indptr, indices, weights = history.indptr, history.indices, history.data
        # SciPy does not look at the contents of what it is given.
        starts_at_0 = len(indptr) == history.shape[0] + 1 and not indptr[0]
        n, n_held = indptr[-1:].sum(), sorted((len(indices), len(weights)))
        if not starts_at_0 or (indptr[1:] < indptr[:-1]).any() or n > n_held[0]:
            raise InputError("the histories are no CSR matrix: indptr does not fit the entries")
        if n < n_held[1]:
            indices, weights = indices[:n], weights[:n]
        if np.iscomplexobj(weights):
            raise InputError("the histories are complex; they must be real")
        weights = weights.astype(np.float32, copy=False)
        for values, is_bad, problem in (
            (indices, (indices < 0) | (indices >= n_items), f"positions are 0 to {n_items - 1}"),
            (
                weights,
                ~(np.abs(weights) <= LARGEST_WEIGHT),
                f"values must be finite, and {LARGEST_WEIGHT:g} at most",
            ),
        ):
            if is_bad.any():
                at = int(np.argmax(is_bad))
                user = int(np.searchsorted(indptr, at, side="right")) - 1
                raise InputError(f"row {user} of the histories holds {values[at]}; {problem}")
        if weights is history.data and indices.dtype == np.int32 and history.has_sorted_indices:
            return history
        history = sp.csr_matrix((weights, indices.astype(np.int32), indptr), history.shape)
        return history.sorted_indices()

    def _check_positions(self, positions: np.ndarray, name: str) -> np.ndarray:
        positions, n_items = np.asarray(positions), self.embeddings.n_items
        if positions.ndim != 1 or (len(positions) and positions.dtype.kind not in "iu"):
            raise InputError(f"{name} must be a list of item positions (whole numbers)")
        is_bad = (positions < 0) | (positions >= n_items)
        if is_bad.any():
            raise InputError(
                f"{name}: {positions[np.argmax(is_bad)]} is no item position; "
                f"positions are 0 to {n_items - 1}"
            )
        return positions

    def _histories(self, lists: list[list[str]]) -> tuple[sp.csr_matrix, list[list[str]]]:
        """Lists of ids as [n_users, n_items], and what the catalogue does not have of each."""
        rows, unknown = [np.empty(0, np.int32)], []
        for ids in lists:
            positions = self.positions(ids)
            rows.append(positions[positions >= 0])
            unknown.append([ids[at] for at in np.flatnonzero(positions < 0)])
        items, starts = np.concatenate(rows), np.cumsum([len(row) for row in rows])
        shape = (len(lists), self.embeddings.n_items)
        return sp.csr_matrix((np.ones(len(items), np.float32), items, starts), shape), unknown

    def _named(
        self, items: np.ndarray, scores: np.ndarray, unknown: list[list[str]]
    ) -> list[Recommendation]:
        ids, version = self.embeddings.item_ids, self.embeddings.version
        n_found = (items >= 0).sum(axis=1)
        return [
            Recommendation(ids[items[user, :n]], scores[user, :n], left_out, version)
            for user, (n, left_out) in enumerate(zip(n_found, unknown, strict=True))
        ]

    @functools.cached_property
    def _inverse_lengths(self) -> np.ndarray:
        engine = self._engine  # whose rows are unpacked
        rows = engine.rows if isinstance(engine, NumbaEngine) else self.embeddings.rows()
        return inverse_lengths(rows)

    @functools.cached_property
    def _rows(self) -> sp.csr_matrix:
        return self.embeddings.tocsr()

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {item: i for i, item in enumerate(self.embeddings.item_ids.tolist())}


def by_size(parts: Iterable[tuple[Any, float]]) -> list[tuple[Any, float]]:
    """Named parts of a sum, the largest in magnitude first, without those of 0."""
    return sorted((p for p in parts if p[1]), key=lambda part: (-abs(part[1]), part[0]))


def check_k(k: int, n_users: int, n_choices: int) -> None:
    """InputError for a number of results a user that is none, or is far beyond the choices."""
    check_count("k", k)
    if k > n_choices and k * n_users > _MOST_FILLED:
        raise InputError(f"k is {k}, of {n_choices}; give a smaller one")


def check_count(name: str, value: int, most: int | None = None) -> None:
    """InputError unless a value is a whole number of at least 1, and at most `most`."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < 1 or (most is not None and value > most):
        wanted = "at least 1" if most is None else f"1 to {most}"
        raise InputError(f"{name} is {value!r}; give a whole number of {wanted}")
