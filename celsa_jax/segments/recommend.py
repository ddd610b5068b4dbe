"""Segments for users, homepages of segment rows, and the reasons for a recommendation."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.segments.groups import membership
from celsa_jax.segments.segments import Segments, loadings
from celsa_jax.sparse import Explanation, Recommender
from celsa_jax.sparse.recommender import by_size, check_count, check_k
from celsa_jax.sparse.rows import unit_rows

FOR_YOU = "Recommended for you"
OTHER = "other"
_USERS_AT_ONCE = 1024
_ITEMS_AT_ONCE = 8192
_ROUNDING = 1e-6  # of cosines in float32
_LEAST = 0.5  # of the median cosine of members


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a homepage: items by the user's own scores.

    Attributes:
      title: the name of the segment, or "Recommended for you".
      segment: its number, or -1.
      items: [n_items] int32 positions, best first.
      scores: [n_items] float32.
    """

    title: str
    segment: int
    items: np.ndarray
    scores: np.ndarray


class _Rules(NamedTuple):
    """Of a page: `n_members` of the unseen `members` of a segment at least are in its row."""

    n_rows: int
    n_items: int
    members: sp.csr_matrix
    n_members: int
    for_you: bool


class SegmentRecommender:
    """Scores segments and items by one product, x U (arXiv 2602.09935).

    Args:
      recommender: over the catalogue.
      segments: of the same catalogue, one level.

    Example:
      >>> from celsa_jax.segments import Catalogue, find_segments, item_terms
      >>> from celsa_jax.sparse import SparseEmbeddings
      >>> rows = np.array([[0.8, 0.6], [0.6, 0.8], [1, 0]])
      >>> embeddings = SparseEmbeddings.from_dense(rows, ["a", "b", "c"])
      >>> terms = item_terms({"genre": np.array(["Crime"] * 3)})
      >>> items = Catalogue(embeddings.tocsr(), embeddings.item_ids, terms)
      >>> level = find_segments(items, [1]).levels[0]
      >>> product = SegmentRecommender(Recommender(embeddings, engine="scipy"), level)
      >>> [page] = product.homepage(sp.csr_matrix([[1.0, 0, 0]]), n_items=1)
      >>> [(row.title, embeddings.item_ids[row.items].tolist()) for row in page]
      [('Recommended for you', ['b']), ('Crime', ['c'])]
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
        """The k segments that score highest, x U V^T, among those that can fill a row.

        Only positive scores count, and only segments of which the user has not seen at least half
        as many members as a row has items (those that `homepage` would show).

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
        histories = sp.csr_matrix(user_items)
        ranked = self._ranked(histories, latent, self._members, (n_items + 1) // 2)
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
        members_only: bool = False,
        for_you: bool = True,
    ) -> list[list[Row]]:
        """A page for each user: "Recommended for you", then rows of segments.

        Rows come by the score of their segment, their items by the user's own. A row has the
        segment's unseen members, without those whose cosine with its vector is below half of the
        median; where they are too few, but fill at least half of it, other items follow that are as
        near to the vector as half of the members. No item is on a page twice, and a segment that
        cannot fill its row is passed over.

        Args:
          user_items: histories [n_users, n_items of the catalogue], sparse.
          n_rows: rows a page, the first included, at most.
          n_items: items a row.
          members_only: rows of the segment's members alone, however far off.
          for_you: begin with "Recommended for you".

        Returns:
          A list of rows for each user; none for a history without any item of weight, and for one
          of the whole catalogue.
        """
        check_count("n_rows", n_rows)
        check_count("n_items", n_items)
        latent = self.recommender.encode(user_items)
        histories = sp.csr_matrix(user_items)  # a row of a sparse array would be no matrix
        members = self._own if members_only else self._members
        n_members = n_items if members_only else (n_items + 1) // 2
        ranked = self._ranked(histories, latent, members, n_members)
        says_something = np.asarray(abs(latent).sum(axis=1)).ravel() > 0
        rules = _Rules(n_rows, n_items, members, n_members, for_you)
        return [
            self._page(histories[user], segments, rules) if says_something[user] else []
            for user, (segments, _) in enumerate(ranked)
        ]

    def explain(
        self, user_items: sp.spmatrix | sp.sparray, item: int
    ) -> tuple[Explanation, list[tuple[str, float]]]:
        """Splits the score of an item for one user by the history, by the factors, by segment.

        Args:
          user_items: one history [1, n_items of the catalogue], sparse.
          item: its position.

        Returns:
          The explanation of `Recommender.explain`, and its factors' parts added up by segment:
          (name, part), the largest in size first, without those of 0. The part of a factor goes to
          the segment with the largest weight at that factor with the item's sign, to "other" if
          none has the sign there.

        Raises:
          InputError: more than one history, or no such item.
        """
        why = self.recommender.explain(user_items, item)
        weights = self._rows[[item]].toarray()[0]
        parts: dict[int, float] = collections.defaultdict(float)
        for factor, part in why.factors:
            parts[self.segments.of_pair[2 * factor + (weights[factor] < 0)]] += part
        names = [*self.segments.names, OTHER]  # -1 is the last
        return why, by_size((names[at], part) for at, part in parts.items())

    @functools.cached_property
    def _rows(self) -> sp.csr_matrix:
        return self.recommender.embeddings.tocsr()

    @functools.cached_property
    def _own(self) -> sp.csr_matrix:
        """CSR [n_segments, n_items], 1 for all members."""
        return membership(self.segments.of_item, len(self.segments))

    @functools.cached_property
    def _nearness(self) -> tuple[np.ndarray, np.ndarray]:
        """[n_items] the cosine of each item with its segment, [n_segments] its median."""
        towards = loadings(self._rows, self.segments.vectors, self.segments.of_item)
        return towards, np.array([np.median(towards[s.items]) for s in self.segments])

    @functools.cached_property
    def _members(self) -> sp.csr_matrix:
        """CSR [n_segments, n_items], 1 for the members that are not far off."""
        towards, median = self._nearness
        labels = self.segments.of_item
        is_near = towards >= _LEAST * median[labels] - _ROUNDING
        return membership(np.where(is_near, labels, -1), len(self.segments))

    @functools.cached_property
    def _others(self) -> sp.csr_matrix:
        """CSR [n_segments, n_items]: not members, but as near as half of the members."""
        vectors, of_item = self.segments.vectors, self.segments.of_item
        rows, least = unit_rows(self._rows), self._nearness[1]
        blocks = [sp.csr_matrix((0, len(least)), dtype=np.float32)]
        for first in range(0, len(of_item), _ITEMS_AT_ONCE):  # most products are weak
            near = (rows[first : first + _ITEMS_AT_ONCE] @ vectors.T).tocoo()
            is_near = (near.data > 0) & (near.data >= least[near.col] - _ROUNDING)
            is_near &= of_item[first + near.row] != near.col
            kept = (near.data[is_near], (near.row[is_near], near.col[is_near]))
            blocks.append(sp.csr_matrix(kept, near.shape))
        return sp.vstack(blocks, format="csc").T

    def _ranked(
        self, histories, latent, members: sp.csr_matrix, n_members: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each user the segments with so many unseen members, best first, and their scores."""
        by_item, sizes = members.T.tocsr(), np.diff(members.indptr)
        for first in range(0, latent.shape[0], _USERS_AT_ONCE):  # users x segments is dense
            users = slice(first, first + _USERS_AT_ONCE)
            scores = (latent[users] @ self.segments.vectors.T).toarray()
            seen = histories[users].astype(bool).astype(np.float32) @ by_item
            scores[sizes - seen.toarray() < n_members] = -np.inf
            for row in scores:
                positive = np.flatnonzero(row > 0)
                order = positive[np.argsort(-row[positive], kind="stable")]
                yield order, row[order]

    def _page(self, history, segments, rules: _Rules) -> list[Row]:
        page = []
        if rules.for_you:
            items, scores = self._best(history, rules.n_items)
            if not len(items):
                return []
            page.append(Row(FOR_YOU, -1, items, scores))
        for segment in segments:
            if len(page) == rules.n_rows:
                break
            shown = [row.items for row in page]
            items, scores = self._row(history, int(segment), rules, shown)
            if len(items) == rules.n_items:
                page.append(Row(self.segments.names[segment], int(segment), items, scores))
        return page

    def _row(
        self, history, segment: int, rules: _Rules, shown: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items and scores of a row without what is shown already; fewer if there are no more."""
        but = np.concatenate([np.empty(0, np.int32), *shown])
        items, scores = self._best(history, rules.n_items, rules.members[segment].indices, but)
        if rules.n_members <= len(items) < rules.n_items:
            others = self._others[segment].indices
            more, their_scores = self._best(history, rules.n_items - len(items), others, but)
            items, scores = np.append(items, more), np.append(scores, their_scores)
        return items, scores

    def _best(self, history, n_items: int, among=None, but=()) -> tuple[np.ndarray, np.ndarray]:
        """The best unseen items by the user's scores, at most so many."""
        candidates = among if among is None else np.setdiff1d(among, but)
        items, scores = self.recommender.recommend(history, n_items, candidates=candidates)
        found = items[0] >= 0
        return items[0, found], scores[0, found]
