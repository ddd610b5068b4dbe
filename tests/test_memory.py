import dataclasses
import os

import jax
import jax.numpy as jnp
import pytest

from celsa_jax import memory
from celsa_jax.data.batches import Chunk
from celsa_jax.errors import InputError
from celsa_jax.sampling import n_columns
from celsa_jax.step import Recipe, create_state, train_chunk
from celsa_jax.train import train_and_evaluate

RECIPE = Recipe(
    relu_cap=6.0, rewind=True, regrow=False, optimizer="nadam", learning_rate=0.01, seed=0
)


@pytest.mark.parametrize(
    ("n_items", "n_factors", "batch_size", "history", "n_negatives"),
    [
        (2000, 512, 64, 50, 0),
        (4000, 256, 64, 20, 0),
        (3000, 64, 512, 50, 0),
        (1000, 256, 64, 900, 0),
        (20_000, 256, 64, 20, 1000),
        (9000, 256, 64, 20, 5000),
    ],
)
def test_the_estimate_is_near_what_the_compiler_plans(
    n_items, n_factors, batch_size, history, n_negatives
):
    n_users, n_batches = 2000, 4
    recipe = dataclasses.replace(RECIPE, n_negatives=n_negatives)
    budget = 2 * batch_size * history
    columns = n_columns(n_items, budget, n_negatives) if n_negatives else 0
    n_interactions = n_users * history

    def array(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    compiled = train_chunk.lower(
        jax.eval_shape(lambda: create_state(RECIPE, n_items, n_factors)),
        Chunk(array(n_users + 2), array(n_interactions)),
        array(n_batches, batch_size),
        array(n_batches),
        array(n_batches, dtype=jnp.float32),
        recipe=recipe,
        budget=budget,
    ).compile()
    plan = compiled.memory_analysis()
    planned = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    estimate = memory.training_bytes(
        n_items, n_factors, batch_size, n_users, n_interactions, columns
    )
    assert estimate == pytest.approx(planned, rel=0.25)


@pytest.mark.parametrize(
    ("limit", "expected"), [("5000000\n", 5_000_000), (f"{1 << 62}\n", None), ("max\n", None)]
)
def test_a_container_may_take_less_than_the_machine_has(tmp_path, monkeypatch, limit, expected):
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path / "memory.max")
    machine = memory.device_bytes()
    assert machine == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "memory.max").write_text(limit)
    assert memory.device_bytes() == (expected or machine)


def test_what_cannot_fit_is_refused_before_training(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 50_000)
    with pytest.raises(InputError, match=r"about 0\.0 GB, .*lower config\.model\.n_factors"):
        train_and_evaluate(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
