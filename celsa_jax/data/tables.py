"""Tables on disk: CSV, TSV and parquet, plain, `.gz`, or in a `.zip`."""

from __future__ import annotations

import codecs
import collections
import contextlib
import csv
import errno
import gzip
import io
import lzma
import pathlib
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from celsa_jax.arrays import is_broken
from celsa_jax.errors import InputError, one_line
from celsa_jax.files import check_unpacked

BLOCK = 1 << 24  # bytes that are parsed at once, and the longest row
csv.field_size_limit(BLOCK)
AnyPath = pathlib.Path | zipfile.Path  # a file or folder, or one in an archive
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}
_CELL = 32  # bytes that a cell takes in later steps, whatever is in it
_ROWS_AT_ONCE = 1 << 18
_DAMAGED = (  # what reading an archive raises
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,  # a zip with a compression that Python lacks
    RuntimeError,  # an encrypted zip
)


def unzipped(path: str | AnyPath) -> AnyPath:
    """What a path leads to: of a zip the one file in it, or the folder that was packed into it.

    Raises:
      InputError: the zip is damaged, or holds a name that leads out of it.
    """
    path = pathlib.Path(path) if isinstance(path, str) else path
    if isinstance(path, zipfile.Path) or path.suffix != ".zip" or not path.is_file():
        return path
    with open_archive(path) as archive:
        names = _file_names(archive)
    if len(names) == 1:
        return zipfile.Path(path, names[0])
    if out := [n for n in names if n.startswith("/") or ".." in n.split("/")]:
        raise InputError(f"{path}: holds '{out[0]}', which leads out of it; unpack it by hand")
    tops = {name.partition("/")[0] for name in names}
    return zipfile.Path(path, f"{tops.pop()}/" if len(tops) == 1 else "")


def _file_names(archive: zipfile.ZipFile) -> list[str]:
    names = archive.namelist()
    return [n for n in names if not n.endswith("/") and not n.startswith("__MACOSX")]


def as_file(path: str | AnyPath) -> AnyPath:
    """The file that a path leads to; InputError where that is none, or a zip of several."""
    inside = unzipped(path)
    if inside.is_file():
        return inside
    if isinstance(inside, zipfile.Path):
        n_files = len(_file_names(inside.root))
        raise InputError(f"{path}: holds {n_files} files; give a zip with one, or unpack it")
    raise InputError(f"{path}: {'is a folder' if inside.is_dir() else 'no such file'}")


def kind_of(path: str | AnyPath, *others: str) -> str:
    """The suffix that tells the format of a file, looking behind .gz and into .zip.

    Raises:
      InputError: as of `as_file`; it is none of CSV, TSV, parquet and the other ones given.
    """
    file = as_file(path)
    is_packed = file.suffix == ".gz" and isinstance(file, pathlib.Path)
    kind = (pathlib.Path(file.stem) if is_packed else file).suffix.lower()
    if kind not in (*DELIMITERS, ".parquet", *others):
        known = ", ".join([".csv", ".tsv", ".parquet", *others])
        raise InputError(
            f"{path}: unknown kind of file '{kind}'; use one of {known}, plain or with .gz or "
            ".zip behind"
        )
    return kind


@contextlib.contextmanager
def open_data(path: str | AnyPath) -> Iterator[IO[bytes]]:
    """The bytes of a file, of a .gz, of the only file in a .zip, or of one in an archive.

    Raises:
      InputError: it cannot be read, or unpacks to far more than real data do.
    """
    file = as_file(path)
    try:
        if isinstance(file, zipfile.Path):  # which reads no more than is announced
            n_packed = pathlib.Path(str(file.root.filename)).stat().st_size
            check_unpacked(path, file.root.getinfo(file.at).file_size, n_packed)
        with file.open("rb") as stream:
            if isinstance(file, pathlib.Path) and file.suffix == ".gz":
                yield io.BufferedReader(_Unpacked(file, stream), 1 << 20)
            else:
                yield stream
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged archive: {one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


class _Unpacked(io.RawIOBase):
    """What a .gz unpacks to, until it is too much."""

    def __init__(self, path: pathlib.Path, packed: IO[bytes]):
        self._path, self._stream = path, gzip.GzipFile(fileobj=packed)
        self._n_packed, self._n_bytes = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n_read = self._stream.readinto(buffer)
        self._n_bytes += n_read
        check_unpacked(self._path, self._n_bytes, self._n_packed)
        return n_read


@contextlib.contextmanager
def open_archive(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read; InputError where it is damaged or has two members of one name."""
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # zipfile raises many kinds
        raise InputError(f"{path}: damaged archive: {one_line(error)}") from None
    with archive:
        for name, count in collections.Counter(archive.namelist()).most_common(1):
            if count > 1:  # zipfile would read the last alone
                raise InputError(f"{path}: holds {count} files called {name}; unpack the right one")
        try:
            yield archive
        except (*_DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before 0
                raise
            raise InputError(f"{path}: damaged archive: {one_line(error)}") from None


def find(folder: AnyPath, name: str) -> AnyPath:
    """The file `name` in a folder or an archive, plain, .zip or .gz; InputError without it."""
    if path := find_optional(folder, name):
        return path
    _, *others = _names(folder, name)
    nor = f" (nor {', '.join(others)})" if others else ""
    raise InputError(f"{folder}: no {name}{nor} in this folder")


def find_optional(folder: AnyPath, name: str) -> AnyPath | None:
    """The same; None without it."""
    paths = (folder / known for known in _names(folder, name))
    return next((path for path in paths if path.is_file()), None)


def _names(folder: AnyPath, name: str) -> list[str]:
    if isinstance(folder, zipfile.Path):
        return [name]
    shorter = [name.removesuffix(".csv") + ".zip"] if name.endswith(".csv") else []
    return [name, f"{name}.zip", f"{name}.gz", *shorter]


def csv_rows(
    path: str | AnyPath, delimiter: str, encoding: str = "utf-8"
) -> Generator[tuple[int, list[str]]]:
    """Each row of a CSV or TSV file, but for empty lines, and the number of its last line.

    What is not UTF-8 comes as surrogates, for the reader of that column to refuse (`is_broken`).

    Raises:
      InputError: an unknown encoding, text that is not of another one, or quotes that do not
        close or have text behind them; with the line.
    """
    with_mark = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    first = 1
    try:
        with open_data(path) as stream:
            text = io.TextIOWrapper(stream, with_mark, errors="surrogateescape", newline="")
            rows = csv.reader(text, delimiter=delimiter, strict=True)
            for row in rows:
                if row:
                    yield rows.line_num, row
                first = rows.line_num + 1
    except LookupError:
        raise InputError(f"unknown encoding '{encoding}'; use a name such as latin-1") from None
    except UnicodeError:
        raise _wrong_encoding(path, encoding) from None
    except csv.Error as error:
        problem = "a quote that never closes" if "end of data" in str(error) else str(error)
        raise InputError(f"{path}: line {first}: {problem}") from None


def _wrong_encoding(path: str | AnyPath, encoding: str, line: int | None = None) -> InputError:
    where = f" (line {line})" if line else ""
    return InputError(
        f"{path}: is not {encoding.upper()}{where}; save it as UTF-8 or, of a table of items, name "
        "its encoding, say latin-1"
    )


def header(path: str | AnyPath, delimiter: str, encoding: str = "utf-8") -> list[str]:
    """Column names of a CSV or TSV file."""
    with contextlib.closing(csv_rows(path, delimiter, encoding)) as rows:
        _, names = next(rows, (0, None))
    if names is None:
        raise InputError(f"{path}: the file is empty")
    if any("\x00" in name or is_broken(name) for name in names):
        raise _wrong_encoding(path, encoding)
    return names


def column_names(path: str | AnyPath, encoding: str = "utf-8") -> list[str]:
    """The columns of a CSV, TSV or parquet file."""
    kind = kind_of(path)
    if kind != ".parquet":
        return header(path, DELIMITERS[kind], encoding)
    with open_data(path) as stream, arrow_errors(path):
        return _parquet_file(path, stream)[0].schema_arrow.names


def check_columns(path: str | AnyPath, names: list[str], required: list[str]) -> None:
    """InputError unless each of the required columns is once among `names`, those of a file."""
    for problem, n in (("no", 0), ("more than one", 2)):
        if wrong := [name for name in dict.fromkeys(required) if min(names.count(name), 2) == n]:
            quoted = " and ".join(f"'{name}'" for name in wrong)
            raise InputError(
                f"{path}: {problem} column {quoted} ({shown_columns(names)}); "
                "say which to read (user_column, item_column, rating_column, time_column; of items "
                "id_column, title_column, text_columns)"
            )


def shown_columns(names: list[str]) -> str:
    """The columns of a file, for an error message."""
    if len(names) == 1:
        for mark, shown in ((";", "';'"), ("|", "'|'"), ("\t", "tabs"), (",", "commas")):
            if mark in names[0]:
                return (
                    f"its one column is '{one_line(names[0])}': separated by {shown}? "
                    "A .csv needs commas, a .tsv tabs"
                )
    shown = ", ".join(one_line(name) for name in names[:12])
    return f"columns: {shown}" + (f", ... {len(names)} in all" if len(names) > 12 else "")


def read_text_columns(
    path: str | AnyPath, names: list[str], encoding: str = "utf-8"
) -> dict[str, np.ndarray]:
    """Named columns of a CSV, TSV or parquet file as text (metadata such as titles).

    Numbers become their text, nulls "", and lists (parquet) their elements with | between.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        table = parquet_table(path, names)
        return {name: _as_text(path, name, table[name]) for name in names}
    file_names = header(path, DELIMITERS[kind], encoding)
    check_columns(path, file_names, names)
    places = [file_names.index(name) for name in names]
    cells = []
    rows = csv_rows(path, DELIMITERS[kind], encoding)
    next(rows)
    for line, row in rows:
        if len(row) != len(file_names):
            raise InputError(
                f"{path}: line {line}: {len(row)} fields where there should be {len(file_names)}"
            )
        cells.append([row[at] for at in places])
        if any(map(is_broken, cells[-1])):
            raise _wrong_encoding(path, encoding, line)
    return text_table(names, cells)


def latin_rows(
    path: AnyPath, separator: str, n_fields: int, *, in_last: bool = False
) -> Iterator[list[str]]:
    """The fields of each line of a Latin-1 text without quotes; lines end with \\n or \\r\\n alone.

    Args:
      path: the file.
      separator: between the fields.
      n_fields: of every line.
      in_last: the last field may hold separators.

    Raises:
      InputError: an empty file, or a line with another number of fields.
    """
    with open_data(path) as stream:
        lines = stream.read().removeprefix(codecs.BOM_UTF8).decode("latin-1").split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{path}: the file is empty")
    for number, line in enumerate(lines, 1):
        fields = line.removesuffix("\r").split(separator, n_fields - 1 if in_last else -1)
        if len(fields) != n_fields:
            raise InputError(
                f"{path}: line {number}: not {n_fields} fields with {separator} between"
            )
        yield fields


def text_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Rows of texts as columns, arrays of text objects."""
    return {name: np.array([row[at] for row in rows], object) for at, name in enumerate(names)}


def _as_text(path: str | AnyPath, name: str, column: pa.ChunkedArray) -> np.ndarray:
    with arrow_errors(f"{path}: column '{name}' is no text"):
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lists = column.cast(pa.list_(pa.string())).to_pylist()
            cells = ["|".join(e for e in cell or () if e is not None) for cell in lists]
            return np.array(cells, object)
        return column.cast(pa.string()).fill_null("").to_numpy()


def parquet_table(path: str | AnyPath, names: list[str]) -> pa.Table:
    """Columns of a parquet file, every value checked.

    Raises:
      InputError: a column that is missing or there twice, a damaged file, or one of a few bytes
        that would fill the memory, for columns of a single value take next to nothing.
    """
    with open_data(path) as stream, arrow_errors(path):
        file, n_packed = _parquet_file(path, stream)
        check_columns(path, file.schema_arrow.names, names)
        check_unpacked(path, _announced_bytes(file.metadata, names), n_packed)
        n_bytes, batches = 0, []
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names):
            n_bytes += sum(map(_decoded_bytes, batch.columns))
            check_unpacked(path, n_bytes, n_packed)
            batches.append(batch)
        if not batches:
            batches = file.schema_arrow.empty_table().select(names).to_batches()
        table = pa.Table.from_batches(batches)
        table.validate(full=True)
    if table.num_rows != file.metadata.num_rows:
        raise InputError(f"{path}: damaged: {table.num_rows} rows of {file.metadata.num_rows}")
    return table


def _parquet_file(path: str | AnyPath, stream: IO[bytes]) -> tuple[pa.parquet.ParquetFile, int]:
    """Opens a parquet file, what is packed in memory, and its bytes."""
    source: Any = as_file(path)
    if isinstance(source, pathlib.Path) and source.suffix == ".parquet":
        n_packed = source.stat().st_size
    else:
        source = pa.BufferReader(stream.read())
        n_packed = source.size()
    metadata = pa.parquet.ParquetFile(source).metadata
    columns = [metadata.schema.column(at) for at in range(metadata.num_columns)]
    # A long text that is there a million times is then read once. (Not in lists, where Arrow
    # cannot; there it stops at 2 GB.)
    texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.path == c.name]
    return pa.parquet.ParquetFile(source, metadata=metadata, read_dictionary=texts), n_packed


def _announced_bytes(metadata: pa.parquet.FileMetaData, names: list[str]) -> int:
    """What columns unpack to, by a file's own account; texts count once for all their cells."""
    n_bytes = 0
    for at in range(metadata.num_columns):
        column = metadata.schema.column(at)
        if column.path in names or column.path.split(".")[0] in names:
            for group in range(metadata.num_row_groups):
                chunk = metadata.row_group(group).column(at)
                cells = chunk.num_values * (_CELL + max(column.length, 0))
                n_bytes += max(cells, chunk.total_uncompressed_size)
    return n_bytes


def _decoded_bytes(column: pa.Array) -> int:
    """What a column takes with each of its texts written out."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column.nbytes + _decoded_bytes(column.flatten())
    if not pa.types.is_dictionary(column.type):
        return column.nbytes
    lengths = pa.compute.binary_length(column.dictionary).take(column.indices)
    return column.nbytes + (pa.compute.sum(lengths).as_py() or 0)


@contextlib.contextmanager
def arrow_errors(where: object) -> Iterator[None]:
    """Makes an InputError of what Arrow raises."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{where}: {one_line(error)}") from None
