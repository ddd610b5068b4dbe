r"""Baselines on the split and the folds of a configuration.

    python -m experiments.baselines --config=configs/X.py [--config.a.b=value ...] \
        [--workdir=W] [--bytes=64,128,256] [--l2=30,100,300] [--dropout=0,0.3] [--discount=0,0.2] \
        [--methods=popularity,user_knn,ease,pruned_ease,column_pruned_ease,item_knn,als] \
        [--dense=RUN/embeddings.npz]

Every method but popularity, user k-NN and EASE is fitted once for each of --bytes. EASE has the
penalty, the dropout (EDLAE) and the discount of popularity of the highest validation nDCG@100, of
all combinations; pruned by columns the penalty and the dropout, by rows the penalty. --dense adds
the finished dense embeddings of a run on the same split, and what becomes of them when every row is
cut to its largest entries (`top_k`) or coded by a `sparse_autoencoder`. With --workdir the users
are those of that run (its split.npz); otherwise they are drawn as `experiments.train` draws them.
A dense run is one with --config.model.start=random, config.train.n_epochs=0, and
config.sparsity.target_nnz at config.model.n_factors.
The last line printed is one JSON object. JAX is not needed, but for the autoencoder.
"""

from __future__ import annotations

import functools
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

from celsa_jax.baselines import BASELINES, COMPRESSIONS, Baseline, embeddings_baseline
from celsa_jax.baselines.baseline import implicit
from celsa_jax.baselines.choice import choose, validation_value
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
_DROPOUT = flags.DEFINE_list("dropout", ["0"], "Dropouts of EASE to try; above 0 it is EDLAE.")
_DISCOUNT = flags.DEFINE_list("discount", ["0"], "Powers of popularity to divide its scores by.")
_DENSE = flags.DEFINE_string("dense", None, "Dense embeddings to compress.")

_OWN_SIZE = ("popularity", "ease", "user_knn")
_OPTIONS = ("l2", "dropout", "discount")
_OPTIONS_OF = {"ease": _OPTIONS, "column_pruned_ease": _OPTIONS[:2], "pruned_ease": _OPTIONS[:1]}
_OF_IMPLICIT = ("item_knn", "als")


class Fit(NamedTuple):
    """A fitted method, the options that were chosen for it, and what all of them gave."""

    method: str
    options: dict[str, object]
    baseline: Baseline
    tried: list[dict[str, object]]


def main() -> None:
    config = FLAGS.config
    validate(config)
    methods = _methods()
    sizes = _numbers(_BYTES, int, BYTES_PER_NONZERO - 1)
    values = _numbers(_L2, float, 0), _numbers(_DROPOUT, float), _numbers(_DISCOUNT, float)
    grid = dict(zip(_OPTIONS, values, strict=True))
    dense = load_embeddings(_DENSE.value)[:2] if _DENSE.value else None
    split = _split(config)
    several = any(len(v) > 1 for v in values)
    if several and set(methods) & set(_OPTIONS_OF) and not split.val.n_users:
        raise InputError(
            "there are no validation users to choose a penalty on (config.data.n_val_users, "
            "config.data.val_from); give one with --l2"
        )
    if dense is not None:
        dense = _rows_of(dense, split.train.item_ids)

    started = time.perf_counter()
    protocol = {"folds": config.eval.folds, "seed": seed_of(config, "folds")}
    fits = chosen_fits(split, methods, sizes, grid, config.seed, protocol)
    compressed = [] if dense is None else dense_fits(dense, sizes, config.seed)
    rows = [_judged(fit, split, protocol) for fit in itertools.chain(fits, compressed)]
    print(cli.metrics_table("method", [(_name(row), row["bytes_per_item"], row) for row in rows]))
    report = {row["method"]: row for row in rows if row["method"] in _OWN_SIZE}
    report["methods"] = rows
    report |= {"seconds": round(time.perf_counter() - started, 1), **split.counts()}
    print(json.dumps(report))


def chosen_fits(
    split: Split, methods: list[str], sizes: list[int], grid: dict, seed: int, protocol: dict
) -> Iterator[Fit]:
    """Every method at each of its sizes, those of the closed form with the best options."""

    def value(fitted: Baseline) -> float:
        if not split.val.n_users:
            return 0.0  # there is one combination
        return validation_value(fitted.score, split, **protocol)

    for method in methods:
        for n_bytes in [0] if method in _OWN_SIZE else sizes:
            fit = functools.partial(
                BASELINES[method], split.train.matrix, n_bytes=n_bytes, seed=seed
            )
            if method not in _OPTIONS_OF:
                yield Fit(method, {}, fit(), [])
                continue
            of_method = {name: grid[name] for name in _OPTIONS_OF[method]}
            baseline, options, tried = choose(fit, of_method, value)
            yield Fit(method, options, baseline, tried)


def dense_fits(dense: np.ndarray, sizes: list[int], seed: int) -> Iterator[Fit]:
    """Dense embeddings [n_items, n_factors] as they are, and compressed."""
    yield Fit("dense", {}, embeddings_baseline(dense), [])
    for method, compress in COMPRESSIONS.items():
        for n_bytes in sizes:
            codes = compress(dense, n_bytes=n_bytes, seed=seed)
            yield Fit(method, {}, embeddings_baseline(codes), [])


def _judged(fit: Fit, split: Split, protocol: dict) -> dict:
    metrics = evaluate(
        fit.baseline.score,
        split.test,
        split.train.item_ids,
        held_out_from=split.test_from,
        **protocol,
    ).summary()
    size = {"bytes_per_item": fit.baseline.bytes_per_item}
    return {"method": fit.method, **size, **fit.options, "tried": fit.tried, **metrics}


def _name(row: dict) -> str:
    options = [f"{name} = {row[name]:g}" for name in _OPTIONS if row.get(name)]
    return ", ".join([row["method"], *options])


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


def _numbers(flag: flags.FlagHolder, kind: type, above: float = -math.inf) -> list:
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
