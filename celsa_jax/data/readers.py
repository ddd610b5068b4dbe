"""Readers for interaction files: CSV, TSV, parquet and SciPy `.npz`, plain, `.gz` or `.zip`.

Ids are text exactly as written: '007' is not '7'. The fast path is PyArrow; when it refuses a
text file, the file is read once more, slowly, to name the line that is at fault.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import logging
import math
import re
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from celsa_jax.arrays import read_sparse
from celsa_jax.data.tables import (
    BLOCK,
    DELIMITERS,
    AnyPath,
    arrow_errors,
    as_path,
    check_columns,
    column_names,
    csv_rows,
    header,
    is_broken,
    kind_of,
    open_data,
    parquet_table,
    shown_columns,
)
from celsa_jax.errors import InputError, one_line

log = logging.getLogger(__name__)

# An id goes into fixed-width NumPy text, so one runaway id would cost every row its width.
MAX_ID_LENGTH = 256
_END_OF_TIME = 2.0**63  # seconds that int64 cannot hold


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns to read.

    A file may have no `rating`, but one of another name must be there; `time` is not read unless it
    is named.
    """

    user: str = "user_id"
    item: str = "item_id"
    rating: str = "rating"
    time: str | None = None


@dataclasses.dataclass(frozen=True)
class Ratings:
    """The rows of a file as codes into unique ids.

    Attributes:
      users, items: [n_rows] int32 codes into `user_ids` and `item_ids`.
      user_ids, item_ids: NumPy text, unique, in order of appearance.
      ratings: [n_rows] numbers, or None where the file has no such column.
      times: [n_rows] int64 seconds since 1970, UTC, or None where they were not read.
    """

    users: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    ratings: np.ndarray | None
    times: np.ndarray | None = None


def read_ratings(
    path: str | AnyPath,
    columns: Columns = Columns(),
    *,
    names: list[str] | None = None,
    delimiter: str | None = None,
) -> Ratings:
    """Reads any supported interactions file; InputError names file, line and column.

    Args:
      path: the file.
      columns: which columns to read.
      names: the columns of a text file without a header.
      delimiter: between the fields of a text file, where its name does not tell.
    """
    path = as_path(path)
    if delimiter is not None:
        return _read_text(path, columns, delimiter, names)
    kind = kind_of(path)
    if kind == ".npz":
        return _read_npz(path)
    if kind == ".parquet":
        return _read_parquet(path, columns)
    if kind not in DELIMITERS:
        raise InputError(
            f"{path}: unknown kind of file '{kind}'; use .csv, .tsv, .parquet or .npz, "
            "plain or with .gz or .zip behind"
        )
    return _read_text(path, columns, DELIMITERS[kind], names)


def _read_text(
    path: AnyPath, columns: Columns, delimiter: str, given_names: list[str] | None
) -> Ratings:
    names = given_names or header(path, delimiter)
    wanted = _wanted(path, names, columns)
    text = pa.dictionary(pa.int32(), pa.string())
    types = {columns.user: text, columns.item: text}
    if columns.rating in wanted:
        types[columns.rating] = pa.float64()
    if columns.time:
        types[columns.time] = _time_type(path, names.index(columns.time), delimiter, given_names)
    form = (path, types, delimiter, given_names)
    explained = False

    def explain() -> int:
        nonlocal explained
        explained = True
        return _explain(path, types, columns, delimiter, names, given_names is None)

    try:
        table, quoted = _arrow_table(*form)
    except InputError:
        explain()
        table, quoted = _arrow_table(*form, multiline=True)  # it may be that and no fault
    # A quote may open a text of several lines, or take the rows below it in.
    if quoted and _is_doubtful(path, table.num_rows + (given_names is None)):
        n_rows = explain()
        if n_rows != table.num_rows:
            raise InputError(
                f"{path}: {table.num_rows} rows were read of {n_rows}; mend its quotes"
            )
    try:
        return _from_table(path, table, columns)
    except InputError:
        if not explained:
            explain()
        raise


def _wanted(path: AnyPath, found: list[str], columns: Columns) -> list[str]:
    """Which columns to read of those that a file has."""
    names = [columns.user, columns.item, *([columns.time] if columns.time else [])]
    rated = columns.rating in found or columns.rating != Columns.rating
    check_columns(path, found, [*names, columns.rating] if rated else names)
    if rated:
        return [*names, columns.rating]
    log.info(
        "%s: no column '%s' (%s); every row counts, whatever min_rating is",
        path,
        columns.rating,
        shown_columns(found),
    )
    return names


class _Noting:
    """A stream for Arrow that notes whether there are quotes in it."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self.quoted, self.closed = stream, False, False

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self.quoted = self.quoted or b'"' in block
        return block


def _arrow_table(
    path: AnyPath,
    types: dict[str, pa.DataType],
    delimiter: str,
    given_names: list[str] | None,
    multiline: bool = False,
) -> tuple[pa.Table, bool]:
    """The columns of a text file, and whether there are quotes in it."""
    with open_data(path) as stream, arrow_errors(path):
        noting = _Noting(stream)
        table = pa.csv.read_csv(
            noting,
            read_options=pa.csv.ReadOptions(block_size=BLOCK, column_names=given_names),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=multiline),
            convert_options=pa.csv.ConvertOptions(
                include_columns=list(types), column_types=types, null_values=[]
            ),
        )
    return table, noting.quoted


def _is_doubtful(path: AnyPath, n_rows: int) -> bool:
    """Whether a file has other than `n_rows` lines, or quotes that are not all in pairs."""
    n_lines, n_quotes, last = 0, 0, b"\n"
    with open_data(path) as stream:
        while block := stream.read(BLOCK):
            n_lines += block.count(b"\n")
            n_quotes += block.count(b'"')
            last = block[-1:]
    return n_lines + (last != b"\n") != n_rows or n_quotes % 2 == 1


def _time_type(
    path: AnyPath, at: int, delimiter: str, given_names: list[str] | None
) -> pa.DataType:
    """What the times of a file are, by the first of them: seconds, or ISO dates and times."""
    with contextlib.closing(csv_rows(path, delimiter)) as rows:
        if given_names is None:
            next(rows, None)
        first = next((row[at] for _, row in rows if len(row) > at), "0")
    if first.lstrip("-").isdecimal():
        return pa.int64()
    return pa.float64() if _is_number(first) else pa.timestamp("s")


def _explain(
    path: AnyPath,
    types: dict[str, pa.DataType],
    columns: Columns,
    delimiter: str,
    names: list[str],
    skip_header: bool,
) -> int:
    """Raises an InputError that names the first line at fault; without one, counts the rows."""
    rows, n_rows = csv_rows(path, delimiter), 0
    if skip_header:
        next(rows)
    for line, row in rows:
        if problem := _problem(row, names, types, columns):
            raise InputError(f"{path}: line {line}: {problem}")
        n_rows += 1
    return n_rows


def _problem(
    row: list[str], names: list[str], types: dict[str, pa.DataType], columns: Columns
) -> str:
    if len(row) != len(names):
        return f"{len(row)} fields where there should be {len(names)}"
    if sum(map(len, row)) > BLOCK:
        return f"is longer than {BLOCK} characters"
    for name, what in ((columns.user, "user"), (columns.item, "item")):
        if fault := _id_fault(row[names.index(name)]):
            return f"the {what} id {fault}"
    if columns.rating in types:
        rating = row[names.index(columns.rating)]
        if not _is_number(rating):
            return f"the rating '{one_line(rating)}' is not a finite number"
    if columns.time:
        time = row[names.index(columns.time)]
        if not _is_time(time, types[columns.time]):
            return f"the time '{one_line(time)}' is no {_TIME_NAMES[types[columns.time]]}"
    return ""


_TIME_NAMES = {
    pa.int64(): "whole number of seconds, as the first one is",
    pa.float64(): "number of seconds, as the first one is",
    pa.timestamp("s"): "number of seconds and no ISO date (2015-03-31 or 2015-03-31 23:59:59)",
}


_NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
_SECONDS = re.compile(r"-?[0-9]{1,18}")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?")


def _is_time(text: str, kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind):
        return _is_number(text) and abs(float(text)) < _END_OF_TIME
    if pa.types.is_integer(kind) and _SECONDS.fullmatch(text):
        return True
    try:
        if DATE.fullmatch(text) and pa.types.is_timestamp(kind):
            return bool(datetime.datetime.fromisoformat(text))
        # Arrow has the last word, but asked for every row it would take minutes.
        return bool(pa.array([text]).cast(kind))
    except ValueError:  # ArrowInvalid is one
        return False


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))


def _id_fault(text: str | None) -> str:
    if not text:
        return "is empty"
    if "\n" in text or "\r" in text:
        return "has a line break in it"
    if "\x00" in text:
        return "has a NUL byte in it"
    if len(text) > MAX_ID_LENGTH:
        return f"is longer than {MAX_ID_LENGTH} characters"
    if is_broken(text):
        return "is not UTF-8"
    return ""


def _read_parquet(path: AnyPath, columns: Columns) -> Ratings:
    wanted = _wanted(path, column_names(path), columns)
    with open_data(path) as stream:
        table = parquet_table(path, stream, wanted)
    with arrow_errors(path):
        return _from_table(path, _typed(path, table, columns), columns)


def _typed(path: AnyPath, table: pa.Table, columns: Columns) -> pa.Table:
    """The table with ids as text and ratings as numbers."""
    for name in (columns.user, columns.item):
        column = table[name]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or _is_large(kind)):
            raise InputError(f"{path}: column '{name}' is {kind}; ids must be text or integers")
        text = column.cast(pa.string()).dictionary_encode()
        table = table.set_column(table.column_names.index(name), name, text)
    if columns.rating in table.column_names:
        at = table.column_names.index(columns.rating)
        try:
            table = table.set_column(at, columns.rating, table[columns.rating].cast(pa.float64()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{path}: column '{columns.rating}': {one_line(error)}") from None
    return table


def _is_large(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _from_table(path: AnyPath, table: pa.Table, columns: Columns) -> Ratings:
    if not table.num_rows:
        raise InputError(f"{path}: no rows behind the header")
    users, user_ids = codes(path, table[columns.user], columns.user)
    items, item_ids = codes(path, table[columns.item], columns.item)
    ratings = None
    if columns.rating in table.column_names:
        column = table[columns.rating]
        ratings = column.fill_null(math.nan).to_numpy()
        if not (finite := np.isfinite(ratings)).all():
            row = np.argmin(finite) + 1
            raise InputError(f"{path}: row {row}: the rating is not a finite number")
    times = seconds_of(path, table[columns.time], columns.time) if columns.time else None
    return Ratings(users, items, user_ids, item_ids, ratings, times)


def seconds_of(path: object, column: pa.ChunkedArray, name: str) -> np.ndarray:
    """[n_rows] int64 seconds since 1970 of a column of numbers, dates or times."""
    kind = column.type
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise InputError(f"{path}: row {row}: column '{name}' is null; every row needs a time")
    if pa.types.is_floating(kind):
        values = column.to_numpy()
        if not (finite := np.isfinite(values)).all():
            raise InputError(f"{path}: row {np.argmin(finite) + 1}: the time is not finite")
        if not (fits := np.abs(values) < _END_OF_TIME).all():
            raise InputError(f"{path}: row {np.argmin(fits) + 1}: the time is out of range")
        return np.floor(values).astype(np.int64)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("s"), safe=False)
    elif not pa.types.is_integer(kind):
        raise InputError(f"{path}: column '{name}' is {kind}; times are seconds or dates")
    return column.cast(pa.int64()).to_numpy()


def codes(path: object, column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """[n_rows] int32 codes of a column of ids, and the ids, NumPy text."""
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise InputError(f"{path}: row {row}: column '{name}' is null; every row needs an id")
    encoded = column.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # an empty or a many-chunk dictionary column
        encoded = encoded.unify_dictionaries().combine_chunks()
    rows, ids = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    for code, text in enumerate(ids):
        if (fault := _id_fault(text)) and (rows == code).any():
            row = np.argmax(rows == code) + 1
            raise InputError(f"{path}: row {row}: the id in column '{name}' {fault}")
    return rows.astype(np.int32, copy=False), np.asarray(ids, np.str_)


def _read_npz(path: AnyPath) -> Ratings:
    """A users x items matrix; positions are the ids. Values that are not all 1 are ratings."""
    try:
        with open_data(path) as stream:
            matrix = read_sparse(io.BytesIO(stream.read()), path).tocoo()
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{path}: not a SciPy sparse matrix (scipy.sparse.save_npz): {error}"
        ) from None
    if matrix.ndim != 2 or not np.isrealobj(matrix.data):
        raise InputError(f"{path}: not a matrix of real numbers, users x items")
    matrix.eliminate_zeros()
    if not matrix.nnz:
        raise InputError(f"{path}: the matrix has no entries")
    values = matrix.data.astype(np.float64)
    if not (finite := np.isfinite(values)).all():
        at = np.argmin(finite)
        raise InputError(
            f"{path}: row {matrix.row[at]}, column {matrix.col[at]}: the value is not finite"
        )
    # Those that have entries, as a shape may be of any size.
    users, user_ids = _positions(matrix.row)
    items, item_ids = _positions(matrix.col)
    ratings = None if (values == 1).all() else values
    return Ratings(users, items, user_ids, item_ids, ratings)


def _positions(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    encoded = pa.array(column).dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_numpy().astype(np.str_)
