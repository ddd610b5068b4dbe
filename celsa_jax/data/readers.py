"""Readers for interaction files: CSV, TSV, parquet and SciPy `.npz`, plain, `.gz` or `.zip`.

Ids are text exactly as written: '007' is not '7'. The fast path is PyArrow; when it refuses a
text file, the file is read once more, slowly, to name the line that is at fault.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import io
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import scipy.sparse as sp

from celsa_jax.errors import InputError

# An id goes into fixed-width NumPy text, so one runaway id would cost every row its width.
MAX_ID_LENGTH = 256
csv.field_size_limit(1 << 30)  # the header of a broken file may be one long field
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns to read; `rating` may be absent from the file."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str = "rating"


@dataclasses.dataclass(frozen=True)
class Ratings:
    """The rows of a file as codes into unique ids.

    Attributes:
      users, items: [n_rows] int32 codes into `user_ids` and `item_ids`.
      user_ids, item_ids: NumPy text, unique, in order of appearance.
      ratings: [n_rows] float64, or None where the file has no such column.
    """

    users: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    ratings: np.ndarray | None


def read_ratings(path: str | pathlib.Path, columns: Columns = Columns()) -> Ratings:
    """Reads any supported interactions file; InputError names file, line and column."""
    path = pathlib.Path(path)
    kind = _kind(path)
    if kind == ".npz":
        return _read_npz(path)
    if kind == ".parquet":
        return _read_parquet(path, columns)
    if kind not in _DELIMITERS:
        raise InputError(
            f"{path}: unknown kind of file '{kind}'; use .csv, .tsv, .parquet or .npz, "
            "plain or with .gz or .zip behind"
        )
    return _read_text(path, columns, _DELIMITERS[kind])


def column_names(path: str | pathlib.Path, encoding: str = "utf-8") -> list[str]:
    """The columns of a CSV, TSV or parquet file."""
    path = pathlib.Path(path)
    if _table_kind(path) != ".parquet":
        names = header(path, encoding)
        if any(c == "\x00" or "\udc80" <= c <= "\udcff" for name in names for c in name):
            raise _wrong_encoding(path, encoding)
        return names
    with open_data(path) as stream:
        return _parquet_file(path, stream).schema_arrow.names


def read_text_columns(
    path: str | pathlib.Path, names: list[str], encoding: str = "utf-8"
) -> dict[str, np.ndarray]:
    """Named columns of a CSV, TSV or parquet file as text (metadata such as titles).

    Numbers become their text, nulls "", and lists (parquet) their elements with | between.
    """
    path = pathlib.Path(path)
    kind = _table_kind(path)
    if kind == ".parquet":
        with open_data(path) as stream:
            table = _parquet_table(path, stream, names)
        return {n: _as_text(path, n, table[n]) for n in names}
    _check_columns(path, column_names(path, encoding), names)
    options = pa.csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string())
    )
    try:
        with open_data(path) as stream:
            table = pa.csv.read_csv(
                stream,
                read_options=pa.csv.ReadOptions(encoding=encoding, block_size=1 << 24),
                parse_options=pa.csv.ParseOptions(
                    delimiter=_DELIMITERS[kind], newlines_in_values=True
                ),
                convert_options=options,
            )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "utf8" in (problem := _one_line(error)).lower() or isinstance(error, UnicodeError):
            raise _wrong_encoding(path, encoding) from None
        raise InputError(f"{path}: {problem}") from None
    return {n: table[n].to_numpy() for n in names}


def _table_kind(path: pathlib.Path) -> str:
    kind = _kind(path)
    if kind not in (".parquet", *_DELIMITERS):
        raise InputError(f"{path}: unknown kind of file '{kind}'; use .csv, .tsv or .parquet")
    return kind


def _as_text(path: pathlib.Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    try:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.binary_join(column.cast(pa.list_(pa.string())), "|")
        return column.cast(pa.string()).fill_null("").to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: column '{name}' is no text: {_one_line(error)}") from None


def _wrong_encoding(path: pathlib.Path, encoding: str) -> InputError:
    return InputError(
        f"{path}: is not {encoding.upper()}; say what it is, --encoding=latin-1 for instance"
    )


@contextlib.contextmanager
def open_data(path: pathlib.Path) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, of a .gz, or of the only member of a .zip."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                yield stream
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(_only_member(path)) as stream:
                yield stream
        else:
            with path.open("rb") as stream:
                yield stream
    except (
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        NotImplementedError,  # a zip with a compression that Python lacks
        RuntimeError,  # an encrypted zip
    ) as error:
        raise InputError(f"{path}: damaged archive: {_one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _only_member(path: pathlib.Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [
            n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")
        ]
    if len(names) != 1:
        raise InputError(f"{path}: holds {len(names)} files; give a zip with one, or unpack it")
    return names[0]


def _kind(path: pathlib.Path) -> str:
    """The suffix that tells the format, looking behind .gz and into .zip."""
    if path.suffix == ".gz":
        return pathlib.Path(path.stem).suffix.lower()
    if path.suffix == ".zip":
        with open_data(path):
            return pathlib.Path(_only_member(path)).suffix.lower()
    return path.suffix.lower()


def header(path: pathlib.Path, encoding: str = "utf-8") -> list[str]:
    """Column names of a CSV or TSV file."""
    delimiter = _DELIMITERS.get(_kind(path), ",")
    with_mark = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        with open_data(path) as stream:
            text = io.TextIOWrapper(stream, with_mark, errors="surrogateescape", newline="")
            names = next(csv.reader(text, delimiter=delimiter), None)
    except LookupError:
        raise InputError(f"unknown encoding '{encoding}'; use a name such as latin-1") from None
    except (UnicodeError, csv.Error):
        raise _wrong_encoding(path, encoding) from None
    if not names:
        raise InputError(f"{path}: the file is empty")
    return names


def _check_columns(path: pathlib.Path, found: list[str], required: list[str]) -> None:
    for name in required:
        if found.count(name) != 1:
            problem = "no" if name not in found else "more than one"
            raise InputError(
                f"{path}: {problem} column '{name}' ({shown_columns(found)}); "
                "name the columns to read with config.data.*_column or the --*_column flags"
            )


def shown_columns(names: list[str]) -> str:
    """The columns of a file, for an error message."""
    if len(names) == 1 and (found := [mark for mark in ";|\t," if mark in names[0]]):
        marks = {"\t": "tabs", ",": "commas"}
        return (
            f"its one column is '{_one_line(names[0])}': separated by "
            f"{marks.get(found[0], repr(found[0]))}? A .csv needs commas, a .tsv tabs"
        )
    shown = ", ".join(names[:12])
    return f"columns: {shown}" + (f", ... {len(names)} in all" if len(names) > 12 else "")


def _read_text(path: pathlib.Path, columns: Columns, delimiter: str) -> Ratings:
    names = header(path)
    _check_columns(path, names, [columns.user, columns.item])
    text = pa.dictionary(pa.int32(), pa.string())
    types = {columns.user: text, columns.item: text}
    if columns.rating in names:
        _check_columns(path, names, [columns.rating])
        types[columns.rating] = pa.float64()
    try:
        with open_data(path) as stream:
            table = pa.csv.read_csv(
                stream,
                read_options=pa.csv.ReadOptions(block_size=1 << 24),
                parse_options=pa.csv.ParseOptions(delimiter=delimiter),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(types), column_types=types, null_values=[]
                ),
            )
        ratings = _from_table(path, table, columns)
    except (pa.ArrowInvalid, InputError) as error:
        _explain(path, columns, delimiter, names)
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: {_one_line(error)}") from None
    return ratings


def _explain(path: pathlib.Path, columns: Columns, delimiter: str, names: list[str]) -> None:
    """Raises an InputError that names the first line at fault, if a slow reading finds one."""
    with open_data(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(text, delimiter=delimiter)
        next(rows)
        user, item = names.index(columns.user), names.index(columns.item)
        rating = names.index(columns.rating) if columns.rating in names else None
        for row in rows:
            if not row:
                continue
            problem = _problem(row, len(names), user, item, rating)
            if problem:
                raise InputError(f"{path}: line {rows.line_num}: {problem}")


def _problem(row: list[str], n_fields: int, user: int, item: int, rating: int | None) -> str:
    if len(row) != n_fields:
        return f"{len(row)} fields where the header has {n_fields}"
    for at, what in ((user, "user"), (item, "item")):
        if fault := _id_fault(row[at]):
            return f"the {what} id {fault}"
    if rating is not None:
        try:
            finite = "_" not in row[rating] and math.isfinite(float(row[rating]))
        except ValueError:
            finite = False
        if not finite:
            return f"the rating '{_one_line(row[rating])}' is not a finite number"
    return ""


def _id_fault(text: str | None) -> str:
    if not text:
        return "is empty"
    if "\n" in text or "\r" in text:
        return "has a line break in it"
    if "\x00" in text:
        return "has a NUL byte in it"
    if len(text) > MAX_ID_LENGTH:
        return f"is longer than {MAX_ID_LENGTH} characters"
    if any("\udc80" <= c <= "\udcff" for c in text):
        return "is not UTF-8"
    return ""


def _read_parquet(path: pathlib.Path, columns: Columns) -> Ratings:
    with open_data(path) as stream:
        table = _parquet_table(path, stream, [columns.user, columns.item], [columns.rating])
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
            raise InputError(f"{path}: column '{columns.rating}': {_one_line(error)}") from None
    return _from_table(path, table, columns)


def _is_large(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _parquet_file(path: pathlib.Path, stream: io.BufferedIOBase) -> pa.parquet.ParquetFile:
    source = path if path.suffix == ".parquet" else pa.BufferReader(stream.read())
    try:
        return pa.parquet.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {_one_line(error)}") from None


def _parquet_table(
    path: pathlib.Path, stream: io.BufferedIOBase, required: list[str], optional: list[str] = ()
) -> pa.Table:
    file = _parquet_file(path, stream)
    try:
        _check_columns(path, file.schema_arrow.names, required)
        return file.read([*required, *(n for n in optional if n in file.schema_arrow.names)])
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {_one_line(error)}") from None


def _from_table(path: pathlib.Path, table: pa.Table, columns: Columns) -> Ratings:
    if not table.num_rows:
        raise InputError(f"{path}: no rows behind the header")
    users, user_ids = _codes(path, table[columns.user], columns.user)
    items, item_ids = _codes(path, table[columns.item], columns.item)
    ratings = None
    if columns.rating in table.column_names:
        column = table[columns.rating]
        ratings = column.fill_null(math.nan).to_numpy()
        if not (finite := np.isfinite(ratings)).all():
            row = np.argmin(finite) + 1
            raise InputError(f"{path}: row {row}: the rating is not a finite number")
    return Ratings(users, items, user_ids, item_ids, ratings)


def _codes(path: pathlib.Path, column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise InputError(f"{path}: row {row}: column '{name}' is null; every row needs an id")
    encoded = column.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # an empty or a many-chunk dictionary column
        encoded = encoded.unify_dictionaries().combine_chunks()
    codes, ids = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    for code, text in enumerate(ids):
        if (fault := _id_fault(text)) and (codes == code).any():
            row = np.argmax(codes == code) + 1
            raise InputError(f"{path}: row {row}: the id in column '{name}' {fault}")
    return codes.astype(np.int32), np.asarray(ids, np.str_)


def _read_npz(path: pathlib.Path) -> Ratings:
    """A users x items matrix; positions are the ids. Values that are not all 1 are ratings."""
    try:
        with open_data(path) as stream:
            matrix = sp.load_npz(io.BytesIO(stream.read())).tocoo()
    except (ValueError, KeyError, EOFError):
        raise InputError(f"{path}: not a SciPy sparse matrix (scipy.sparse.save_npz)") from None
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
    return Ratings(
        matrix.row.astype(np.int32),
        matrix.col.astype(np.int32),
        np.arange(matrix.shape[0]).astype(np.str_),
        np.arange(matrix.shape[1]).astype(np.str_),
        None if (values == 1).all() else values,
    )


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."
