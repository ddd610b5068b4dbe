"""Training against a NumPy loop, and data and sizes at the edge of what is possible."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from test_model import numeric_gradient, numpy_loss

from celsa_jax.data.batches import make_chunks
from celsa_jax.step import Recipe, create_state, final_embeddings, train_chunk, update_mask
from celsa_jax.train import train_and_evaluate

# An epsilon that keeps Adam from making much of a gradient that is next to nothing.
RECIPE = Recipe(
    relu_cap=6.0,
    rewind=False,
    regrow=False,
    optimizer="adam",
    learning_rate=0.05,
    seed=0,
    epsilon=1e-2,
)


def numpy_mask(weights, k):
    order = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :k]
    mask = np.zeros(weights.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


def numpy_training(initial, x, batches, nnz, shares, recipe):
    """Adam on numeric gradients in float64, step by step."""
    weights, mask = initial.copy(), np.ones(initial.shape, bool)
    first, second, count, losses = np.zeros_like(weights), np.zeros_like(weights), 0, []
    for rows, k, share in zip(batches, nnz, shares, strict=True):
        if k < mask[0].sum():
            mask = numpy_mask(weights, k)
            weights = np.where(mask, initial if recipe.rewind else weights, 0)
            first, second = np.where(mask, first, 0), np.where(mask, second, 0)
            if recipe.rewind:
                first, second, count = np.zeros_like(first), np.zeros_like(second), 0
        users = x[rows]
        losses.append(len(rows) * numpy_loss(weights, mask, users, recipe.relu_cap))
        gradient = numeric_gradient(weights, mask, users, recipe.relu_cap)
        gradient = np.where(mask, gradient, 0)
        count += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        direction = first / (1 - 0.9**count)
        direction /= np.sqrt(second / (1 - 0.999**count)) + recipe.epsilon
        weights = weights - share * recipe.learning_rate * direction
    return weights, mask, np.array(losses)


@pytest.mark.parametrize("rewind", [False, True])
def test_steps_and_mask_updates_equal_a_numpy_loop(random_matrix, rewind):
    recipe = dataclasses.replace(RECIPE, rewind=rewind)
    matrix = random_matrix(12, 9, density=0.4, seed=1)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    batches = np.random.default_rng(0).permutation(24).reshape(6, 4) % 12
    nnz, shares = np.array([5, 5, 3, 3, 2, 2]), np.array([1, 1, 1, 1, 0.75, 0.25])
    state = create_state(recipe, 9, 5)
    initial = np.asarray(state.weights, np.float64)
    state, losses = train_chunk(
        state,
        chunk,
        jnp.asarray(batches, jnp.int32),
        jnp.asarray(nnz, jnp.int32),
        jnp.asarray(shares, jnp.float32),
        recipe=recipe,
        budget=matrix.nnz,
        prune_every_step=True,
    )
    x = matrix.toarray().astype(np.float64)
    weights, mask, expected = numpy_training(initial, x, batches, nnz, shares, recipe)
    np.testing.assert_array_equal(state.mask, mask)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(state.weights, weights, atol=2e-4)
    assert np.abs(weights - np.where(mask, initial, 0)).max() > 0.03  # or nothing was learned


def test_a_row_of_zeros_keeps_k_entries_and_stays_finite(random_matrix):
    matrix = random_matrix(12, 9, density=0.4, seed=1)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    state = create_state(RECIPE, 9, 5)
    state = update_mask(state._replace(weights=state.weights.at[4].set(0.0)), 2, RECIPE)
    np.testing.assert_array_equal(state.mask[4], [True, True, False, False, False])
    np.testing.assert_array_equal(final_embeddings(state)[4], 0)
    one = jnp.ones(1)
    state, losses = train_chunk(
        state,
        chunk,
        jnp.arange(12, dtype=jnp.int32)[None],
        one.astype(jnp.int32),
        one,
        recipe=RECIPE,
        budget=matrix.nnz,
    )
    assert np.isfinite(losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    np.testing.assert_array_equal(final_embeddings(state)[4], 0)  # it has no direction to learn


EDGES = {
    "an item of nobody": {},
    "users of one item": {},
    "users of all items": {},
    "k = d": {"n_factors": 8, "target_nnz": 8},
    "k = 1": {"target_nnz": 1},
    "one factor": {"n_factors": 1, "target_nnz": 1},
    "one item": {},
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges(small_config, tmp_path, edge, random_matrix):
    matrix = random_matrix(60, 1 if edge == "one item" else 20, density=0.3).tolil()
    if edge == "an item of nobody":
        matrix[:, 7] = 0
        matrix[:, 8] = 1  # or a user is left with nothing
    elif edge == "users of one item":
        matrix[::2] = 0
        matrix[::2, 3] = 1
    elif edge == "users of all items":
        matrix[::2] = 1
    sp.save_npz(tmp_path / "x.npz", matrix.tocsr())
    small_config.data.update(name="file", path=str(tmp_path / "x.npz"), min_user_interactions=1)
    small_config.data.update(n_val_users=5, n_test_users=10)
    small_config.model.n_factors = EDGES[edge].get("n_factors", 8)
    small_config.sparsity.target_nnz = k = EDGES[edge].get("target_nnz", 2)
    small_config.refine.update(n_rounds=1, n_epochs=2, n_final_epochs=1)
    train_and_evaluate(small_config, tmp_path / "w")
    embeddings = sp.load_npz(tmp_path / "w" / "embeddings.npz")
    items = (tmp_path / "w" / "items.txt").read_text().splitlines()
    assert len(items) == {"one item": 1, "an item of nobody": 19}.get(edge, 20)
    assert embeddings.shape == (len(items), small_config.model.n_factors)
    assert set(embeddings.getnnz(axis=1)) == {k}
    assert np.isfinite(embeddings.data).all()
    np.testing.assert_allclose(sp.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    lines = (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert all(0 <= loss <= 4 for loss in losses)
