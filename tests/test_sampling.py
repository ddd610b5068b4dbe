"""Draws of the items that a step scores, and what the loss makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax.losses import nmse
from celsa_jax.sampling import draw_items

N_ROWS, N_ITEMS, SIZE = 34, 30, 14  # the last rows are of no item
OWN = np.array([2, 3, 5, 8, 13, 21, 29])
NONE = N_ROWS + 1  # what stands in places that are not used


def draws(own, n_items):
    """[n_keys, SIZE] positions and how often each counts."""
    keys = jax.random.split(jax.random.key(0), 2_000)
    own = jnp.asarray([*own, N_ROWS, *own[:3]], jnp.int32)  # some twice, and one place of none
    draw = jax.jit(jax.vmap(lambda key, n: draw_items(key, own, N_ROWS, n, SIZE), (0, None)))
    return tuple(map(np.asarray, draw(keys, jnp.int32(n_items))))


@pytest.fixture(scope="module")
def drawn():
    return draws(OWN, N_ITEMS)


def test_a_draw_has_the_own_items_and_different_others(drawn):
    items, counts = drawn
    assert items.dtype == np.int32
    used = items != NONE
    assert (np.diff(items, axis=1) >= used[:, 1:]).all(), "a position twice"
    own, others = np.isin(items, OWN), used & ~np.isin(items, OWN)
    assert (own.sum(axis=1) == len(OWN)).all()
    assert (counts[own] == 1).all()
    assert (counts[~used] == 0).all()
    assert items[used].max() < N_ITEMS
    # Seven draws of 30; those of the other 23 count once, and stand for all of these.
    n_others = others.sum(axis=1)
    assert set(n_others) > {4, 5, 6}
    assert n_others.max() <= 7
    expected = np.where(n_others > 0, N_ITEMS, len(OWN))
    np.testing.assert_allclose(counts.sum(axis=1), expected, rtol=1e-6)
    # Every other item is as likely; five standard errors of the draws.
    share = 1 - (29 / 30) ** 7
    found = np.delete(np.bincount(items[used], minlength=N_ITEMS), OWN) / len(items)
    assert np.abs(found - share).max() < 5 * np.sqrt(share * (1 - share) / len(items))


def test_rows_of_no_item_are_never_drawn():
    """A device may have fewer items than it scores."""
    items, counts = draws([0, 4], 10)
    assert (items[counts > 0] < 10).all()
    assert (counts[(items == 0) | (items == 4)] == 1).all()
    np.testing.assert_allclose(counts.sum(axis=1), 10, rtol=1e-6)
    # A device may have no item at all.
    items, counts = draws([], 0)
    assert (items == NONE).all()
    np.testing.assert_array_equal(counts, 0)


def test_where_all_are_own_each_counts_once():
    items, counts = draws(np.arange(SIZE), SIZE)
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
    some = counts.sum(axis=1) > len(OWN)  # any other, that is: one draw in 70,000 has none
    times = np.zeros((len(items), NONE + 1))
    np.put_along_axis(times, items, counts, axis=1)
    times = times[some, :N_ITEMS]
    for estimates, expected in ((times, np.ones(N_ITEMS)), (times @ y.T**2, (y**2).sum(axis=1))):
        standard_error = estimates.std(axis=0) / np.sqrt(len(estimates))
        assert standard_error.max() > 0
        error = np.abs(estimates.mean(axis=0) - expected)
        assert (error <= 4.5 * standard_error + 1e-6).all()


def test_the_loss_of_a_draw_is_that_of_the_estimated_length(drawn, users):
    y, x = users
    found = jax.jit(nmse)
    items, counts = (array[0][drawn[1][0] > 0] for array in drawn)
    losses = found(y[:, items].T, x[:, items].T, counts)
    cosine = (x * y).sum(axis=1) / np.sqrt((y[:, items] ** 2) @ counts) / np.sqrt(4)
    np.testing.assert_allclose(losses, 2 - 2 * cosine, rtol=1e-5)
    counts = np.ones(N_ITEMS, np.float32)  # of a draw of everything
    whole = 2 - (x * y).sum(axis=1) / np.sqrt((y**2).sum(axis=1))
    np.testing.assert_allclose(found(y.T, x.T, counts), whole, rtol=1e-5)
