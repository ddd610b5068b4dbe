r"""Times engines that answer "the k best unseen items for this history", all in one run, in turn.

    pip install -e ".[bench]"
    python -m experiments.benchmark_inference --embeddings=F --interactions=FILE [--items=items.txt]
    python -m experiments.benchmark_inference --n_items=1000000 --n_factors=4096 --nnz=16 \
        --history=77 --engines=exact_scipy,exact_fast

The users of --interactions ask; without, embeddings and histories are random, with list lengths
that fall by a power law from ten times the mean. Every round times each engine of
experiments/inference_engines.py once on the same users: some of them alone (one thread), then all
of --n_users in a batch, with 1, 2, ... threads. `load_s` is up to the first answer, with compiled
code in the cache; `overlap_with_exact` the share of exact_scipy's k items found. The last line
printed is one JSON object.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import tempfile
import time

# Read when the libraries load: idle threads of one engine must not spin on another one's cores.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import scipy.sparse as sp
import threadpoolctl
from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.sparse import FORMATS, SparseEmbeddings
from celsa_jax.sparse.threads import n_cores
from experiments import cli, inputs
from experiments.inference_engines import ENGINES
from experiments.random_data import random_embeddings, random_histories

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_interactions()
_ENGINES = flags.DEFINE_list("engines", list(ENGINES), "Which to time.")
_FORMAT = flags.DEFINE_enum("format", None, FORMATS, "Convert the embeddings first.")
_K = flags.DEFINE_integer("k", 100, "Items a user.", lower_bound=1)
_N_USERS = flags.DEFINE_integer("n_users", 512, "Users in a batch, at most.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, after one that is not counted.", lower_bound=1)
_N_ITEMS = flags.DEFINE_integer("n_items", 10_000, "Random: items.", lower_bound=1)
_N_FACTORS = flags.DEFINE_integer("n_factors", 4096, "Random: width d.", lower_bound=20)
_NNZ = flags.DEFINE_integer("nnz", 16, "Random: non-zeros a row.", lower_bound=1)
_HISTORY = flags.DEFINE_integer("history", 77, "Random: items of a history.", lower_bound=1)

_N_SINGLE = 32  # users timed alone
_SETTLE_S = 0.1  # after the number of threads was set


def main() -> None:
    unknown = [name for name in _ENGINES.value if name not in ENGINES]
    if unknown:
        raise InputError(f"--engines: no engine '{unknown[0]}'; there are {', '.join(ENGINES)}")
    if bool(FLAGS.embeddings) != bool(FLAGS.interactions):
        raise InputError("--embeddings and --interactions go together; for random ones, neither")
    if FLAGS.embeddings:
        embeddings = inputs.read_sparse(FLAGS.embeddings, FLAGS.items)
        histories = inputs.draw_histories(embeddings.item_ids, _N_USERS.value)
    else:
        embeddings = random_embeddings(_N_ITEMS.value, _N_FACTORS.value, _NNZ.value)
        histories = random_histories(_N_USERS.value, _N_ITEMS.value, _HISTORY.value)
    if _FORMAT.value:
        embeddings = embeddings.to_format(_FORMAT.value)
    with tempfile.TemporaryDirectory() as folder:
        path, small = pathlib.Path(folder) / "embeddings", pathlib.Path(folder) / "small"
        embeddings.save(path)
        SparseEmbeddings.from_dense(np.eye(20), format=embeddings.format).save(small)
        report = {
            "n_items": embeddings.n_items,
            "n_factors": embeddings.n_factors,
            "nnz": embeddings.nnz,
            "format": embeddings.format,
            "longest_list_over_mean": round(_longest_list(embeddings), 2),
            "n_users": histories.shape[0],
            "history_mean": round(histories.nnz / histories.shape[0], 1),
            "k": _K.value,
            "cores": n_cores(),
        }
        del embeddings  # what the engines hold is all that should be in memory
        engines, loaded = make_engines(path, small, histories)
        timed = time_engines(engines, histories)
        report["engines"] = {name: loaded[name] | timed.get(name, {}) for name in loaded}
    print(json.dumps(report))


def make_engines(
    path: pathlib.Path, small: pathlib.Path, histories: sp.csr_matrix
) -> tuple[dict, dict[str, dict]]:
    """The engines that run here, and of each the seconds it took to load, or why it is skipped.

    `path` is of the embeddings, `small` of others for what comes before any: imports and compiling.
    """
    engines, results = {}, {}
    one = sp.csr_matrix(np.eye(9, 20, dtype=np.float32))
    with threadpoolctl.threadpool_limits(1):
        for name in _ENGINES.value:
            try:
                ENGINES[name](small).serve(one, 1)
                started = time.perf_counter()
                engine = ENGINES[name](path)
                engine.serve(histories[:1], _K.value)
                results[name] = {"load_s": round(time.perf_counter() - started, 4)}
                engines[name] = engine
            except (ImportError, MemoryError) as reason:
                results[name] = {"skipped": " ".join(str(reason).split())}
                print(f"{name}: skipped: {reason}", file=sys.stderr)
    return engines, results


def time_engines(engines: dict, histories: sp.csr_matrix) -> dict[str, dict]:
    """The measurements of each engine by name."""
    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= n_cores()]
    single = {name: [] for name in engines}
    batch = {name: {n: [] for n in counts} for name in engines}
    answers = {}
    ones, few = list(histories[:_N_SINGLE]), histories[:64]
    for turn in range(_ROUNDS.value + 1):
        for name, engine in engines.items():
            for n in counts:
                with threadpoolctl.threadpool_limits(n):
                    engine.n_threads = n
                    time.sleep(_SETTLE_S)
                    engine.serve(few, _K.value)  # wakes the cores
                    if n == 1:
                        times = [_timed(engine, one)[0] for one in ones]
                        single[name] += times if turn else []
                    seconds, answers[name] = _timed(engine, histories)
                    batch[name][n] += [seconds] if turn else []
            print(f"round {turn}: {name}", file=sys.stderr)
    results = {}
    for name, engine in engines.items():
        per_user = {n: float(np.median(batch[name][n])) / histories.shape[0] for n in counts}
        overlap = None
        if "exact_scipy" in answers:
            overlap = _overlap(answers[name], answers["exact_scipy"])
        results[name] = {
            "one_user_p50_us": round(1e6 * float(np.quantile(single[name], 0.5)), 1),
            "one_user_p99_us": round(1e6 * float(np.quantile(single[name], 0.99)), 1),
            "batched_us_per_user": round(1e6 * per_user[1], 2),
            "users_per_s_by_threads": {str(n): round(1 / s, 1) for n, s in per_user.items()},
            "bytes": int(engine.n_bytes),
            "overlap_with_exact": overlap,
        }
    return results


def _timed(engine, histories: sp.csr_matrix) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    items = engine.serve(histories, _K.value)
    return time.perf_counter() - started, items


def _overlap(items: np.ndarray, exact: np.ndarray) -> float:
    both = sum(len(np.intersect1d(a[a >= 0], b)) for a, b in zip(items, exact, strict=True))
    return round(both / max(int((exact >= 0).sum()), 1), 5)


def _longest_list(embeddings: SparseEmbeddings) -> float:
    lengths = np.bincount(embeddings.tocsr().indices, minlength=embeddings.n_factors)
    return float(lengths.max() / lengths.mean())


if __name__ == "__main__":
    cli.run(main)
