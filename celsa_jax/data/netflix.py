"""The Netflix Prize data in the files of its release on Kaggle.

`combined_data_1.txt` to `combined_data_4.txt` hold, movie after movie, a line `MOVIE:` and below
it a line `USER,RATING,DATE` for each rating.
"""

from __future__ import annotations

import re
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from celsa_jax.data.readers import Ratings, codes, seconds_of
from celsa_jax.data.tables import (
    BLOCK,
    AnyPath,
    arrow_errors,
    find,
    find_optional,
    latin_rows,
    open_data,
    text_table,
)
from celsa_jax.errors import InputError

PAGE = "https://www.kaggle.com/datasets/netflix-inc/netflix-prize-data"
FILES = tuple(f"combined_data_{part}.txt" for part in (1, 2, 3, 4))
TITLES = "movie_titles.csv"
_TYPES = {
    "user": pa.dictionary(pa.int32(), pa.string()),
    "rating": pa.int8(),
    "date": pa.date32(),
}


def read_netflix(folder: AnyPath) -> tuple[Ratings, dict[str, np.ndarray]]:
    """Ratings, and titles and years, of a folder or archive with all four files of ratings."""
    tables, movies, lengths = zip(*(_read_file(find(folder, name)) for name in FILES), strict=True)
    where, table = f"{folder}/combined_data_*.txt", pa.concat_tables(tables)
    if not table.num_rows:
        raise InputError(f"{where}: no ratings; are the files empty?")
    item_ids, items = np.unique(np.concatenate(movies), return_inverse=True)
    users, user_ids = codes(where, table["user"], "user")
    ratings = Ratings(
        users,
        np.repeat(items.astype(np.int32), np.concatenate(lengths)),
        user_ids,
        item_ids,
        table["rating"].to_numpy(),
        seconds_of(where, table["date"], "date"),
    )
    titles = find_optional(folder, TITLES)
    return ratings, {} if titles is None else _read_titles(titles)


def _read_file(path: AnyPath) -> tuple[pa.Table, list[str], np.ndarray]:
    """The rows of a file, the movies that they are of, and how many rows each of them has."""
    problem = f"{path}: not in the form of the Netflix Prize"
    with open_data(path) as stream, arrow_errors(problem):
        table = pa.csv.read_csv(
            _ThreeFields(stream),
            read_options=pa.csv.ReadOptions(column_names=list(_TYPES), block_size=3 * BLOCK),
            parse_options=pa.csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(column_types=_TYPES, null_values=[""]),
        )
    is_header = table["rating"].is_null().to_numpy()
    headers = table["user"].filter(is_header).cast(pa.string()).to_pylist()
    rows = table.filter(~is_header)
    low, high = pc.min_max(rows["rating"]).as_py().values()
    if (
        not is_header[:1].all()
        or not all(re.fullmatch("[0-9]+:", header) for header in headers)
        or rows["date"].null_count
        or table["date"].null_count != len(headers)
        or (rows.num_rows and not 1 <= low <= high <= 5)
    ):
        raise InputError(problem)
    lengths = np.diff(np.flatnonzero(np.append(is_header, True))) - 1
    return rows, [header.removesuffix(":") for header in headers], lengths


class _ThreeFields:
    """A stream for Arrow where a line `MOVIE:` has three fields as others do, two of them empty."""

    closed = False

    def __init__(self, stream: IO[bytes]):
        self._stream = stream

    def read(self, size: int) -> bytes:
        return self._stream.read(size // 3).replace(b":", b":,,")


def _read_titles(path: AnyPath) -> dict[str, np.ndarray]:
    """Titles have commas but no quotes, and are Latin-1."""
    rows = [
        (movie, title, "" if year == "NULL" else year)
        for movie, year, title in latin_rows(path, ",", 3, in_last=True)
    ]
    return text_table(("item_id", "title", "year"), rows)
