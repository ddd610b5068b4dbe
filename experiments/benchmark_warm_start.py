r"""How many epochs a warm start saves when new items arrive.

    python -m experiments.benchmark_warm_start --config=configs/goodbooks.py --workdir=runs/warm \
        [--config.a.b=value ...] [--share=0.05] [--epochs=10]

A share of the items, drawn at random, is taken out of the training users' interactions, and a model
is trained on the rest (`earlier`). Then all interactions are trained on twice: from scratch, as
the configuration says (`cold`), and from the earlier run for --epochs epochs (`warm`), whose first
half prunes again, so that items can change their factors. The test users are the same, and none of
the runs has seen them. The last line printed is one JSON object.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
from absl import flags

from celsa_jax.config import seed_of
from celsa_jax.data import Interactions, load_dataset, make_split
from celsa_jax.files import write_text
from celsa_jax.train import train_and_evaluate
from experiments import cli, runs

flags.adopt_module_key_flags(runs)  # shown by --help

_SHARE = flags.DEFINE_float("share", 0.05, "Of the items are new.", 0, 1)
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Of the warm start.", lower_bound=1)


def main() -> None:
    config, folder = runs.CONFIG.value, pathlib.Path(runs.WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    seed = seed_of(config, "split")
    interactions = load_dataset(config.data, seed).interactions
    train = make_split(interactions, config.data, seed).train
    rng = np.random.default_rng(config.seed)
    n_new = round(_SHARE.value * train.n_items)
    new = np.zeros(train.n_items, bool)
    new[rng.choice(train.n_items, n_new, replace=False)] = True
    path = folder / "without_new_items.csv"
    _write(path, train.take_entries(~new[train.matrix.indices]))

    earlier = config.copy_and_resolve_references()
    earlier.data.update(name="file", path=str(path), n_val_users=0, n_test_users=0)
    earlier.data.update(user_column="user_id", item_column="item_id", min_user_interactions=1)
    train_and_evaluate(earlier, folder / "earlier")
    cold = train_and_evaluate(config, folder / "cold")
    warm = config.copy_and_resolve_references()
    n_pruning = _EPOCHS.value // 2
    warm.train.update(n_epochs=n_pruning, n_final_epochs=_EPOCHS.value - n_pruning)
    warm.train.init_from = str(folder / "earlier")
    warm.eval.every_epochs = 1
    by_name = {"cold": cold, "warm": train_and_evaluate(warm, folder / "warm")}
    found = {name: {"steps": run["step"], **run["test"]} for name, run in by_name.items()}
    print(json.dumps({"new_items": n_new, **found}))


def _write(path: pathlib.Path, data: Interactions) -> None:
    users = np.repeat(data.user_ids, np.diff(data.matrix.indptr)).tolist()
    items = data.item_ids[data.matrix.indices].tolist()
    rows = "".join(f"{user},{item}\n" for user, item in zip(users, items, strict=True))
    write_text(path, "user_id,item_id\n" + rows)


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"))
