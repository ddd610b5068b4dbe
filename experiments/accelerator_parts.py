"""What `accelerator_report` measures: generators of rows, each as soon as it is known."""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from celsa_jax.data.batches import in_blocks, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.memory import device_bytes, training_bytes
from celsa_jax.products import capacity, dense_pays, make_layout, operand_dtype, users_in_block
from celsa_jax.runtime import peak_memory, versions
from celsa_jax.state import Form, Numbers, prune, random_state
from celsa_jax.step import train_steps
from experiments.random_data import random_users
from experiments.whole_run import whole_run

Rows = Iterator[dict[str, Any]]
_STEPS, _ROUNDS = 4, 5
_FLOPS = 10  # for each user, item and factor: five products, of a multiplication and a sum
_TESTED = ("products", "step", "pruning", "model", "sampling")


class Settings(NamedTuple):
    """small: next to nothing, on any device; data: the first release of Goodbooks-10k, or ""."""

    small: bool
    data: str

    def users(self, batch: int) -> sp.csr_matrix:
        size = (60, 5) if self.small else (10_000, 76)
        return random_users(_STEPS * batch, *size)


def send(name: str, settings: tuple, environment: dict[str, str], rows: Connection) -> None:
    """The rows of a measurement, from a process of its own."""
    os.setpgid(0, 0)
    for variable, value in environment.items():  # beside flags of the user's own
        own = os.environ.get(variable, "") if variable == "XLA_FLAGS" else ""
        os.environ[variable] = f"{own} {value}".strip()
    if platforms := environment.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", platforms)
    for row in globals()[name](Settings(*settings)):
        rows.send(row)


def devices(settings: Settings) -> Rows:
    kinds = ", ".join(device.device_kind for device in jax.devices())
    yield {"devices": kinds, "memory_gb": _rounded(device_bytes() / 1e9), "cores": os.cpu_count()}
    yield {"elsarec": "there" if importlib.util.find_spec("elsa") else "not installed"}
    yield {"XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), **versions()}


def ceiling(settings: Settings) -> Rows:
    """The rate of square products, added up in float32."""
    n = 64 if settings.small else 8192
    for dtype in ("float32", "bfloat16"):
        a = jnp.ones((n, n), dtype)
        product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        run = jax.jit(functools.partial(product, precision="highest")).lower(a, a).compile()
        seconds = _median(functools.partial(run, a, a))
        yield {"dtype": dtype, "n": n, "tflops": _rounded(2e-12 * n**3 / seconds)}


def steps(settings: Settings) -> Rows:
    """A training step, dense and by gathers, beside the ceiling and beside elsarec."""
    ceilings = {row["dtype"]: row["tflops"] for row in ceiling(settings)}
    widths, batches = ((16,), (8,)) if settings.small else ((4096, 1024, 16384), (1024, 4096, 256))
    for d in widths:
        for batch in batches:
            users = settings.users(batch)
            theirs = _elsarec_seconds(users[:batch], d)
            if theirs:
                yield {"d": d, "batch": batch, "what": "elsarec", "ms": _rounded(1e3 * theirs)}
            for k, dtype in ((d, "bfloat16"), (d, "float32"), (64, ""), (16, "")):
                if k > d or (settings.small and dtype == "bfloat16"):
                    continue
                seconds = Steps(users, d, batch, k, dtype).seconds()
                row = {"d": d, "batch": batch, "what": dtype or f"gathers, k={k}"}
                row |= {"ms": _rounded(1e3 * seconds), "users_per_s": round(batch / seconds)}
                if dtype:
                    rate = 1e-12 * _FLOPS * batch * users.shape[1] * d / seconds
                    row["share_of_ceiling"] = _rounded(rate / ceilings[dtype])
                yield row | ({"times_elsarec": _rounded(theirs / seconds)} if theirs else {})


def products(settings: Settings) -> Rows:
    """Gathers against dense products by k, and what `products.dense_pays` chooses."""
    d, batch = (16, 8) if settings.small else (4096, 1024)
    users, dtype = settings.users(batch), operand_dtype("auto")
    for k in (4,) if settings.small else (16, 32, 64, 128, 256, 512, 1024):
        dense, gathers = (1e3 * Steps(users, d, batch, k, way).seconds() for way in (dtype, ""))
        row = {"d": d, "k": k, "dense_ms": _rounded(dense), "gathers_ms": _rounded(gathers)}
        chosen = dense_pays(users.shape[1], d, k, device_bytes())
        yield row | {"dense_is_faster": dense < gathers, "dense_is_chosen": chosen}


def run(settings: Settings) -> Rows:
    """A whole run of the first release of Goodbooks-10k, loading included."""
    if settings.data:
        yield whole_run("goodbooks", settings.data)
    else:
        yield {"skipped": "name the first release of Goodbooks-10k as --data"}


def large_run(settings: Settings) -> Rows:
    """A whole run of made-up data of the size of what is liked in MovieLens-20M."""
    with tempfile.TemporaryDirectory() as folder:
        size = (300, 60, 10) if settings.small else (137_000, 20_000, 73)
        sp.save_npz(f"{folder}/users.npz", random_users(*size))
        fewer = [f"data.n_{part}_users=20" for part in ("val", "test")]
        fewer += ["train.n_epochs=1", "train.n_final_epochs=0"]
        yield whole_run("file", f"{folder}/users.npz", *(fewer if settings.small else ()))


def numerics(settings: Settings) -> Rows:
    """Losses of some steps and lengths of rows after them; whether a second time gives the bits."""
    d, batch, few = (16, 8, 4) if settings.small else (1024, 256, 64)
    for k, dtype in ((d, "float32"), (few, "")):
        once, again = (Steps(settings.users(batch), d, batch, k, dtype) for _ in range(2))
        losses, same_losses = once.train(), again.train()
        weights = np.asarray(once.state.weights)
        same = (weights == again.state.weights).all() and (losses == same_losses).all()
        values = np.concatenate([losses, np.linalg.norm(weights, axis=1)[:8]])
        values = np.nan_to_num(values, nan=9e9).tolist()  # JSON has no NaN
        row = {"what": dtype or "gathers", "ms": _rounded(1e3 * again.seconds()), "values": values}
        yield row | {"same_bits": bool(same)}


def memory(settings: Settings) -> Rows:
    """What `memory.py` announces of steps, and what was used at most so far."""
    for d, batch, k in ((16, 8, 16),) if settings.small else ((4096, 1024, 64), (4096, 4096, 4096)):
        users = settings.users(batch)
        dense = dense_pays(users.shape[1], d, k, device_bytes())
        Steps(users, d, batch, k, operand_dtype("auto") if dense else "").train()
        size = users.shape[1], d, k, batch, users.shape[1]
        used = {"announced": training_bytes(*size, users.shape[0], users.nnz), **peak_memory()}
        row = {"d": d, "batch": batch, "k": k}
        yield row | {f"{of}_gb": _rounded(1e-9 * n) for of, n in used.items()}


def tests(settings: Settings) -> Rows:
    """Those of what runs on the device."""
    names = ("schedules",) if settings.small else _TESTED
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += [f"tests/test_{name}.py" for name in names]
    environment = {**os.environ, "JAX_PLATFORMS": jax.default_backend(), "XLA_FLAGS": ""}
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    yield {"passed": done.returncode == 0, "said": (done.stdout.splitlines() or [""])[-1]}


class Steps:
    """Training on all users once, from a random start with k of d weights an item."""

    def __init__(self, users: sp.csr_matrix, d: int, batch: int, k: int, dtype: str):
        """Puts all on the device; `dtype` is that of dense products, empty for gathers."""
        key, n_items = jax.random.key(0), users.shape[1]
        chunk = jax.device_put(make_chunks(users, 0, 0)[0])
        block = min(users_in_block(n_items, bool(dtype)), batch)
        batches = shuffled_batches(key, chunk.n_rows, batch)
        blocks = in_blocks(batches, block, 1, chunk.n_rows)
        self.n_steps = len(blocks)
        self.form = Form(d, dtype or None, nnz_budget(chunk, blocks))
        state = random_state(key, n_items, self.form, capacity(d, d, dense=True))
        places = capacity(k, d, bool(dtype))
        self.state = prune(state, k, key, form=self.form, places=places)
        layout = None if dtype else make_layout(np.asarray(self.state.columns), d)
        rates, span = jnp.ones(self.n_steps), jnp.array([0, self.n_steps], jnp.int32)
        numbers = Numbers(key, learning_rate=0.01, b1=0.8, dropout=0.3)
        self.users = jax.device_put((chunk, blocks, rates, span, layout, numbers))

    def train(self) -> np.ndarray:
        """The sum of the losses of each batch."""
        self.state, losses = train_steps(self.state, *self.users, form=self.form)
        return np.asarray(jax.block_until_ready((self.state, losses))[1])

    def seconds(self) -> float:
        """That a step takes."""
        return _median(self.train) / self.n_steps


def _elsarec_seconds(users: sp.csr_matrix, d: int) -> float | None:
    """That a step takes on PyTorch's device; None where elsarec is not installed."""
    try:
        import elsa
        import torch
    except ImportError:
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, x = elsa.ELSA(users.shape[1], d, device), torch.tensor(users.toarray(), device=device)
    return _median(lambda: model.train_step(x, x)[0].item())


def _median(call: Callable[[], object]) -> float:
    """Seconds, after a call that is not counted."""
    spent = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        jax.block_until_ready(call())
        spent.append(time.perf_counter() - started)
    return float(np.median(spent[1:]))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
