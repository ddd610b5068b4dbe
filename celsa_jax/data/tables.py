"""Tables on disk: CSV, TSV and parquet, plain, `.gz`, or in a `.zip`."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import pathlib
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from celsa_jax.errors import InputError

csv.field_size_limit(1 << 30)  # the header of a broken file may be one long field
AnyPath = pathlib.Path | zipfile.Path  # a file, or a member of an archive
DAMAGED = (  # what reading an archive raises
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    NotImplementedError,  # a zip with a compression that Python lacks
    RuntimeError,  # an encrypted zip
)
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}


def as_path(path: str | AnyPath) -> AnyPath:
    return pathlib.Path(path) if isinstance(path, str) else path


@contextlib.contextmanager
def open_data(path: AnyPath) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, of a .gz, of the only member of a .zip, or of a member."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                yield stream
        elif path.suffix == ".zip" and isinstance(path, pathlib.Path):
            with zipfile.ZipFile(path) as archive, archive.open(_only_member(path)) as stream:
                yield stream
        else:
            with path.open("rb") as stream:
                yield stream
    except DAMAGED as error:
        raise InputError(f"{path}: damaged archive: {one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def find(folder: AnyPath, name: str, required: bool = True) -> AnyPath | None:
    """The file `name` in a folder or an archive, plain, .zip or .gz."""
    names = [name]
    if isinstance(folder, pathlib.Path):
        names += [f"{name}.zip", f"{name}.gz"]
        if name.endswith(".csv"):
            names.append(name.removesuffix(".csv") + ".zip")
    for known in names:
        if (path := folder / known).is_file():
            return path
    if required:
        others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
        raise InputError(f"{folder}: no {name}{others} in this folder")
    return None


def as_folder(path: pathlib.Path) -> AnyPath:
    """What a path holds: a zip of several files is like the folder packed into it."""
    if path.suffix != ".zip" or not path.is_file():
        return path
    with open_archive(path) as archive:
        names = [n for n in archive.namelist() if not n.startswith("__MACOSX")]
        if sum(not name.endswith("/") for name in names) == 1:
            return path
    tops = {name.partition("/")[0] for name in names}
    return zipfile.Path(path, f"{tops.pop()}/" if len(tops) == 1 else "")


@contextlib.contextmanager
def open_archive(path: AnyPath) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DAMAGED as error:
        raise InputError(f"{path}: damaged archive: {one_line(error)}") from None


def _only_member(path: AnyPath) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [
            n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")
        ]
    if len(names) != 1:
        raise InputError(f"{path}: holds {len(names)} files; give a zip with one, or unpack it")
    return names[0]


def kind_of(path: AnyPath) -> str:
    """The suffix that tells the format, looking behind .gz and into .zip."""
    if path.suffix == ".gz":
        return pathlib.Path(path.stem).suffix.lower()
    if path.suffix == ".zip":
        with open_data(path):
            return pathlib.Path(_only_member(path)).suffix.lower()
    return path.suffix.lower()


def header(path: AnyPath, encoding: str = "utf-8") -> list[str]:
    """Column names of a CSV or TSV file."""
    delimiter = DELIMITERS.get(kind_of(path), ",")
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


def column_names(path: str | AnyPath, encoding: str = "utf-8") -> list[str]:
    """The columns of a CSV, TSV or parquet file."""
    path = as_path(path)
    if _table_kind(path) != ".parquet":
        names = header(path, encoding)
        if any(c == "\x00" or "\udc80" <= c <= "\udcff" for name in names for c in name):
            raise _wrong_encoding(path, encoding)
        return names
    with open_data(path) as stream:
        return _parquet_file(path, stream).schema_arrow.names


def check_columns(path: AnyPath, found: list[str], required: list[str]) -> None:
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
    shown = ", ".join(names[:12])
    return f"columns: {shown}" + (f", ... {len(names)} in all" if len(names) > 12 else "")


def latin_lines(path: AnyPath) -> Iterator[tuple[str, str]]:
    """Each line of a Latin-1 text, and "FILE: line N"; lines end with \\n or \\r\\n alone."""
    with open_data(path) as stream:
        lines = stream.read().decode("latin-1").split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        yield f"{path}: line {number}", line.removesuffix("\r")


def text_table(
    path: AnyPath, names: tuple[str, ...], rows: list[tuple[str, ...]]
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
    check_columns(path, column_names(path, encoding), names)
    options = pa.csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string())
    )
    try:
        with open_data(path) as stream:
            table = pa.csv.read_csv(
                stream,
                read_options=pa.csv.ReadOptions(encoding=encoding, block_size=1 << 24),
                parse_options=pa.csv.ParseOptions(
                    delimiter=DELIMITERS[kind], newlines_in_values=True
                ),
                convert_options=options,
            )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "utf8" in (problem := one_line(error)).lower() or isinstance(error, UnicodeError):
            raise _wrong_encoding(path, encoding) from None
        raise InputError(f"{path}: {problem}") from None
    return {n: table[n].to_numpy() for n in names}


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


def _wrong_encoding(path: AnyPath, encoding: str) -> InputError:
    return InputError(
        f"{path}: is not {encoding.upper()}; say what it is, --encoding=latin-1 for instance"
    )


def _parquet_file(path: AnyPath, stream: io.BufferedIOBase) -> pa.parquet.ParquetFile:
    source = path if path.suffix == ".parquet" else pa.BufferReader(stream.read())
    try:
        return pa.parquet.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {one_line(error)}") from None


def parquet_table(
    path: AnyPath, stream: io.BufferedIOBase, required: list[str], optional: list[str] = ()
) -> pa.Table:
    file = _parquet_file(path, stream)
    try:
        check_columns(path, file.schema_arrow.names, required)
        return file.read([*required, *(n for n in optional if n in file.schema_arrow.names)])
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {one_line(error)}") from None


def one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."
