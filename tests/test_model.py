"""Scores, loss and gradient of ELSA against plain dense formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import directions
from flax import nnx
from test_products import at_places, batch_of, dense_of, random_ell, random_history

from celsa_jax.losses import nmse, unit
from celsa_jax.model import ELSA
from celsa_jax.products import make_layout

# So many factors that those of a batch are renumbered where there is no layout.
N_ITEMS, N_FACTORS, CAPACITY, BUDGET = 12, 700, 16, 40


def numpy_scores(weights, seen, unit_rows):
    """x U A^T without what an item says of itself, at least 0, user by user, of rows of 0 and 1."""
    a = weights.astype(np.float64)
    u = np.array([row / max(np.linalg.norm(row), 1e-12) for row in a])
    similar = u @ (u if unit_rows else a).T
    np.fill_diagonal(similar, 0)
    return np.array([np.maximum(x @ similar, 0) for x in seen.astype(float)])


def numpy_losses(y, history, item_weights):
    """|| y/|y| - x/|x| ||^2 of users with interactions, with |y| where items count unequally."""
    losses = np.zeros(len(y))
    for user, (scores, x) in enumerate(zip(y, history.astype(float), strict=True)):
        length = np.sqrt((item_weights * scores**2).sum())
        if x.any() and length:
            unit_y, unit_x = scores / length, x / np.linalg.norm(x)
            losses[user] = (item_weights * unit_y**2).sum() - 2 * unit_x @ unit_y + 1
        elif x.any():
            losses[user] = 1
    return losses


def plain_losses(weights, seen, history, item_weights, unit_rows):
    """The same for automatic differentiation, of dense weights [n_items, n_factors]."""

    def over(numerator, root_of, axis):
        squared = jnp.sum(root_of, axis=axis, keepdims=True)
        safe = jnp.where(squared > 0, squared, 1.0)
        return jnp.where(squared > 0, numerator / jnp.sqrt(safe), 0.0)

    u = over(weights, weights**2, 1)
    similar = (u @ (u if unit_rows else weights).T) * (1 - jnp.eye(len(u)))
    y = jnp.maximum(seen @ similar, 0.0)
    y, x = over(y, item_weights[None] * y**2, 1), over(history, history**2, 1)
    squares = jnp.sum(item_weights[None] * y**2, axis=1) + jnp.sum(x**2, axis=1)
    losses = squares - 2 * jnp.sum(x * y, axis=1)
    return jnp.where(jnp.sum(x, axis=1) > 0, losses, 0.0)


@functools.partial(jax.jit, static_argnames="unit_rows")
def plain_loss_and_grad(weights, seen, history, item_weights, unit_rows):
    def loss(weights):
        return jnp.sum(plain_losses(weights, seen, history, item_weights, unit_rows))

    return jax.value_and_grad(loss)(weights)


def problem(n_users, seed=0):
    """Row 1 has no factors, items 4 to 11 nearly one direction, user 0 nearly all of these."""
    columns, values = random_ell(N_ITEMS, N_FACTORS, CAPACITY, 13, seed)
    rng = np.random.default_rng(seed)
    columns[4:] = columns[0]
    values[4:] = values[0] + 0.1 * rng.normal(size=values[4:].shape) * (columns[4:] < N_FACTORS)
    history, kept = random_history(n_users, N_ITEMS, seed)
    history[0, 4:], kept[0, 4:] = [True] * 7 + [False], True
    item_weights = np.where(rng.random(N_ITEMS) < 0.3, 2.5, 1.0).astype(np.float32)
    item_weights[3] = 0  # not among the items that are scored
    history[:, 3] = False
    return columns, values, history, kept, item_weights


def by_factor(columns, values):
    """The same with place f for factor f."""
    identity = np.broadcast_to(np.arange(N_FACTORS), (N_ITEMS, N_FACTORS))
    used = np.zeros((N_ITEMS, N_FACTORS), bool)
    rows, places = np.nonzero(columns < N_FACTORS)
    used[rows, columns[rows, places]] = True
    wide = np.where(used, identity, N_FACTORS).astype(np.int32)
    return wide, dense_of(columns, values, N_FACTORS).astype(np.float32)


@nnx.jit
def scores_loss_and_grad(model, batch, item_weights):
    def loss(model):
        scores = model.scores(model.embeddings(), batch)
        return jnp.sum(nmse(scores, batch.targets(N_ITEMS), item_weights)), scores

    (loss, scores), grads = nnx.value_and_grad(loss, has_aux=True)(model)
    return scores, loss, grads["weights"][...]


def model_of(form, columns, values, unit_rows=False):
    layout, dense = None, None
    if form == "layout":
        layout = jax.tree.map(jnp.asarray, make_layout(columns, N_FACTORS))
    elif form != "renumbered":
        dense = "float32"
    options = {"layout": layout, "dense": dense, "unit_rows": unit_rows}
    return ELSA(jnp.asarray(values), jnp.asarray(columns), N_FACTORS, **options)


@pytest.mark.parametrize(
    ("form", "n_users", "unit_rows"),
    [
        ("layout", 8, False),
        ("layout", 5, True),
        ("renumbered", 8, True),
        ("renumbered", 5, False),
        ("dense", 8, False),
        ("dense, place f for factor f", 8, True),
    ],
)
def test_scores_loss_and_gradient_equal_the_plain_formula(form, n_users, unit_rows):
    columns, values, history, kept, item_weights = problem(n_users)
    a, identity = dense_of(columns, values, N_FACTORS), np.ones(N_ITEMS, np.float32)
    if form.endswith("factor f"):
        columns, values = by_factor(columns, values)
    model = model_of(form, columns, values, unit_rows)
    # With dropout, without, and with items that count unequally.
    for seen, counts in (
        (history & kept, identity),
        (history, identity),
        (history & kept, item_weights),
    ):
        batch = batch_of(history, seen, BUDGET, N_ITEMS)
        with jax.numpy_dtype_promotion("strict"):
            scores, loss, grad = scores_loss_and_grad(model, batch, jnp.asarray(counts))
        y = numpy_scores(a, seen, unit_rows)
        np.testing.assert_allclose(scores, y.T, rtol=1e-4, atol=1e-5)
        losses = numpy_losses(y, history, counts.astype(float))
        np.testing.assert_allclose(loss, losses.sum(), rtol=1e-5)
        arrays = [x.astype(np.float32) for x in (a, seen, history, counts)]
        plain_loss, plain_grad = plain_loss_and_grad(*arrays, unit_rows)
        np.testing.assert_allclose(plain_loss, losses.sum(), rtol=1e-5)
        expected = at_places(np.asarray(plain_grad), columns, N_FACTORS)
        np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
        assert np.abs(expected).max() > 0.01  # or the comparison shows nothing


def test_scores_are_capped():
    columns, values, history, _, _ = problem(8)
    model = model_of("dense", columns, values)
    batch = batch_of(history, history, BUDGET, N_ITEMS)
    scores = np.asarray(model.scores(model.embeddings(), batch))
    model.cap = float(scores.max()) / 2
    capped = model.scores(model.embeddings(), batch)
    np.testing.assert_array_equal(capped, np.minimum(scores, model.cap))


def test_places_and_users_that_are_not_used_change_nothing():
    columns, values, history, kept, _ = problem(8)
    history[5:] = False  # users of padding have no interactions
    model = model_of("layout", columns, values)
    with jax.numpy_dtype_promotion("strict"):  # as above, so that it is compiled
        found = [
            scores_loss_and_grad(
                model, batch_of(history[:n], kept[:n], BUDGET, N_ITEMS), jnp.ones(N_ITEMS)
            )
            for n in (8, 5)
        ]
    (scores, *padded), (expected, *without) = found
    np.testing.assert_allclose(scores[:, :5], expected, atol=1e-5)
    assert not np.asarray(scores[:, 5:]).any()
    for ours, theirs in zip(padded, without, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bfloat16_rounds_the_operands_of_products_alone():
    """Against NumPy, with a rounding before every product."""
    columns, values, history, _, _ = problem(8)

    def low(a):
        return np.asarray(a).astype(jnp.bfloat16).astype(np.float64)

    a = dense_of(columns, values, N_FACTORS).astype(np.float32)
    u = directions(a).astype(np.float32)
    hidden = low(history) @ low(u)
    expected = low(hidden.astype(np.float32)) @ low(a).T
    arrays = jnp.asarray(values), jnp.asarray(columns)
    model = ELSA(*arrays, N_FACTORS, dense="bfloat16")
    batch = batch_of(history, history, BUDGET, N_ITEMS)
    found = nnx.jit(ELSA.products)(model, model.embeddings(), batch)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found.T, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(expected - history @ u @ a.T).max() > 5e-3  # or nothing was rounded


@jax.jit
def losses_and_grad(scores, targets, item_weights):
    losses, pull = jax.vjp(lambda y: nmse(y, targets, item_weights), scores)
    return losses, pull(jnp.ones_like(losses))[0]


def test_a_loss_is_that_of_hand_computed_cosines():
    """Columns are users: y along x, across it, at an angle, and of a user without interactions."""
    targets = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.float32)
    scores = np.array([[2, 0, 3, 1], [2, 1, 4, 1]], np.float32)
    losses, _ = losses_and_grad(scores, targets, None)
    np.testing.assert_allclose(losses, [0, 2, 2 - 2 * 0.6, 0], atol=1e-6)
    # Counted four times, the other item makes |y| = sqrt(9 + 4 * 16).
    losses, _ = losses_and_grad(scores, targets, np.array([1, 4], np.float32))
    np.testing.assert_allclose(losses[2], 2 - 6 / np.sqrt(73), rtol=1e-6)


def test_a_user_without_scores_has_loss_one_and_no_gradient():
    losses, grad = losses_and_grad(np.zeros((2, 4), "f"), np.ones((2, 4), "f"), None)
    np.testing.assert_array_equal(losses, 1)
    np.testing.assert_array_equal(grad, 0)


def test_what_is_not_a_number_is_not_hidden():
    scores = np.array([[np.nan, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    losses, grad = losses_and_grad(scores, np.ones((2, 4), "f"), None)
    assert np.isnan(losses).tolist() == [True, False, False, False]
    assert np.isnan(grad).any(axis=0).tolist() == [True, False, False, False]


def test_unit_is_safe_at_zero():
    v = np.array([[3, 4], [0, 0], [1e-30, 0]], np.float32)
    found, pull = jax.vjp(jax.jit(unit), v)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [0, 0]], atol=1e-12)
    grad = pull(np.ones((3, 2), np.float32))[0]
    np.testing.assert_array_equal(grad[1:], 0)
    # Across a row: (1, 1) less its part along (0.6, 0.8), over the length.
    np.testing.assert_allclose(grad[0], [(1 - 1.4 * 0.6) / 5, (1 - 1.4 * 0.8) / 5], atol=1e-6)
