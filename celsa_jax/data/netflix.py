"""The Netflix Prize data in the files of its release on Kaggle.

`combined_data_1.txt` to `combined_data_4.txt` hold, movie after movie, a line `MOVIE:` and below
it a line `USER,RATING,DATE` for each rating.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from celsa_jax.data.readers import Ratings, codes, seconds_of
from celsa_jax.data.tables import (
    AnyPath,
    find,
    find_optional,
    latin_lines,
    open_data,
    text_table,
)
from celsa_jax.errors import InputError, one_line

PAGE = "https://www.kaggle.com/datasets/netflix-inc/netflix-prize-data"
FILES = tuple(f"combined_data_{part}.txt" for part in (1, 2, 3, 4))
TITLES = "movie_titles.csv"
_BLOCK = 1 << 26
_NEWLINE, _COLON = ord("\n"), ord(":")
_TYPES = {
    "user": pa.dictionary(pa.int32(), pa.string()),
    "rating": pa.int8(),
    "date": pa.date32(),
}
_ROW = re.compile(rb"[^,:\s\x80-\xff]+,[1-5],\d{4}-\d\d-\d\d\r?")
_HEADER = re.compile(rb"(\d+):\r?")


def read_netflix(folder: AnyPath) -> tuple[Ratings, dict[str, np.ndarray]]:
    """Ratings, and titles and years, of a folder or archive with all four files of ratings."""
    tables, movies, lengths = [], [], []
    for name in FILES:
        path = find(folder, name)
        movie = None
        for block, first_line in _blocks(path):
            table, in_block, n_rows = _read_block(path, block, first_line, movie)
            tables.append(table)
            movies += in_block
            lengths += n_rows
            movie = in_block[-1]
    where = f"{folder}/combined_data_*.txt"
    if not sum(lengths):
        raise InputError(f"{where}: no ratings; are the files empty?")
    table = pa.concat_tables(tables)
    item_ids, items = np.unique(np.array(movies), return_inverse=True)
    users, user_ids = codes(where, table["user"], "user")
    ratings = Ratings(
        users,
        np.repeat(items.astype(np.int32), lengths),
        user_ids,
        item_ids,
        table["rating"].to_numpy(),
        seconds_of(where, table["date"], "date"),
    )
    return ratings, _read_titles(find_optional(folder, TITLES))


def _blocks(path: AnyPath) -> Iterator[tuple[bytes, int]]:
    """Blocks of whole lines, each with the number of its first line."""
    line = 1
    with open_data(path) as stream:
        while block := stream.read(_BLOCK):
            block += stream.readline()
            if line == 1:
                block = block.removeprefix(codecs.BOM_UTF8)
            yield block, line
            line += block.count(b"\n")


def _read_block(
    path: AnyPath, block: bytes, first_line: int, movie: str | None
) -> tuple[pa.Table, list[str], list[int]]:
    """The rows of a block, the movies that they are of, and how many rows each of them has.

    Args:
      path, first_line: for error messages.
      block: whole lines.
      movie: whose rows come before the first header, if any do.
    """
    if not block.isascii():
        _explain(path, block, first_line, movie)
    content = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(content == _NEWLINE)
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    headers = np.searchsorted(ends, np.flatnonzero(content == _COLON))
    starts = np.concatenate([[0], ends[:-1] + 1])
    movies = [] if movie is None else [movie]
    for at in headers.tolist():
        if header := _HEADER.fullmatch(block[starts[at] : ends[at]]):
            movies.append(header[1].decode())
        else:
            _explain(path, block, first_line, movie)
    edges = np.concatenate([[-1], headers, [len(ends)]])
    lengths = (np.diff(edges) - 1).tolist()
    if movie is None and lengths.pop(0):
        _explain(path, block, first_line, movie)
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(block),
            read_options=pa.csv.ReadOptions(column_names=list(_TYPES), block_size=1 << 24),
            parse_options=pa.csv.ParseOptions(
                invalid_row_handler=lambda row: "skip" if row.text.endswith(":") else "error"
            ),
            convert_options=pa.csv.ConvertOptions(column_types=_TYPES, null_values=[]),
        )
    except pa.ArrowInvalid as error:
        _explain(path, block, first_line, movie)
        raise InputError(f"{path}: {one_line(error)}") from None
    low, high = pc.min_max(table["rating"]).as_py().values()
    if table.num_rows != sum(lengths) or (table.num_rows and not 1 <= low <= high <= 5):
        _explain(path, block, first_line, movie)
    return table, movies, lengths


def _explain(path: AnyPath, block: bytes, first_line: int, movie: str | None) -> None:
    """Raises an InputError that names the first line at fault."""
    for number, line in enumerate(block.split(b"\n"), first_line):
        if header := _HEADER.fullmatch(line):
            movie = header[1].decode()
        elif not _ROW.fullmatch(line) and (line or number < first_line + block.count(b"\n")):
            shown = one_line(line.decode("utf-8", "replace"))
            raise InputError(
                f"{path}: line {number}: '{shown}' is neither 'MOVIE:' nor 'USER,RATING,DATE' "
                "with a rating from 1 to 5 and a date such as 2005-09-06"
            )
        elif line and movie is None:
            raise InputError(f"{path}: line {number}: a rating before any line 'MOVIE:'")


def _read_titles(path: AnyPath | None) -> dict[str, np.ndarray]:
    """Titles have commas but no quotes, and are Latin-1."""
    if path is None:
        return {}
    rows = []
    for where, line in latin_lines(path):
        fields = line.split(",", 2)
        if len(fields) != 3:
            raise InputError(f"{where}: not movie, year and title")
        rows.append((fields[0], fields[2], "" if fields[1] == "NULL" else fields[1]))
    return text_table(path, ("item_id", "title", "year"), rows)
