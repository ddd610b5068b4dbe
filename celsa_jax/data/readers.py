"""Readers for interaction files: CSV, TSV, parquet and SciPy `.npz`, plain, `.gz` or `.zip`.

Ids are text exactly as written: '007' is not '7'. PyArrow reads text files; what it refuses, or may
have read wrongly, Python's `csv` goes through, slowly, to name the line that is at fault.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import io
import logging
import math
import re
from collections.abc import Generator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from celsa_jax.arrays import id_fault, read_sparse
from celsa_jax.data.tables import (
    BLOCK,
    DELIMITERS,
    AnyPath,
    arrow_errors,
    check_columns,
    column_names,
    csv_rows,
    header,
    kind_of,
    open_data,
    parquet_table,
    shown_columns,
)
from celsa_jax.errors import InputError, one_line

log = logging.getLogger(__name__)

_MOST_FAULTS = 9  # lines that an error names beside the first
_ROWS_BEHIND_A_FAULT = 100_000  # that are looked at for others
_MOST_COLUMNS = 1 << 24  # of a matrix: an item each
_END_OF_TIME = 2.0**63  # seconds that int64 cannot hold
_IDS = pa.dictionary(pa.int32(), pa.string())
_NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
_SECONDS = re.compile(r"[ \t]*-?[0-9]{1,18}[ \t]*")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?")
_TIMES = {
    pa.int64(): "whole number of seconds, as the first one is",
    pa.float64(): "number of seconds, as the first one is",
    pa.timestamp("s"): "number of seconds and no ISO date (2015-03-31 or 2015-03-31 23:59:59)",
}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns to read.

    A file may have no `rating`, but one of another name must be there; "" reads none. `time` is not
    read unless it is named.
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
      ratings: [n_rows] numbers, or None where the file has no such column, or one was not read.
      times: [n_rows] int64 seconds since 1970, UTC, or None where they were not read.
      fixed_items: whether the ids are the rows and columns of a matrix: in their order, and with
        the columns that have no entries.
    """

    users: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    ratings: np.ndarray | None
    times: np.ndarray | None = None
    fixed_items: bool = False


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
    if delimiter is None:
        kind = kind_of(path, ".npz")
        if kind == ".npz":
            return _read_npz(path, columns)
        if kind == ".parquet":
            return _read_parquet(path, columns)
        delimiter = DELIMITERS[kind]
    return _read_text(path, columns, delimiter, names)


def _read_text(
    path: str | AnyPath, columns: Columns, delimiter: str, given_names: list[str] | None
) -> Ratings:
    names = given_names or header(path, delimiter)
    file = _TextFile(path, delimiter, names, given_names is None, columns)
    try:
        return _from_table(path, file.read(), columns)
    except InputError:
        pass  # the check says what is at fault, and where
    n_rows = file.check()
    table = file.read(multiline=True)
    if n_rows != table.num_rows:
        raise InputError(f"{path}: {table.num_rows} rows were read of {n_rows}; mend its quotes")
    return _from_table(path, table, columns)


@dataclasses.dataclass(frozen=True)
class _TextFile:
    """A CSV or TSV file, and what to read of it.

    Attributes:
      path, delimiter: where it is, and what is between its fields.
      names: of all its columns.
      has_header: whether they are its first row.
      columns: those to read.
    """

    path: str | AnyPath
    delimiter: str
    names: list[str]
    has_header: bool
    columns: Columns

    def read(self, multiline: bool = False) -> pa.Table:
        """What Arrow reads; InputError where that may be wrong, as a quote can take rows in.

        Args:
          multiline: texts in quotes may have several lines, for which Arrow takes longer. Nothing
            tells then whether it is wrong but the number of rows.
        """
        with open_data(self.path) as stream, arrow_errors(self.path):
            counted = _Counted(stream)
            table = pa.csv.read_csv(
                counted,
                read_options=pa.csv.ReadOptions(
                    block_size=BLOCK, column_names=None if self.has_header else self.names
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=multiline
                ),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(self._types), column_types=self._types, null_values=[]
                ),
            )
        a_line_each = counted.n_lines == table.num_rows + self.has_header
        if counted.n_quotes and not multiline and not (a_line_each and counted.n_quotes % 2 == 0):
            raise InputError(f"{self.path}: quotes over several lines, or that do not close")
        return table

    def check(self) -> int:
        """Raises an InputError that names the lines at fault; without one, counts the rows."""
        n_rows, last, faults, cut = 0, math.inf, {}, False
        try:
            for line, row in self._rows():
                n_rows += 1
                if problem := self._problem(row):
                    faults[line] = problem
                    last = min(last, n_rows + _ROWS_BEHIND_A_FAULT)
                if cut := len(faults) > _MOST_FAULTS or n_rows > last:
                    break
        except InputError:
            if not faults:
                raise
        if faults:
            (line, problem), *others = faults.items()
            lines = ", ".join([str(at) for at, _ in others] + ["..."] * cut)
            more = f"; also at fault: {lines}" if others else ""
            raise InputError(
                f"{self.path}: line {line}: {problem}{more}; correct or remove what is at fault"
            )
        return n_rows

    def _rows(self) -> Generator[tuple[int, list[str]]]:
        rows = csv_rows(self.path, self.delimiter)
        if self.has_header:
            next(rows)
        return rows

    @functools.cached_property
    def _types(self) -> dict[str, pa.DataType]:
        """Of the columns to read; of times by the first one, seconds or ISO dates."""
        columns, time = self.columns, self.columns.time
        names = _present(self.path, self.names, columns)
        types = {columns.user: _IDS, columns.item: _IDS, columns.rating: pa.float64()}
        if time:
            at = self.names.index(time)
            with contextlib.closing(self._rows()) as rows:
                first = next((row[at] for _, row in rows if len(row) > at), "0")
            number = pa.int64() if _SECONDS.fullmatch(first) else pa.float64()
            types[time] = number if _is_number(first) else pa.timestamp("s")
        return {name: types[name] for name in names}

    def _problem(self, row: list[str]) -> str:
        """What is wrong with a row; "" where nothing is."""
        if len(row) != len(self.names):
            return f"{len(row)} fields where there should be {len(self.names)}"
        if sum(map(len, row)) > BLOCK:
            return f"is longer than {BLOCK} characters"
        for name, kind in self._types.items():
            cell = row[self.names.index(name)]
            if kind == _IDS and (fault := id_fault(cell)):
                return f"the {'user' if name == self.columns.user else 'item'} id {fault}"
            if name == self.columns.rating and not _is_number(cell):
                what = f"'{one_line(cell)}' is not a finite number" if cell else "is empty"
                return f"the rating {what}"
            if name == self.columns.time and not _is_time(cell, kind):
                return f"the time '{one_line(cell)}' is no {_TIMES[kind]}"
        return ""


class _Counted:
    """A stream for Arrow that counts its lines and the quotes in them."""

    closed = False

    def __init__(self, stream: IO[bytes]):
        self._stream, self._last = stream, b"\n"
        self._n_ends = self.n_quotes = 0

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._n_ends += block.count(b"\n")
        self.n_quotes += block.count(b'"')
        self._last = block[-1:] or self._last
        return block

    @property
    def n_lines(self) -> int:
        return self._n_ends + (self._last != b"\n")


def _present(path: str | AnyPath, file_names: list[str], columns: Columns) -> list[str]:
    """Which columns to read of those that a file has."""
    names = [columns.user, columns.item, *([columns.time] if columns.time else [])]
    is_rated = columns.rating in file_names or columns.rating not in ("", Columns.rating)
    if is_rated:
        names.append(columns.rating)
    check_columns(path, file_names, names)
    if columns.rating and not is_rated:
        shown = f"{path}: no column '{columns.rating}' ({shown_columns(file_names)})"
        log.warning("%s; every row counts, whatever min_rating is", shown)
    return names


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))


def _is_time(text: str, kind: pa.DataType) -> bool:
    if pa.types.is_integer(kind):
        return bool(_SECONDS.fullmatch(text))
    if pa.types.is_floating(kind):
        return _is_number(text) and abs(float(text)) < _END_OF_TIME
    return is_date(text)


def is_date(text: str) -> bool:
    """Whether a text is an ISO date (2015-03-31), alone or with a time (2015-03-31 23:59:59)."""
    try:
        return bool(_DATE.fullmatch(text) and datetime.datetime.fromisoformat(text))
    except ValueError:
        return False


def _read_parquet(path: str | AnyPath, columns: Columns) -> Ratings:
    table = parquet_table(path, _present(path, column_names(path), columns))
    return _from_table(path, table, columns)


def ratings_of_frame(frame: Any, columns: Columns, name: str) -> tuple[Ratings, bool]:
    """A table in memory, of pandas, polars or Arrow.

    Args:
      frame: what has `__arrow_c_stream__`.
      columns: those to read.
      name: what errors call the table.

    Returns:
      Its rows, and whether item ids are integers.

    Raises:
      InputError: not a table, or a column or a row of it is at fault.
    """
    if not hasattr(frame, "__arrow_c_stream__"):
        raise InputError(
            f"{name}: give a table of pandas (2.2 or newer), polars or Arrow, not "
            f"{type(frame).__name__}"
        )
    wanted = [column for column in (columns.user, columns.item, columns.rating) if column]
    names = list(getattr(frame, "column_names", getattr(frame, "columns", wanted)))
    for column in wanted:
        if column not in names:
            raise InputError(f"{name}: no column '{column}' ({shown_columns(names)})")
    with arrow_errors(name):
        if set(names) - set(wanted):  # others may hold what Arrow does not
            frame = frame.select(wanted) if hasattr(frame, "select") else frame[wanted]
        table = pa.table(frame).select(wanted)
        table.validate(full=True)
    return _from_table(name, table, columns), pa.types.is_integer(_cells(table[columns.item]))


def _cells(column: pa.ChunkedArray) -> pa.DataType:
    """The type of its values, whether or not a dictionary has them."""
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def _from_table(path: str | AnyPath, table: pa.Table, columns: Columns) -> Ratings:
    if not table.num_rows:
        raise InputError(f"{path}: no rows behind the header")
    for name in filter(None, (columns.user, columns.item, columns.time)):
        problem = f"column '{name}' is null; every row needs a value"
        _check_all(path, table[name].is_valid().to_numpy(), problem)
    users, user_ids = codes(path, table[columns.user], columns.user)
    items, item_ids = codes(path, table[columns.item], columns.item)
    ratings = None
    if columns.rating in table.column_names:
        with arrow_errors(f"{path}: column '{columns.rating}'"):
            values = table[columns.rating].cast(pa.float64())
        ratings = values.fill_null(math.nan).to_numpy()
        _check_all(path, np.isfinite(ratings), "the rating is not a finite number")
    times = seconds_of(path, table[columns.time], columns.time) if columns.time else None
    return Ratings(users, items, user_ids, item_ids, ratings, times)


def _check_all(path: object, is_right: np.ndarray, problem: str) -> None:
    """InputError that names the first row, from 1, where it is not."""
    if not is_right.all():
        raise InputError(f"{path}: row {np.argmin(is_right) + 1}: {problem}")


def seconds_of(path: object, column: pa.ChunkedArray, name: str) -> np.ndarray:
    """[n_rows] int64 seconds since 1970 of a column of numbers, dates or times without nulls."""
    kind = column.type
    if pa.types.is_floating(kind):
        values = column.to_numpy()
        _check_all(path, np.isfinite(values), "the time is not finite")
        _check_all(path, np.abs(values) < _END_OF_TIME, "the time is out of range")
        return np.floor(values).astype(np.int64)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("s"), safe=False)
    elif not pa.types.is_integer(kind):
        raise InputError(f"{path}: column '{name}' is {kind}; times are seconds or dates")
    return column.cast(pa.int64()).to_numpy()


def codes(path: object, column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """[n_rows] int32 codes of a column of ids without nulls, and the ids, NumPy text."""
    kind = _cells(column)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (pa.types.is_integer(kind) or is_text or pa.types.is_string_view(kind)):
        raise InputError(f"{path}: column '{name}' is {kind}; ids must be text or integers")
    if column.type != _IDS:
        with arrow_errors(f"{path}: column '{name}'"):
            column = column.cast(pa.string()).dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    rows, ids = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    for code, text in enumerate(ids):
        if fault := id_fault(text):
            _check_all(path, rows != code, f"the id in column '{name}' {fault}")
    return rows.astype(np.int32, copy=False), np.asarray(ids, np.str_)


def _read_npz(path: str | AnyPath, columns: Columns) -> Ratings:
    """A users x items matrix; positions are the ids. Values are ratings unless all are 1.

    All columns are items, in their order, so that the matrix itself can be a history later.
    """
    try:
        with open_data(path) as stream:
            matrix = read_sparse(io.BytesIO(stream.read()), path).tocoo()
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
    if matrix.shape[1] > _MOST_COLUMNS:  # a shape may be of any size, whatever the file's is
        raise InputError(
            f"{path}: has {matrix.shape[1]} columns, and each is an item; give those with entries"
        )
    # Of the rows those with entries: positions of items alone mean something later.
    rows, users = np.unique(matrix.row, return_inverse=True)
    item_ids = np.arange(matrix.shape[1]).astype(np.str_)
    ratings = values if columns.rating and (values != 1).any() else None
    return Ratings(
        users.astype(np.int32), matrix.col, rows.astype(np.str_), item_ids, ratings, None, True
    )
