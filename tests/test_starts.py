"""Starts from the data: neighbours against brute force, clusters against planted segments."""

import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import directions, planted_segments

from celsa_jax import starts
from celsa_jax.data.interactions import lookup
from celsa_jax.data.synthetic import synthetic
from celsa_jax.starts import clusters, neighbours


def random_matrix(n_users, n_items, density, seed):
    """Binary users x items; every item has a user, many have few."""
    rng = np.random.default_rng(seed)
    dense = rng.random((n_users, n_items)) < density * rng.random(n_items)
    dense[rng.integers(n_users, size=n_items), np.arange(n_items)] = True
    return sp.csr_matrix(dense, dtype=np.float32)


def islands(n_items=12):
    """Items in pairs: each co-occurs with one other."""
    return sp.csr_matrix(np.repeat(np.eye(n_items // 2, dtype=np.float32), 2, axis=1))


def assert_sound(start, k0):
    assert start.columns.dtype == np.int32
    assert start.values.dtype == np.float32
    assert start.columns.shape == start.values.shape
    assert start.columns.shape[1] == k0
    assert (np.diff(start.columns, axis=1) > 0).all()  # ascending, hence distinct
    assert start.columns.min() >= 0
    assert start.columns.max() < start.n_factors
    assert np.isfinite(start.values).all()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    seed=st.integers(0, 1000),
    n_items=st.integers(1, 30),
    density=st.sampled_from([0.02, 0.1, 0.5]),
    alpha=st.sampled_from([0.5, 0.35, 0.0, 1.0]),
    k0=st.integers(1, 32),
)
def test_neighbours_are_those_of_brute_force(seed, n_items, density, alpha, k0):
    matrix = random_matrix(20, n_items, density, seed)
    start = neighbours(matrix, k0, alpha, seed)
    dense = matrix.toarray().astype(np.float64)
    counts = dense.sum(axis=0)
    weights = counts**0.2 / (counts + 80) ** alpha
    similar = (dense.T @ dense) * np.outer(weights, weights)
    largest = np.where(np.eye(n_items), 0, similar).max(axis=1)
    scale = np.quantile(largest, 0.99)
    assert start.n_factors == n_items
    assert_sound(start, min(k0, n_items))
    for item in range(n_items):
        wanted = similar[item].copy()
        wanted[item] = 0
        wanted /= max(wanted.max(), scale, 1e-12)
        value = dict(zip(start.columns[item].tolist(), start.values[item], strict=True))
        assert value.pop(item) == 1
        near = {f: v for f, v in value.items() if wanted[f] > 0}
        assert len(near) == min(k0 - 1, np.count_nonzero(wanted), n_items - 1)
        for factor, v in near.items():
            assert v == pytest.approx(wanted[factor], rel=1e-5)
        left_out = np.setdiff1d(np.flatnonzero(wanted), [*near, item])
        if len(left_out) and near:
            assert wanted[left_out].max() <= min(near.values()) * (1 + 1e-5)
        assert all(abs(value[f]) < 0.001 for f in value.keys() - near.keys())


def test_ties_go_to_the_lower_index():
    start = neighbours(sp.csr_matrix(np.ones((3, 9), np.float32)), 4, 0.5, seed=0)
    assert start.columns.tolist()[:2] == [[0, 1, 2, 3]] * 2
    assert start.columns[8].tolist() == [0, 1, 2, 8]
    np.testing.assert_array_equal(start.values, 1)


def test_the_rest_is_random_distinct_and_tiny():
    matrix = islands(2000)
    start = neighbours(matrix, 8, 0.5, seed=1)
    assert_sound(start, 8)
    item = np.arange(2000)
    known = (start.columns == item[:, None]) | (start.columns == item[:, None] ^ 1)
    np.testing.assert_array_equal(known.sum(axis=1), 2)
    np.testing.assert_array_equal(start.values[known], 1)
    tiny = start.values[~known]
    assert tiny.std() == pytest.approx(1e-4, rel=0.05)
    assert abs(tiny.mean()) < 5e-6
    drawn = np.bincount(start.columns[~known], minlength=2000)
    assert drawn.max() < 25  # of 6 expected, everywhere alike
    assert np.abs(np.diff(drawn.reshape(4, -1).sum(axis=1))).max() < 500
    assert not np.array_equal(start.columns, neighbours(matrix, 8, 0.5, seed=2).columns)


@pytest.mark.parametrize("k0", [1, 11, 12, 100])
def test_every_factor_of_a_small_model(k0):
    start = neighbours(islands(12), k0, 0.5, seed=0)
    assert_sound(start, min(k0, 12))


def test_blocks_and_threads_change_nothing(monkeypatch):
    matrix = random_matrix(60, 150, 0.05, 0)
    start = neighbours(matrix, 16, 0.35, seed=3)
    assert same(start, neighbours(matrix, 16, 0.35, seed=3))
    for entries, rows, threads in [(1, 1, 1), (100, 7, 3), (1000, 64, 2)]:
        monkeypatch.setattr(starts, "_ENTRIES_AT_ONCE", entries)
        monkeypatch.setattr(starts, "_ROWS_AT_ONCE", rows)
        monkeypatch.setattr(starts, "n_cores", lambda threads=threads: threads)
        assert same(start, neighbours(matrix, 16, 0.35, seed=3))


def test_what_a_neighbours_popularity_costs():
    # Item 0 is once with the rare 1, and twice with the popular 2.
    users = [[0, 1], [0, 2], [0, 2], *[[2]] * 6]
    dense = np.zeros((len(users), 3), np.float32)
    for row, items in enumerate(users):
        dense[row, items] = 1
    matrix = sp.csr_matrix(dense)
    assert neighbours(matrix, 2, 16.0, seed=0).columns[0].tolist() == [0, 1]
    assert neighbours(matrix, 2, 0.5, seed=0).columns[0].tolist() == [0, 2]


def test_an_item_that_few_have_begins_by_itself():
    # Items 0 and 1 are together ten times, 2 and 3 once: the latter say less of each other.
    dense = np.zeros((11, 4), np.float32)
    dense[:10, :2] = dense[10:, 2:] = 1
    start = neighbours(sp.csr_matrix(dense), 2, 0.5, seed=0)
    assert start.columns.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert start.values[0].tolist() == [1, 1]
    assert start.values[2, 1] == pytest.approx(0.1 * (1 / 10) ** 0.4 * 90 / 81, rel=1e-5)


@pytest.fixture(scope="module")
def segments():
    """Interactions of planted segments, and every item's set of segments."""
    interactions, metadata = synthetic(3000, 800, 20, seed=1)
    _, membership, _ = planted_segments(metadata)
    return interactions.matrix, membership[lookup(metadata["item_id"], interactions.item_ids)]


def own_clusters(matrix, n_factors):
    return clusters(matrix, n_factors, 1, 0.5, seed=0).columns[:, 0]


@pytest.mark.parametrize(("n_factors", "bar"), [(20, 0.75), (40, 0.8), (100, 0.85), (200, 0.9)])
def test_clusters_are_within_planted_segments(segments, n_factors, bar):
    matrix, membership = segments
    own = own_clusters(matrix, n_factors)
    in_segment = np.stack([np.bincount(own, member, n_factors) for member in membership.T])
    purity = in_segment.max(axis=0).sum() / len(own)
    assert purity > bar
    by_chance = np.stack(
        [np.bincount(np.random.default_rng(0).permutation(own), m, n_factors) for m in membership.T]
    )
    assert by_chance.max(axis=0).sum() / len(own) < bar - 0.2
    sizes = np.bincount(own, minlength=n_factors)
    assert sizes.min() >= 1
    assert sizes.max() <= 4 * len(own) / n_factors


def test_clusters_begin_at_their_share_of_common_users(segments):
    matrix, _ = segments
    n_items = matrix.shape[1]
    start = clusters(matrix, 50, 12, 0.35, seed=0)
    assert start.n_factors == 50
    assert_sound(start, 12)
    own = own_clusters(matrix, 50)
    assert list(dict.fromkeys(own)) == list(range(50))  # numbered by their first items
    dense = matrix.toarray().astype(np.float64)
    by_cluster = dense @ np.eye(50)[own]
    counts, of_cluster = dense.sum(axis=0), by_cluster.sum(axis=0)
    similar = dense.T @ by_cluster * of_cluster**0.2 / (of_cluster + 80) ** 0.85
    similar *= (counts**0.2 / (counts + 80) ** 0.35)[:, None]
    similar[np.arange(n_items), own] = 0
    largest = similar.max(axis=1, keepdims=True)
    similar /= np.maximum(largest, np.quantile(largest, 0.99))
    similar[np.arange(n_items), own] = 1
    values = np.take_along_axis(similar, start.columns.astype(np.int64), axis=1)
    np.testing.assert_allclose(start.values, values, rtol=1e-4)
    np.testing.assert_allclose(values.min(axis=1), np.sort(similar, axis=1)[:, -12], rtol=1e-4)


@pytest.mark.parametrize("n_factors", [1, 2, 7, 30, 59, 60])
@pytest.mark.parametrize(
    "matrix",
    [
        islands(60),
        sp.csr_matrix(np.eye(60, dtype=np.float32)),
        sp.csr_matrix(np.ones((3, 60), np.float32)),
        random_matrix(30, 60, 0.1, 0),
    ],
    ids=["pairs", "strangers", "equals", "random"],
)
def test_no_cluster_is_empty(matrix, n_factors):
    start = clusters(matrix, n_factors, 5, 0.5, seed=0)
    assert_sound(start, min(5, n_factors))
    own = own_clusters(matrix, n_factors)
    assert set(own) == set(range(n_factors))
    assert np.bincount(own).max() <= 4 * -(-60 // n_factors)
    found = start.values[start.columns == own[:, None]]
    np.testing.assert_array_equal(found, np.ones(60))


def test_pairs_of_items_are_clusters():
    np.testing.assert_array_equal(own_clusters(islands(60), 30), np.arange(60) // 2)


def test_clusters_do_not_depend_on_blocks_and_threads(monkeypatch, segments):
    matrix, _ = segments
    start = clusters(matrix, 100, 16, 0.5, seed=3)
    assert same(start, clusters(matrix, 100, 16, 0.5, seed=3))
    monkeypatch.setattr(starts, "_ENTRIES_AT_ONCE", 5000)
    monkeypatch.setattr(starts, "_ROWS_AT_ONCE", 100)
    monkeypatch.setattr(starts, "n_cores", lambda: 3)
    assert same(start, clusters(matrix, 100, 16, 0.5, seed=3))


@pytest.mark.parametrize("make", [neighbours, functools.partial(clusters, n_factors=30)])
def test_items_without_interactions_are_in_nobodys_way(make):
    """The others begin as without them, and a history scores them at nothing or below it."""
    matrix = random_matrix(40, 60, 0.3, 0)
    used = np.delete(np.arange(66), [0, 7, 8, 30, 64, 65])
    wider = sp.csr_matrix((40, 66), dtype=np.float32).tolil()
    wider[:, used] = matrix
    wider = wider.tocsr()
    start = make(wider, k0=5, alpha=0.5, seed=0)
    assert_sound(start, 5)
    alone = make(matrix, k0=5, alpha=0.5, seed=0)
    np.testing.assert_allclose(np.sort(start.values[used]), np.sort(alone.values), rtol=1e-5)
    rows = sp.csr_matrix(
        (start.values.ravel(), start.columns.ravel(), np.arange(67) * 5), (66, start.n_factors)
    )
    scores = (wider @ directions(rows.toarray())) @ rows.T.toarray()
    unused = np.setdiff1d(np.arange(66), used)
    assert scores[:, unused].max() < 0.01 * scores[:, used].max(axis=1).min()
