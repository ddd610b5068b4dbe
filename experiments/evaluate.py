r"""Scores item embeddings on interactions; every user in the file is a test user.

    python -m experiments.evaluate --embeddings=embeddings.npz --items=items.txt \
        --interactions=ratings.csv [--min_rating=4] [--folds=disjoint] [--normalize] \
        [--split=split.npz]

Embeddings are any SciPy sparse .npz or NumPy .npy, items x factors, rows in the order of the
items file, taken as given unless --normalize. Every row of the interactions is a positive
unless --min_rating is given. The last line printed is one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json

import numpy as np
import scipy.sparse as sp
from absl import flags

from celsa_jax.data.datasets import filter_ratings
from celsa_jax.data.interactions import lookup
from celsa_jax.data.readers import Columns, read_ratings
from celsa_jax.data.splits import read_parts
from celsa_jax.errors import InputError
from celsa_jax.evaluation import FOLD_KINDS, evaluate
from celsa_jax.sparse import bytes_per_item, load_embeddings, scorer
from experiments import cli

_EMBEDDINGS = flags.DEFINE_string("embeddings", None, "Items x factors, .npz or .npy.")
_ITEMS = flags.DEFINE_string("items", None, "External item ids, one a line, in row order.")
_INTERACTIONS = flags.DEFINE_string("interactions", None, "CSV, TSV, parquet or CSR .npz.")
_FOLDS = flags.DEFINE_enum("folds", "disjoint", FOLD_KINDS, "How interactions are held out.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the folds.")
_MIN_RATING = flags.DEFINE_float("min_rating", None, "Ratings from here on are positives.")
_MIN_INTERACTIONS = flags.DEFINE_integer(
    "min_user_interactions", 1, "Users with fewer positives are left out."
)
_NORMALIZE = flags.DEFINE_boolean("normalize", False, "Scale the rows to unit length first.")
_SPLIT = flags.DEFINE_string("split", None, "split.npz of a run: its test users alone.")
_USER = flags.DEFINE_string("user_column", "user_id", "Column of the interactions.")
_ITEM = flags.DEFINE_string("item_column", "item_id", "Column of the interactions.")
_RATING = flags.DEFINE_string("rating_column", "rating", "Column of the interactions.")


def main() -> None:
    embeddings, item_ids = load_embeddings(_EMBEDDINGS.value, _ITEMS.value)
    if _NORMALIZE.value:
        embeddings = normalize_rows(embeddings)
    ratings = read_ratings(_INTERACTIONS.value, Columns(_USER.value, _ITEM.value, _RATING.value))
    if _MIN_RATING.value is not None and ratings.ratings is None:
        raise InputError(
            f"--min_rating: {_INTERACTIONS.value} has no column '{_RATING.value}'; "
            "name it with --rating_column, or leave --min_rating out"
        )
    least = -np.inf if _MIN_RATING.value is None else _MIN_RATING.value
    users, counts = filter_ratings(ratings, least, _MIN_INTERACTIONS.value, _INTERACTIONS.value)
    if _SPLIT.value:
        rows = lookup(users.user_ids, read_parts(_SPLIT.value)["test"])
        counts["split_users_not_in_file"] = int((rows < 0).sum())
        users = users.take_users(rows[rows >= 0])
    if not np.isin(users.item_ids, item_ids).any():
        raise InputError(
            f"no item of {_INTERACTIONS.value} is in {_ITEMS.value}; are these the same ids?"
        )
    result = evaluate(scorer(embeddings), users, item_ids, folds=_FOLDS.value, seed=_SEED.value)
    if not result.counts["n_users"]:
        raise InputError(
            f"no user of {_INTERACTIONS.value} can be evaluated: it takes one with both an item "
            "held out and one left in the history, and, with --split, its test users"
        )
    print(
        json.dumps(
            {
                **result.summary(),
                **result.counts,
                **counts,
                "bytes_per_item": bytes_per_item(embeddings),
                "folds": _FOLDS.value,
                "seed": _SEED.value,
            },
            allow_nan=False,
        )
    )


def normalize_rows(embeddings: sp.spmatrix | np.ndarray) -> sp.spmatrix | np.ndarray:
    """Unit rows; rows of zeros stay."""
    if sp.issparse(embeddings):
        norms = sp.linalg.norm(embeddings, axis=1)
        scale = sp.diags_array(1 / np.where(norms > 0, norms, 1), dtype=np.float32)
        return (scale @ embeddings).tocsc()
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(norms > 0, norms, 1)


if __name__ == "__main__":
    cli.run(main, required=("embeddings", "items", "interactions"))
