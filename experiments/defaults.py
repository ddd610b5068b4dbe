r"""How good the defaults are without anybody's choosing: on data, and on thinned copies.

    python -m experiments.defaults --config=configs/goodbooks.py --workdir=runs/defaults \
        --config.data.path=ratings.csv.zip --copies=whole,5,10,20,tenth --seeds=0,1,2

A copy has other training users, and the same users to validate and to test with: `5` leaves five
interactions of each, drawn at random, `tenth` a tenth of the users. `all5` leaves five of those who
are judged, too. EASE stands beside it, with its
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

from celsa_jax.baselines.choice import validation_value
from celsa_jax.baselines.ease import fit_ease
from celsa_jax.config import seed_of, validate
from celsa_jax.data import Interactions, Split, dataset_of, make_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.workdir import Workdir
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_run()
_COPIES = flags.DEFINE_list("copies", ["whole"], "whole, tenth, 5 or all5 (`thinned`).")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, each of split, folds and training.")
_EASE = flags.DEFINE_bool("ease", True, "Fit EASE as well.")
_PENALTIES = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0)
_FIRST_PENALTY = 100.0
_METRIC = "ndcg@100"


def thinned(split: Split, copy: str, seed: int) -> Split:
    """A split with fewer interactions.

    Args:
      split: as the data give it.
      copy: "whole", "tenth" (of the training users), how many interactions each of these keeps at
        most, or with "all" before the number, each user to validate or to test with, too.
      seed: of the draw.
    """
    train, rng = split.train, np.random.default_rng(seed)
    if copy == "tenth":
        chosen = rng.choice(train.n_users, max(1, train.n_users // 10), replace=False)
        train = train.take_users(np.sort(chosen))
    elif copy != "whole":
        number = copy.removeprefix("all")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(
                f"--copies: '{copy}' is none of whole, tenth, a number from 1 on, or all and one"
            )
        train = _at_most(train, int(number), rng)
        if number != copy:
            val, test = (_at_most(users, int(number), rng) for users in (split.val, split.test))
            split = dataclasses.replace(split, val=val, test=test)
    return dataclasses.replace(split, train=train.drop_unused_items())


def _at_most(data: Interactions, n: int, rng: np.random.Generator) -> Interactions:
    """So many interactions of each user, drawn at random."""
    users = np.repeat(np.arange(data.n_users), np.diff(data.matrix.indptr))
    order = np.lexsort((rng.random(data.nnz), users))
    kept = np.zeros(data.nnz, bool)
    kept[order] = np.arange(data.nnz) - data.matrix.indptr[users[order]] < n
    return data.take_entries(kept)


def ease_of(split: Split, folds: str, seed: int) -> tuple[float, dict]:
    """The penalty that is best on the validation users, and EASE's test metrics with it."""
    matrix = split.train.matrix.astype(np.float32)

    @functools.cache
    def value(at: int) -> float:
        score = fit_ease(matrix, l2=_PENALTIES[at]).score
        return validation_value(score, split, folds=folds, seed=seed)

    best = _PENALTIES.index(_FIRST_PENALTY)
    for step in (1, -1):  # uphill, either way
        while 0 <= best + step < len(_PENALTIES) and value(best + step) > value(best):
            best += step
    score = fit_ease(matrix, l2=_PENALTIES[best]).score
    judged = evaluate(score, split.test, split.train.item_ids, folds=folds, seed=seed)
    return _PENALTIES[best], judged.summary()


def main() -> None:
    from celsa_jax.train import train_split  # JAX, which thinning and EASE do without

    config = FLAGS.config
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in map(int, _SEEDS.value):
        config.seed = seed
        validate(config)
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
            record |= {"seconds": results["wall_seconds"], "ours": results["test"][_METRIC]}
            if _EASE.value:
                record["l2"], judged = ease_of(split, config.eval.folds, seed_of(config, "folds"))
                record["ease"] = judged[_METRIC]
                rows.setdefault(copy, []).append((record["ours"], record["ease"]))
            print(json.dumps(record), flush=True)
    print(f"\n| copy | seeds | {_METRIC} | EASE | ratio |\n|---|---:|---:|---:|---:|")
    for copy, pairs in rows.items():
        ours, ease = np.mean(pairs, axis=0)
        print(f"| {copy} | {len(pairs)} | {ours:.4f} | {ease:.4f} | {ours / ease:.3f} |")


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"))
