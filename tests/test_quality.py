"""Coherence of segments, and what users find in rows of them, against loops."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from test_segments import planted, random_rows, text, unit

from celsa_jax.data import Interactions
from celsa_jax.evaluation.folds import holdouts
from celsa_jax.segments import Catalogue, SegmentRecommender, find_segments, item_terms
from celsa_jax.segments.quality import (
    coherence,
    compared_columns,
    kmeans_figures,
    level_figures,
    metadata_vectors,
)
from celsa_jax.segments.report import write_report
from celsa_jax.sparse import Recommender, SparseEmbeddings
from experiments.segment_pages import page_figures


def test_coherence_is_the_mean_cosine_of_pairs():
    rng = np.random.default_rng(0)
    vectors = unit(rng.random((30, 5)))
    vectors[7] = 0  # no metadata: does not count
    labels = rng.integers(-1, 6, 30)
    mean, by_cluster = coherence(labels, sp.csr_matrix(vectors), 6)
    total = weight = 0
    for at in range(6):
        items = [i for i in range(30) if labels[i] == at and i != 7]
        cosines = [vectors[i] @ vectors[j] for i, j in itertools.combinations(items, 2)]
        assert by_cluster[at] == pytest.approx(np.mean(cosines))
        if len(items) >= 3:
            total += len(items) * np.mean(cosines)
            weight += len(items)
    assert mean == pytest.approx(total / weight)
    mean, by_cluster = coherence(np.arange(30), sp.csr_matrix(vectors), 30)
    assert mean is None
    assert np.isnan(by_cluster).all()


def test_compared_is_the_column_of_lists_that_recur_most_or_all():
    columns = {"title": text("One", "Two"), "genres": text("a|b", "b|c")}
    lists = item_terms(columns | {"by": text("x", "y|z")}, list_columns=("by", "genres"))
    assert compared_columns(lists) == ["genres"]
    assert compared_columns(item_terms(columns, list_columns=())) == ["title", "genres"]
    cosine = (metadata_vectors(lists)[0] @ metadata_vectors(lists)[1].T).toarray()[0, 0]
    rare, common = np.log(3 / 2) + 1, 1.0  # smoothed idf of one and of two of two items
    assert cosine == pytest.approx(common**2 / (common**2 + rare**2))


def test_figures_of_levels_and_of_kmeans_on_planted_segments():
    rows, own = planted(96)
    own[:2] = 12 + np.arange(2)  # other genres than those they are with
    genres = text(*(f"g{at}" for at in own))
    terms = item_terms({"genres": genres}, list_columns=("genres",))
    vectors = metadata_vectors(terms)
    tree = find_segments(Catalogue(rows, np.arange(96).astype(str), terms), [3, 12])
    coarse, fine = level_figures(tree, vectors)
    assert fine == {
        "segments": 12,
        "largest": 8,
        "share_in_three": 1,
        "coherence": pytest.approx((94 * 7 - 14) / (96 * 7)),  # two items are like none of seven
        "unnamed": 0,
    }
    assert coarse["coherence"] < 0.3
    assert coarse["largest"] == 32
    found = kmeans_figures(rows, 12, vectors)
    assert 0.5 < found["coherence"] <= fine["coherence"]
    assert found["segments"] == 12


def test_a_share_counts_the_items_of_segments_of_three():
    rows = np.zeros((9, 3), np.float32)
    rows[np.arange(9), [0, 0, 0, 0, 0, 1, 1, 2, 2]] = 1
    terms = item_terms({}, n_items=9)
    tree = find_segments(Catalogue(sp.csr_matrix(rows), np.arange(9).astype(str), terms), [3])
    [level] = level_figures(tree, metadata_vectors(terms))
    assert level["share_in_three"] == 5 / 9
    assert level["coherence"] is None
    assert level["unnamed"] == 3


@pytest.mark.parametrize("members_only", [False, True])
def test_what_users_find_is_what_a_loop_counts(members_only):
    rng = np.random.default_rng(0)
    dense = random_rows(80, 10, 4)
    ids = np.array([f"{i:02d}" for i in range(80)])
    genres = text(*(f"g{i % 5}|h{i % 3}" for i in range(80)))
    terms = item_terms({"genres": genres}, list_columns=("genres",))
    vectors = metadata_vectors(terms)
    level = find_segments(Catalogue(sp.csr_matrix(dense), ids, terms), [8]).levels[0]
    product = SegmentRecommender(
        Recommender(SparseEmbeddings.from_dense(dense, ids), engine="scipy"), level
    )
    # The last two items of the users are of no catalogue.
    known = np.concatenate([ids, ["98", "99"]])
    matrix = sp.csr_matrix((rng.random((12, 82)) < 0.2).astype(np.float32))
    users = Interactions(matrix, np.arange(12).astype(str), known)
    popularity = np.asarray(matrix[:, :80].sum(axis=0), int).ravel() + rng.integers(0, 9, 80)
    result = page_figures(
        product, users, popularity, vectors, n_rows=3, n_items=4, members_only=members_only
    )
    n = dict.fromkeys(("flat", "rows", "page", "popular"), 0)
    n_held = n_full = 0
    row_cosines, member_cosines = [], []
    centres = [vectors[level.of_item == s].mean(axis=0).A1 for s in range(8)]
    centres = [centre / np.linalg.norm(centre) for centre in centres]
    for held_out in holdouts(users, "disjoint", 0):
        parts = [matrix.copy(), matrix.copy()]
        parts[0].data *= ~held_out
        parts[1].data *= held_out
        history, targets = (part[:, :80].toarray() > 0 for part in parts)
        n_held += held_out.sum()
        left = popularity - targets.sum(axis=0)
        for user in range(12):
            x = sp.csr_matrix(history[[user]].astype(np.float32))
            scores = np.where(history[user], -np.inf, dense @ (x @ dense)[0])
            options = {"n_items": 4, "members_only": members_only}
            rows = product.homepage(x, 3, for_you=False, **options)[0]
            shown = {
                "flat": np.argsort(-scores, kind="stable")[:12],
                "popular": np.argsort(-np.where(history[user], -1, left), kind="stable")[:12],
                "rows": [i for row in rows for i in row.items],
                "page": [i for row in product.homepage(x, 3, **options)[0] for i in row.items],
            }
            for name, items in shown.items():
                n[name] += sum(targets[user, i] for i in items)
            n_full += len(rows)
            for row in rows:
                row_cosines.append((vectors[row.items] @ centres[row.segment]).mean())
                inside = level[row.segment].items
                member_cosines.append((vectors[inside] @ centres[row.segment]).mean())
    assert {name: result["found"][name] for name in n} == {
        name: pytest.approx(hits / n_held) for name, hits in n.items()
    }
    assert result["n_histories"] == 60
    assert result["rows_full"] == pytest.approx(n_full / 180)
    assert result["row_cosine"] == pytest.approx(np.mean(row_cosines))
    assert result["member_cosine"] == pytest.approx(np.mean(member_cosines))


def test_rows_of_genres_are_those_of_the_history():
    """A reader of genre a alone, whose unread ones are found."""
    rows = np.ones((12, 1), np.float32) * np.linspace(1, 2, 12)[:, None].astype(np.float32)
    ids = np.array([f"{i:02d}" for i in range(12)])
    terms = item_terms({"genres": text(*"aaaaaabbbbbb")}, list_columns=("genres",))
    level = find_segments(Catalogue(sp.csr_matrix(rows), ids, terms), [1]).levels[0]
    embeddings = SparseEmbeddings.from_dense(rows, ids)
    product = SegmentRecommender(Recommender(embeddings, engine="scipy"), level)
    matrix = sp.csr_matrix(([1.0] * 5, ([0] * 5, range(5))), (1, 12))
    users = Interactions(matrix, np.array(["u"]), ids)
    vectors = metadata_vectors(terms)
    found = page_figures(product, users, np.ones(12), vectors, n_rows=1, n_items=2)["found"]
    assert found["genres"] == 1
    assert found["flat"] == 0  # the longest rows are of b


def test_segments_without_metadata_are_numbered_and_have_no_coherence(tmp_path):
    embeddings = SparseEmbeddings.from_dense(random_rows(60, 3, 2))
    rows, terms = embeddings.tocsr(), item_terms({}, n_items=60)
    tree = find_segments(Catalogue(rows, embeddings.item_ids, terms), [6, 2])
    vectors = metadata_vectors(terms)
    levels = level_figures(tree, vectors)
    assert tree.levels[1].names == [f"Segment {at}" for at in range(1, 7)]
    assert [level["unnamed"] for level in levels] == [2, 6]
    assert levels[0]["coherence"] is kmeans_figures(rows, 2, vectors)["coherence"] is None
    levels[1]["kmeans"] = levels[0]["kmeans"] = levels[0]
    report = {"n_items": 60, "levels": levels, "coherence_columns": [], "kin_columns": []}
    write_report(tmp_path / "report.html", tree, report, vectors, embeddings.item_ids.tolist())
    page = (tmp_path / "report.html").read_text()
    assert page.count("<details>") == 8
    assert "Segment 6" in page
    assert "What users find" not in page
