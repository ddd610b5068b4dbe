import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celsa_jax import compact
from celsa_jax.data.batches import make_chunks, take_batch
from celsa_jax.losses import nmse
from celsa_jax.model import item_embeddings, training_scores
from celsa_jax.train import train_and_evaluate


def random_mask(n_items, n_factors, k, seed=0):
    """k true entries a row; the first factors are far more popular than the last."""
    rng = np.random.default_rng(seed)
    keys = rng.gumbel(size=(n_items, n_factors)) - np.log1p(np.arange(n_factors))
    mask = np.zeros((n_items, n_factors), bool)
    np.put_along_axis(mask, np.argsort(-keys, axis=1)[:, :k], True, axis=1)
    return mask


@st.composite
def masks(draw):
    n_factors = draw(st.integers(1, 40))
    k = draw(st.integers(1, n_factors))
    return random_mask(draw(st.integers(1, 50)), n_factors, k, draw(st.integers(0, 9)))


@given(masks())
def test_a_layout_has_every_entry_of_the_mask_once(mask):
    n_items = len(mask)
    layout = compact.make_layout(mask)
    capacity = layout.columns.shape[1]
    by_item = {(i, f) for i in range(n_items) for f in layout.columns[i, : layout.k]}
    assert by_item == set(zip(*np.nonzero(mask), strict=True))
    used = layout.entries < layout.columns.size
    assert used.sum() == mask.sum()
    entries = layout.entries[used]
    factors = np.broadcast_to(layout.factors[:, None], used.shape)[used]
    np.testing.assert_array_equal(layout.columns.ravel()[entries], factors)
    assert set(zip(entries // capacity, factors, strict=True)) == by_item
    assert (np.diff(layout.factors) >= 0).all()


@settings(max_examples=15)  # every shape is compiled
@given(masks())
def test_expand_reverses_compress(mask):
    n_factors = mask.shape[1]
    values = np.where(mask, np.random.default_rng(0).normal(size=mask.shape), 0)
    tree = {"weights": values.astype(np.float32), "count": np.int32(3)}
    layout = compact.make_layout(mask)
    small = compact.compress(jax.tree.map(jnp.asarray, tree), layout, n_factors)
    assert small["weights"].shape == layout.columns.shape
    again = compact.expand(small, layout, n_factors)
    jax.tree.map(np.testing.assert_array_equal, again, tree)


@pytest.mark.parametrize(("n_items", "n_factors", "k"), [(300, 40, 8), (70, 200, 11), (5, 9, 1)])
def test_products_equal_those_of_numpy(n_items, n_factors, k):
    rng = np.random.default_rng(1)
    mask = random_mask(n_items, n_factors, k)
    layout = compact.make_layout(mask)
    a = np.where(mask, rng.normal(size=mask.shape), 0).astype(np.float32)
    h, g = (jnp.asarray(rng.normal(size=(n, 6)), jnp.float32) for n in (n_factors, n_items))
    values = compact.compress(jnp.asarray(a), layout, n_factors)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(compact.decode(values, h, layout), a @ h, **close)
    np.testing.assert_allclose(compact.encode(values, g, layout, n_factors), a.T @ g, **close)
    products = np.asarray(compact.products_of_rows(g, h, layout))
    expected = (g @ h.T)[mask].reshape(n_items, k)
    np.testing.assert_allclose(products[:, :k], expected, **close)


@pytest.mark.parametrize("n_users", [1, 40])
@pytest.mark.parametrize(("cap", "relu"), [(6.0, True), (0.3, True), (None, False)])
def test_loss_and_gradient_equal_automatic_differentiation(random_matrix, n_users, cap, relu):
    n_items, n_factors, k = 300, 50, 5
    matrix = random_matrix(n_users, n_items, density=0.1, seed=3)
    mask = random_mask(n_items, n_factors, k)
    rng = np.random.default_rng(1)
    weights = jnp.asarray(np.where(mask, rng.normal(size=mask.shape), 0), jnp.float32)
    x = jnp.asarray(matrix.toarray())

    def loss_of(weights):
        scores = training_scores(item_embeddings(weights, mask), x, cap, relu)
        return jnp.mean(nmse(scores, x))

    expected_loss, expected = jax.value_and_grad(loss_of)(weights)
    layout = compact.make_layout(mask)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    rows = np.append(np.arange(n_users), [n_users] * 3)  # padding does not count
    batch = take_batch(chunk, jnp.asarray(rows, jnp.int32), matrix.nnz + 7)
    with jax.numpy_dtype_promotion("strict"):
        loss, grad = compact.loss_and_grad(
            compact.compress(weights, layout, n_factors), layout, n_factors, batch, cap, relu
        )
    np.testing.assert_allclose(float(loss), float(expected_loss), rtol=1e-6)
    scale = float(jnp.abs(expected).max())
    grad = compact.expand(grad, layout, n_factors)
    np.testing.assert_allclose(np.asarray(grad) / scale, np.asarray(expected) / scale, atol=2e-6)


def run(config, folder, monkeypatch, pays):
    monkeypatch.setattr(compact, "pays", lambda *_: pays)
    result = train_and_evaluate(config, folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return result, [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("chunk_users", [0, 100])
def test_a_run_learns_the_same(small_config, tmp_path, monkeypatch, chunk_users):
    small_config.train.chunk_users = chunk_users
    small_config.refine.n_rounds, small_config.refine.n_epochs = 1, 2
    dense, losses = run(small_config, tmp_path / "dense", monkeypatch, False)
    ours, compact_losses = run(small_config, tmp_path / "compact", monkeypatch, True)
    np.testing.assert_allclose(compact_losses, losses, rtol=1e-3)
    assert ours["test"]["ndcg@100"] == pytest.approx(dense["test"]["ndcg@100"], abs=0.02)


@pytest.mark.parametrize("what", ["regrowth", "every step", "an auxiliary loss"])
def test_not_where_weights_beside_the_mask_count(small_config, tmp_path, monkeypatch, what):
    small_config.train.n_final_epochs = 0
    if what == "regrowth":
        small_config.sparsity.regrow = True
    elif what == "every step":
        small_config.sparsity.update_every = 0
    else:
        small_config.train.auxiliary_weight = 0.1
    _, losses = run(small_config, tmp_path / "dense", monkeypatch, False)
    assert run(small_config, tmp_path / "compact", monkeypatch, True)[1] == losses


def test_it_pays_on_a_cpu_with_few_of_many_factors(monkeypatch):
    assert compact.pays(4096, 16)
    assert compact.pays(1024, 64)
    assert not compact.pays(1024, 65)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not compact.pays(4096, 16)
