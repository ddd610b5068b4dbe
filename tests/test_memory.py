"""What training takes, told before it begins."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax import memory, runtime
from celsa_jax.data.batches import Chunk
from celsa_jax.errors import InputError
from celsa_jax.products import capacity, dense_pays, make_layout, users_in_block
from celsa_jax.state import Form, Numbers, state_shape
from celsa_jax.step import train_steps
from celsa_jax.train import train_and_evaluate

N_USERS, HISTORY = 2000, 20


def planned_bytes(n_items, n_factors, k, batch_size, n_negatives):
    """What the compiler plans for a training step, arguments included."""
    n_batches, columns = 4, n_items
    if n_negatives:
        columns = min(n_items, batch_size * HISTORY + n_negatives)
    dense = dense_pays(columns, n_factors, k, memory.device_bytes())
    places, block = capacity(k, n_factors, dense), min(batch_size, users_in_block(columns, dense))
    form = Form(
        n_factors,
        "float32" if dense else None,
        block * HISTORY,
        columns if n_negatives else 0,
    )

    def array(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    layout = None
    if not (dense or n_negatives):
        layout = make_layout(np.full((n_items, places), n_factors, np.int32), n_factors)
        layout = jax.tree.map(lambda leaf: array(*leaf.shape), layout)
    compiled = train_steps.lower(
        state_shape(n_items, places, form),
        Chunk(array(N_USERS + 2), array(N_USERS * HISTORY)),
        array(n_batches, batch_size // block, block),
        array(n_batches, dtype=jnp.float32),
        array(2),
        layout,
        jax.eval_shape(lambda: Numbers(jax.random.key(0), 0.1, 0.9, 0.3, 2)),
        form=form,
    ).compile()
    plan = compiled.memory_analysis()
    return columns, plan.argument_size_in_bytes + plan.temp_size_in_bytes


@pytest.mark.parametrize(
    ("n_items", "n_factors", "k", "batch_size", "n_negatives"),
    [
        (2000, 512, 300, 64, 0),
        (20_000, 20_000, 64, 128, 0),
        (20_000, 20_000, 128, 512, 0),
        (20_000, 20_000, 64, 64, 1000),
    ],
    ids=["dense", "gathers", "gathers of 128", "sampled"],
)
def test_the_estimate_covers_what_the_compiler_plans(
    n_items, n_factors, k, batch_size, n_negatives, monkeypatch
):
    for what_validation_takes in ("_JUDGED", "_SERVED"):
        monkeypatch.setattr(memory, what_validation_takes, 0)
    size = n_items, n_factors, k, batch_size
    columns, planned = planned_bytes(*size, n_negatives)
    estimate = memory.training_bytes(*size, columns, N_USERS, N_USERS * HISTORY)
    assert planned <= estimate < 1.6 * planned


def test_a_cpu_holds_what_it_validates_with():
    size = 10**6, 10**6, 64, 256, 20_000, 200_000, 6 * 10**6
    assert memory.training_bytes(*size) > 10**6 * (28 * 64 + 12 * 64 + 24 * 64)


def test_more_of_anything_takes_more():
    def estimate(**changes):
        size = {"n_items": 10_000, "n_factors": 10_000, "k": 64, "batch_size": 128}
        size |= {"n_columns": 10_000, "n_users": 50_000, "n_interactions": 10**6}
        return memory.training_bytes(**size | changes)

    assert estimate(n_interactions=10**8) - estimate() == 4 * (10**8 - 10**6)
    assert estimate(n_users=10**6) - estimate() == 4 * (10**6 - 50_000)
    assert estimate(n_items=20_000, n_columns=20_000) > 1.5 * estimate()
    assert estimate(k=1024) > estimate(k=256) > estimate()


@pytest.mark.parametrize(
    ("limit", "expected"), [("5000000\n", 5_000_000), (f"{1 << 62}\n", None), ("max\n", None)]
)
def test_a_container_may_take_less_than_the_machine_has(tmp_path, monkeypatch, limit, expected):
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path / "memory.max")
    machine = memory.device_bytes()
    assert machine == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "memory.max").write_text(limit)
    assert memory.device_bytes() == (expected or machine)


def test_what_fits_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(memory, "device_bytes", lambda: 3 * 10**9)
    with caplog.at_level(logging.INFO):
        memory.check_memory(3 * 10**9)
    assert "training takes about 3.00 GB of 3.0" in caplog.text
    with pytest.raises(InputError, match=r"about 3\.0 GB, and the device has 3\.0"):
        memory.check_memory(3 * 10**9 + 1)


def test_what_cannot_fit_is_refused_before_training(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 50_000)
    with pytest.raises(InputError, match=r"about 0\.0 GB, .*lower config\.sparsity\.start_nnz"):
        train_and_evaluate(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("status", ["VmRSS:\t 5 kB\n", None])
def test_the_peak_where_a_sandbox_does_not_tell_it(tmp_path, monkeypatch, status):
    told = tmp_path / "told"
    told.write_text("VmPeak:\t 9 kB\nVmHWM:\t   7 kB\n")
    monkeypatch.setattr(runtime, "_STATUS", told)
    assert runtime.peak_memory()["host"] == 7 * 1024
    if status is not None:
        (tmp_path / "status").write_text(status)
    monkeypatch.setattr(runtime, "_STATUS", tmp_path / "status")
    assert runtime.peak_memory()["host"] > 50 * 2**20, "that of getrusage; JAX alone takes more"
