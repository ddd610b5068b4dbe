r"""Scores item embeddings on interactions; every user in the file is a test user.

    python -m experiments.evaluate --embeddings=embeddings.npz --items=items.txt \
        --interactions=ratings.csv [--min_rating=4] [--folds=disjoint] [--normalize] \
        [--split=split.npz] [--reference=other.npz]

Embeddings are a file of experiments.export (but parquet), or any SciPy sparse .npz or NumPy .npy,
items x factors, rows in the order of the items file. Every row of the interactions is a positive
unless --min_rating is given. `loss` holds, by metric, what experiments.compare gives of the file
(a) and of --reference (b). The last line printed is one JSON object. No JAX.
"""

from __future__ import annotations

import json
import logging

import numpy as np
import scipy.sparse as sp
from absl import flags
from sklearn.preprocessing import normalize

from celsa_jax.errors import InputError
from celsa_jax.evaluation import FOLD_KINDS, evaluate
from celsa_jax.evaluation.paired import compare
from celsa_jax.sparse import scorer
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_interactions()
_FOLDS = flags.DEFINE_enum("folds", "disjoint", FOLD_KINDS, "How interactions are held out.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the folds.")
_NORMALIZE = flags.DEFINE_boolean("normalize", False, "Scale the rows to unit length first.")
_REFERENCE = flags.DEFINE_string("reference", None, "Embeddings to compare with.")


def main() -> None:
    embeddings, item_ids, size = read(FLAGS.embeddings)
    users, counts = inputs.read_users(item_ids, FLAGS.interactions)
    if not FLAGS.split:
        log = logging.getLogger("celsa_jax.evaluate")
        log.warning("every user is judged; if some were trained on, give the run's --split")
    settings = {"folds": _FOLDS.value, "seed": _SEED.value}
    result = evaluate(scorer(embeddings), users, item_ids, **settings)
    if not result.counts["n_users"]:
        raise InputError(
            f"no user of {FLAGS.interactions} can be evaluated: it takes one with both an "
            "item held out and one left in the history, and, with --split, its test users"
        )
    report = {**result.summary(), **result.counts, **counts, **size, **settings}
    if _REFERENCE.value:
        other, other_ids, _ = read(_REFERENCE.value)
        if not np.array_equal(other_ids, item_ids):
            raise InputError(f"--reference={_REFERENCE.value}: other items, or in another order")
        reference = evaluate(scorer(other), users, item_ids, **settings)
        if min(result.counts["n_users"], reference.counts["n_users"]) > 1:
            report["loss"] = {
                name: compare(result, reference, name, _SEED.value) for name in result.per_user
            }
    print(json.dumps(report, allow_nan=False))


def read(path: str) -> tuple[sp.spmatrix | np.ndarray, np.ndarray, dict[str, float]]:
    """As `inputs.read_embeddings`, with rows of unit length if --normalize says so."""
    embeddings, item_ids, size = inputs.read_embeddings(path, FLAGS.items)
    return normalize(embeddings) if _NORMALIZE.value else embeddings, item_ids, size


if __name__ == "__main__":
    cli.run(main, required=("embeddings", "interactions"))
