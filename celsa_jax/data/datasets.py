"""Known data sets and the user's own files, filtered into interactions."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.data import movielens, readers
from celsa_jax.data.interactions import Interactions
from celsa_jax.data.readers import Columns, Ratings
from celsa_jax.data.synthetic import PlantedSegments, synthetic
from celsa_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Interactions with what is known beside them.

    Attributes:
      interactions: users x items after the filters.
      metadata: text columns about items, `item_id` first; empty where there are none.
      counts: rows read, kept, and dropped by reason.
      truth: the planted segments of synthetic data.
    """

    interactions: Interactions
    metadata: dict[str, np.ndarray]
    counts: dict[str, int]
    truth: PlantedSegments | None = None


def load_dataset(config: ConfigDict, seed: int = 0) -> Dataset:
    """Loads `config.data`; InputError where files or fields are at fault.

    Args:
      config: the section `data` (see `celsa_jax.config.default_config`).
      seed: for synthetic data.
    """
    if config.name not in DATASETS:
        raise InputError(
            f"config.data.name is '{config.name}'; choose one of {', '.join(sorted(DATASETS))}"
        )
    needs_path = config.name in ("file", "goodbooks")
    if needs_path and not config.path:
        raise InputError("config.data.path is empty; give the interactions file or folder")
    if config.items_path and not needs_path:
        raise InputError(f"config.data.items_path is not used with data.name={config.name}")
    return DATASETS[config.name](config, seed)


def filter_ratings(
    ratings: Ratings, min_rating: float, min_user_interactions: int, where: str
) -> tuple[Interactions, dict[str, int]]:
    """Ratings first, then each pair once, then users with enough interactions.

    Where the file has no ratings, every row counts as positive.
    """
    positive = np.ones(len(ratings.users), bool)
    if ratings.ratings is not None:
        positive = ratings.ratings >= min_rating
    interactions, repeated = Interactions.from_pairs(
        ratings.users[positive], ratings.items[positive], ratings.user_ids, ratings.item_ids
    )
    enough = interactions.matrix.getnnz(axis=1) >= min_user_interactions
    kept = interactions.take_users(enough).drop_unused_items()
    if not kept.nnz:
        raise InputError(
            f"{where}: no rows left: {len(positive)} read, {int(positive.sum())} with a rating of "
            f"at least {min_rating:g}, no user with {min_user_interactions} of them; "
            "lower min_rating or min_user_interactions"
        )
    return kept, {
        "rows": len(positive),
        "dropped_below_min_rating": int((~positive).sum()),
        "dropped_repeated_pairs": repeated,
        "dropped_users_with_too_few": int((~enough).sum()),
        "dropped_rows_of_those_users": interactions.nnz - kept.nnz,
        "users": kept.n_users,
        "items": kept.n_items,
        "interactions": kept.nnz,
    }


def _file(config: ConfigDict, seed: int) -> Dataset:
    columns = Columns(config.user_column, config.item_column, config.rating_column)
    return _filtered(readers.read_ratings(config.path, columns), config, _own_metadata(config))


def _own_metadata(config: ConfigDict) -> dict[str, np.ndarray]:
    """`items_path` of the user's own data: the item column and a title column."""
    if not config.items_path:
        return {}
    names = [config.item_column, config.title_column]
    table = readers.read_text_columns(config.items_path, names)
    return {"item_id": table[names[0]], "title": table[names[1]]}


def _goodbooks(config: ConfigDict, seed: int) -> Dataset:
    """Goodbooks-10k: ratings.csv, or a folder with the publisher's files.

    The first release (ratings.csv starts with book_id) limits each book to 100 ratings; there
    a to-read mark counts as a positive, too.
    """
    path = pathlib.Path(config.path)
    columns = Columns(user="user_id", item="book_id")
    ratings_path = _find(path, "ratings.csv") if path.is_dir() else path
    ratings = readers.read_ratings(ratings_path, columns)
    books = config.items_path
    if path.is_dir():
        to_read = _find(path, "to_read.csv", required=False)
        if to_read and readers.header(ratings_path)[0] == "book_id":
            if ratings.ratings is None:
                raise InputError(f"{ratings_path}: no column 'rating'")
            ratings = _with_marks(ratings, readers.read_ratings(to_read, columns))
        books = books or _find(path, "books.csv", required=False)
    metadata = {}
    if books:
        item = "id" if "id" in readers.header(pathlib.Path(books)) else "book_id"
        table = readers.read_text_columns(books, [item, "title", "authors"])
        metadata = {"item_id": table.pop(item), **table}
    return _filtered(ratings, config, metadata)


def _with_marks(ratings: Ratings, marks: Ratings) -> Ratings:
    """Both files' rows over common ids; a mark has an infinitely good rating."""
    user_ids = np.unique(np.concatenate([ratings.user_ids, marks.user_ids]))
    item_ids = np.unique(np.concatenate([ratings.item_ids, marks.item_ids]))

    def codes(ids: np.ndarray, all_ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(all_ids, ids).astype(np.int32)[rows]

    return Ratings(
        np.concatenate([codes(r.user_ids, user_ids, r.users) for r in (ratings, marks)]),
        np.concatenate([codes(r.item_ids, item_ids, r.items) for r in (ratings, marks)]),
        user_ids,
        item_ids,
        np.concatenate([ratings.ratings, np.full(len(marks.users), np.inf)]),
    )


def _ml_100k(config: ConfigDict, seed: int) -> Dataset:
    """The publisher's folder, zip or u.data, another ratings file, or the fetched copy."""
    path = pathlib.Path(config.path) if config.path else movielens.fetch_ml_100k()
    if path.name == "u.data":
        path = path.parent
    if path.suffix == ".zip" or (path / "u.data").exists():
        rows, items = movielens.read_grouplens(path)
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        user_ids, users = np.unique(columns[0], return_inverse=True)
        item_ids, codes = np.unique(columns[1], return_inverse=True)
        ratings = Ratings(users, codes, user_ids, item_ids, columns[2].astype(np.float64))
        names = ("item_id", "title", "genres")
        metadata = {n: np.array(c) for n, c in zip(names, zip(*items, strict=True), strict=True)}
    elif path.is_dir():
        ratings = readers.read_ratings(_find(path, "ratings.csv"))
        names = ["item_id", "title", "genres"]
        metadata = readers.read_text_columns(_find(path, "items.csv"), names)
    else:
        ratings, metadata = readers.read_ratings(path), {}
    return _filtered(ratings, config, metadata)


def _synthetic(config: ConfigDict, seed: int) -> Dataset:
    interactions, metadata, truth = synthetic(**config.synthetic, seed=seed)
    counts = {
        "users": interactions.n_users,
        "items": interactions.n_items,
        "interactions": interactions.nnz,
    }
    return Dataset(interactions, metadata, counts, truth)


def _filtered(ratings: Ratings, config: ConfigDict, metadata: dict[str, np.ndarray]) -> Dataset:
    interactions, counts = filter_ratings(
        ratings, config.min_rating, config.min_user_interactions, config.path or config.name
    )
    return Dataset(interactions, metadata, counts)


def _find(folder: pathlib.Path, name: str, required: bool = True) -> pathlib.Path | None:
    """The file `name` in a folder, plain, .zip or .gz."""
    for suffix in ("", ".zip", ".gz"):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    if required:
        raise InputError(f"{folder}: no {name} (nor {name}.zip, {name}.gz) in this folder")
    return None


DATASETS: dict[str, Callable[[ConfigDict, int], Dataset]] = {
    "file": _file,
    "goodbooks": _goodbooks,
    "ml-100k": _ml_100k,
    "synthetic": _synthetic,
}
