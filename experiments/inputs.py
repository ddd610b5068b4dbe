"""Flags of what programs read, and the reading of it.

A program defines the groups that it reads, so that flags of the others are unknown to it.
"""

from __future__ import annotations

import functools
import logging
import pathlib

import numpy as np
import scipy.sparse as sp
from absl import flags
from ml_collections import ConfigDict, config_flags

from celsa_jax.data.datasets import filter_ratings
from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.data.metadata import Metadata, read_metadata
from celsa_jax.data.readers import Columns, read_ratings
from celsa_jax.data.splits import read_parts, read_split, same_data
from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings, bytes_per_item, load_embeddings
from celsa_jax.sparse.embeddings import is_saved
from celsa_jax.sparse.npz import read_item_ids

FLAGS = flags.FLAGS
_log = logging.getLogger("celsa_jax.inputs")
flags.disclaim_key_flags()  # --help shows them with the program that defines them


# Cached, so that two programs can be imported into one process.
@functools.cache
def define_config() -> None:
    config_flags.DEFINE_config_file("config", help_string="Configuration file.")


@functools.cache
def define_run() -> None:
    define_config()
    flags.DEFINE_string("workdir", None, "Folder of the run, or of the runs.")


def check_split(config: ConfigDict) -> None:
    """InputError unless users are split, and by the seed alone."""
    if config.data.split == "temporal" or config.train.init_from:
        raise InputError("this takes config.data.split=users, and no config.train.init_from")


@functools.cache
def define_embeddings() -> None:
    flags.DEFINE_string(
        "embeddings", None, "Items x factors: a file of experiments.export, or .npz, or .npy."
    )
    flags.DEFINE_string(
        "items", None, "For .npz and .npy: item ids, one a line; items.txt beside them by default."
    )


@functools.cache
def define_interactions() -> None:
    flags.DEFINE_string("interactions", None, "CSV, TSV, parquet or CSR .npz.")
    define_users()


@functools.cache
def define_users() -> None:
    """What `read_users` reads of a file of interactions."""
    flags.DEFINE_float("min_rating", None, "Ratings from here on are positives.")
    for name, least in (("user", 1), ("item", 0)):
        text = f"{name.capitalize()}s with fewer positives are left out."
        flags.DEFINE_integer(f"min_{name}_interactions", least, text, lower_bound=0)
    flags.DEFINE_string("split", None, "split.npz of a run: its test users alone.")
    for name in ("user", "item"):
        flags.DEFINE_string(f"{name}_column", f"{name}_id", "Column of the interactions.")
    flags.DEFINE_string("rating_column", "rating", "Column of the interactions; empty for none.")


@functools.cache
def define_metadata() -> None:
    flags.DEFINE_list("metadata", [], "Tables of items: CSV, TSV or parquet.")
    flags.DEFINE_list("id_column", ["item_id"], "Column of item ids, one or one a table.")
    flags.DEFINE_list("text_columns", [], "Columns to read: the title first, then others.")
    flags.DEFINE_list(
        "shown_columns", [], "Columns to show beside these, but to draw no names from: year, image."
    )
    flags.DEFINE_string("encoding", "utf-8", "Of the tables in CSV and TSV.")


def read_item_metadata(item_ids: np.ndarray) -> tuple[Metadata, Metadata]:
    """What the flags name of a catalogue: --text_columns, and with --shown_columns beside them."""
    names = list(dict.fromkeys([*FLAGS.text_columns, *FLAGS.shown_columns]))
    shown = read_metadata(FLAGS.metadata, FLAGS.id_column, names, item_ids, FLAGS.encoding)
    return Metadata({name: shown.columns[name] for name in FLAGS.text_columns}, shown.counts), shown


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
) -> tuple[sp.spmatrix | np.ndarray, np.ndarray, dict[str, float]]:
    """Any embeddings in float32 (sparse or dense), their item ids, and by name their size."""
    if is_saved(pathlib.Path(path)):
        embeddings = read_sparse(path, items)
        size = {"stored_bytes_per_item": embeddings.stored_bytes_per_item}
        return embeddings.tocsr(), embeddings.item_ids, size
    matrix, item_ids, _ = load_embeddings(path, items)
    return matrix, item_ids, {"bytes_per_item": bytes_per_item(matrix)}


def read_sparse(path: str, items: str | None) -> SparseEmbeddings:
    """Embeddings to serve from; the ids of --items must be those that a file brings itself."""
    embeddings = SparseEmbeddings.load(path, items)
    if items is not None and not np.array_equal(read_item_ids(items), embeddings.item_ids):
        raise InputError(f"--items={items}: not the ids of {path}, which brings its own")
    return embeddings


def read_users(item_ids: np.ndarray, path: str) -> tuple[Interactions, dict[str, int]]:
    """The users of an interactions file behind all filters, and what was dropped.

    Raises:
      InputError: none of their items is in the catalogue; a filter that the file has no column for.
    """
    users, counts = read_everyone(path)
    return take_split(users, counts, item_ids, path), counts


def draw_histories(item_ids: np.ndarray, n_users: int) -> sp.csr_matrix:
    """CSR [n_users at most, n_items]: histories of --interactions, drawn, none empty."""
    users, _ = read_users(item_ids, FLAGS.interactions)
    histories = users.onto(item_ids)
    histories = histories[histories.getnnz(axis=1) > 0]
    return histories[np.random.default_rng(0).permutation(histories.shape[0])[:n_users]]


def read_everyone(path: str) -> tuple[Interactions, dict[str, int]]:
    """As `read_users`, whatever --split and the catalogue."""
    columns = Columns(FLAGS.user_column, FLAGS.item_column, FLAGS.rating_column)
    ratings = read_ratings(path, columns)
    if FLAGS.min_rating is not None and ratings.ratings is None:
        raise InputError(
            f"--min_rating: {path} has no column '{columns.rating}'; "
            "name it with --rating_column, or leave --min_rating out"
        )
    if FLAGS.min_rating is None and ratings.ratings is not None and not ratings.fixed_items:
        _log.warning(
            "%s has ratings, and each counts as a positive; training takes those from 4 on unless "
            "it is told otherwise: --min_rating=4",
            path,
        )
    least = -np.inf if FLAGS.min_rating is None else FLAGS.min_rating
    of_user, of_item = FLAGS.min_user_interactions, FLAGS.min_item_interactions
    return filter_ratings(ratings, least, of_user, path, of_item)


def take_split(
    users: Interactions, counts: dict[str, int], item_ids: np.ndarray, path: str
) -> Interactions:
    """The test users of --split, all without; adds to the counts how many the file lacks."""
    if FLAGS.split:
        if not same_data(read_split(FLAGS.split), users.digest()):
            _log.warning("%s is of other data than %s behind these filters", FLAGS.split, path)
        rows = lookup(users.user_ids, read_parts(FLAGS.split)["test"])
        counts["split_users_not_in_file"] = int((rows < 0).sum())
        users = users.take_users(rows[rows >= 0])
        if not users.n_users:
            raise InputError(f"--split={FLAGS.split}: none of its test users is in {path}")
    if not np.isin(users.item_ids, item_ids).any():
        raise InputError(f"no item of {path} is in the catalogue; are these the same ids?")
    return users
