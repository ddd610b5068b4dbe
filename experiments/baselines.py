r"""Baselines on the split and the folds of a configuration.

    python -m experiments.baselines --config=configs/X.py [--config.a.b=value ...] \
        [--workdir=W] [--methods=popularity,ease,pruned_ease,column_pruned_ease,item_knn,als] \
        [--bytes=64,128,256] [--l2=30,100,300] [--dense=RUN/embeddings.npz]

Every method but popularity and EASE is fitted once for each of --bytes. The penalty of EASE, and
of pruned EASE at each size, is the one of the highest validation nDCG@100. --dense adds the
finished dense embeddings of a run on the same split, and what becomes of them when every row is
cut to its largest entries (`top_k`) or coded by a `sparse_autoencoder`. With --workdir the users
are those of that run (its split.npz); otherwise they are drawn as `experiments.train` draws them.
A dense run is one with --config.model.start=random, config.train.n_epochs=0, and
config.sparsity.target_nnz at config.model.n_factors.
The last line printed is one JSON object. JAX is not needed, but for the autoencoder.
"""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from absl import flags
from ml_collections import ConfigDict

from celsa_jax.baselines import (
    BASELINES,
    COMPRESSIONS,
    Baseline,
    embeddings_baseline,
    weights_baseline,
)
from celsa_jax.baselines.baseline import implicit
from celsa_jax.baselines.choice import validation_value
from celsa_jax.baselines.ease import (
    column_pruned_ease_baseline,
    ease,
    pruned_ease_baseline,
)
from celsa_jax.config import seed_of, validate
from celsa_jax.data import Split, load_dataset, make_split
from celsa_jax.data.interactions import lookup
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.sparse import load_embeddings
from celsa_jax.sparse.formats import BYTES_PER_NONZERO
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_run()
_METHODS = flags.DEFINE_list("methods", ["popularity", "ease"], f"Of {', '.join(BASELINES)}.")
_BYTES = flags.DEFINE_list("bytes", ["128"], "Bytes an item, for each method that can choose.")
_L2 = flags.DEFINE_list("l2", ["30", "100", "300", "1000"], "Penalties of EASE to try.")
_DENSE = flags.DEFINE_string("dense", None, "Dense embeddings to compress.")

_OWN_SIZE = ("popularity", "ease")
_PRUNED = {"pruned_ease": pruned_ease_baseline, "column_pruned_ease": column_pruned_ease_baseline}
_OF_IMPLICIT = ("item_knn", "als")


class Fit(NamedTuple):
    """A fitted method, with the options that were chosen for it."""

    method: str
    options: dict[str, float]
    baseline: Baseline


def main() -> None:
    config = FLAGS.config
    validate(config)
    methods = _methods()
    sizes = _numbers(_BYTES, int, BYTES_PER_NONZERO - 1)
    penalties = _numbers(_L2, float, 0)
    dense = load_embeddings(_DENSE.value) if _DENSE.value else None
    split = _split(config)
    by_penalty = [method for method in methods if method == "ease" or method in _PRUNED]
    if by_penalty and len(penalties) > 1 and not split.val.n_users:
        raise InputError(
            "there are no validation users to choose a penalty on (config.data.n_val_users, "
            "config.data.val_from); give one with --l2"
        )
    if dense is not None:
        dense = _rows_of(dense, split.train.item_ids)

    started = time.perf_counter()
    protocol = {"folds": config.eval.folds, "seed": seed_of(config, "folds")}
    others = [method for method in methods if method not in by_penalty]
    plain = plain_fits(split.train.matrix, others, sizes, config.seed)
    best, validation = ease_fits(split, by_penalty, sizes, penalties, protocol)
    compressed = [] if dense is None else dense_fits(dense, sizes, config.seed)
    rows = [_judged(fit, split, protocol) for fit in itertools.chain(plain, best, compressed)]
    print(cli.metrics_table("method", [(_name(row), row["bytes_per_item"], row) for row in rows]))
    report = {row["method"]: row for row in rows if row["method"] in _OWN_SIZE}
    report |= {"methods": rows, "validation_ndcg@100": validation}
    report |= {"seconds": round(time.perf_counter() - started, 1), **split.counts()}
    print(json.dumps(report))


def plain_fits(
    train: sp.csr_matrix, methods: list[str], sizes: list[int], seed: int
) -> Iterator[Fit]:
    """Fits one method at one size after the other, and keeps none."""
    for method in methods:
        for n_bytes in [0] if method in _OWN_SIZE else sizes:
            yield Fit(method, {}, BASELINES[method](train, n_bytes=n_bytes, seed=seed))


def ease_fits(
    split: Split, methods: list[str], sizes: list[int], penalties: list[float], protocol: dict
) -> tuple[list[Fit], dict[float, float]]:
    """EASE and pruned EASE, each size at the penalty that validates best.

    All of them share one inversion a penalty, and of each the best so far is in memory.

    Returns:
      The fits, and the validation nDCG@100 of EASE by penalty.
    """
    best: dict[str, tuple[float, Fit]] = {}
    of_ease = {}
    for l2 in penalties if methods else []:
        weights = ease(split.train.matrix, l2)
        fits = {}
        if "ease" in methods:
            fits["ease"] = Fit("ease", {"l2": l2}, weights_baseline(weights))
        for method in [method for method in methods if method in _PRUNED]:
            for n_bytes in sizes:
                baseline = _PRUNED[method](weights, n_bytes)
                fits[f"{method} at {n_bytes}"] = Fit(method, {"l2": l2}, baseline)
        for name, fit in fits.items():
            value = 0.0  # without validation users there is one penalty
            if split.val.n_users:
                value = validation_value(fit.baseline.score, split, **protocol)
                print(f"{name}, l2 {l2:g}: validation nDCG@100 {value:.4f}", flush=True)
                if name == "ease":
                    of_ease[l2] = value
            if name not in best or value > best[name][0]:
                best[name] = value, fit
    return [fit for _, fit in best.values()], of_ease


def dense_fits(dense: np.ndarray, sizes: list[int], seed: int) -> Iterator[Fit]:
    """Dense embeddings [n_items, n_factors] as they are, and compressed."""
    yield Fit("dense", {}, embeddings_baseline(dense))
    for method, compress in COMPRESSIONS.items():
        for n_bytes in sizes:
            codes = compress(dense, n_bytes=n_bytes, seed=seed)
            yield Fit(method, {}, embeddings_baseline(codes))


def _judged(fit: Fit, split: Split, protocol: dict) -> dict:
    metrics = evaluate(
        fit.baseline.score,
        split.test,
        split.train.item_ids,
        held_out_from=split.test_from,
        **protocol,
    ).summary()
    size = {"bytes_per_item": fit.baseline.bytes_per_item}
    return {"method": fit.method, **size, **fit.options, **metrics}


def _name(row: dict) -> str:
    return row["method"] + (f", l2 = {row['l2']:g}" if "l2" in row else "")


def _split(config: ConfigDict) -> Split:
    seed = seed_of(config, "split")
    dataset = load_dataset(config.data, seed)
    if FLAGS.workdir and config.data.split == "users":
        return load_split(pathlib.Path(FLAGS.workdir) / "split.npz", dataset.interactions)
    return make_split(dataset.interactions, config.data, seed)


def _methods() -> list[str]:
    methods = list(dict.fromkeys(_METHODS.value))
    if not methods and not _DENSE.value:
        raise InputError(f"--methods is empty; choose of {', '.join(BASELINES)}")
    for method in methods:
        if method in COMPRESSIONS:
            raise InputError(f"--methods: '{method}' comes with --dense=EMBEDDINGS.npz instead")
        if method not in BASELINES:
            raise InputError(f"--methods: no method '{method}'; choose of {', '.join(BASELINES)}")
    if set(methods) & set(_OF_IMPLICIT):
        implicit("cpu.als")  # if it is missing, now and not after the other methods
    return methods


def _numbers(flag: flags.FlagHolder, kind: type, above: int) -> list:
    """The numbers that a list flag has, ascending."""
    given = f"--{flag.name}={','.join(flag.value)}"
    try:
        numbers = sorted({kind(text) for text in flag.value})
    except ValueError:
        whole = "whole " if kind is int else ""
        raise InputError(f"{given}: not a list of {whole}numbers") from None
    if not numbers or not all(above < number < math.inf for number in numbers):
        raise InputError(f"{given}: give numbers above {above}")
    return numbers


def _rows_of(
    loaded: tuple[sp.csc_matrix | np.ndarray, np.ndarray], item_ids: np.ndarray
) -> np.ndarray:
    """The embeddings of the split's items, in its order."""
    embeddings, known = loaded
    at = lookup(known, item_ids)
    if (at < 0).any():
        raise InputError(
            f"--dense={_DENSE.value}: {int((at < 0).sum())} of the split's {len(item_ids)} items "
            "have no embedding; use the run of the same data and split (--workdir)"
        )
    return (embeddings.toarray() if sp.issparse(embeddings) else embeddings)[at]


if __name__ == "__main__":
    cli.run(main, required=("config",))
