"""Goodbooks-10k, both releases (Zygmunt Zając, CC BY-SA 4.0)."""

from __future__ import annotations

import numpy as np

from celsa_jax.data.download import Archive
from celsa_jax.data.readers import Columns, Ratings, read_ratings
from celsa_jax.data.tables import AnyPath, column_names, find, find_optional, read_text_columns
from celsa_jax.errors import InputError

# The publisher gives no checksum; the archive's own CRCs are checked.
ARCHIVE = Archive(
    "https://github.com/zygmuntz/goodbooks-10k/releases/download/v1.0/goodbooks-10k.zip"
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
    columns = Columns(item="book_id")
    if not path.is_dir():
        return read_ratings(path, columns), _read_books(books) if books else {}
    ratings_path, marks_path = find(path, "ratings.csv"), find_optional(path, "to_read.csv")
    ratings = read_ratings(ratings_path, columns)
    if marks_path and column_names(ratings_path)[0] == "book_id":
        if ratings.ratings is None:
            raise InputError(f"{ratings_path}: no column 'rating'")
        ratings = _with_marks(ratings, read_ratings(marks_path, columns))
    books_path = books or find_optional(path, "books.csv")
    if not books_path:
        return ratings, {}
    return ratings, _read_books(books_path, find_optional(path, "book_genres.csv"))


def _read_books(path: str | AnyPath, genres: AnyPath | None = None) -> dict[str, np.ndarray]:
    item = "id" if "id" in column_names(path) else "book_id"
    table = read_text_columns(path, [item, "title", "authors"])
    books = {"item_id": table.pop(item), **table}
    if genres:
        table = read_text_columns(genres, ["book_id", "genres"])
        by_item = dict(zip(*(column.tolist() for column in table.values()), strict=True))
        cells = [by_item.get(item, "") for item in books["item_id"].tolist()]
        books["genres"] = np.array(cells, object)
    return books


def _with_marks(ratings: Ratings, marks: Ratings) -> Ratings:
    """Both files' rows over common ids; a mark has an infinitely good rating."""
    users, user_ids = _joined(ratings.users, ratings.user_ids, marks.users, marks.user_ids)
    items, item_ids = _joined(ratings.items, ratings.item_ids, marks.items, marks.item_ids)
    values = np.concatenate([ratings.ratings, np.full(len(marks.users), np.inf)])
    return Ratings(users, items, user_ids, item_ids, values)


def _joined(
    codes: np.ndarray, ids: np.ndarray, other_codes: np.ndarray, other_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    all_ids, place = np.unique(np.concatenate([ids, other_ids]), return_inverse=True)
    here, there = np.split(place.astype(np.int32), [len(ids)])
    return np.concatenate([here[codes], there[other_codes]]), all_ids
