"""Times a training step by phase, beside elsarec's where it is installed.

    pip install -e ".[bench]"
    python -m experiments.benchmark_training --n_items=10000 --n_factors=1024 --batch_size=256

In the dense phase (k = d) and, with --nnz, at k weights a row, of random factors; there also by the
dense products that such a step does without on a CPU (`celsa_jax/compact.py`).

All train on the same synthetic users on the same device, in turn in one process: a few steps of
ours inside one jitted chunk, batch gathering, gradient and Nadam update included, then a few of
elsarec's own `train_step` on batches that are dense already, then the product of a batch's scores
alone, which is the ceiling. Times are medians over the rounds; their ratios are the figures to
quote. FLOP are counted as 6 x users x items x factors, whatever the code does. The last line
printed is one JSON object.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from absl import flags

from celsa_jax.config import PRECISIONS, default_config
from celsa_jax.errors import InputError
from experiments import cli, step_parts

_N_ITEMS = flags.DEFINE_integer("n_items", 10_000, "Items.", lower_bound=1)
_N_FACTORS = flags.DEFINE_integer("n_factors", 1024, "Width d.", lower_bound=1)
_NNZ = flags.DEFINE_integer("nnz", 0, "Weights a row, k; 0 for all.", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Users in a step.", lower_bound=1)
_HISTORY = flags.DEFINE_integer("history", 76, "Mean interactions a user.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of ours in a round.", lower_bound=1)
_PEER_STEPS = flags.DEFINE_integer("peer_steps", 4, "Steps of elsarec in a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, after one that is not counted.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of data and weights.")


_PARTS = flags.DEFINE_bool("parts", False, "Also trace the parts of a step, by named scopes.")
_PRECISION = flags.DEFINE_enum("precision", "auto", PRECISIONS, "See config.train.precision.")


def main() -> None:
    import jax

    from celsa_jax.runtime import peak_memory

    n_users, n_items, d = _BATCH.value, _N_ITEMS.value, _N_FACTORS.value
    if _NNZ.value > d:
        raise InputError(f"--nnz={_NNZ.value} is more than --n_factors={d}")
    users = random_users(_STEPS.value * n_users, n_items, _HISTORY.value, seed=_SEED.value)
    programs = {"dense": Ours(users, d)}
    if 0 < _NNZ.value < d:
        programs["sparse"] = Ours(users, _NNZ.value)
        programs["sparse_dense_products"] = Ours(users, _NNZ.value, dense_products=True)
    if peer := elsarec_steps(users):
        programs["elsarec"] = peer
    programs["product"] = product_of_scores()
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(_ROUNDS.value + 1):
        for name, steps in programs.items():
            times[name].append(1e3 * steps())
    step_ms = {name: float(np.median(of[1:])) for name, of in times.items()}
    ceiling = 2 * n_users * n_items * d / step_ms.pop("product") / 1e9
    flop = 6 * n_users * n_items * d

    phases = {}
    for name, ms in step_ms.items():
        phases[name] = {
            "step_ms": round(ms, 2),
            "step_ms_min": round(min(times[name][1:]), 2),
            "users_per_s": round(1e3 * n_users / ms),
            "tflop_per_s": round(flop / ms / 1e9, 4),
            "share_of_ceiling": round(flop / ms / 1e9 / ceiling, 3),
        }
        if isinstance(programs[name], Ours):
            phases[name] |= programs[name].once
            if _PARTS.value:
                phases[name]["parts_ms"] = programs[name].parts()
        if "elsarec" in step_ms and name != "elsarec":
            phases[name]["speedup_vs_elsarec"] = round(step_ms["elsarec"] / ms, 3)
    print(
        json.dumps(
            {
                "n_items": n_items,
                "n_factors": d,
                "nnz": _NNZ.value or d,
                "batch_size": n_users,
                "interactions_per_user": users.nnz / users.shape[0],
                "precision": _PRECISION.value,
                "device": jax.devices()[0].device_kind,
                "threads": os.cpu_count(),
                "product_tflop_per_s": round(ceiling, 4),
                "phases": phases,
                "peak_memory_mib": {of: round(n / 2**20) for of, n in peak_memory().items()},
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


class Ours:
    """Trains on all users once when it is called, and returns the seconds that a step took.

    Attributes:
      once: seconds to compile, and to update the mask once that is compiled.
    """

    def __init__(self, users: sp.csr_matrix, k: int, dense_products: bool = False):
        """Prepares the state.

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

        config = default_config()
        config.train.precision = _PRECISION.value
        recipe = dataclasses.replace(Recipe.from_config(config), rewind=True)
        chunk = jax.device_put(make_chunks(users, 0, 0)[0])
        batches = shuffled_batches(jax.random.key(_SEED.value), chunk.n_rows, _BATCH.value)
        budget = nnz_budget(chunk, batches)
        nnz = jnp.full(_STEPS.value, k, jnp.int32)
        full_rate = jnp.ones(_STEPS.value, jnp.float32)
        small = compact.pays(_N_FACTORS.value, k) and not dense_products
        small = small and _PRECISION.value != "bfloat16"
        state = create_state(recipe, users.shape[1], _N_FACTORS.value)

        def arguments(state):
            layout = jax.device_put(compact.make_layout(np.asarray(state.mask))) if small else None
            return state, chunk, batches, nnz, full_rate, layout

        def train(state):
            state, losses = train_chunk(*arguments(state), recipe=recipe, budget=budget)
            return jax.block_until_ready((state, losses))[0]

        def compiled(state):
            lowered = train_chunk.lower(*arguments(state), recipe=recipe, budget=budget)
            return lowered.compile().as_text()

        def prune(state):
            return jax.block_until_ready(update_mask(state, jnp.int32(k), recipe))

        state, _ = _timed(prune, state)
        state, mask_seconds = _timed(prune, state)
        state, first = _timed(train, state)
        self._state, again = _timed(train, state)
        self._train, self._compiled = train, compiled
        self.once = {
            "compile_s": round(first - again, 2),
            "mask_update_ms": round(1e3 * mask_seconds, 2),
        }

    def parts(self) -> dict[str, float]:
        """Milliseconds of a step by part."""
        return step_parts.time_parts(self, self._compiled(self._state), _STEPS.value)

    def __call__(self) -> float:
        self._state, seconds = _timed(self._train, self._state)
        return seconds / _STEPS.value


def _timed(function: Callable, argument: object) -> tuple[Any, float]:
    started = time.perf_counter()
    result = function(argument)
    return result, time.perf_counter() - started


def product_of_scores() -> Callable[[], float]:
    """The seconds of one product users x factors x items, at the precision of the step."""
    import jax
    import jax.numpy as jnp

    from celsa_jax.gradient import operand_dtype

    dtype = operand_dtype(_PRECISION.value)
    keys = jax.random.split(jax.random.key(_SEED.value))
    hidden = jax.random.normal(keys[0], (_BATCH.value, _N_FACTORS.value), dtype)
    weights = jax.random.normal(keys[1], (_N_FACTORS.value, _N_ITEMS.value), dtype)

    @jax.jit
    def products(hidden, weights):
        def again(_, total):  # each waits for the one before
            return jnp.dot(
                hidden + 0 * total[:, :1].astype(dtype),
                weights,
                precision="highest",
                preferred_element_type=jnp.float32,
            )

        start = jnp.zeros((_BATCH.value, _N_ITEMS.value), jnp.float32)
        return jax.lax.fori_loop(0, _STEPS.value, again, start)

    def run() -> float:
        _, seconds = _timed(lambda w: jax.block_until_ready(products(hidden, w)), weights)
        return seconds / _STEPS.value

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
