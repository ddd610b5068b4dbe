"""Segments for users, homepages of segment rows, and the reasons for a recommendation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.segments.segments import Segments
from celsa_jax.sparse import Recommender
from celsa_jax.sparse.recommender import check_count, check_k

FOR_YOU = "Recommended for you"
OTHER = "other"
_USERS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a homepage.

    Attributes:
      title: "Recommended for you", or the name of the segment.
      segment: its number; -1 for the first row.
      items: [n_items] int32 positions, best first.
      scores: [n_items] float32, the user's own scores of these items.
    """

    title: str
    segment: int
    items: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why an item has its score: two exact sums, each over float64 parts.

    Attributes:
      score: the item's score for the user, x A A_i^T.
      segments: (name, part) by size of the part; the part of a factor goes to the segment of that
        factor with the item's sign, to "other" if no segment has the pair. A part below 0 speaks
        against the item. Parts of exactly 0 are left out, here and below.
      history: (item position, part) by size of the part: x_j A_j A_i^T for each item j.
    """

    score: float
    segments: list[tuple[str, float]]
    history: list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Activations:
    """The factors of a user's latent vector, the largest in size first.

    Attributes:
      factors: [n] int64.
      values: [n] float64, (x A)_f; never 0.
      segments: [n] int64, the segment of each factor with the sign of its value; -1 for none.
      item_ids: [n] text, the item that each factor belongs to; None if the embeddings name none.
    """

    factors: np.ndarray
    values: np.ndarray
    segments: np.ndarray
    item_ids: np.ndarray | None


class SegmentRecommender:
    """Scores segments and items by one product, x A (arXiv 2602.09935).

    Args:
      recommender: over the catalogue.
      segments: of the same catalogue.

    Example:
      >>> from celsa_jax.segments import find_segments, item_terms
      >>> from celsa_jax.sparse import SparseEmbeddings
      >>> embeddings = SparseEmbeddings.from_dense(np.array([[0.8, 0.6], [0.6, 0.8], [1, 0]]))
      >>> terms = item_terms({}, n_items=3)
      >>> segments = find_segments(embeddings.tocsr(), embeddings.item_ids, terms).segments
      >>> product = SegmentRecommender(Recommender(embeddings, engine="scipy"), segments)
      >>> [page] = product.homepage(sp.csr_matrix([[1.0, 0, 0]]), n_items=1)
      >>> [(row.title, embeddings.item_ids[row.items].tolist()) for row in page]
      [('Recommended for you', ['1']), ('Segment 0+', ['2'])]
    """

    def __init__(self, recommender: Recommender, segments: Segments):
        embeddings = recommender.embeddings
        if segments.n_factors != embeddings.n_factors or not np.array_equal(
            segments.item_ids, embeddings.item_ids
        ):
            raise InputError("the segments are not of these embeddings: other items or factors")
        self.recommender = recommender
        self.segments = segments

    def recommend_segments(
        self, user_items: sp.spmatrix | sp.sparray, k: int = 10, *, n_items: int = 10
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k segments that score highest, x A V^T, among those that can fill a row.

        Only positive scores count, and only segments with at least `n_items` candidates that the
        user has not seen: items with a positive product with the segment's vector.

        Args:
          user_items: histories [n_users, n_items of the catalogue], sparse.
          k: segments a user; where fewer qualify, the rest is -1 with score -inf.
          n_items: items in a row.

        Returns:
          Segments [n_users, k] int32, best first, and scores [n_users, k] float32. Ties go to the
          lower number.
        """
        check_count("n_items", n_items)
        latent = self.recommender.encode(user_items)
        check_k(k, latent.shape[0], len(self.segments))
        best = np.full((latent.shape[0], k), -1, np.int32)
        best_scores = np.full((latent.shape[0], k), -np.inf, np.float32)
        ranked = self._ranked(sp.csr_matrix(user_items), latent, n_items)
        for user, (segments, scores) in enumerate(ranked):
            n = min(k, len(segments))
            best[user, :n], best_scores[user, :n] = segments[:n], scores[:n]
        return best, best_scores

    def homepage(
        self,
        user_items: sp.spmatrix | sp.sparray,
        n_rows: int = 6,
        n_items: int = 10,
        *,
        repeat_items: bool = False,
    ) -> list[list[Row]]:
        """A page for each user: "Recommended for you", then rows of segments.

        Rows come by the score of their segment, and hold the user's best unseen candidates
        of that segment, by the user's own item scores. A segment that cannot fill its row with
        items that are not on the page yet is passed over.

        Args:
          user_items: histories [n_users, n_items of the catalogue], sparse.
          n_rows: rows a page, the first included, at most.
          n_items: items a row.
          repeat_items: let an item be in several rows.

        Returns:
          A list of rows for each user; none for a history without any item of weight (nothing to
          go by) and for one of the whole catalogue (nothing left).
        """
        check_count("n_rows", n_rows)
        check_count("n_items", n_items)
        latent = self.recommender.encode(user_items)
        histories = sp.csr_matrix(user_items)  # a row of a sparse array would be no matrix
        ranked = self._ranked(histories, latent, n_items)
        says_something = np.asarray(abs(latent).sum(axis=1)).ravel() > 0
        return [
            self._page(histories[user], segments, n_rows, n_items, repeat_items)
            if says_something[user]
            else []
            for user, (segments, _) in enumerate(ranked)
        ]

    def activations(self, user_items: sp.spmatrix | sp.sparray) -> Activations:
        """The latent vector x A of one user, and the segments that its factors speak for.

        Args:
          user_items: one history [1, n_items of the catalogue], sparse.

        Raises:
          InputError: more than one history.
        """
        values = self._latent(user_items, "activations")
        factors = np.argsort(-np.abs(values), kind="stable")[: np.count_nonzero(values)]
        values = values[factors]
        factor_ids = self.recommender.embeddings.factor_ids
        item_ids = None if factor_ids is None else factor_ids[factors]
        return Activations(factors, values, self._owners(factors, values), item_ids)

    def explain(self, user_items: sp.spmatrix | sp.sparray, item: int) -> Explanation:
        """Splits the score of an item for one user by segment, and by the history.

        Args:
          user_items: one history [1, n_items of the catalogue], sparse.
          item: its position.

        Raises:
          InputError: more than one history, or no such item.
        """
        n_items = len(self.segments.item_ids)
        is_position = isinstance(item, int | np.integer) and not isinstance(item, bool)
        if not is_position or not 0 <= item < n_items:
            raise InputError(f"{item!r} is no item position; positions are 0 to {n_items - 1}")
        latent = self._latent(user_items, "explain")
        history = user_items.tocsr().astype(np.float64)
        history.sum_duplicates()
        weights = self._rows[[item]]
        parts = latent[weights.indices] * weights.data
        owners = self._owners(weights.indices, weights.data)
        names = [*self.segments.names, OTHER]  # -1 is the last
        by_segment = [(names[at], float(parts[owners == at].sum())) for at in np.unique(owners)]
        products = (self._rows[history.indices] @ weights.T).toarray()[:, 0] * history.data
        by_history = zip(history.indices.tolist(), products.tolist(), strict=True)
        return Explanation(float(parts.sum()), _by_size(by_segment), _by_size(by_history))

    def _latent(self, user_items: sp.spmatrix | sp.sparray, caller: str) -> np.ndarray:
        """[n_factors] float64, x A of one history."""
        if user_items.shape[0] != 1:
            raise InputError(f"{caller} takes one history, not {user_items.shape[0]}")
        self.recommender.encode(user_items)  # checks the history
        return (user_items.tocsr().astype(np.float64) @ self._rows).toarray()[0]

    def _owners(self, factors: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The segment of each factor with the sign of its value; -1 for none."""
        return self.segments.of_pair[2 * factors + (values < 0)]

    @functools.cached_property
    def _rows(self) -> sp.csr_matrix:
        return self.recommender.embeddings.tocsr().astype(np.float64)

    @functools.cached_property
    def candidates(self) -> sp.csc_matrix:
        """CSC [n_items, n_segments], 1 where an item has a positive product with a segment."""
        products = (self.recommender.embeddings.tocsr() @ self.segments.vectors.T).tocsr()
        products.data = (products.data > 0).astype(np.float32)
        products.eliminate_zeros()
        return products.tocsc()

    @functools.cached_property
    def _candidates_by_item(self) -> sp.csr_matrix:
        return self.candidates.tocsr()

    def _ranked(self, histories, latent, n_items: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each user the segments that can fill a row, best first, and their scores."""
        n_candidates = np.diff(self.candidates.indptr)
        for first in range(0, latent.shape[0], _USERS_AT_ONCE):  # users x segments is dense
            users = slice(first, first + _USERS_AT_ONCE)
            scores = (latent[users] @ self.segments.vectors.T).toarray()
            seen = histories[users].astype(bool).astype(np.float32) @ self._candidates_by_item
            scores[n_candidates - seen.toarray() < n_items] = -np.inf
            for row in scores:
                positive = np.flatnonzero(row > 0)
                order = positive[np.argsort(-row[positive], kind="stable")]
                yield order, row[order]

    def _page(self, history, segments, n_rows: int, n_items: int, repeat_items: bool) -> list[Row]:
        items, scores = self.recommender.recommend(history, n_items)
        n_left = int((items[0] >= 0).sum())
        if not n_left:
            return []
        page = [Row(FOR_YOU, -1, items[0, :n_left], scores[0, :n_left])]
        for segment in segments:
            if len(page) == n_rows:
                break
            column = slice(*self.candidates.indptr[segment : segment + 2])
            candidates = self.candidates.indices[column]
            if not repeat_items:
                candidates = np.setdiff1d(candidates, np.concatenate([row.items for row in page]))
            items, scores = self.recommender.recommend(history, n_items, candidates=candidates)
            if items[0, -1] >= 0:
                page.append(Row(self.segments.names[segment], int(segment), items[0], scores[0]))
        return page


def _by_size(parts: Iterable[tuple[Any, float]]) -> list[tuple[Any, float]]:
    return sorted((p for p in parts if p[1]), key=lambda part: (-abs(part[1]), part[0]))
