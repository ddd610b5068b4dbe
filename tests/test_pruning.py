"""The exact row-wise top k, and the pruning of a training state with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compilations
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_products import random_ell

from celsa_jax import pruning
from celsa_jax.pruning import top_k_mask
from celsa_jax.starts import Start
from celsa_jax.state import (
    Form,
    embeddings_of,
    initial_weights,
    nnz_per_row,
    prune,
    random_state,
    sparse_state,
)

top_k_mask_jit = jax.jit(top_k_mask)


def reference(scores, k, among=None):
    """A stable descending sort keeps ties in the order of their indices."""
    magnitudes = np.abs(scores) if among is None else np.where(among, np.abs(scores), -1)
    order = np.argsort(-magnitudes, axis=1, kind="stable")[:, :k]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


TINY = np.float32(1e-45)  # the smallest denormal
ROWS = {
    "random": np.random.default_rng(0).normal(size=(9, 33)),
    "tied": np.random.default_rng(1).integers(-3, 4, (9, 33)),
    "zero": np.zeros((9, 33)),
    "equal": np.full((9, 33), -2.5),
    "denormal": np.random.default_rng(2).integers(-4, 5, (9, 33)) * TINY,
    "signs": np.tile([0.0, -0.0, TINY, -TINY, 1.0, -1.0, 0.0, np.inf, 0.0, 0.0, -3.0], (9, 3)),
}


@pytest.mark.parametrize("scores", ROWS.values(), ids=ROWS)
def test_equals_a_stable_sort_for_every_k(scores):
    scores = scores.astype(np.float32)
    for k in range(1, scores.shape[1] + 1):
        mask = np.asarray(top_k_mask_jit(scores, np.int32(k)))
        np.testing.assert_array_equal(mask, reference(scores, k))


@pytest.mark.parametrize("scores", ROWS.values(), ids=ROWS)
def test_among_some_entries_equals_a_stable_sort_of_them(scores):
    """Also where these are zeros and others are not."""
    scores = scores.astype(np.float32)
    rng = np.random.default_rng(3)
    for k in (1, 2, 5, 12):
        among = rng.random(scores.shape) < 0.5
        among[:3] = reference(rng.normal(size=(3, 33)), k)  # no more than are wanted
        among[3] = True
        among |= reference(rng.normal(size=scores.shape), k)
        scores = np.where(among & (rng.random(scores.shape) < 0.2), 0, scores).astype("f")
        mask = np.asarray(top_k_mask_jit(scores, np.int32(k), among))
        np.testing.assert_array_equal(mask, reference(scores, k, among))


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.float32,
        (7, 12),
        elements=st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3.0]),
            st.floats(-(2.0**99), 2.0**99, width=32),
        ),
    ),
    st.integers(1, 12),
)
def test_equals_a_stable_sort_on_drawn_rows(scores, k):
    mask = np.asarray(top_k_mask_jit(scores, np.int32(k)))
    np.testing.assert_array_equal(mask, reference(scores, k))


def test_rows_that_do_not_fill_the_last_block(monkeypatch):
    monkeypatch.setattr(pruning, "_CPU_BLOCK_ENTRIES", 3 * 20)
    scores = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32)
    mask = jax.jit(lambda scores: top_k_mask(scores, 6))(scores)
    np.testing.assert_array_equal(mask, reference(scores, 6))


def test_all_rows_at_once_as_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scores = np.random.default_rng(0).integers(-9, 9, (40, 25)).astype(np.float32)
    mask = jax.jit(lambda scores: top_k_mask(scores, 7))(scores)
    np.testing.assert_array_equal(mask, reference(scores, 7))


def test_one_compilation_serves_every_k():
    compiled = jax.jit(lambda scores, k: top_k_mask(scores, k))
    scores = jnp.ones((4, 10))
    for k in range(1, 11):
        compiled(scores, k)
    assert compiled._cache_size() == 1


def test_under_strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        mask = jax.jit(lambda s, k: top_k_mask(s, k, s > 1))(2 * jnp.ones((2, 5)), jnp.int32(2))
    np.testing.assert_array_equal(np.asarray(mask), [[1, 1, 0, 0, 0]] * 2)


N_ITEMS = 9
# So many factors, and places of a row, before and after.
PACKED = (20, 16, 16)
SHRUNK = (20, 16, 8)
BY_FACTOR = (16, 16, 16)  # place f is that of factor f
BY_FACTOR_THEN_PACKED = (16, 16, 8)
shapes = pytest.mark.parametrize(
    "shape",
    [PACKED, SHRUNK, BY_FACTOR, BY_FACTOR_THEN_PACKED],
    ids=["packed", "shrunk", "by factor", "by factor, then packed"],
)


def state_of(n_factors, places, seed=0, most=12):
    """Of rows with 6 to 12 places in use, one with none; moments that tell places apart."""
    columns, values = random_ell(N_ITEMS, n_factors, most, most, seed)
    for row in range(2, N_ITEMS):
        chosen = np.random.default_rng((seed, row)).permutation(n_factors)[: 6 + row % 7]
        columns[row] = n_factors
        columns[row, : len(chosen)] = np.sort(chosen)
    values = np.random.default_rng(seed).integers(-5, 6, columns.shape).astype(np.float32)  # ties
    values[columns == n_factors] = 0
    form = Form(n_factors, by_row=False)
    state = sparse_state(Start(columns, values, n_factors), form, places)
    used = np.asarray(state.columns) < n_factors
    count, mu, nu = state.opt_state
    mu, nu = (
        np.where(used, m + np.arange(1.0, 1 + used.size).reshape(used.shape), 0) for m in (0, 500)
    )
    opt_state = state.opt_state._replace(
        count=count + 5, mu=jnp.asarray(mu, jnp.float32), nu=jnp.asarray(nu, jnp.float32)
    )
    return state._replace(step=jnp.int32(7), opt_state=opt_state)


def entries_of(state, n_factors):
    """Per row what each factor has: weight and moments."""
    columns, *leaves = map(np.asarray, (state.columns, state.weights, *state.opt_state[1:]))
    return [
        {
            int(factor): tuple(float(leaf[row, place]) for leaf in leaves)
            for place, factor in enumerate(columns[row])
            if factor < n_factors
        }
        for row in range(len(columns))
    ]


def kept_of(entries, k):
    """The k of largest magnitude, ties to the lower factor."""
    order = sorted(entries, key=lambda factor: (-abs(entries[factor][0]), factor))
    return {factor: entries[factor] for factor in order[:k]}


def assert_sound(state, n_factors, places):
    columns = np.asarray(state.columns)
    used = columns < n_factors
    assert columns.shape == (N_ITEMS, places)
    assert columns.dtype == np.int32
    for leaf in (state.weights, *state.opt_state[1:]):
        assert leaf.shape == columns.shape
        assert not np.asarray(leaf)[~used].any()
    if places == n_factors:
        np.testing.assert_array_equal(columns[used], np.nonzero(used)[1])
    else:  # those in use come first, ascending
        assert (used[:, :-1] >= used[:, 1:]).all()
        assert (np.diff(columns, axis=1)[used[:, 1:]] > 0).all()


@shapes
def test_pruning_keeps_the_largest_entries_and_their_moments(shape):
    n_factors, before, after = shape
    for seed, k in ((0, 5), (1, 6), (2, 1)):
        state = state_of(n_factors, before, seed)
        expected = [kept_of(entries, k) for entries in entries_of(state, n_factors)]
        pruned = prune(
            state, k, jax.random.key(0), form=Form(n_factors, unit_rows=True), places=after
        )
        assert_sound(pruned, n_factors, after)
        assert entries_of(pruned, n_factors) == expected
        assert int(pruned.step) == 7
        assert int(pruned.opt_state.count) == 5
        assert {len(entries) for entries in expected} == {0, k}


@shapes
def test_a_second_moment_of_a_row_stays_with_it(shape):
    n_factors, before, after = shape
    by_weight = state_of(n_factors, before)
    nu = jnp.arange(N_ITEMS, dtype=jnp.float32)[:, None]
    state = by_weight._replace(opt_state=by_weight.opt_state._replace(nu=nu))
    expected = [kept_of(entries, 5) for entries in entries_of(by_weight, n_factors)]
    pruned = prune(state, 5, jax.random.key(0), form=Form(n_factors, unit_rows=True), places=after)
    np.testing.assert_array_equal(pruned.opt_state.nu, np.arange(N_ITEMS)[:, None])
    # Put back, second moments of weights that the others are compared without.
    pruned = pruned._replace(opt_state=pruned.opt_state._replace(nu=pruned.opt_state.mu))
    found = [{f: v[:2] for f, v in row.items()} for row in entries_of(pruned, n_factors)]
    assert found == [{f: v[:2] for f, v in row.items()} for row in expected]


def test_rows_keep_the_length_that_was_learned():
    state = state_of(20, 16)
    before = np.linalg.norm(state.weights, axis=1)
    expected = [kept_of(entries, 3) for entries in entries_of(state, 20)]
    pruned = prune(state, 3, jax.random.key(0), form=Form(20), places=16)
    np.testing.assert_allclose(np.linalg.norm(pruned.weights, axis=1), before, rtol=1e-6)
    for now, was in zip(entries_of(pruned, 20), expected, strict=True):
        assert now.keys() == was.keys()
        ratios = [now[f][0] / was[f][0] for f in now if was[f][0]]
        np.testing.assert_allclose(ratios, ratios[:1] * len(ratios), rtol=1e-6)
        assert [now[f][1:] for f in now] == [was[f][1:] for f in now]  # moments


def test_zeros_in_use_come_before_places_not_in_use():
    """A row of zeros keeps k factors, the first ones."""
    state = state_of(20, 16)
    state = state._replace(weights=jnp.zeros((N_ITEMS, 16)))
    first = [sorted(entries)[:5] for entries in entries_of(state, 20)]
    state = prune(state, 5, jax.random.key(0), form=Form(20), places=8)
    assert [list(entries) for entries in entries_of(state, 20)] == first


def test_masks_are_nested():
    state, before = state_of(20, 16), None
    for k in (6, 4, 3, 1):
        state = prune(state, k, jax.random.key(0), form=Form(20), places=16)
        now = [set(entries) for entries in entries_of(state, 20)]
        assert all(len(row) == (0 if i == 1 else k) for i, row in enumerate(now))
        assert before is None or all(a <= b for a, b in zip(now, before, strict=True))
        before = now


@pytest.mark.parametrize("places", [16, 8])
def test_rewinding_restores_initial_values_and_restarts_the_optimizer(places):
    """Twice, so that the second finds survivors among places that have moved."""
    form, key = Form(16, by_row=False), jax.random.key(3)
    state = random_state(key, N_ITEMS, form, 16)
    np.testing.assert_array_equal(state.weights, initial_weights(key, N_ITEMS, 16))
    initial = np.asarray(state.weights)
    for k in (7, 4):
        columns = np.asarray(state.columns)
        noise = np.random.default_rng(k).normal(size=columns.shape).astype(np.float32)
        trained = state._replace(
            step=jnp.int32(k),
            weights=jnp.asarray(np.where(columns < 16, noise, 0)),
            opt_state=jax.tree.map(lambda leaf: leaf + 1, state.opt_state),
        )
        survivors = [kept_of(entries, k) for entries in entries_of(trained, 16)]
        state = prune(trained, k, key, form=form, places=places, rewind=True)
        assert_sound(state, 16, places)
        expected = [{f: (initial[i, f], 0, 0) for f in row} for i, row in enumerate(survivors)]
        assert entries_of(state, 16) == expected
        assert int(state.step) == k
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))


def test_nothing_is_compiled_again_for_another_k_or_seed():
    states = [state_of(20, 16, seed) for seed in range(3)]
    for k in (5, 3, 2):
        key = jax.random.key(k)
        with compilations() as seconds:
            prune(states.pop(), k, key, form=Form(20), places=16, rewind=True)
        assert k == 5 or not seconds


def test_a_start_at_random_is_xavier_uniform_and_dense():
    weights = np.asarray(initial_weights(jax.random.key(0), 70, 30))
    limit = np.sqrt(6 / (70 + 30))
    assert 0.95 * limit < np.abs(weights).max() <= limit
    np.testing.assert_allclose(weights.std(), limit / np.sqrt(3), rtol=0.05)
    state = random_state(jax.random.key(0), 70, Form(30), 32)
    np.testing.assert_array_equal(state.weights, np.pad(weights, ((0, 0), (0, 2))))
    np.testing.assert_array_equal(state.columns, np.tile([*range(30), 30, 30], (70, 1)))


@pytest.mark.parametrize("places", [20, 16])
def test_a_start_from_data_has_its_factors_and_values(places):
    columns, values = random_ell(N_ITEMS, 20, 12, 12)
    state = sparse_state(Start(columns, values, 20), Form(20, by_row=False), places)
    assert_sound(state, 20, places)
    expected = [
        {int(f): (v, 0, 0) for f, v in zip(*row, strict=True) if f < 20}
        for row in zip(columns, values, strict=True)
    ]
    assert entries_of(state, 20) == expected


@pytest.mark.parametrize(("places", "unit_rows"), [(20, True), (16, False)])
def test_embeddings_have_k_entries_a_row_zeros_among_them(places, unit_rows):
    columns = np.sort(
        [np.random.default_rng(i).permutation(20)[:6] for i in range(N_ITEMS)], axis=1
    )
    values = np.random.default_rng(0).normal(size=columns.shape).astype(np.float32)
    values[0], values[2, 3] = 0, 0
    start = Start(columns.astype(np.int32), values, 20)
    form = Form(20, unit_rows=unit_rows)
    state = sparse_state(start, form, places)
    assert nnz_per_row(state).tolist() == [0, 6, 5] + [6] * (N_ITEMS - 3)
    embeddings = embeddings_of(state, N_ITEMS - 1, form)  # the last row is of no item
    assert embeddings.format == "csc"
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (N_ITEMS - 1, 20)
    assert embeddings.has_sorted_indices
    np.testing.assert_array_equal(embeddings.getnnz(axis=1), 6)
    expected = np.zeros((N_ITEMS - 1, 20))
    for row, of_row, vector in zip(expected, columns, values, strict=False):
        row[of_row] = vector / max(np.linalg.norm(vector), 1e-12) if unit_rows else vector
    np.testing.assert_allclose(embeddings.toarray(), expected, atol=1e-6)
