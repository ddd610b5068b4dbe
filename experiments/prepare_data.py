r"""Prepares a data set once, so that every run on it starts at once.

    python -m experiments.prepare_data --config=configs/ml_20m.py --config.data.data_dir=data \
        [--config.data.path=ml-20m.zip]
    python -m experiments.train --config=configs/ml_20m.py --config.data.data_dir=data \
        --workdir=runs/ml-20m

Of the configuration `data` alone is used; docs/data.md says where its files may be. The last line
printed is one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json
import time

import numpy as np
from absl import flags

from celsa_jax.config import validate
from celsa_jax.data.datasets import dataset_of
from celsa_jax.errors import InputError
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_config()


def main() -> None:
    started = time.perf_counter()
    validate(FLAGS.config)
    config = FLAGS.config.data
    if config.name == "synthetic":
        raise InputError("config.data.name is synthetic, which is made anew; name a data set")
    dataset = dataset_of(config)
    if dataset.folder is None:
        raise InputError(f"config.data.data_dir={config.data_dir}: cannot be written to")
    described = np.isin(dataset.interactions.item_ids, dataset.metadata.get("item_id", []))
    report = {
        **dataset.counts,
        "items_with_metadata": int(described.sum()),
        "times": dataset.interactions.times is not None,
        "folder": str(dataset.folder),
        "seconds": round(time.perf_counter() - started, 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    cli.run(main, required=("config",))
