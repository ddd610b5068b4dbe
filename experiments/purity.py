r"""How far the groups of a run on synthetic data are the segments that were planted.

    python -m experiments.train --config=configs/synthetic.py --workdir=runs/synthetic \
        --config.model.start=clusters --config.model.n_factors=512
    python -m experiments.purity --workdir=runs/synthetic

Groups are those of celsa_jax.segments.extract, before merging and without metadata; purity is over
groups of three or more items, beside random groups of the same sizes. The last line printed is
one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from celsa_jax.config import seed_of
from celsa_jax.data.datasets import load_dataset
from celsa_jax.data.interactions import lookup
from celsa_jax.errors import InputError
from celsa_jax.segments import extract
from celsa_jax.segments.coherence import purity
from celsa_jax.sparse import load_embeddings
from experiments import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run on synthetic data.")


def main() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        config = ConfigDict(json.loads((workdir / "config.json").read_text(encoding="utf-8")))
        truth = load_dataset(config.data, seed_of(config, "split")).truth
    except OSError as error:
        raise InputError(f"--workdir={workdir}: {error.strerror}: {error.filename}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{workdir / 'config.json'}: not a run's: {error}") from None
    if truth is None:
        raise InputError(f"--workdir={workdir}: a run on {config.data.name}, not on synthetic data")
    embeddings, item_ids = load_embeddings(workdir / "embeddings.npz")
    groups = extract(embeddings)
    rows = lookup(truth.item_ids, item_ids)
    if (rows < 0).any():
        raise InputError(
            f"{workdir / 'items.txt'}: '{item_ids[np.argmin(rows)]}' is no item of the data of "
            f"{workdir / 'config.json'}; give the folder of one run, as training left it"
        )
    primary = truth.primary[rows]
    found, n_items = purity(groups.of_item, primary)
    random, _ = purity(np.random.default_rng(config.seed).permutation(groups.of_item), primary)
    report = {
        "n_groups": len(groups.pairs),
        "n_groups_of_three": int((groups.sizes >= 3).sum()),
        "items_in_these": n_items,
        "purity": found,
        "purity_random": random,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    cli.run(main, required=("workdir",))
