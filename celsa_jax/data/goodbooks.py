"""Goodbooks-10k, both releases (Zygmunt Zając, CC BY-SA 4.0)."""

from __future__ import annotations

import numpy as np

from celsa_jax.data.download import Archive
from celsa_jax.data.readers import Columns, Ratings, read_ratings
from celsa_jax.data.tables import (
    AnyPath,
    as_path,
    column_names,
    find,
    find_optional,
    read_text_columns,
)
from celsa_jax.errors import InputError

# The publisher gives neither a checksum nor a size; the archive's own CRCs are checked.
ARCHIVE = Archive(
    "https://github.com/zygmuntz/goodbooks-10k/releases/download/v1.0/goodbooks-10k.zip",
    ("ratings.csv", "to_read.csv", "books.csv"),
)
FILES = ("ratings.csv", "to_read.csv", "books.csv", "book_genres.csv")


def read_goodbooks(path: AnyPath, books: str = "") -> tuple[Ratings, dict[str, np.ndarray]]:
    """Ratings and books of a folder or an archive; of a ratings file, its ratings alone.

    The first release (ratings.csv starts with book_id) limits each book to 100 ratings; there
    a to-read mark counts as a positive, too. Genres are read from `book_genres.csv`, which
    neither release has, where it lies beside the others.

    Args:
      path: where the files are.
      books: another books.csv.
    """
    columns = Columns(user="user_id", item="book_id")
    books_path = as_path(books) if books else None
    is_folder = path.is_dir()
    ratings_path = find(path, "ratings.csv") if is_folder else path
    ratings = read_ratings(ratings_path, columns)
    if is_folder:
        to_read = find_optional(path, "to_read.csv")
        if to_read and column_names(ratings_path)[0] == "book_id":
            if ratings.ratings is None:
                raise InputError(f"{ratings_path}: no column 'rating'")
            ratings = _with_marks(ratings, read_ratings(to_read, columns))
        books_path = books_path or find_optional(path, "books.csv")
    if not books_path:
        return ratings, {}
    item = "id" if "id" in column_names(books_path) else "book_id"
    table = read_text_columns(books_path, [item, "title", "authors"])
    metadata = {"item_id": table.pop(item), **table}
    genres = find_optional(path, "book_genres.csv") if is_folder else None
    if genres:
        table = read_text_columns(genres, ["book_id", "genres"])
        by_item = dict(zip(table["book_id"].tolist(), table["genres"].tolist(), strict=True))
        found = [by_item.get(item, "") for item in metadata["item_id"].tolist()]
        metadata["genres"] = np.array(found, object)
    return ratings, metadata


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
