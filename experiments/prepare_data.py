r"""Prepares a data set once, so that every run on it starts at once.

    python -m experiments.prepare_data --dataset=ml-20m --data_dir=data
    python -m experiments.prepare_data --dataset=netflix --data_dir=data --source=archive.zip
    python -m experiments.train --config=configs/ml_20m.py --config.data.data_dir=data \
        --workdir=runs/ml-20m

Reads the publisher's files (--source: the folder, the archive as downloaded, or for --dataset=file
your own interactions), or downloads them into --data_dir/NAME. What is left after the filters is
written to --data_dir/prepared and mapped into memory by every run with the same source and
filters. The last line printed is one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json
import time

from absl import flags

from celsa_jax.config import default_config
from celsa_jax.data.datasets import DATASETS, load_dataset
from celsa_jax.errors import InputError
from experiments import cli

_NAMES = sorted(name for name, known in DATASETS.items() if known)
_DATASET = flags.DEFINE_enum("dataset", None, _NAMES, "Which data set.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where to keep downloads and prepared data.")
_SOURCE = flags.DEFINE_string("source", "", "The publisher's folder or archive, or your file.")
_MIN_RATING = flags.DEFINE_float("min_rating", 4.0, "Ratings from here on are positives.")
_MIN_INTERACTIONS = flags.DEFINE_integer(
    "min_user_interactions", 5, "Users with fewer positives are left out.", lower_bound=0
)
_ITEMS = flags.DEFINE_string("items", "", "Item metadata of your own file.")
_OWN_COLUMNS = {
    name: flags.DEFINE_string(f"{name}_column", default, "Column of your own file.")
    for name, default in (
        ("user", "user_id"),
        ("item", "item_id"),
        ("rating", "rating"),
        ("title", "title"),
        ("time", ""),
    )
}


def main() -> None:
    started = time.perf_counter()
    config = default_config().data
    config.name, config.path = _DATASET.value, _SOURCE.value
    config.data_dir, config.items_path = _DATA_DIR.value, _ITEMS.value
    config.min_rating = _MIN_RATING.value
    config.min_user_interactions = _MIN_INTERACTIONS.value
    for name, flag in _OWN_COLUMNS.items():
        if flag.value != flag.default and config.name != "file":
            raise InputError(f"--{name}_column is for --dataset=file; {config.name} has its own")
        config[f"{name}_column"] = flag.value or config[f"{name}_column"]
    if _OWN_COLUMNS["time"].value:
        config.split = "temporal"
    dataset = load_dataset(config)
    if dataset.folder is None:
        raise InputError(f"--data_dir={_DATA_DIR.value}: cannot be written to")
    counts = dict(dataset.counts)
    report = {name: counts.pop(name) for name in ("users", "items", "interactions")}
    dropped = {n.removeprefix("dropped_"): c for n, c in counts.items() if n.startswith("dropped_")}
    report |= {
        "dropped": dropped,
        "rows": counts["rows"],
        "items_with_metadata": _n_described(dataset),
        "times": dataset.interactions.times is not None,
        "folder": str(dataset.folder),
        "seconds": round(time.perf_counter() - started, 3),
    }
    print(json.dumps(report))


def _n_described(dataset) -> int:
    known = set(dataset.metadata.get("item_id", ()))
    return sum(item in known for item in dataset.interactions.item_ids.tolist())


if __name__ == "__main__":
    cli.run(main, required=("dataset", "data_dir"))
