import math
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from celsa_jax.data import Interactions
from celsa_jax.errors import InputError
from celsa_jax.evaluation import METRICS, evaluate, holdouts, ranking_metrics
from celsa_jax.evaluation.protocol import rank_unseen, users_at_once
from celsa_jax.sparse import top_k


def interactions_of(histories, item_ids=None):
    """Interactions from {user: items}."""
    item_ids = sorted({i for items in histories.values() for i in items} | set(item_ids or ()))
    users = sorted(histories)
    dense = np.zeros((len(users), len(item_ids)), np.float32)
    for row, user in enumerate(users):
        dense[row, [item_ids.index(i) for i in histories[user]]] = 1
    return Interactions(sp.csr_matrix(dense), np.array(users), np.array(item_ids))


def held_out_pairs(data, mask):
    users = np.repeat(data.user_ids, np.diff(data.matrix.indptr))
    return set(zip(users[mask], data.item_ids[data.matrix.indices][mask], strict=True))


HISTORIES = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.sets(st.integers(0, 40).map("i{}".format), min_size=1, max_size=23),
    min_size=1,
    max_size=5,
)


@given(HISTORIES, st.integers(0, 2**40))
def test_disjoint_folds_hold_every_interaction_out_once(histories, seed):
    data = interactions_of(histories)
    folds = holdouts(data, "disjoint", seed)
    assert (folds.sum(axis=0) == 1).all()
    for user in range(data.n_users):
        span = slice(data.matrix.indptr[user], data.matrix.indptr[user + 1])
        sizes = folds[:, span].sum(axis=1)
        assert sizes.max() - sizes.min() <= 1


@given(HISTORIES, st.integers(0, 100))
def test_independent_folds_hold_out_at_most_a_fifth(histories, seed):
    data = interactions_of(histories)
    folds = holdouts(data, "independent", seed)
    for user in range(data.n_users):
        span = slice(data.matrix.indptr[user], data.matrix.indptr[user + 1])
        sizes = folds[:, span].sum(axis=1)
        assert (sizes >= 1).all()
        assert (sizes <= math.ceil(0.2 * data.matrix[user].nnz)).all()


def test_independent_folds_draw_with_replacement():
    data = interactions_of({f"u{i:04d}": [f"i{j:02d}" for j in range(50)] for i in range(2000)})
    share = holdouts(data, "independent", 0).mean()
    expected = 1 - (1 - 1 / 50) ** 10  # of ten draws from fifty
    assert abs(share - expected) < 0.002


@pytest.mark.parametrize("kind", ["disjoint", "independent"])
@given(HISTORIES, st.sets(st.integers(41, 60).map("i{}".format), max_size=9))
def test_folds_depend_on_the_seed_and_the_pairs_alone(kind, histories, more_items):
    data = interactions_of(histories)
    wider = interactions_of(
        {**histories, "zz": more_items | {"i1"}}, item_ids=more_items | {"i99", "a0"}
    )
    for fold, fold_wider in zip(holdouts(data, kind, 7), holdouts(wider, kind, 7), strict=True):
        others = {p for p in held_out_pairs(wider, fold_wider) if p[0] != "zz"}
        assert held_out_pairs(data, fold) == others


def test_another_seed_gives_other_folds():
    data = interactions_of({f"u{i}": [f"i{j}" for j in range(20)] for i in range(10)})
    assert (holdouts(data, "disjoint", 0) != holdouts(data, "disjoint", 1)).any()


def test_unknown_kind_of_folds():
    with pytest.raises(InputError, match="disjoint, independent"):
        holdouts(interactions_of({"u": ["i"]}), "leave-one-out", 0)


def test_metrics_by_hand():
    hits = np.zeros((3, 100), bool)
    hits[0, [0, 2, 30]] = True  # of 4 held out
    hits[1, 99] = True  # of 1
    got = ranking_metrics(hits, np.array([4, 1, 60]))
    np.testing.assert_allclose(got["recall@20"], [2 / 4, 0, 0])
    np.testing.assert_allclose(got["recall@50"], [3 / 4, 0, 0])
    ideal = 1 + 1 / np.log2(3) + 1 / 2 + 1 / np.log2(5)
    np.testing.assert_allclose(
        got["ndcg@100"], [(1 + 1 / 2 + 1 / np.log2(32)) / ideal, 1 / np.log2(101), 0]
    )


def test_metrics_cut_their_ideal_at_the_length_of_the_list():
    got = ranking_metrics(np.ones((1, 100), bool), np.array([250]))
    assert list(got) == list(METRICS)
    np.testing.assert_allclose(list(got.values()), 1)


def naive_evaluation(dense_scores, data, item_ids, kind, seed):
    """User by user and fold by fold, with Python lists."""
    catalogue = list(item_ids)
    per_user = {u: [] for u in data.user_ids}
    for mask in holdouts(data, kind, seed):
        held = held_out_pairs(data, mask)
        for user in data.user_ids:
            row = list(data.user_ids).index(user)
            items = [data.item_ids[i] for i in data.matrix[row].indices]
            targets = {i for i in items if (user, i) in held}
            history = [i for i in items if i not in targets and i in catalogue]
            if not targets or not history:
                continue
            x = np.array([float(i in history) for i in catalogue])
            scores = dense_scores(x)
            order = sorted(
                (p for p in range(len(catalogue)) if catalogue[p] not in history),
                key=lambda p: (-scores[p], p),
            )
            gains = [catalogue[p] in targets for p in order[:100]]
            ideal = sum(1 / math.log2(r + 2) for r in range(min(100, len(targets))))
            per_user[user].append(
                (
                    sum(gains[:20]) / min(20, len(targets)),
                    sum(gains[:50]) / min(50, len(targets)),
                    sum(g / math.log2(r + 2) for r, g in enumerate(gains)) / ideal,
                )
            )
    return {u: np.mean(v, axis=0) if v else np.full(3, np.nan) for u, v in per_user.items()}


@settings(max_examples=25)
@given(HISTORIES, st.integers(0, 50), st.sampled_from(["disjoint", "independent"]))
def test_protocol_equals_a_naive_loop(histories, seed, kind):
    data = interactions_of(histories)
    rng = np.random.default_rng(seed)
    # Half the items, in no order, and some that no test user has.
    item_ids = rng.permutation([*data.item_ids[::2], "x1", "x2"])
    weights = rng.integers(-4, 5, (len(item_ids), len(item_ids))).astype(np.float32)
    result = evaluate(lambda h: h @ weights, data, item_ids, folds=kind, seed=seed, batch_size=2)
    expected = naive_evaluation(lambda x: x @ weights, data, item_ids, kind, seed)
    got = np.stack([result.per_user[m] for m in METRICS], axis=1)
    np.testing.assert_allclose(got, [expected[u] for u in data.user_ids], atol=1e-12)


def test_counts_of_what_is_skipped_and_unknown():
    data = interactions_of({"one": ["a"], "two": ["a", "b"], "strange": ["y", "z"]})
    result = evaluate(lambda h: h.toarray(), data, np.array(["a", "b"]))
    # `one` has no history once its item is held out, nor has `strange` in any fold.
    assert result.counts == {
        "n_users": 1,
        "n_users_skipped": 2,
        "n_user_folds": 2,
        "n_user_folds_skipped": 13,
        "n_unknown_in_histories": 8,
        "n_unknown_held_out": 2,
    }
    assert np.isnan(result.per_user["recall@20"]).tolist() == [True, True, False]
    assert (
        repr(result) == "Evaluation(1 users, recall@20 1.0000, recall@50 1.0000, ndcg@100 1.0000)"
    )


def test_standard_error_of_the_mean():
    data = interactions_of({f"u{i}": [f"i{j}" for j in range(5 + i)] for i in range(6)})
    weights = np.random.default_rng(0).normal(size=(data.n_items,) * 2).astype(np.float32)
    result = evaluate(lambda h: h @ weights, data, data.item_ids)
    values = result.per_user["ndcg@100"]
    summary = result.summary()
    assert summary["ndcg@100"] == pytest.approx(sum(values) / 6)
    variance = sum((v - sum(values) / 6) ** 2 for v in values) / 5
    assert summary["ndcg@100_stderr"] == pytest.approx(math.sqrt(variance / 6))


def test_what_is_undefined_is_none():
    lone = interactions_of({"u": ["a", "b", "c"], "v": ["a"]})
    summary = evaluate(lambda h: h.toarray(), lone, lone.item_ids).summary()
    assert summary["recall@20"] is not None
    assert summary["recall@20_stderr"] is None
    nobody = evaluate(lambda h: h.toarray(), lone.take_users([1]), lone.item_ids).summary()
    assert set(nobody.values()) == {None}


def test_a_seen_item_never_comes_before_one_with_a_negative_score():
    history = sp.csr_matrix(np.array([[1, 0, 0]], np.float32))
    ranked = rank_unseen(lambda h: np.array([[5.0, -2.0, -1.0]]), history)
    assert ranked.tolist() == [[2, 1, -1]]


def test_scores_that_are_not_finite_are_an_error():
    history = sp.csr_matrix(np.eye(2, dtype=np.float32))
    with pytest.raises(InputError, match="not finite"):
        rank_unseen(lambda h: np.array([[0.0, np.nan]] * 2), history)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(0, 8),
)
def test_top_k_breaks_ties_by_position(rows, k):
    scores = np.array(rows, np.float32)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(top_k(scores, k), expected)


def test_users_with_little_left_to_see():
    """What they have seen stands in no list, though it fills the 20 places."""
    ids = np.array([f"{i}" for i in range(6)])
    matrix = sp.csr_matrix(np.array([[1, 1, 1, 1, 1, 0]], np.float32))
    data = Interactions(matrix, np.array(["u"]), ids)
    result = evaluate(
        lambda history: np.tile(np.arange(6.0), (history.shape[0], 1)), data, ids, seed=0
    )
    # In each of five folds the one item held out and item 5 are left to see, and no other.
    assert result.summary()["recall@20"] == 1
    assert result.summary()["ndcg@100"] == pytest.approx(1 / np.log2(3))


def test_memory_is_that_of_a_few_users_whatever_the_catalogue():
    """As many users are scored at once as of ten million items."""
    n_items, n_users = 200_000, 40
    rng = np.random.default_rng(0)
    items = np.sort(rng.choice(n_items, (n_users, 5), replace=False), axis=1)
    indptr, ids = np.arange(n_users + 1) * 5, np.arange(n_items).astype(str)
    matrix = sp.csr_matrix((np.ones(5 * n_users), items.ravel(), indptr), (n_users, n_items))
    data = Interactions(matrix.astype(np.float32), ids[:n_users], ids)
    scores = np.zeros(n_items, np.float32)
    scores[items[:, :2]] = 1 + rng.random((n_users, 2), np.float32)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    def score(history):
        assert history.shape[0] <= 6
        return np.broadcast_to(scores, history.shape)

    evaluate(score, data, ids, n_folds=1, batch_size=users_at_once(10_000_000))
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    # The scores, which of them are finite, and the row that is ranked; the ids of the catalogue.
    assert peak < 6 * n_items * (4 + 1) + 16 * n_items * 4 + 2 * ids.nbytes
