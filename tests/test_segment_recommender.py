"""Segments and homepages for users, and explanations, against loops."""

import numpy as np
import pytest
import scipy.sparse as sp
from test_segments import random_rows

from celsa_jax.errors import InputError
from celsa_jax.segments import SegmentRecommender
from celsa_jax.segments.naming import Name
from celsa_jax.segments.recommend import FOR_YOU, OTHER
from celsa_jax.segments.segments import Segment, Segments
from celsa_jax.sparse import Recommender, SparseEmbeddings


@pytest.fixture(scope="module")
def products():
    """Random embeddings with random segments of their pairs, some pairs in none."""
    dense = random_rows(60, 12, 4)
    ids = np.arange(60).astype(np.str_)
    rng = np.random.default_rng(1)
    owner = rng.integers(-1, 7, 24)
    owner[1::2] = np.where(owner[1::2] == owner[::2], -1, owner[1::2])  # no opposite signs
    segments = tuple(
        Segment(
            Name(f"S{s}"),
            tuple((p // 2, 1 - 2 * (p % 2)) for p in np.flatnonzero(owner == s).tolist()),
            np.array([], int),
        )
        for s in range(7)
    )
    recommender = Recommender(SparseEmbeddings.from_dense(dense, ids), engine="scipy")
    histories = (rng.random((9, 60)) < 0.15).astype(np.float32)
    histories[8] = 0
    segmented = SegmentRecommender(recommender, Segments(segments, ids, 12))
    return segmented, dense, sp.csr_matrix(histories)


def ranked_by_loop(product, dense, history, n_items):
    """(score, segment) of those that are positive and can fill a row, best first."""
    seen = history.toarray()[0] > 0
    latent = history.toarray()[0] @ dense
    result = []
    for at, segment in enumerate(product.segments.segments):
        vector = np.zeros(dense.shape[1])
        for factor, sign in segment.pairs:
            vector[factor] = sign / np.sqrt(len(segment.pairs))
        unseen = [i for i in range(len(dense)) if dense[i] @ vector > 0 and not seen[i]]
        if latent @ vector > 0 and len(unseen) >= n_items:
            result.append((latent @ vector, at, unseen))
    return sorted(result, key=lambda entry: (-entry[0], entry[1]))


@pytest.mark.parametrize("n_items", [1, 12, 20])
def test_segments_are_ranked_as_a_loop_ranks_them(products, n_items, monkeypatch):
    monkeypatch.setattr("celsa_jax.segments.recommend._USERS_AT_ONCE", 4)
    product, dense, histories = products
    found, scores = product.recommend_segments(histories, 4, n_items=n_items)
    assert (found[8] == -1).all()
    assert found.dtype == np.int32
    assert scores.dtype == np.float32
    for user in range(8):
        expected = ranked_by_loop(product, dense, histories[user], n_items)[:4]
        n = len(expected)
        assert found[user, :n].tolist() == [at for _, at, _ in expected]
        np.testing.assert_allclose(scores[user, :n], [s for s, _, _ in expected], atol=1e-5)
        assert (found[user, n:] == -1).all()
        assert np.isneginf(scores[user, n:]).all()


def best(items, scores):
    return sorted(items, key=lambda item: (-scores[item], item))


@pytest.mark.parametrize("repeat_items", [False, True])
def test_homepages_are_those_of_a_loop(products, repeat_items, monkeypatch):
    monkeypatch.setattr("celsa_jax.segments.recommend._USERS_AT_ONCE", 4)
    product, dense, histories = products
    pages = product.homepage(histories, 4, 5, repeat_items=repeat_items)
    assert pages[8] == []
    for user in range(8):
        scores = dense @ (histories[user].toarray()[0] @ dense)
        unseen = np.flatnonzero(histories[user].toarray()[0] == 0)
        expected = [(FOR_YOU, best(unseen, scores)[:5])]
        used = set(expected[0][1])
        for _, at, candidates in ranked_by_loop(product, dense, histories[user], 5):
            left = candidates if repeat_items else [i for i in candidates if i not in used]
            if len(left) >= 5 and len(expected) < 4:
                expected.append((f"S{at}", best(left, scores)[:5]))
                used |= set(expected[-1][1])
        assert [(row.title, row.items.tolist()) for row in pages[user]] == expected
        for row in pages[user]:
            np.testing.assert_allclose(row.scores, scores[row.items], atol=1e-5)
    shown = [i for row in pages[0] for i in row.items]
    if not repeat_items:
        assert len(set(shown)) == len(shown)


def test_homepages_are_made_of_a_block_of_users_at_a_time(products, monkeypatch):
    """Users x segments would be a large dense matrix for many users."""
    monkeypatch.setattr("celsa_jax.segments.recommend._USERS_AT_ONCE", 4)
    product, _, histories = products
    heights = []
    of_block = sp.csr_matrix.toarray

    def toarray(matrix):
        heights.append(matrix.shape[0])
        return of_block(matrix)

    monkeypatch.setattr(sp.csr_matrix, "toarray", toarray)
    assert len(product.homepage(histories, 4, 5)) == 9
    assert max(heights) == 4


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csc_array, sp.coo_array, sp.csc_matrix])
def test_histories_may_be_of_any_sparse_kind(products, kind):
    product, _, histories = products
    other = kind(histories)
    for ours, theirs in zip(product.homepage(histories), product.homepage(other), strict=True):
        assert [row.title for row in ours] == [row.title for row in theirs]
        for expected, row in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(row.items, expected.items)
    for expected, result in zip(
        product.recommend_segments(histories), product.recommend_segments(other), strict=True
    ):
        np.testing.assert_array_equal(result, expected)
    assert product.explain(kind(histories[[0]]), 3) == product.explain(histories[[0]], 3)


def test_histories_that_say_or_leave_nothing_have_an_empty_page(products):
    product, dense, histories = products
    dense = dense.copy()
    dense[7] = 0  # an item without weights
    embeddings = SparseEmbeddings.from_dense(dense, product.segments.item_ids)
    recommender = Recommender(embeddings, engine="scipy")
    product = SegmentRecommender(recommender, product.segments)
    zeros = sp.csr_matrix(([0.0, 0.0], ([0, 0], [1, 2])), (1, 60))
    weightless = sp.csr_matrix(([1.0], ([0], [7])), (1, 60))
    everything = sp.csr_matrix(np.ones((1, 60)))
    all_but_one = sp.csr_matrix((np.arange(60) != 3).astype(float))
    pages = product.homepage(sp.vstack([zeros, weightless, everything, all_but_one, histories[0]]))
    assert pages[:3] == [[], [], []]
    assert [row.items.tolist() for row in pages[3]] == [[3]]
    assert pages[4][0].title == FOR_YOU


def test_an_explanation_adds_up_to_the_score(products):
    product, dense, histories = products
    rng = np.random.default_rng(0)
    others = 0
    for _ in range(200):
        user, item = rng.integers(0, 9), rng.integers(0, 60)
        history = histories[[user]]
        why = product.explain(history, item)
        x = history.toarray()[0].astype(np.float64)
        score = x @ dense.astype(np.float64) @ dense[item]
        assert why.score == pytest.approx(score, abs=1e-6)
        assert sum(part for _, part in why.segments) == pytest.approx(score, abs=1e-6)
        assert sum(part for _, part in why.history) == pytest.approx(score, abs=1e-6)
        for position, part in why.history:
            assert part == pytest.approx(x[position] * dense[position] @ dense[item], abs=1e-6)
        by_segment = dict.fromkeys([*product.segments.names, OTHER], 0.0)
        for factor, weight in enumerate(dense[item]):
            owners = [
                s.name.name
                for s in product.segments.segments
                if weight and (factor, np.sign(weight)) in s.pairs
            ]
            by_segment[owners[0] if owners else OTHER] += (x @ dense[:, factor]) * weight
        for name, part in why.segments:
            assert part == pytest.approx(by_segment[name], abs=1e-5)
        others += OTHER in dict(why.segments)
    assert others


def test_activations_are_the_latent_vector_by_size(products):
    product, dense, histories = products
    dense = dense.astype(np.float64)
    for user in range(8):
        found = product.activations(histories[[user]])
        latent = histories[user].toarray()[0] @ dense
        expected = sorted(np.flatnonzero(latent), key=lambda f: (-abs(latent[f]), f))
        assert found.factors.tolist() == expected
        np.testing.assert_allclose(found.values, latent[expected], atol=1e-9)
        owners = [
            next((at for at, s in enumerate(product.segments) if (f, np.sign(v)) in s.pairs), -1)
            for f, v in zip(found.factors, found.values, strict=True)
        ]
        assert found.segments.tolist() == owners
        assert {-1} < set(owners)
        assert found.item_ids is None
    assert not len(product.activations(histories[[8]]).factors)


def test_activations_name_the_items_of_their_factors(products):
    product, dense, histories = products
    names = np.array([f"item of {f}" for f in range(dense.shape[1])])
    named = SparseEmbeddings.from_dense(dense, product.segments.item_ids, factor_ids=names)
    found = SegmentRecommender(Recommender(named), product.segments).activations(histories[[0]])
    assert found.item_ids.tolist() == [f"item of {f}" for f in found.factors]


def test_recommending_refuses_what_does_not_fit(products):
    product, _, histories = products
    with pytest.raises(InputError, match="60 is no item position"):
        product.explain(histories[[0]], 60)
    with pytest.raises(InputError, match="True is no item position"):
        product.explain(histories[[0]], True)
    with pytest.raises(InputError, match="explain takes one history, not 9"):
        product.explain(histories, 0)
    with pytest.raises(InputError, match="activations takes one history, not 9"):
        product.activations(histories)
    with pytest.raises(InputError, match="k is 0"):
        product.recommend_segments(histories, 0)
    with pytest.raises(InputError, match=r"k is 300000000, of \d+; give a smaller one"):
        product.recommend_segments(histories, 300_000_000)
    with pytest.raises(InputError, match="n_rows is 0"):
        product.homepage(histories, 0)
    with pytest.raises(InputError, match="histories have 3 items"):
        product.homepage(sp.csr_matrix((1, 3)))
    other = SparseEmbeddings.from_dense(np.eye(3, 12, dtype=np.float32))
    with pytest.raises(InputError, match="not of these embeddings"):
        SegmentRecommender(Recommender(other), product.segments)
