"""Products with row-sparse embeddings against loops over what is stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from celsa_jax import products
from celsa_jax.data.batches import Batch
from celsa_jax.products import decode, encode, expand, make_layout, renumber
from celsa_jax.sharding import ITEM

N_ITEMS, N_FACTORS, CAPACITY = 12, 16, 16
FEW, WIDE = 5, 13  # places in use: those of one turn of the loops, and those of two


def random_ell(n_items, n_factors, capacity, most, seed=0, by_factor=False):
    """Columns and values with up to so many places in use, none in row 1, and a value of 0.

    Places in use come first, or place f is that of factor f.
    """
    rng = np.random.default_rng(seed)
    columns = np.full((n_items, capacity), n_factors, np.int32)
    values = np.zeros((n_items, capacity), np.float32)
    for row in range(n_items):
        k = 0 if row == 1 else most if row == 0 else rng.integers(1, most + 1)
        # Low factors are the popular ones; row 0 has the last one for certain.
        keys = rng.gumbel(size=n_factors) - np.log1p(np.arange(n_factors))
        keys[-1] += 99 * (row == 0)
        chosen = np.sort(np.argsort(-keys)[:k])
        places = chosen if by_factor else np.arange(k)
        columns[row, places], values[row, places] = chosen, rng.normal(size=k)
    used = np.flatnonzero(columns[0] < n_factors)
    values[0, used[0]] = 0  # under the mask, as any other
    return columns, values


def dense_of(columns, values, n_factors):
    dense = np.zeros((len(columns), n_factors))
    for (row, place), factor in np.ndenumerate(columns):
        if factor < n_factors:
            dense[row, factor] = values[row, place]
    return dense


def at_places(dense, columns, n_factors):
    """The entries of a gradient that belong to places; 0 in those not in use."""
    found = np.zeros(columns.shape)
    for (row, place), factor in np.ndenumerate(columns):
        if factor < n_factors:
            found[row, place] = dense[row, factor]
    return found


def batch_of(history, kept, budget, n_items):
    """A batch of rows of 0 and 1, [n_users, n_items], with places that are not used."""
    items, rows, seen = [], [], []
    for user, item in zip(*np.nonzero(history), strict=True):
        items.append(item)
        rows.append(user)
        seen.append(kept[user, item])
    # Of items that are on another device, and of users that are not of this batch.
    strangers = [(n_items, 0), (0, len(history)), (3, len(history))]
    for item, row in strangers + [(0, len(history))] * (budget - len(items) - len(strangers)):
        items.append(item)
        rows.append(row)
        seen.append(1)
    assert len(items) == budget
    return batch_from(items, rows, seen, history.sum(axis=1))


def batch_from(items, rows, kept, lengths):
    dtypes = jnp.int32, jnp.int32, jnp.float32, jnp.int32
    leaves = zip((items, rows, kept, lengths), dtypes, strict=True)
    return Batch(*(jnp.asarray(leaf, dtype) for leaf, dtype in leaves))


def random_history(n_users, n_items, seed=0):
    """Histories and what is seen of them; user 2 has none, and of user 3 nothing is seen."""
    rng = np.random.default_rng(seed)
    history = rng.random((n_users, n_items)) < 0.3
    history[2] = False
    kept = rng.random((n_users, n_items)) < 0.7
    kept[3] = False
    return history, kept


ELL = {
    "few places": random_ell(N_ITEMS, N_FACTORS, CAPACITY, FEW),
    "many places": random_ell(N_ITEMS, N_FACTORS, CAPACITY, WIDE),
    "place f is factor f": random_ell(N_ITEMS, N_FACTORS, CAPACITY, FEW, by_factor=True),
}
each_ell = pytest.mark.parametrize("ell", ELL.values(), ids=ELL)
# 16 users are summed in lanes, 5 one by one.
each_number_of_users = pytest.mark.parametrize("n_users", [16, 5])


@jax.jit
def encode_with_gradient(columns, values, batch, given):
    hidden, pull = jax.vjp(lambda values: encode(values, columns, batch, N_FACTORS), values)
    return hidden, pull(given)[0]


@jax.jit
def decode_with_gradient(columns, values, hidden, layout, given):
    scores, pull = jax.vjp(lambda v, h: decode(v, columns, h, layout), values, hidden)
    return scores, *pull(given)


@jax.jit
def expand_with_gradient(columns, values, given):
    dense, pull = jax.vjp(lambda values: expand(values, columns, given.shape[1]), values)
    return dense, pull(given)[0]


@each_ell
@each_number_of_users
def test_encoding_adds_up_the_items_of_a_user(ell, n_users):
    columns, values = ell
    history, kept = random_history(n_users, N_ITEMS)
    given = np.random.default_rng(1).normal(size=(N_FACTORS, n_users)).astype(np.float32)
    with jax.numpy_dtype_promotion("strict"):
        batch = batch_of(history, kept, 80, N_ITEMS)
        hidden, grad = encode_with_gradient(columns, values, batch, given)
    seen = (history & kept).astype(float)
    expected = dense_of(columns, values, N_FACTORS).T @ seen.T
    np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-5)
    expected = at_places(seen.T @ given.T, columns, N_FACTORS)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-5)


@each_ell
@each_number_of_users
@pytest.mark.parametrize("with_layout", [True, False])
def test_decoding_adds_up_the_factors_of_an_item(ell, n_users, with_layout):
    columns, values = ell
    rng = np.random.default_rng(1)
    hidden, given = (rng.normal(size=(n, n_users)).astype("f") for n in (N_FACTORS, N_ITEMS))
    layout = make_layout(columns, N_FACTORS) if with_layout else None
    with jax.numpy_dtype_promotion("strict"):
        scores, grad, hidden_grad = decode_with_gradient(columns, values, hidden, layout, given)
    a = dense_of(columns, values, N_FACTORS)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(scores, a @ hidden, **close)
    np.testing.assert_allclose(grad, at_places(given @ hidden.T, columns, N_FACTORS), **close)
    np.testing.assert_allclose(hidden_grad, a.T @ given, **close)


@pytest.mark.parametrize("name", ELL)
def test_expanding_puts_values_at_their_factors(name):
    n_factors = N_FACTORS if name == "place f is factor f" else 20
    columns, values = ELL[name]
    columns = np.where(columns < N_FACTORS, columns, n_factors)
    given = np.random.default_rng(1).normal(size=(N_ITEMS, n_factors)).astype(np.float32)
    dense, grad = expand_with_gradient(columns, values, given)
    np.testing.assert_array_equal(dense, dense_of(columns, values, n_factors))
    np.testing.assert_array_equal(grad, at_places(given, columns, n_factors))


@st.composite
def ells(draw):
    """Of any shape, also with places of factors in the middle of others not in use."""
    n_items, n_factors = draw(st.integers(1, 50)), draw(st.integers(1, 40))
    most, seed = draw(st.integers(0, n_factors)), draw(st.integers(0, 9))
    capacity = n_factors if draw(st.booleans()) else max(8, 1 << most.bit_length())
    columns, _ = (
        random_ell(n_items, n_factors, capacity, most, seed, capacity == n_factors)
        if most
        else (np.full((n_items, capacity), n_factors, np.int32), None)
    )
    return columns, n_factors


@given(ells())
def test_a_layout_has_every_place_once_and_those_of_a_factor_together(drawn):
    columns, n_factors = drawn
    layout = make_layout(columns, n_factors)
    places = [(place, factor) for place, factor in enumerate(columns.ravel()) if factor < n_factors]
    found = []
    for block, factor in zip(layout.entries, layout.factors, strict=True):
        inside = block[block < columns.size]
        assert (factor < n_factors) == (len(inside) > 0)
        found += [(place, factor) for place in inside]
    assert sorted(found) == places
    assert (layout.entries[layout.entries >= columns.size] == columns.size).all()
    items = np.where(layout.entries < columns.size, layout.entries // columns.shape[1], 0)
    np.testing.assert_array_equal(layout.items, items)
    assert (np.diff(layout.factors) >= 0).all()
    # A factor's last block alone has places to spare.
    n_used = (layout.entries < columns.size).sum(axis=1)
    assert (n_used[:-1][np.diff(layout.factors) == 0] % layout.entries.shape[1] == 0).all()


@given(ells())
def test_the_shape_of_a_layout_depends_on_shapes_alone(drawn):
    """Or another mask would compile again."""
    columns, n_factors = drawn
    empty = np.full_like(columns, n_factors)
    ours, others = make_layout(columns, n_factors), make_layout(empty, n_factors)
    assert [leaf.shape for leaf in ours] == [leaf.shape for leaf in others]
    assert {leaf.dtype for leaf in (*ours, *others)} == {np.dtype(np.int32)}


def test_factors_are_counted_among_those_of_some_items():
    columns = np.array([[7, 90, 100], [2, 7, 50], [0, 1, 2], [100, 100, 100]], np.int32)
    # The last position is out of range, and the third item is the only one with factors 0 and 1.
    items = jnp.asarray([1, 0, 1, 4], jnp.int32)
    found, n_active = jax.jit(renumber, static_argnums=(2, 3))(columns, items, 100, None)
    order = {2: 0, 7: 1, 50: 2, 90: 3}
    for place, factor in zip(np.ravel(found), columns.ravel(), strict=True):
        assert place == order.get(int(factor), n_active)


def test_factors_are_counted_among_those_of_the_items_of_all_devices():
    """Each device has two items, and the batch one of them, all with factors of their own."""
    columns = np.random.default_rng(0).permutation(100)[:48].reshape(8, 6).astype(np.int32)
    mesh, rows = jax.make_mesh((4,), (ITEM,), axis_types=(AxisType.Explicit,)), PartitionSpec(ITEM)

    def of_device(columns, items):
        found, n_active = renumber(columns, items, 100, ITEM)
        return found, jnp.full(1, n_active)

    on_devices = jax.shard_map(of_device, mesh=mesh, in_specs=(rows, rows), out_specs=(rows, rows))
    items = jax.device_put(np.array([0, 1, 1, 0], np.int32), NamedSharding(mesh, rows))
    placed = jax.device_put(columns, NamedSharding(mesh, rows))
    found, n_active = map(np.asarray, jax.jit(on_devices)(placed, items))
    np.testing.assert_array_equal(n_active, 24)
    in_batch = np.array([0, 3, 5, 6])
    order = {factor: at for at, factor in enumerate(np.sort(columns[in_batch].ravel()))}
    for place, factor in zip(found.ravel(), columns.ravel(), strict=True):
        assert place == order.get(factor, 24)


def test_where_items_may_have_all_factors_none_is_renumbered():
    columns = jnp.asarray(ELL["few places"][0])
    found, n_active = renumber(columns, jnp.arange(3), N_FACTORS, None)
    assert n_active == N_FACTORS
    np.testing.assert_array_equal(found, columns)


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_a_batch_whose_factors_are_all_different_scores_the_same(seed):
    """Two items fill all places that factors are renumbered to; others have factors beside."""
    rng = np.random.default_rng(seed)
    columns = np.sort(np.array([rng.permutation(64)[:8] for _ in range(5)]), axis=1)
    columns[:2] = np.sort(rng.permutation(64)[:16].reshape(2, 8), axis=1)
    columns, values = columns.astype(np.int32), rng.normal(size=(5, 8)).astype(np.float32)
    batch = batch_from([0, 1], [0, 1], [1, 1], [1, 1])
    found = scores_of_renumbered(columns, values, batch)
    a = dense_of(columns, values, 64)
    np.testing.assert_allclose(found, a @ a[:2].T, rtol=1e-4, atol=1e-5)


@jax.jit
def scores_of_renumbered(columns, values, batch):
    columns, n_active = renumber(columns, batch.items, 64, None)
    return decode(values, columns, encode(values, columns, batch, n_active), None)


def test_capacities_suffice_and_are_few(monkeypatch):
    found = [products.capacity(k, 5000, dense=False) for k in range(1, 1025)]
    assert all(places >= k for k, places in enumerate(found, 1))
    assert all(places <= 4 * max(k, 8) for k, places in enumerate(found, 1))
    assert found == sorted(found)
    assert len(set(found)) <= 8  # each is compiled for
    assert not any(places % products._TURN for places in found)
    # Dense products on the host itself have a place for every factor, elsewhere none to spare.
    assert products.capacity(9, 500, dense=True) == 500
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert products.capacity(9, 500, dense=True) < 500


def test_dense_products_pay_where_many_factors_are_kept_and_their_array_fits(monkeypatch):
    plenty = 1 << 40
    assert products.dense_pays(10, 1024, 257, plenty)
    assert not products.dense_pays(10, 1024, 256, plenty)
    # 4 bytes x 1000 items x 1024 factors are an eighth of this.
    enough = 8 * 4 * 1000 * 1024
    assert products.dense_pays(1000, 1024, 512, enough)
    assert not products.dense_pays(1000, 1024, 512, enough - 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert products.dense_pays(10, 1024, 5, plenty)
    assert not products.dense_pays(10, 1024, 4, plenty)
    assert not products.dense_pays(1000, 1024, 512, enough - 1)


def test_users_in_a_block_are_as_many_as_memory_or_cache_hold(monkeypatch):
    assert products.users_in_block(1000, dense=False) == 128
    assert products.users_in_block(1 << 22, dense=False) == 64
    assert products.users_in_block(1000, dense=True) == (1 << 28) // 1000
    assert products.users_in_block(1 << 30, dense=True) == 8  # or the lanes would be empty
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert products.users_in_block(1 << 20, dense=False) == 256


def test_precision_is_low_on_accelerators_unless_said(monkeypatch):
    assert products.operand_dtype("auto") == "float32"
    assert products.operand_dtype("bfloat16") == "bfloat16"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert products.operand_dtype("auto") == "bfloat16"
    assert products.operand_dtype("float32") == "float32"
