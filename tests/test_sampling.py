"""Draws of the items that a step scores, and what the loss makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax.losses import nmse
from celsa_jax.sampling import draw_items

N_ROWS, N_ITEMS, SIZE = 34, 30, 14  # the last rows are of no item
OWN = np.array([2, 3, 5, 8, 13, 21, 29])


@jax.jit
def draws(keys, own, n_items):
    """[n_keys, SIZE] positions and how often each counts."""
    return jax.vmap(lambda key: draw_items(key, own, n_items, SIZE))(keys)


@pytest.fixture(scope="module")
def drawn():
    keys = jax.random.split(jax.random.key(0), 2_000)
    own = np.zeros(N_ROWS, bool)
    own[OWN] = True
    return tuple(map(np.asarray, draws(keys, own, jnp.int32(N_ITEMS))))


def test_a_draw_has_the_own_items_and_others_without_replacement(drawn):
    items, counts = drawn
    assert items.dtype == np.int32
    assert (np.diff(items, axis=1) > 0).all()
    own = np.isin(items, OWN)
    assert (own.sum(axis=1) == len(OWN)).all()
    assert (counts[own] == 1).all()
    # Seven of the other 23 are drawn; with the own they stand for all.
    np.testing.assert_allclose(counts[~own], 23 / 7, rtol=1e-6)
    assert items.max() < N_ITEMS
    np.testing.assert_allclose(counts.sum(axis=1), N_ITEMS, rtol=1e-6)
    # Every other item is as likely; five standard errors of the draws.
    share = 7 / 23
    others = np.delete(np.bincount(items.ravel(), minlength=N_ITEMS), OWN) / len(items)
    assert np.abs(others - share).max() < 5 * np.sqrt(share * (1 - share) / len(items))


def test_rows_of_no_item_never_count():
    """On a device with fewer items than it scores, they fill up."""
    own = np.zeros(N_ROWS, bool)
    own[[0, 4]] = True
    keys = jax.random.split(jax.random.key(0), 2_000)
    items, counts = map(np.asarray, draws(keys, own, jnp.int32(10)))
    assert (counts[items >= 10] == 0).all()
    np.testing.assert_array_equal(counts[items < 10], 1)
    assert all(set(range(10)) < set(row) for row in items)
    # A device may have no item at all.
    _, counts = draws(keys, np.zeros(N_ROWS, bool), jnp.int32(0))
    np.testing.assert_array_equal(counts, 0)


def test_where_all_are_own_each_counts_once():
    own = np.zeros(N_ROWS, bool)
    own[:SIZE] = True
    items, counts = draws(jax.random.split(jax.random.key(0), 2_000), own, jnp.int32(SIZE))
    np.testing.assert_array_equal(items[0], np.arange(SIZE))
    np.testing.assert_array_equal(counts, 1)


@pytest.fixture(scope="module")
def users():
    """Scores of three users, and their histories: four of the own items each."""
    rng = np.random.default_rng(0)
    y = np.maximum(rng.normal(size=(3, N_ITEMS)), 0).astype(np.float32)
    x = np.zeros((3, N_ITEMS), np.float32)
    for user in range(3):
        x[user, rng.permutation(OWN)[:4]] = 1
    return y, x


def test_counts_and_squared_lengths_are_unbiased(drawn, users):
    """Averaged over draws, the sum of counts * y^2 is |y|^2 over the whole catalogue."""
    y, _ = users
    items, counts = drawn
    times = np.zeros((len(items), N_ITEMS))
    np.put_along_axis(times, items, counts, axis=1)
    for estimates, expected in ((times, np.ones(N_ITEMS)), (times @ y.T**2, (y**2).sum(axis=1))):
        standard_error = estimates.std(axis=0) / np.sqrt(len(estimates))
        assert standard_error.max() > 0
        error = np.abs(estimates.mean(axis=0) - expected)
        assert (error <= 4.5 * standard_error + 1e-6).all()


def test_the_loss_of_a_draw_is_that_of_the_estimated_length(drawn, users):
    y, x = users
    found = jax.jit(nmse)
    items, counts = drawn[0][0], drawn[1][0]
    losses = found(y[:, items].T, x[:, items].T, counts)
    cosine = (x * y).sum(axis=1) / np.sqrt((y[:, items] ** 2) @ counts) / np.sqrt(4)
    np.testing.assert_allclose(losses, 2 - 2 * cosine, rtol=1e-5)
    counts = np.ones(N_ITEMS, np.float32)  # of a draw of everything
    whole = 2 - (x * y).sum(axis=1) / np.sqrt((y**2).sum(axis=1))
    np.testing.assert_allclose(found(y.T, x.T, counts), whole, rtol=1e-5)
