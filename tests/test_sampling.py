import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax.data.batches import make_chunks, take_batch
from celsa_jax.gradient import loss_and_grad
from celsa_jax.sampling import draw_columns, n_columns, sampled_loss_and_grad
from celsa_jax.train import train_and_evaluate

N_ITEMS = 30


@pytest.fixture
def batch(random_matrix):
    """Six users, and two rows of padding."""
    matrix = random_matrix(6, N_ITEMS, density=0.1, seed=1)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    rows = jnp.asarray([0, 1, 2, 3, 4, 5, 6, 6], jnp.int32)
    return take_batch(chunk, rows, matrix.nnz + 3), np.unique(matrix.indices), matrix.toarray()


@pytest.fixture
def weights():
    return jnp.asarray(np.random.default_rng(0).normal(size=(N_ITEMS, 5)), jnp.float32)


def test_a_draw_has_the_own_items_and_others_without_replacement(batch):
    interactions, own, _ = batch
    drawn = np.zeros(N_ITEMS)
    for seed in range(200):
        columns, counts = draw_columns(jax.random.key(seed), interactions, N_ITEMS, len(own) + 4)
        columns, counts = np.asarray(columns), np.asarray(counts)
        assert (np.diff(columns) > 0).all()
        assert set(own) < set(columns)
        is_own = np.isin(columns, own)
        assert (counts[is_own] == 1).all()
        np.testing.assert_allclose(counts[~is_own], (N_ITEMS - len(own)) / 4)
        drawn[columns] += 1
    others = np.delete(drawn, own)
    share = 4 / (N_ITEMS - len(own))
    # Every other item is as likely; five standard errors of 200 draws.
    assert np.abs(others / 200 - share).max() < 5 * np.sqrt(share * (1 - share) / 200)


def test_the_squared_length_of_the_scores_is_unbiased(batch, weights):
    """Averaged over draws, sum of counts * y^2 is |y|^2 over the whole catalogue."""
    interactions, own, x = batch
    unit = np.asarray(weights / jnp.linalg.norm(weights, axis=1, keepdims=True))
    y = np.clip(x @ unit @ unit.T - x, 0, 6.0)
    estimates = []
    for seed in range(2_000):
        columns, counts = draw_columns(jax.random.key(seed), interactions, N_ITEMS, len(own) + 4)
        estimates.append((y[:, columns] ** 2) @ np.asarray(counts))
    estimates = np.array(estimates)
    standard_error = estimates.std(axis=0) / np.sqrt(len(estimates))
    assert (standard_error > 0).all()
    assert (np.abs(estimates.mean(axis=0) - (y**2).sum(axis=1)) < 4.5 * standard_error).all()


def test_all_columns_give_the_whole_loss(batch, weights):
    interactions, _, _ = batch
    mask = jnp.ones(weights.shape, bool)
    with jax.numpy_dtype_promotion("strict"):
        loss, grad = sampled_loss_and_grad(
            *(weights, mask, interactions, 6.0, True),
            key=jax.random.key(0),
            size=N_ITEMS,
            n_items=N_ITEMS,
        )
    whole, whole_grad = loss_and_grad(weights, mask, interactions, 6.0)
    np.testing.assert_allclose(float(loss), float(whole), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(grad), np.asarray(whole_grad), atol=1e-6)


def test_loss_and_gradient_are_those_of_the_estimate(batch, weights):
    """Against automatic differentiation of the loss with the length estimated."""
    interactions, own, x = batch
    size = len(own) + 4
    columns, counts = draw_columns(jax.random.key(3), interactions, N_ITEMS, size)

    def estimate(weights):
        unit = weights / jnp.linalg.norm(weights, axis=1, keepdims=True)
        y = jnp.clip(x @ unit @ unit.T - x, 0, 6.0)
        length = jnp.sqrt(jnp.sum(counts * y[:, columns] ** 2, axis=1))
        cosine = jnp.sum(x * y, axis=1) / length / jnp.sqrt(x.sum(axis=1))
        return jnp.mean(2 - 2 * cosine)

    with jax.numpy_rank_promotion("allow"):
        expected, expected_grad = jax.value_and_grad(estimate)(weights)
    loss, grad = sampled_loss_and_grad(
        *(weights, jnp.ones(weights.shape, bool), interactions, 6.0, True),
        key=jax.random.key(3),
        size=size,
        n_items=N_ITEMS,
    )
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(grad), np.asarray(expected_grad), atol=1e-5)
    others = np.setdiff1d(np.arange(N_ITEMS), columns)
    assert len(others)
    assert not np.asarray(grad)[others].any()


def test_columns_never_exceed_the_catalogue():
    assert n_columns(1_000, 300, 50) == 350
    assert n_columns(1_000, 980, 50) == 1_000


def test_a_run_with_sampled_outputs_learns(small_config, tmp_path):
    small_config.data.synthetic.n_items = 900
    small_config.train.batch_size = 8
    small_config.train.n_negatives = 20
    sampled = train_and_evaluate(small_config, tmp_path / "sampled")
    small_config.train.n_negatives = 0
    whole = train_and_evaluate(small_config, tmp_path / "whole")
    assert sampled["test"]["ndcg@100"] > 0.9 * whole["test"]["ndcg@100"]
    assert sampled["test"]["ndcg@100"] != whole["test"]["ndcg@100"]


def test_where_a_batch_covers_the_catalogue_nothing_is_sampled(small_config, tmp_path, caplog):
    with caplog.at_level("INFO"):
        whole = train_and_evaluate(small_config, tmp_path / "whole")
        assert "nothing is sampled" not in caplog.text
        small_config.train.n_negatives = 50
        sampled = train_and_evaluate(small_config, tmp_path / "sampled")
    assert "cover the catalogue: nothing is sampled" in caplog.text
    assert sampled["test"] == whole["test"]
