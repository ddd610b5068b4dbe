"""Times a training step, beside elsarec's where it is installed.

    pip install -e ".[bench]"
    python -m experiments.benchmark_training --n_factors=4096 --batch_size=128 --nnz=64,32,16
    python -m experiments.benchmark_training --n_factors=1024 --batch_size=256

At k weights an item, of random factors, for every k of --nnz; 0 stands for all factors.

All train on the same synthetic users on the same device, in turn in one process: a few steps of
ours in one compiled loop, batch gathering, gradient and Nadam update included, then a few of
elsarec's own `train_step` on batches that are dense already. Times are medians over the rounds;
their ratios are the figures to quote. The last line printed is one JSON object.
"""

from __future__ import annotations

import importlib.metadata
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
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of ours in a round.", lower_bound=1)
_PEER_STEPS = flags.DEFINE_integer("peer_steps", 4, "Steps of elsarec in a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, after one that is not counted.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of data and weights.")
_PRECISION = flags.DEFINE_enum("precision", "auto", PRECISIONS, "See config.train.precision.")


def main() -> None:
    import jax

    from celsa_jax.runtime import peak_memory

    users = random_users(_STEPS.value * _BATCH.value, _N_ITEMS.value, _HISTORY.value, _SEED.value)
    programs = {f"k={k}": our_steps(users, k) for k in _numbers_of_weights()}
    if peer := elsarec_steps(users):
        programs["elsarec"] = peer
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(_ROUNDS.value + 1):
        for name, run in programs.items():
            seconds[name].append(run())
    medians = {name: float(np.median(of[1:])) for name, of in seconds.items()}
    report = {
        name: {
            "step_ms": round(1e3 * median, 2),
            "step_ms_min": round(1e3 * min(seconds[name][1:]), 2),
            "users_per_s": round(_BATCH.value / median),
        }
        | ({"speedup_vs_elsarec": round(medians["elsarec"] / median, 3)} if peer else {})
        for name, median in medians.items()
    }
    print(
        json.dumps(
            {
                "n_items": _N_ITEMS.value,
                "n_factors": _N_FACTORS.value,
                "batch_size": _BATCH.value,
                "interactions_per_user": users.nnz / users.shape[0],
                "precision": _PRECISION.value,
                "device": jax.devices()[0].device_kind,
                "threads": os.cpu_count(),
                "steps": report,
                "peak_memory_mib": {of: round(n / 2**20) for of, n in peak_memory().items()},
            }
        )
    )


def _numbers_of_weights() -> list[int]:
    width = _N_FACTORS.value
    if not all(k.isdecimal() and int(k) <= width for k in _NNZ.value):
        raise InputError(f"--nnz={','.join(_NNZ.value)}: give whole numbers up to {width}")
    return [int(k) or width for k in _NNZ.value]


def random_users(n_users: int, n_items: int, history: int, seed: int) -> sp.csr_matrix:
    """Log-normal history lengths of the given mean; popularity falls like rank^-0.7."""
    rng = np.random.default_rng(seed)
    sigma = 0.5
    lengths = rng.lognormal(np.log(history) - sigma**2 / 2, sigma, n_users)
    lengths = np.clip(np.rint(lengths), 1, n_items).astype(int)
    popularity = rng.permutation(1.0 / np.arange(1, n_items + 1) ** 0.7)
    log_popularity = np.log(popularity)
    items = []
    for length in lengths:
        # The largest perturbed weights are a draw without replacement (Gumbel top-k).
        keys = log_popularity + rng.gumbel(size=n_items)
        items.append(np.sort(np.argpartition(-keys, length - 1)[:length]))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = np.ones(indptr[-1], np.float32)
    return sp.csr_matrix((data, np.concatenate(items), indptr), shape=(n_users, n_items))


def our_steps(users: sp.csr_matrix, k: int) -> Callable[[], float]:
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

    key = jax.random.key(_SEED.value)
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
    rates, steps = jnp.ones(_STEPS.value), jnp.array([0, _STEPS.value], jnp.int32)
    numbers = Numbers(key, learning_rate=0.01, b1=0.8, dropout=0.3)

    def run() -> float:
        nonlocal state
        started = time.perf_counter()
        state, losses = train_steps(state, chunk, blocks, rates, steps, layout, numbers, form=form)
        jax.block_until_ready((state, losses))
        return (time.perf_counter() - started) / _STEPS.value

    return run


def elsarec_steps(users: sp.csr_matrix) -> Callable[[], float] | None:
    """The same for elsarec, on dense batches made beforehand; None where it is missing."""
    try:
        import elsa
        import torch
    except ImportError:
        print("elsarec or torch is missing (pip install -e '.[bench]'): timing ours alone")
        return None
    print(f"elsarec {importlib.metadata.version('elsarec')}, torch {torch.__version__}")
    import jax

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(_SEED.value)
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise InputError("JAX has a GPU and torch has none; install torch with CUDA, or without")
    where = torch.device("cuda" if on_gpu else "cpu")
    model = elsa.ELSA(users.shape[1], _N_FACTORS.value, device=where)
    batches = [
        torch.from_numpy(users[i * _BATCH.value : (i + 1) * _BATCH.value].toarray()).to(where)
        for i in range(min(_PEER_STEPS.value, _STEPS.value))
    ]

    def run() -> float:
        started = time.perf_counter()
        for batch in batches:
            model.train_step(batch, batch)
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / len(batches)

    return run


if __name__ == "__main__":
    cli.run(main)
