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

import numpy as np
from absl import flags

from celsa_jax.config import seed_of
from celsa_jax.data.datasets import load_dataset
from celsa_jax.data.interactions import lookup
from celsa_jax.errors import InputError
from celsa_jax.segments import extract
from celsa_jax.segments.coherence import purity
from celsa_jax.sparse import load_embeddings
from celsa_jax.workdir import Workdir
from experiments import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run on synthetic data.")


def main() -> None:
    run = Workdir(_WORKDIR.value)
    config = run.stored_config()
    truth = load_dataset(config.data, seed_of(config, "split")).truth
    if truth is None:
        raise InputError(
            f"--workdir={run.path}: a run on {config.data.name}, not on synthetic data"
        )
    embeddings, item_ids = load_embeddings(run.embeddings)
    groups = extract(embeddings)
    rows = lookup(truth.item_ids, item_ids)
    if (rows < 0).any():
        raise InputError(
            f"{run.path}: item '{item_ids[np.argmin(rows)]}' is no item of the data of "
            f"{run.config}; give the folder of one run, as training left it"
        )
    primary = truth.primary[rows]
    share, n_items = purity(groups.of_item, primary)
    random, _ = purity(np.random.default_rng(config.seed).permutation(groups.of_item), primary)
    report = {
        "n_groups": len(groups.pairs),
        "n_groups_of_three": int((groups.sizes >= 3).sum()),
        "items_in_these": n_items,
        "purity": share,
        "purity_random": random,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    cli.run(main, required=("workdir",))
