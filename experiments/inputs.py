"""Flags and readers that the programs around exported embeddings share."""

from __future__ import annotations

import pathlib

import numpy as np
import scipy.sparse as sp
from absl import flags

from celsa_jax.data.datasets import filter_ratings
from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.data.readers import Columns, read_ratings
from celsa_jax.data.splits import read_parts
from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings, bytes_per_item, load_embeddings
from celsa_jax.sparse.embeddings import is_saved
from celsa_jax.sparse.npz import read_item_ids

EMBEDDINGS = flags.DEFINE_string(
    "embeddings", None, "Items x factors: a file of experiments.export, or .npz, or .npy."
)
ITEMS = flags.DEFINE_string(
    "items", None, "For .npz and .npy: item ids, one a line; items.txt beside them by default."
)
INTERACTIONS = flags.DEFINE_string("interactions", None, "CSV, TSV, parquet or CSR .npz.")
MIN_RATING = flags.DEFINE_float("min_rating", None, "Ratings from here on are positives.")
MIN_INTERACTIONS = flags.DEFINE_integer(
    "min_user_interactions", 1, "Users with fewer positives are left out."
)
SPLIT = flags.DEFINE_string("split", None, "split.npz of a run: its test users alone.")
_USER = flags.DEFINE_string("user_column", "user_id", "Column of the interactions.")
_ITEM = flags.DEFINE_string("item_column", "item_id", "Column of the interactions.")
_RATING = flags.DEFINE_string("rating_column", "rating", "Column of the interactions.")


def check_output(output: pathlib.Path, *read: str | pathlib.Path | None) -> None:
    """InputError for a file to write whose folder is missing, or that is one of those to read."""
    if not output.parent.is_dir():
        raise InputError(f"--output={output}: the folder {output.parent} does not exist")
    if output.is_dir():
        raise InputError(f"--output={output} is a folder; give a file")
    for path in read:
        if path and output.exists() and pathlib.Path(path).exists() and output.samefile(path):
            raise InputError(f"--output={output} would overwrite what is read; give another file")


def read_embeddings(
    path: str, items: str | None
) -> tuple[sp.csc_matrix | np.ndarray, np.ndarray, float]:
    """Any embeddings in float32 (CSC or dense), their item ids, and stored bytes an item."""
    if is_saved(pathlib.Path(path)):
        embeddings = read_sparse(path, items)
        return embeddings.tocsc(), embeddings.item_ids, embeddings.bytes_per_item
    matrix, item_ids = load_embeddings(path, items)
    return matrix, item_ids, bytes_per_item(matrix)


def read_sparse(path: str, items: str | None) -> SparseEmbeddings:
    """Embeddings to serve from; the ids of --items must be those that a file brings itself."""
    if not is_saved(pathlib.Path(path)):
        return SparseEmbeddings.load(path, items)
    embeddings = SparseEmbeddings.load(path)
    if items is not None and not np.array_equal(read_item_ids(items), embeddings.item_ids):
        raise InputError(f"--items={items}: not the ids of {path}, which brings its own")
    return embeddings


def read_users(item_ids: np.ndarray, path: str) -> tuple[Interactions, dict[str, int]]:
    """The users of an interactions file behind all filters, and what was dropped.

    Raises:
      InputError: none of their items is in the catalogue; a filter that the file has no column for.
    """
    ratings = read_ratings(path, Columns(_USER.value, _ITEM.value, _RATING.value))
    if MIN_RATING.value is not None and ratings.ratings is None:
        raise InputError(
            f"--min_rating: {path} has no column '{_RATING.value}'; "
            "name it with --rating_column, or leave --min_rating out"
        )
    least = -np.inf if MIN_RATING.value is None else MIN_RATING.value
    users, counts = filter_ratings(ratings, least, MIN_INTERACTIONS.value, path)
    if SPLIT.value:
        rows = lookup(users.user_ids, read_parts(SPLIT.value)["test"])
        counts["split_users_not_in_file"] = int((rows < 0).sum())
        users = users.take_users(rows[rows >= 0])
        if not users.n_users:
            raise InputError(f"--split={SPLIT.value}: none of its test users is in {path}")
    if not np.isin(users.item_ids, item_ids).any():
        raise InputError(f"no item of {path} is in the catalogue; are these the same ids?")
    return users, counts
