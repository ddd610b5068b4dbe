r"""Popularity and EASE on the split and the folds of a configuration.

    python -m experiments.baselines --config=configs/X.py [--config.a.b=value ...] \
        [--workdir=W] [--l2=30,100,300]

EASE's penalty is the one of the highest validation nDCG@100. With --workdir the users are those
of that run (its split.npz); otherwise they are drawn as `experiments.train` draws them. The last
line printed is one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json
import pathlib
import time

from absl import flags
from ml_collections import config_flags

from celsa_jax.baselines.ease import ease, ease_scorer, popularity_scorer
from celsa_jax.config import validate
from celsa_jax.data import load_dataset, make_split
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from experiments import cli

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Configuration file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "A run whose split to use.")
_L2 = flags.DEFINE_list("l2", ["30", "100", "300", "1000"], "Penalties of EASE to try.")


def main() -> None:
    config = _CONFIG.value
    validate(config)
    dataset = load_dataset(config.data, config.train.seed)
    if _WORKDIR.value and config.data.split == "users":
        split = load_split(pathlib.Path(_WORKDIR.value) / "split.npz", dataset.interactions)
    else:
        split = make_split(dataset.interactions, config.data, config.train.seed)
    try:
        penalties = [float(l2) for l2 in _L2.value]
    except ValueError:
        raise InputError(f"--l2={','.join(_L2.value)}: not a list of numbers") from None
    if len(penalties) > 1 and not split.val.n_users:
        raise InputError("config.data.n_val_users is 0; give one penalty with --l2")

    def judge(score, users, held_out_from):
        return evaluate(
            score,
            users,
            split.train.item_ids,
            folds=config.eval.folds,
            seed=config.train.seed,
            held_out_from=held_out_from,
        )

    train = split.train.matrix
    popularity = judge(popularity_scorer(train), split.test, split.test_from)
    validation, test = {}, {}
    started = time.perf_counter()
    for l2 in penalties:
        score = ease_scorer(ease(train, l2))
        if split.val.n_users:
            validation[l2] = judge(score, split.val, split.val_from).summary()["ndcg@100"]
            print(f"EASE, l2 {l2:g}: validation nDCG@100 {validation[l2]:.4f}", flush=True)
        if len(validation) < 2 or validation[l2] == max(validation.values()):
            best, test = l2, judge(score, split.test, split.test_from).summary()
    print(
        json.dumps(
            {
                "popularity": popularity.summary(),
                "ease": {**test, "l2": best, "bytes_per_item": 4 * split.train.n_items},
                "validation_ndcg@100": validation,
                "seconds": round(time.perf_counter() - started, 1),
                **split.counts(),
            }
        )
    )


if __name__ == "__main__":
    cli.run(main, required=("config",))
