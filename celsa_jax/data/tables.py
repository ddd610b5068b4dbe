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
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from celsa_jax.errors import InputError, one_line
from celsa_jax.files import check_unpacked

BLOCK = 1 << 24  # bytes that are parsed at once, and the longest row
csv.field_size_limit(BLOCK)
AnyPath = pathlib.Path | zipfile.Path  # a file, or a member of an archive
DAMAGED = (  # what reading an archive raises
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,  # a zip with a compression that Python lacks
    RuntimeError,  # an encrypted zip
)
_BUFFER = 1 << 20
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}


def as_path(path: str | AnyPath) -> AnyPath:
    """A path that was given as text; a member of an archive stays one."""
    return pathlib.Path(path) if isinstance(path, str) else path


@contextlib.contextmanager
def open_data(path: AnyPath) -> Iterator[IO[bytes]]:
    """The bytes of a file, of a .gz, of the only member of a .zip, or of a member.

    Raises:
      InputError: it cannot be read, or unpacks to far more than real data do.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
        if isinstance(path, zipfile.Path):
            check_member(path, path.root, path.at)
            with path.open("rb") as stream:
                yield stream
        elif path.suffix == ".gz":
            with gzip.open(path) as stream:
                yield io.BufferedReader(_Bounded(path, stream), _BUFFER)
        elif path.suffix == ".zip":
            with open_archive(path) as archive:
                name = _only_member(path, archive)
                check_member(path, archive, name)
                with archive.open(name) as stream:
                    yield stream
        else:
            with path.open("rb") as stream:
                yield stream
    except DAMAGED as error:
        raise InputError(f"{path}: damaged archive: {one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


class _Bounded(io.RawIOBase):
    """What a .gz unpacks to, until it is too much."""

    def __init__(self, path: pathlib.Path, stream: io.BufferedIOBase):
        self._path, self._stream = path, stream
        self._n_packed, self._n_bytes = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n_read = self._stream.readinto(buffer)
        self._n_bytes += n_read
        check_unpacked(self._path, self._n_bytes, self._n_packed)
        return n_read


def check_member(path: AnyPath, archive: zipfile.ZipFile, name: str) -> None:
    """InputError for a member that unpacks to too much; zipfile reads no more than announced."""
    n_packed = pathlib.Path(str(archive.filename)).stat().st_size
    check_unpacked(path, archive.getinfo(name).file_size, n_packed)


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
    names = [name]
    if isinstance(folder, pathlib.Path):
        names += [f"{name}.zip", f"{name}.gz"]
        if name.endswith(".csv"):
            names.append(name.removesuffix(".csv") + ".zip")
    return names


def as_folder(path: pathlib.Path) -> AnyPath:
    """What a path holds: a zip of several files is like the folder packed into it."""
    if path.suffix != ".zip" or not path.is_file():
        return path
    with open_archive(path) as archive:
        names = [n for n in archive.namelist() if not n.startswith("__MACOSX")]
        if sum(not name.endswith("/") for name in names) == 1:
            return path
    if out := [n for n in names if n.startswith("/") or ".." in n.split("/")]:
        raise InputError(f"{path}: holds '{out[0]}', which leads out of it; unpack it by hand")
    tops = {name.partition("/")[0] for name in names}
    return zipfile.Path(path, f"{tops.pop()}/" if len(tops) == 1 else "")


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
        counts = collections.Counter(archive.namelist())
        for name, count in counts.most_common(1):
            if count > 1:  # zipfile would read the last alone
                raise InputError(f"{path}: holds {count} files called {name}; unpack the right one")
        try:
            yield archive
        except (*DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before 0
                raise
            raise InputError(f"{path}: damaged archive: {one_line(error)}") from None


def _only_member(path: AnyPath, archive: zipfile.ZipFile) -> str:
    names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")]
    if len(names) != 1:
        raise InputError(f"{path}: holds {len(names)} files; give a zip with one, or unpack it")
    return names[0]


def kind_of(path: AnyPath) -> str:
    """The suffix that tells the format, looking behind .gz and into .zip."""
    if path.suffix == ".gz":
        return pathlib.Path(path.stem).suffix.lower()
    if path.suffix == ".zip" and isinstance(path, pathlib.Path):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        with open_archive(path) as archive:
            return pathlib.Path(_only_member(path, archive)).suffix.lower()
    return path.suffix.lower()


def csv_rows(
    path: AnyPath, delimiter: str, encoding: str = "utf-8"
) -> Generator[tuple[int, list[str]]]:
    """Each row of a CSV or TSV file, but for empty lines, and the number of its last line.

    What is not UTF-8 comes as surrogates, for whom it concerns.

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


def is_broken(text: str) -> bool:
    """Whether a text of `csv_rows` was not UTF-8."""
    return any("\udc80" <= c <= "\udcff" for c in text)


def column_names(path: str | AnyPath, encoding: str = "utf-8") -> list[str]:
    """The columns of a CSV, TSV or parquet file."""
    path = as_path(path)
    kind = _table_kind(path)
    if kind == ".parquet":
        with open_data(path) as stream:
            return _parquet_file(path, stream).schema_arrow.names
    return header(path, DELIMITERS[kind], encoding)


def header(path: AnyPath, delimiter: str, encoding: str = "utf-8") -> list[str]:
    """Column names of a CSV or TSV file."""
    with contextlib.closing(csv_rows(path, delimiter, encoding)) as rows:
        _, names = next(rows, (0, None))
    if names is None:
        raise InputError(f"{path}: the file is empty")
    if any("\x00" in name or is_broken(name) for name in names):
        raise _wrong_encoding(path, encoding)
    return names


def check_columns(path: AnyPath, found: list[str], required: list[str]) -> None:
    """InputError unless each of the required columns is once among those found.

    It names the file, the first column at fault, and the columns that there are.
    """
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
            f"its one column is '{one_line(names[0])}': separated by "
            f"{marks.get(found[0], repr(found[0]))}? A .csv needs commas, a .tsv tabs"
        )
    shown = ", ".join(one_line(name) for name in names[:12])
    return f"columns: {shown}" + (f", ... {len(names)} in all" if len(names) > 12 else "")


def latin_lines(path: AnyPath) -> Iterator[tuple[str, str]]:
    """Each line of a Latin-1 text, and "FILE: line N"; lines end with \\n or \\r\\n alone."""
    with open_data(path) as stream:
        lines = stream.read().removeprefix(codecs.BOM_UTF8).decode("latin-1").split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        yield f"{path}: line {number}", line.removesuffix("\r")


def text_table(
    path: AnyPath, names: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> dict[str, np.ndarray]:
    """Text columns of the rows read from a file; InputError where there are none."""
    if not rows:
        raise InputError(f"{path}: the file is empty")
    columns = zip(*rows, strict=True)
    return {n: np.array(c, object) for n, c in zip(names, columns, strict=True)}


def read_text_columns(
    path: str | AnyPath, names: list[str], encoding: str = "utf-8"
) -> dict[str, np.ndarray]:
    """Named columns of a CSV, TSV or parquet file as text (metadata such as titles).

    Numbers become their text, nulls "", and lists (parquet) their elements with | between.
    """
    path = as_path(path)
    kind = _table_kind(path)
    if kind == ".parquet":
        with open_data(path) as stream:
            table = parquet_table(path, stream, names)
        return {n: _as_text(path, n, table[n]) for n in names}
    rows = csv_rows(path, DELIMITERS[kind], encoding)
    found = header(path, DELIMITERS[kind], encoding)
    check_columns(path, found, names)
    next(rows)
    places = [found.index(name) for name in names]
    cells = []
    for line, row in rows:
        if len(row) != len(found):
            raise InputError(
                f"{path}: line {line}: {len(row)} fields where there should be {len(found)}"
            )
        cells.append([row[at] for at in places])
        if any(map(is_broken, cells[-1])):
            raise _wrong_encoding(path, encoding, line)
    columns = zip(*cells, strict=True) if cells else [[]] * len(names)
    return {n: np.array(c, object) for n, c in zip(names, columns, strict=True)}


def _table_kind(path: AnyPath) -> str:
    kind = kind_of(path)
    if kind not in (".parquet", *DELIMITERS):
        raise InputError(f"{path}: unknown kind of file '{kind}'; use .csv, .tsv or .parquet")
    return kind


def _as_text(path: AnyPath, name: str, column: pa.ChunkedArray) -> np.ndarray:
    try:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lists = column.cast(pa.list_(pa.string()))
            column = pa.chunked_array([_joined(chunk) for chunk in lists.chunks], pa.string())
        return column.cast(pa.string()).fill_null("").to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: column '{name}' is no text: {one_line(error)}") from None


def _joined(lists: pa.ListArray) -> pa.StringArray:
    """The elements of each list with | between; nulls are left out."""
    values = lists.flatten()
    n_valid = np.concatenate([[0], np.cumsum(values.is_valid())])
    ends = np.cumsum(pc.list_value_length(lists).fill_null(0))
    offsets = n_valid[np.concatenate([[0], ends])].astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(offsets, values.drop_null()), "|")


def _wrong_encoding(path: AnyPath, encoding: str, line: int | None = None) -> InputError:
    where = f" (line {line})" if line else ""
    return InputError(
        f"{path}: is not {encoding.upper()}; say what it is, --encoding=latin-1 for instance{where}"
    )


def _parquet_file(path: AnyPath, stream: IO[bytes]) -> pa.parquet.ParquetFile:
    if plain := isinstance(path, pathlib.Path) and path.suffix == ".parquet":
        n_packed = path.stat().st_size
    else:
        content = stream.read()
        n_packed = len(content)
    with arrow_errors(path):
        file = pa.parquet.ParquetFile(path if plain else pa.BufferReader(content))
    check_unpacked(path, 8 * file.metadata.num_rows, n_packed)  # a column of them
    return file


def parquet_table(path: AnyPath, stream: IO[bytes], names: list[str]) -> pa.Table:
    """Columns of a parquet file, every value checked.

    Args:
      path: the file, or what it is packed into.
      stream: its bytes.
      names: of the columns.

    Raises:
      InputError: a column that is missing or there twice, or a damaged file.
    """
    file = _parquet_file(path, stream)
    with arrow_errors(path):
        check_columns(path, file.schema_arrow.names, names)
        table = file.read(names)
        table.validate(full=True)
        if table.num_rows != file.metadata.num_rows:
            raise InputError(f"{path}: damaged: {table.num_rows} rows of {file.metadata.num_rows}")
        return table


@contextlib.contextmanager
def arrow_errors(path: AnyPath) -> Iterator[None]:
    """Makes an InputError of what Arrow raises."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {one_line(error)}") from None
