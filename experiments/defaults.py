r"""How good the defaults are without anybody's choosing: on data, and on thinned copies.

    python -m experiments.defaults --config=configs/goodbooks.py --workdir=runs/defaults \
        --config.data.path=ratings.csv.zip --copies=whole,5,10,20,tenth --seeds=0,1,2

A copy has other training users, and the same users to validate and to test with: `5` leaves five
interactions of each, drawn at random, `tenth` a tenth of the users. EASE stands beside it, with its
penalty chosen on the validation users (none of them tests). What `celsa_jax.recipe` rules, and the
start, was chosen on the validation users of such runs; docs/results.md has the tables.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import numpy as np
from absl import flags

from celsa_jax.baselines.choice import choose, validation_value
from celsa_jax.baselines.ease import fit_ease
from celsa_jax.config import seed_of, validate
from celsa_jax.data import Split, dataset_of, make_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import MAIN_METRIC, evaluate
from celsa_jax.workdir import Workdir
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_run()
_COPIES = flags.DEFINE_list("copies", ["whole"], "whole, tenth or a number (`thinned`).")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, each of split, folds and training.")
_PENALTIES = (10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 1000.0)


def thinned(split: Split, copy: str, seed: int) -> Split:
    """A split with fewer interactions.

    Args:
      split: as the data give it.
      copy: "whole", "tenth" (of the training users), or how many interactions each of these keeps
        at most.
      seed: of the draw.
    """
    train, rng = split.train, np.random.default_rng(seed)
    if copy == "tenth":
        chosen = rng.choice(train.n_users, max(1, train.n_users // 10), replace=False)
        train = train.take_users(np.sort(chosen))
    elif copy != "whole":
        if not copy.isdecimal() or int(copy) < 1:
            raise InputError(f"--copies: '{copy}' is none of whole, tenth, or a number from 1 on")
        users = np.repeat(np.arange(train.n_users), np.diff(train.matrix.indptr))
        order = np.lexsort((rng.random(train.nnz), users))
        kept = np.zeros(train.nnz, bool)
        kept[order] = np.arange(train.nnz) - train.matrix.indptr[users[order]] < int(copy)
        train = train.take_entries(kept)
    return dataclasses.replace(split, train=train.drop_unused_items())


def ease_of(split: Split, folds: str, seed: int) -> tuple[float, float]:
    """The penalty that is best on the validation users, and EASE's test nDCG@100 with it."""
    fitted, chosen, _ = choose(
        functools.partial(fit_ease, split.train.matrix.astype(np.float32)),
        {"l2": _PENALTIES},
        lambda fit: validation_value(fit.score, split, folds=folds, seed=seed),
    )
    judged = evaluate(fitted.score, split.test, split.train.item_ids, folds=folds, seed=seed)
    return chosen["l2"], judged.summary()[MAIN_METRIC]


def main() -> None:
    from celsa_jax.train import train_split  # JAX, which thinning and EASE do without

    config = FLAGS.config
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in map(int, _SEEDS.value):
        config.seed = seed
        validate(config)
        inputs.check_split(config)
        dataset = dataset_of(config.data, seed_of(config, "split"))
        whole = make_split(dataset.interactions, config.data, seed_of(config, "split"))
        for copy in _COPIES.value:
            split = thinned(whole, copy, seed)
            folder = Workdir(pathlib.Path(FLAGS.workdir) / f"{copy}_{seed}")
            folder.check(config)
            results = folder.results()
            if results is None:
                with folder.locked():
                    results = train_split(config, split, folder, dataset.counts)
            record = {"copy": copy, "seed": seed, "recipe": results["recipe"]}
            record |= {"seconds": results["wall_seconds"], "ours": results["test"][MAIN_METRIC]}
            record["l2"], record["ease"] = ease_of(
                split, config.eval.folds, seed_of(config, "folds")
            )
            rows.setdefault(copy, []).append((record["ours"], record["ease"]))
            print(json.dumps(record), flush=True)
    table = []
    for copy, pairs in rows.items():
        ours, ease = np.mean(pairs, axis=0)
        table.append([copy, len(pairs), f"{ours:.4f}", f"{ease:.4f}", f"{ours / ease:.3f}"])
    print(cli.markdown(["copy", "seeds", MAIN_METRIC, "EASE", "ratio"], table))


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"))
