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
from celsa_jax.baselines.ease import column_pruned_ease_baseline, ease, pruned_ease_baseline
from celsa_jax.config import seed_of, validate
from celsa_jax.data import Split, load_dataset, make_split
from celsa_jax.data.interactions import lookup
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import METRICS, evaluate
from celsa_jax.sparse import load_embeddings
from celsa_jax.sparse.formats import BYTES_PER_NONZERO
from experiments import cli, runs

flags.adopt_module_key_flags(runs)  # shown by --help

_METHODS = flags.DEFINE_list("methods", ["popularity", "ease"], f"Of {', '.join(BASELINES)}.")
_BYTES = flags.DEFINE_list("bytes", ["128"], "Bytes an item, for each method that can choose.")
_L2 = flags.DEFINE_list("l2", ["30", "100", "300", "1000"], "Penalties of EASE to try.")
_DENSE = flags.DEFINE_string("dense", None, "Dense embeddings to compress.")

_OWN_SIZE = ("popularity", "ease")
_PRUNED = {"pruned_ease": pruned_ease_baseline, "column_pruned_ease": column_pruned_ease_baseline}
_BY_PENALTY = ("ease", *_PRUNED)
_OF_IMPLICIT = ("item_knn", "als")


class Candidate(NamedTuple):
    """A fitted method with the options that it does not share with every other."""

    method: str
    n_bytes: int | None
    options: dict[str, float]
    baseline: Baseline


def main() -> None:
    config = runs.CONFIG.value
    validate(config)
    methods, sizes, penalties = _methods(), _sizes(), _penalties()
    dense = load_embeddings(_DENSE.value) if _DENSE.value else None
    split = _split(config)
    by_penalty = any(method in _BY_PENALTY for method in methods)
    if by_penalty and len(penalties) > 1 and not split.val.n_users:
        raise InputError(
            "there are no validation users to choose a penalty on (config.data.n_val_users, "
            "config.data.val_from); give one with --l2"
        )
    if dense is not None:
        dense = _rows_of(dense, split.train.item_ids)

    started = time.perf_counter()
    candidates = fit_all(split.train.matrix, methods, sizes, penalties, dense, config.seed)
    rows, validation = judge_all(candidates, split, config)
    print(table(rows))
    report = {row["method"]: row for row in rows if row["method"] in _OWN_SIZE}
    report |= {"methods": rows, "validation_ndcg@100": validation.get("ease", {})}
    report |= {"seconds": round(time.perf_counter() - started, 1), **split.counts()}
    print(json.dumps(report))


def fit_all(
    train: sp.csr_matrix,
    methods: list[str],
    sizes: list[int],
    penalties: list[float],
    dense: np.ndarray | None,
    seed: int,
) -> Iterator[Candidate]:
    """Fits one method after the other, and keeps none.

    Args:
      train: CSR [n_users, n_items].
      methods: keys of BASELINES.
      sizes: bytes an item.
      penalties: of EASE; all sizes of a pruned EASE come from one inversion.
      dense: [n_items, n_factors] embeddings to compress, or None.
      seed: of what is drawn.
    """
    for method in methods:
        if method not in _BY_PENALTY:
            for n_bytes in [None] if method in _OWN_SIZE else sizes:
                baseline = BASELINES[method](train, n_bytes=n_bytes, seed=seed)
                yield Candidate(method, n_bytes, {}, baseline)
    for l2 in penalties if set(methods) & set(_BY_PENALTY) else []:
        weights = ease(train, l2)
        if "ease" in methods:
            yield Candidate("ease", None, {"l2": l2}, weights_baseline(weights))
        for method in [method for method in methods if method in _PRUNED]:
            for n_bytes in sizes:
                pruned = _PRUNED[method](weights, n_bytes)
                yield Candidate(method, n_bytes, {"l2": l2}, pruned)
    if dense is not None:
        yield Candidate("dense", None, {}, embeddings_baseline(dense))
        for method, compress in COMPRESSIONS.items():
            for n_bytes in sizes:
                codes = compress(dense, n_bytes=n_bytes, seed=seed)
                yield Candidate(method, n_bytes, {}, embeddings_baseline(codes))


def judge_all(
    candidates: Iterator[Candidate], split: Split, config: ConfigDict
) -> tuple[list[dict], dict[str, dict[float, float]]]:
    """Test metrics of each method at each size, at the penalty that validates best.

    Of each, the best fit so far is in memory.

    Returns:
      One row for each (method, size), and by method, or `METHOD at N`, the validation nDCG@100 of
      every penalty.
    """
    protocol = {"folds": config.eval.folds, "seed": seed_of(config, "folds")}
    best: dict[str, tuple[float, Candidate]] = {}
    validation: dict[str, dict[float, float]] = {}
    for candidate in candidates:
        method, n_bytes, options, baseline = candidate
        name = method if n_bytes is None else f"{method} at {n_bytes}"
        value = 0.0  # nothing to choose from
        if options and split.val.n_users:
            value = validation_value(baseline.score, split, **protocol)
            validation.setdefault(name, {})[options["l2"]] = value
            print(f"{name}, l2 {options['l2']:g}: validation nDCG@100 {value:.4f}", flush=True)
        if name not in best or value > best[name][0]:
            best[name] = value, candidate
    return [_judged(candidate, split, protocol) for _, candidate in best.values()], validation


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| method | bytes per item | {' | '.join(METRICS)} |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        name = row["method"] + (f", l2 = {row['l2']:g}" if "l2" in row else "")
        size = row["bytes_per_item"]
        cells = [name, "" if size is None else f"{size:,.0f}"]
        for metric in METRICS:
            values = (row[metric], row[f"{metric}_stderr"])
            cells.append(" ± ".join("-" if v is None else f"{v:.3f}" for v in values))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _judged(candidate: Candidate, split: Split, protocol: dict) -> dict:
    metrics = evaluate(
        candidate.baseline.score,
        split.test,
        split.train.item_ids,
        held_out_from=split.test_from,
        **protocol,
    ).summary()
    size = {"bytes_per_item": candidate.baseline.bytes_per_item}
    return {"method": candidate.method, **size, **candidate.options, **metrics}


def _split(config: ConfigDict) -> Split:
    seed = seed_of(config, "split")
    dataset = load_dataset(config.data, seed)
    if runs.WORKDIR.value and config.data.split == "users":
        return load_split(pathlib.Path(runs.WORKDIR.value) / "split.npz", dataset.interactions)
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


def _sizes() -> list[int]:
    try:
        sizes = sorted({int(size) for size in _BYTES.value})
    except ValueError:
        raise InputError(f"--bytes={','.join(_BYTES.value)}: not a list of whole numbers") from None
    least = BYTES_PER_NONZERO
    if not sizes or sizes[0] < least:
        raise InputError(f"--bytes={','.join(_BYTES.value)}: give numbers from {least} on")
    return sizes


def _penalties() -> list[float]:
    try:
        penalties = [float(l2) for l2 in _L2.value]
    except ValueError:
        raise InputError(f"--l2={','.join(_L2.value)}: not a list of numbers") from None
    if not penalties or not all(0 < l2 < math.inf for l2 in penalties):
        raise InputError(f"--l2={','.join(_L2.value)}: give numbers above 0")
    return penalties


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
