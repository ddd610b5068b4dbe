"""Times a training step on synthetic users.

    python -m experiments.benchmark_training --n_factors=4096 --batch_size=128 --nnz=64,32,16

At k weights an item, of random factors, for every k of --nnz; 0 stands for all factors. A step has
the gathering of the batch, the gradient and the Nadam update in it; a round is a few steps in one
compiled loop, and the k take turns. Times are medians over the rounds. The last line printed is one
JSON object.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from absl import flags

from celsa_jax.config import PRECISIONS
from celsa_jax.errors import InputError
from experiments import cli

_N_ITEMS = flags.DEFINE_integer("n_items", 10_000, "Items.", lower_bound=1)
_N_FACTORS = flags.DEFINE_integer("n_factors", 1024, "Width d.", lower_bound=1)
_NNZ = flags.DEFINE_list("nnz", ["0"], "Weights an item, k; 0 for all factors.")
_BATCH = flags.DEFINE_integer("batch_size", 256, "Users in a step.", lower_bound=1)
_HISTORY = flags.DEFINE_integer("history", 76, "Mean interactions a user.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps in a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, after one that is not counted.", lower_bound=1)
_PRECISION = flags.DEFINE_enum("precision", "auto", PRECISIONS, "See config.train.precision.")


def main() -> None:
    import jax

    from celsa_jax.runtime import peak_memory

    users = random_users(_STEPS.value * _BATCH.value, _N_ITEMS.value, _HISTORY.value)
    programs = {f"k={k}": steps(users, k) for k in _numbers_of_weights()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(_ROUNDS.value + 1):
        for name, run in programs.items():
            seconds[name].append(run())
    report = {
        name: {
            "step_ms": round(1e3 * float(np.median(counted)), 2),
            "step_ms_min": round(1e3 * min(counted), 2),
            "users_per_s": round(_BATCH.value / float(np.median(counted))),
        }
        for name, (_, *counted) in seconds.items()
    }
    settings = {
        "n_items": _N_ITEMS.value,
        "n_factors": _N_FACTORS.value,
        "batch_size": _BATCH.value,
        "interactions_per_user": users.nnz / users.shape[0],
        "precision": _PRECISION.value,
        "device": jax.devices()[0].device_kind,
        "threads": os.cpu_count(),
    }
    peak = {of: round(n / 2**20) for of, n in peak_memory().items()}
    print(json.dumps({**settings, "steps": report, "peak_memory_mib": peak}))


def _numbers_of_weights() -> list[int]:
    width = _N_FACTORS.value
    if not all(k.isdecimal() and int(k) <= width for k in _NNZ.value):
        raise InputError(f"--nnz={','.join(_NNZ.value)}: give whole numbers up to {width}")
    return [int(k) or width for k in _NNZ.value]


def random_users(n_users: int, n_items: int, history: int) -> sp.csr_matrix:
    """Log-normal history lengths of the given mean; popularity falls like rank^-0.7."""
    rng = np.random.default_rng(0)
    sigma = 0.5
    lengths = rng.lognormal(np.log(history) - sigma**2 / 2, sigma, n_users)
    lengths = np.clip(np.rint(lengths), 1, n_items).astype(int)
    log_popularity = -0.7 * np.log(rng.permutation(n_items) + 1)
    items = []
    for length in lengths:
        # The largest perturbed weights are a draw without replacement (Gumbel top-k).
        keys = log_popularity + rng.gumbel(size=n_items)
        items.append(np.sort(np.argpartition(-keys, length - 1)[:length]))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = np.ones(indptr[-1], np.float32)
    return sp.csr_matrix((data, np.concatenate(items), indptr), shape=(n_users, n_items))


def steps(users: sp.csr_matrix, k: int) -> Callable[[], float]:
    """What trains on all users once, and returns the seconds that a step took."""
    import jax
    import jax.numpy as jnp

    from celsa_jax.data.batches import in_blocks, make_chunks, nnz_budget, shuffled_batches
    from celsa_jax.memory import device_bytes
    from celsa_jax.products import (
        capacity,
        dense_pays,
        make_layout,
        operand_dtype,
        users_in_block,
    )
    from celsa_jax.state import Form, Numbers, prune, random_state
    from celsa_jax.step import train_steps

    key = jax.random.key(0)
    n_items, d = users.shape[1], _N_FACTORS.value
    dense = dense_pays(n_items, d, k, device_bytes())
    block = min(users_in_block(n_items, dense), _BATCH.value)
    chunk = jax.device_put(make_chunks(users, 0, 0)[0])
    batches = shuffled_batches(key, chunk.n_rows, _BATCH.value)
    blocks = in_blocks(batches, block, 1, chunk.n_rows)
    form = Form(d, operand_dtype(_PRECISION.value) if dense else None, nnz_budget(chunk, blocks))
    state = random_state(key, n_items, form, capacity(d, d, dense=True))
    state = prune(state, k, key, form=form, places=capacity(k, d, dense))
    layout = None if dense else jax.device_put(make_layout(np.asarray(state.columns), d))
    rates, span = jnp.ones(_STEPS.value), jnp.array([0, _STEPS.value], jnp.int32)
    numbers = Numbers(key, learning_rate=0.01, b1=0.8, dropout=0.3)

    def run() -> float:
        nonlocal state
        started = time.perf_counter()
        state, losses = train_steps(state, chunk, blocks, rates, span, layout, numbers, form=form)
        jax.block_until_ready((state, losses))
        return (time.perf_counter() - started) / _STEPS.value

    return run


if __name__ == "__main__":
    cli.run(main)
