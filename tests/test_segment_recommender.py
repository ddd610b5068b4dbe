"""Segments and homepages for users, and explanations, against loops."""

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import directions
from test_segments import random_rows

from celsa_jax.errors import InputError
from celsa_jax.segments import SegmentRecommender
from celsa_jax.segments.naming import Name
from celsa_jax.segments.recommend import FOR_YOU, OTHER
from celsa_jax.segments.segments import Segment, Segments
from celsa_jax.sparse import Recommender, SparseEmbeddings


@pytest.fixture(scope="module")
def products():
    """Random embeddings, of lengths that differ, in seven random segments."""
    rng = np.random.default_rng(1)
    dense = random_rows(60, 12, 4) * rng.uniform(0.5, 2, (60, 1)).astype(np.float32)
    ids = np.arange(60).astype(np.str_)
    vectors = random_rows(7, 12, 3, seed=3)
    of_item = np.arange(60) % 7
    of_item[59] = -1
    segments = tuple(Segment(Name(f"S{s}"), np.flatnonzero(of_item == s), -1) for s in range(7))
    recommender = Recommender(SparseEmbeddings.from_dense(dense, ids), engine="scipy")
    histories = (rng.random((9, 60)) < 0.15).astype(np.float32)
    histories[8] = 0
    level = Segments(segments, sp.csr_matrix(vectors), ids)
    return SegmentRecommender(recommender, level), dense, sp.csr_matrix(histories)


def ranked_by_loop(product, dense, history, n_members, far_off=False):
    """(score, segment, unseen members) of those that are positive and have enough, best first."""
    seen = history.toarray()[0] > 0
    latent = history.toarray()[0] @ directions(dense)
    result = []
    for at, vector in enumerate(product.segments.vectors.toarray()):
        inside = product.segments[at].items
        cosines = dense[inside] @ vector / np.linalg.norm(dense[inside], axis=1)
        shown = inside[far_off | (cosines >= 0.5 * np.median(cosines) - 1e-6)]
        unseen = [i for i in shown.tolist() if not seen[i]]
        if latent @ vector > 0 and len(unseen) >= n_members:
            result.append((latent @ vector, at, unseen))
    return sorted(result, key=lambda entry: (-entry[0], entry[1]))


def others_by_loop(product, dense, at):
    """What is no member, but as near to the vector as half of the members."""
    cosines = (
        dense
        / np.linalg.norm(dense, axis=1, keepdims=True)
        @ product.segments.vectors.toarray()[at]
    )
    inside = product.segments[at].items
    near = (cosines > 0) & (cosines >= np.median(cosines[inside]) - 1e-6)
    return np.setdiff1d(np.flatnonzero(near), inside).tolist()


@pytest.mark.parametrize("n_items", [1, 12, 15])
def test_segments_are_ranked_as_a_loop_ranks_them(products, n_items, monkeypatch):
    monkeypatch.setattr("celsa_jax.segments.recommend._USERS_AT_ONCE", 4)
    product, dense, histories = products
    found, scores = product.recommend_segments(histories, 4, n_items=n_items)
    assert (found[8] == -1).all()
    assert found.dtype == np.int32
    assert scores.dtype == np.float32
    for user in range(8):
        expected = ranked_by_loop(product, dense, histories[user], (n_items + 1) // 2)[:4]
        n = len(expected)
        assert found[user, :n].tolist() == [at for _, at, _ in expected]
        np.testing.assert_allclose(scores[user, :n], [s for s, _, _ in expected], atol=1e-5)
        assert (found[user, n:] == -1).all()
        assert np.isneginf(scores[user, n:]).all()


def best(items, scores):
    return sorted(items, key=lambda item: (-scores[item], item))


@pytest.mark.parametrize("n_items", [4, 10])
@pytest.mark.parametrize("members_only", [False, True])
@pytest.mark.parametrize("for_you", [True, False])
def test_homepages_are_those_of_a_loop(products, n_items, members_only, for_you, monkeypatch):
    monkeypatch.setattr("celsa_jax.segments.recommend._USERS_AT_ONCE", 4)
    monkeypatch.setattr("celsa_jax.segments.recommend._ITEMS_AT_ONCE", 7)
    options = {"members_only": members_only, "for_you": for_you}
    product, dense, histories = products
    product = SegmentRecommender(product.recommender, product.segments)
    pages = product.homepage(histories, 4, n_items, **options)
    assert pages[8] == []
    n_members = n_items if members_only else (n_items + 1) // 2
    n_filled = 0
    for user in range(8):
        scores = dense @ (histories[user].toarray()[0] @ directions(dense))
        seen = histories[user].toarray()[0] > 0
        expected = [(FOR_YOU, best(np.flatnonzero(~seen), scores)[:n_items])] if for_you else []
        for _, at, members in ranked_by_loop(
            product, dense, histories[user], n_members, members_only
        ):
            used = {i for _, items in expected for i in items}
            own = best([i for i in members if i not in used], scores)[:n_items]
            if len(own) < n_members or len(expected) == 4:
                continue
            others = [
                i for i in others_by_loop(product, dense, at) if not seen[i] and i not in used
            ]
            row = own + (best(others, scores)[: n_items - len(own)] if not members_only else [])
            if len(row) == n_items:
                expected.append((f"S{at}", row))
                n_filled += len(own) < n_items
        assert [(row.title, row.items.tolist()) for row in pages[user]] == expected
        for row in pages[user]:
            np.testing.assert_allclose(row.scores, scores[row.items], atol=1e-5)
        shown = [i for row in pages[user] for i in row.items]
        assert len(set(shown)) == len(shown)
    assert members_only or n_items == 4 or n_filled


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
        why, by_segment = product.explain(history, item)
        x = history.toarray()[0].astype(np.float64)
        score = x @ directions(dense) @ dense[item]
        assert why.score == pytest.approx(score, abs=1e-6)
        assert sum(part for _, part in by_segment) == pytest.approx(score, abs=1e-6)
        assert sum(part for _, part in why.history) == pytest.approx(score, abs=1e-6)
        for position, part in why.history:
            assert part == pytest.approx(
                x[position] * directions(dense)[position] @ dense[item], abs=1e-6
            )
        expected = dict.fromkeys([*product.segments.names, OTHER], 0.0)
        for factor, weight in enumerate(dense[item]):
            towards = product.segments.vectors.toarray()[:, factor] * np.sign(weight)
            owner = product.segments.names[towards.argmax()] if towards.max() > 0 else OTHER
            expected[owner] += (x @ directions(dense)[:, factor]) * weight
        for name, part in by_segment:
            assert part == pytest.approx(expected[name], abs=1e-5)
        others += OTHER in dict(by_segment)
    assert others


def test_recommending_refuses_what_does_not_fit(products):
    product, _, histories = products
    with pytest.raises(InputError, match="60 is no item position"):
        product.explain(histories[[0]], 60)
    with pytest.raises(InputError, match="item must be a list of item positions"):
        product.explain(histories[[0]], True)
    with pytest.raises(InputError, match="explain takes one history, not 9"):
        product.explain(histories, 0)
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
