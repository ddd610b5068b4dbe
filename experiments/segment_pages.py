"""What users find on pages of segments, beside other pages of as many items."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.data.interactions import Interactions
from celsa_jax.evaluation.folds import holdouts
from celsa_jax.evaluation.protocol import user_folds
from celsa_jax.segments import Row, SegmentRecommender
from celsa_jax.segments.groups import membership
from celsa_jax.sparse.rows import unit_rows


def page_figures(
    product: SegmentRecommender,
    users: Interactions,
    popularity: np.ndarray,
    genres: sp.csr_matrix,
    *,
    n_rows: int = 6,
    n_items: int = 10,
    members_only: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """What users find of what five disjoint folds hold out from them.

    Args:
      product: what makes the pages.
      users: users that the embeddings were not trained on.
      popularity: [n_items] interactions of all users, these included: what a fold holds
        out is taken off.
      genres: [n_items, n_genres] metadata of the items (`metadata_vectors`).
      n_rows: rows a page.
      n_items: items a row.
      members_only: of `SegmentRecommender.homepage`.
      seed: of the folds.

    Returns:
      found: the share of what was held out that is in the `flat` list of n_rows * n_items items;
        `rows` of segments alone; a `page` of "Recommended for you" and one such row less; the
        most `popular`; rows of the `genres` that a history has most of (by TF-IDF).
      rows_full: rows of segments with all their items, of n_rows a user.
      row_cosine, member_cosine: the mean cosine with the mean genres of the row's segment: of
        the row's items, and of the segment's members.
      n_histories: users times folds that count.
    """
    found = dict.fromkeys(("flat", "rows", "page", "popular", "genres"), 0)
    n_held_out = n_histories = 0
    full: list[Row] = []
    masks = holdouts(users, "disjoint", seed)
    for _, history, targets, n_held in user_folds(users, product.segments.item_ids, masks):
        n_held_out, n_histories = n_held_out + int(n_held.sum()), n_histories + len(n_held)
        rows = product.homepage(history, n_rows, n_items, members_only=members_only, for_you=False)
        pages = product.homepage(history, n_rows, n_items, members_only=members_only)
        full += [row for page in rows for row in page if len(row.items) == n_items]
        left = popularity - np.asarray(targets.sum(axis=0)).ravel()
        lists = {
            "flat": list(product.recommender.recommend(history, n_rows * n_items)[0]),
            "rows": [_items(page) for page in rows],
            "page": [_items(page) for page in pages],
            "popular": _popular(history, left, n_rows * n_items),
            "genres": _genre_rows(product, history, genres, n_rows, n_items),
        }
        for name, shown in lists.items():
            hits = [np.isin(of.indices, own).sum() for of, own in zip(targets, shown, strict=True)]
            found[name] += int(sum(hits))
    row_cosine, member_cosine = _row_cosines(product, full, genres)
    return {
        "found": {name: n / max(n_held_out, 1) for name, n in found.items()},
        "rows_full": len(full) / max(n_rows * n_histories, 1),
        "row_cosine": row_cosine,
        "member_cosine": member_cosine,
        "n_histories": n_histories,
    }


def _items(page: list[Row]) -> np.ndarray:
    return np.concatenate([row.items for row in page]) if page else np.empty(0, np.int32)


def _popular(history: sp.csr_matrix, popularity: np.ndarray, n: int) -> list[np.ndarray]:
    order = np.argsort(-popularity, kind="stable")
    return [order[~np.isin(order, row.indices)][:n] for row in history]


def _genre_rows(
    product: SegmentRecommender,
    history: sp.csr_matrix,
    genres: sp.csr_matrix,
    n_rows: int,
    n_items: int,
) -> list[np.ndarray]:
    """For each history the items of its genre rows; a genre without enough unseen ones is left."""
    of_genre = genres.tocsc()
    result = []
    for row, profile in zip(history, (history @ genres).toarray(), strict=True):
        shown = np.empty(0, np.int32)
        for genre in np.argsort(-profile, kind="stable")[: 4 * n_rows]:
            inside = of_genre.indices[slice(*of_genre.indptr[genre : genre + 2])]
            inside = np.setdiff1d(inside, shown)
            items, _ = product.recommender.recommend(row, n_items, candidates=inside)
            if profile[genre] > 0 and items[0, -1] >= 0:
                shown = np.concatenate([shown, items[0]])
            if len(shown) == n_rows * n_items:
                break
        result.append(shown)
    return result


def _row_cosines(
    product: SegmentRecommender, rows: list[Row], genres: sp.csr_matrix
) -> tuple[float | None, float | None]:
    """Mean cosines with the mean genres of their segments: of the rows' items, of its members."""
    segments = product.segments
    known = np.diff(genres.indptr) > 0
    labels = np.where(known, segments.of_item, -1)
    means = unit_rows((membership(labels, len(segments)) @ genres).tocsr())

    def cosine(items: np.ndarray, segment: int) -> float:
        items = items[known[items]]
        return (genres[items] @ means[segment].T).sum() / len(items) if len(items) else np.nan

    of_members = {s: cosine(segments[s].items, s) for s in {row.segment for row in rows}}
    pairs = [(cosine(row.items, row.segment), of_members[row.segment]) for row in rows]
    pairs = [pair for pair in pairs if not np.isnan(pair).any()]
    row_cosine, member_cosine = np.mean(pairs, axis=0).tolist() if pairs else (None, None)
    return row_cosine, member_cosine
