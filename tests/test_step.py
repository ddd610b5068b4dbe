"""Mask updates and training steps, away from a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax.data.batches import make_chunks
from celsa_jax.losses import nmse
from celsa_jax.model import item_embeddings, training_scores
from celsa_jax.step import Recipe, create_state, train_chunk, unprune, update_mask

RECIPE = Recipe(
    relu_cap=6.0, rewind=True, regrow=False, optimizer="adam", learning_rate=0.01, seed=0
)


def test_rewinding_restores_initial_values_and_restarts_the_optimizer():
    initial = create_state(RECIPE, 20, 8)
    weights = initial.weights + jax.random.normal(jax.random.key(1), (20, 8))
    trained = initial._replace(
        step=jnp.int32(7),
        weights=weights,
        opt_state=jax.tree.map(lambda leaf: leaf + 1, initial.opt_state),
    )
    expected_mask = np.zeros((20, 8), bool)
    order = np.argsort(-np.abs(np.asarray(weights)), axis=1, kind="stable")[:, :3]
    np.put_along_axis(expected_mask, order, True, axis=1)

    initial_weights = np.asarray(initial.weights)
    state = update_mask(trained, 3, recipe=RECIPE)
    np.testing.assert_array_equal(np.asarray(state.mask), expected_mask)
    np.testing.assert_array_equal(state.weights, np.where(expected_mask, initial_weights, 0))
    assert int(state.step) == 7
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize("regrow", [False, True])
def test_without_rewinding_survivors_and_their_momentum_stay(regrow):
    recipe = Recipe(
        relu_cap=6.0, rewind=False, regrow=regrow, optimizer="adam", learning_rate=0.01, seed=0
    )
    state = create_state(recipe, 20, 8)
    state = state._replace(opt_state=jax.tree.map(lambda leaf: leaf + 1, state.opt_state))
    weights = np.asarray(state.weights).copy()
    state = update_mask(state, 3, recipe=recipe)
    mask = np.asarray(state.mask)
    assert set(mask.sum(axis=1)) == {3}
    np.testing.assert_array_equal(state.weights, weights if regrow else np.where(mask, weights, 0))
    mu = np.asarray(state.opt_state[0].mu)
    np.testing.assert_array_equal(mu, np.ones_like(mu) if regrow else mask)


def test_regrowth_scores_all_weights():
    recipe = Recipe(
        relu_cap=6.0, rewind=False, regrow=True, optimizer="adam", learning_rate=0.01, seed=0
    )
    state = update_mask(create_state(recipe, 10, 8), 2, recipe=recipe)
    revived = np.argmin(np.asarray(state.mask), axis=1)
    weights = state.weights.at[np.arange(10), revived].set(9.0)
    state = update_mask(state._replace(weights=weights), 2, recipe=recipe)
    assert np.asarray(state.mask)[np.arange(10), revived].all()


@pytest.mark.parametrize("reset", [False, True])
def test_an_update_may_restart_the_optimizer_and_keep_the_weights(reset):
    recipe = dataclasses.replace(RECIPE, rewind=False, reset_optimizer=reset)
    state = create_state(recipe, 20, 8)
    state = state._replace(opt_state=jax.tree.map(lambda leaf: leaf + 1, state.opt_state))
    weights = np.asarray(state.weights).copy()
    state = update_mask(state, 3, recipe=recipe)
    np.testing.assert_array_equal(state.weights, np.where(state.mask, weights, 0))
    np.testing.assert_array_equal(state.opt_state[0].mu, 0 if reset else np.asarray(state.mask))


def test_an_auxiliary_loss_keeps_four_times_the_weights():
    recipe = dataclasses.replace(RECIPE, rewind=False, auxiliary_weight=0.5)
    state = update_mask(create_state(recipe, 10, 32), 3, recipe=recipe)
    order = np.argsort(-np.abs(np.asarray(state.weights)), axis=1)
    rows = np.arange(10)[:, None]
    assert set((np.asarray(state.weights) != 0).sum(axis=1)) == {12}
    assert np.asarray(state.mask)[rows, order[:, :3]].all()
    # What the wider loss has made large is in the next mask.
    weights = state.weights.at[rows, order[:, 11:12]].set(9.0)
    state = update_mask(state._replace(weights=weights), 2, recipe=recipe)
    assert set((np.asarray(state.weights) != 0).sum(axis=1)) == {8}
    assert np.asarray(state.mask)[rows, order[:, 11:12]].all()


def test_the_gradient_of_the_auxiliary_loss(random_matrix):
    recipe = dataclasses.replace(RECIPE, rewind=False, auxiliary_weight=0.5)
    matrix = random_matrix(6, 10)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    state = update_mask(create_state(recipe, 10, 16), 3, recipe=recipe)
    weights, mask = state.weights.copy(), state.mask.copy()
    batches = jnp.arange(6, dtype=jnp.int32)[None]
    one = jnp.ones(1)
    trained, _ = train_chunk(
        state, chunk, batches, one.astype(jnp.int32), one, recipe=recipe, budget=matrix.nnz
    )
    x = jnp.asarray(matrix.toarray())

    def loss(weights):
        both = (item_embeddings(weights, kept) for kept in (mask, weights != 0))
        narrow, wide = (nmse(training_scores(a, x, 6.0), x).mean() for a in both)
        return narrow + 0.5 * wide

    # Adam's first moment after one step from 0 is a tenth of the gradient.
    np.testing.assert_allclose(
        10 * trained.opt_state[0].mu, jax.grad(loss)(weights), rtol=1e-4, atol=1e-6
    )


def test_a_scaled_epsilon_is_a_scaled_loss():
    """Adam of c times the loss, with c times epsilon, takes the same steps."""
    gradient = jax.random.normal(jax.random.key(0), (5, 4))
    steps = []
    for scale in (1.0, 1e-3):
        optimizer = dataclasses.replace(RECIPE, epsilon=0.1 * scale).make_optimizer()
        steps.append(optimizer.update(scale * gradient, optimizer.init(gradient))[0])
    np.testing.assert_allclose(*steps, rtol=1e-5)


def test_refinement_lets_factors_back_in():
    weights = jnp.asarray([[3.0, 0, -4, 0], [0, 0, 0, 0]])
    state = create_state(RECIPE, 2, 4)
    initial = np.asarray(state.weights)
    state = state._replace(step=jnp.int32(7), weights=weights, mask=weights != 0)
    state = unprune(state, RECIPE)
    assert int(state.step) == 7
    assert bool(state.mask.all())
    np.testing.assert_allclose(state.weights[0, [0, 2]], [0.6, -0.8], rtol=1e-6)
    tiny = np.asarray(state.weights[0, [1, 3]])
    np.testing.assert_allclose(tiny, 0.6e-6 * initial[0, [1, 3]], rtol=1e-5)
    np.testing.assert_array_equal(state.weights[1], initial[1])
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.opt_state))
