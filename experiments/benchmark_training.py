"""Times a training step, beside elsarec's where it is installed.

    pip install -e ".[bench]"
    python -m experiments.benchmark_training --n_items=10000 --n_factors=1024 --batch_size=256

In the dense phase (k = d), or with k = --nnz weights a row, of random factors; then also by the
dense products that such a step does without on a CPU (`celsa_jax/compact.py`).

Both train on the same synthetic users with the same number of threads, in turn in one process:
a few steps of ours inside one jitted chunk, batch gathering, gradient and Nadam update included,
then a few of elsarec's own `train_step` on batches that are dense already. The step times are
medians over the rounds; their ratio is the figure to quote. The last line printed is one JSON
object.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time

import numpy as np
import scipy.sparse as sp
from absl import flags

from celsa_jax.errors import InputError
from experiments import cli

_N_ITEMS = flags.DEFINE_integer("n_items", 10_000, "Items.", lower_bound=1)
_N_FACTORS = flags.DEFINE_integer("n_factors", 1024, "Width d.", lower_bound=1)
_NNZ = flags.DEFINE_integer("nnz", 0, "Weights a row, k; 0 for all.", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Users in a step.", lower_bound=1)
_HISTORY = flags.DEFINE_integer("history", 76, "Mean interactions a user.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of ours in a round.", lower_bound=1)
_PEER_STEPS = flags.DEFINE_integer("peer_steps", 4, "Steps of elsarec in a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, after one that is not counted.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of data and weights.")


def main() -> None:
    users = random_users(
        _STEPS.value * _BATCH.value, _N_ITEMS.value, _HISTORY.value, seed=_SEED.value
    )
    k = _NNZ.value or _N_FACTORS.value
    if k > _N_FACTORS.value:
        raise InputError(f"--nnz={k} is more than --n_factors={_N_FACTORS.value}")
    programs = {"ours": celsa_steps(users, k)}
    if k < _N_FACTORS.value:
        programs["dense"] = celsa_steps(users, k, dense_products=True)
    if peer := elsarec_steps(users):
        programs["peer"] = peer
    times = {name: [] for name in programs}
    for _ in range(_ROUNDS.value + 1):
        for name, steps in programs.items():
            times[name].append(1e3 * steps())
    step_ms, dense_ms, peer_ms = (
        float(np.median(times[name][1:])) if name in times else None
        for name in ("ours", "dense", "peer")
    )
    print(
        json.dumps(
            {
                "n_items": _N_ITEMS.value,
                "n_factors": _N_FACTORS.value,
                "nnz": k,
                "batch_size": _BATCH.value,
                "step_ms": round(step_ms, 2),
                "elsarec_step_ms": peer and round(peer_ms, 2),
                "speedup_vs_elsarec": peer and round(peer_ms / step_ms, 3),
                "dense_products_step_ms": dense_ms and round(dense_ms, 2),
                "speedup_vs_dense_products": dense_ms and round(dense_ms / step_ms, 3),
                "step_ms_min": round(min(times["ours"][1:]), 2),
                "elsarec_step_ms_min": peer and round(min(times["peer"][1:]), 2),
                "interactions_per_user": users.nnz / users.shape[0],
                "threads": os.cpu_count(),
            }
        )
    )


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


def celsa_steps(users: sp.csr_matrix, k: int, dense_products: bool = False):
    """A function that trains on all users once and returns the seconds a step took.

    Args:
      users: CSR, users x items.
      k: weights a row.
      dense_products: whatever k is.
    """
    import jax
    import jax.numpy as jnp

    from celsa_jax import compact
    from celsa_jax.data.batches import make_chunks, nnz_budget, shuffled_batches
    from celsa_jax.step import Recipe, create_state, train_chunk, update_mask

    recipe = Recipe(
        relu_cap=6.0, rewind=True, regrow=False, optimizer="nadam", learning_rate=0.01, seed=0
    )
    chunk = jax.device_put(make_chunks(users, 0, 0)[0])
    batches = shuffled_batches(jax.random.key(_SEED.value), chunk.n_rows, _BATCH.value)
    budget = nnz_budget(chunk, batches)
    nnz = jnp.full(_STEPS.value, k, jnp.int32)
    full_rate = jnp.ones(_STEPS.value, jnp.float32)
    state = create_state(recipe, users.shape[1], _N_FACTORS.value)
    if k < _N_FACTORS.value:
        state = update_mask(state, jnp.int32(k), recipe)
    small = compact.pays(_N_FACTORS.value, k) and not dense_products

    def run() -> float:
        nonlocal state
        started = time.perf_counter()
        layout = jax.device_put(compact.make_layout(np.asarray(state.mask))) if small else None
        state, loss = train_chunk(
            state, chunk, batches, nnz, full_rate, layout, recipe=recipe, budget=budget
        )
        jax.block_until_ready((state, loss))
        return (time.perf_counter() - started) / _STEPS.value

    return run


def elsarec_steps(users: sp.csr_matrix):
    """The same for elsarec, on dense batches made beforehand; None where it is missing."""
    try:
        import elsa
        import torch
    except ImportError:
        print("elsarec or torch is missing (pip install -e '.[bench]'): timing ours alone")
        return None
    print(f"elsarec {importlib.metadata.version('elsarec')}, torch {torch.__version__}")
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(_SEED.value)
    model = elsa.ELSA(users.shape[1], _N_FACTORS.value, device=torch.device("cpu"))
    batches = [
        torch.from_numpy(users[i * _BATCH.value : (i + 1) * _BATCH.value].toarray())
        for i in range(min(_PEER_STEPS.value, _STEPS.value))
    ]

    def run() -> float:
        started = time.perf_counter()
        for batch in batches:
            model.train_step(batch, batch)
        return (time.perf_counter() - started) / len(batches)

    return run


if __name__ == "__main__":
    cli.run(main)
