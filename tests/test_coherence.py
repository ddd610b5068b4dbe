"""Coherence, purity, stability and overlap of groups, against loops and planted segments."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from test_segments import random_rows, text, unit

from celsa_jax.segments import (
    SegmentRecommender,
    extract,
    find_segments,
    item_terms,
)
from celsa_jax.segments.coherence import (
    coherence,
    compare,
    compared_columns,
    evaluate_segments,
    metadata_vectors,
    purity,
    stability,
)
from celsa_jax.segments.report import write_report
from celsa_jax.sparse import Recommender, SparseEmbeddings


def test_coherence_is_the_mean_cosine_of_pairs():
    rng = np.random.default_rng(0)
    vectors = unit(rng.random((30, 5)))
    vectors[7] = 0  # no metadata: does not count
    labels = rng.integers(-1, 6, 30)
    result = coherence(labels, sp.csr_matrix(vectors), 6)
    total = weight = 0
    for at in range(6):
        items = [i for i in range(30) if labels[i] == at and i != 7]
        cosines = [vectors[i] @ vectors[j] for i, j in itertools.combinations(items, 2)]
        assert result.n_items[at] == len(items)
        assert result.by_cluster[at] == pytest.approx(np.mean(cosines))
        if len(items) >= 3:
            total += len(items) * np.mean(cosines)
            weight += len(items)
    assert result.mean == pytest.approx(total / weight)
    alone = coherence(np.arange(30), sp.csr_matrix(vectors), 30)
    assert alone.mean is None
    assert np.isnan(alone.by_cluster).all()


def test_compared_are_columns_of_lists_or_all():
    columns = {"title": text("One", "Two"), "genres": text("a|b", "b|c")}
    lists = item_terms(columns, list_columns=("genres",))
    assert compared_columns(lists) == ["genres"]
    assert compared_columns(item_terms(columns, list_columns=())) == ["title", "genres"]
    cosine = (metadata_vectors(lists)[0] @ metadata_vectors(lists)[1].T).toarray()[0, 0]
    rare, common = np.log(3 / 2) + 1, 1.0  # smoothed idf of one and of two of two items
    assert cosine == pytest.approx(common**2 / (common**2 + rare**2))


def test_partitions_of_planted_segments_compare_as_they_should():
    """Signed unit vectors: the sign matters, chance does not, k-means finds the same."""
    rng = np.random.default_rng(0)
    planted = rng.integers(0, 8, 400)
    rows = rng.normal(0, 0.02, (400, 4)).astype(np.float32)
    rows[np.arange(400), planted // 2] = 1 - 2 * (planted % 2)
    genres = text(*(f"g{p}|all" for p in planted))
    vectors = metadata_vectors(item_terms({"genres": genres}, list_columns=("genres",)))
    result = compare(sp.csr_matrix(rows), extract(sp.csr_matrix(rows)), vectors)
    assert result["coherence"] == pytest.approx(1)
    assert result["coherence_kmeans"] > 0.7
    assert result["coherence_unsigned"] == pytest.approx(0.5, abs=0.1)
    assert result["coherence_random"] < 0.3
    assert result["coherence_items"] == 400
    assert result["coherence_share"] == result["coherence_random_share"] == 1


def test_a_share_counts_the_items_of_clusters_of_three_with_metadata():
    rows = np.zeros((9, 3), np.float32)
    rows[np.arange(9), [0, 0, 0, 0, 1, 1, 1, 2, 2]] = 1
    genres = text(*"aaa", "", *"bb", "", *"cc")  # left: three of a, two of b, two of c
    vectors = metadata_vectors(item_terms({"genres": genres}, list_columns=("genres",)))
    result = compare(sp.csr_matrix(rows), extract(sp.csr_matrix(rows)), vectors)
    assert result["coherence_share"] == 3 / 9
    assert result["coherence_unsigned_share"] == 3 / 9


@pytest.mark.parametrize("most_items", [100, 50_000])
def test_large_catalogues_are_compared_on_a_sample_and_the_page_says_so(
    monkeypatch, tmp_path, most_items
):
    monkeypatch.setattr("celsa_jax.segments.coherence.MOST_ITEMS", most_items)
    embeddings = SparseEmbeddings.from_dense(random_rows(300, 6, 2))
    terms = item_terms({"g": text(*(f"a|{i % 7}" for i in range(300)))}, list_columns=("g",))
    rows, ids, vectors = embeddings.tocsr(), embeddings.item_ids, metadata_vectors(terms)
    result = compare(rows, extract(rows), vectors)
    assert result["coherence_items"] == min(most_items, 300)
    segmentation = find_segments(rows, ids, terms)
    candidates = SegmentRecommender(Recommender(embeddings), segmentation.segments).candidates
    report = evaluate_segments(segmentation, rows, vectors, candidates) | {
        "coherence_columns": ["g"]
    }
    assert {name: report[name] for name in result} == result
    products = rows.toarray() @ segmentation.segments.vectors.toarray().T
    assert report["segments_per_item"] == pytest.approx((products > 0).sum(axis=1).mean())
    write_report(tmp_path / "report.html", segmentation.segments, report, rows, ids.tolist())
    page = (tmp_path / "report.html").read_text()
    assert ("On a random sample of 100 items" in page) == (most_items == 100)


def test_purity_counts_the_largest_class_of_groups_of_three():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, -1])
    truth = np.array([5, 5, 5, 1, 2, 2, 3, 4, 3, 0])
    assert purity(labels, truth) == (5 / 7, 7)
    assert purity(np.array([0, 0]), np.array([1, 1])) == (None, 0)


def test_stability_of_a_permuted_model_is_complete():
    rows = random_rows(200, 10, 3)
    same = stability(sp.csr_matrix(rows), sp.csr_matrix(-rows[:, ::-1]))
    assert same["adjusted_rand"] == same["kept_pairs"] == 1
    first, second = extract(sp.csr_matrix(rows)), extract(sp.csr_matrix(random_rows(200, 10, 3, 1)))
    different = stability(sp.csr_matrix(rows), sp.csr_matrix(random_rows(200, 10, 3, 1)))
    together = [
        (first.of_item[i] == first.of_item[j], second.of_item[i] == second.of_item[j])
        for i, j in itertools.combinations(range(200), 2)
    ]
    a, b = np.array(together).T
    assert different["kept_pairs"] == pytest.approx((a & b).sum() / a.sum())
    assert different["kept_pairs_by_chance"] == pytest.approx(b.mean())
    assert abs(different["adjusted_rand"]) < 0.05


def test_segments_without_metadata_are_numbered_and_have_no_coherence(tmp_path):
    embeddings = SparseEmbeddings.from_dense(random_rows(60, 3, 2))
    rows, terms = embeddings.tocsr(), item_terms({}, n_items=60)
    segmentation = find_segments(rows, embeddings.item_ids, terms)
    segments = segmentation.segments
    candidates = SegmentRecommender(Recommender(embeddings), segments).candidates
    report = evaluate_segments(segmentation, rows, metadata_vectors(terms), candidates)
    assert set(segments.names) == {f"Segment {f}{s}" for f in range(3) for s in "+-"}
    assert report["n_segments"] == report["n_segments_unnamed"] == report["n_groups"] == 6
    assert report["coherence"] is report["coherence_kmeans"] is None
    report["coherence_columns"] = []
    write_report(tmp_path / "report.html", segments, report, rows, embeddings.item_ids.tolist())
    assert "No group has three items with metadata." in (tmp_path / "report.html").read_text()
