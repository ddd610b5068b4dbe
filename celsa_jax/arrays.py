"""Arrays in the files of NumPy and SciPy, which may come from anywhere.

Pickles are never loaded, what is unpacked is bounded, and sparse matrices are checked before
compiled code relies on them.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError, one_line
from celsa_jax.files import check_unpacked

# Characters. Ids become fixed-width NumPy text, so that one runaway would cost all its width.
LONGEST_ID = 256


def read_arrays(
    path: str | pathlib.Path, mapped: bool = False
) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a `.npy`, or the arrays of a `.npz` by name.

    Args:
      path: the file.
      mapped: the array of a `.npy` is mapped into memory, read-only.

    Raises:
      InputError: it unpacks to far more than real data do.
      ValueError: it is damaged or of another kind.
      OSError: it cannot be read.
    """
    path = pathlib.Path(path)
    with _value_errors():
        _check_size(path, path)
        stored = np.load(path, "r" if mapped else None, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return _checked(stored)
        with stored:
            return {name: _checked(stored[name]) for name in stored.files}


def write_arrays(stream: IO[bytes], arrays: Mapping[str, Any]) -> None:
    """Writes a compressed `.npz` of arrays, or what NumPy makes arrays of, by name."""
    np.savez_compressed(stream, **arrays)


def read_sparse(source: pathlib.Path | io.BytesIO, path: object = None) -> sp.spmatrix | sp.sparray:
    """The matrix of `scipy.sparse.save_npz`, whose indices are sound.

    Args:
      source: the file, or its content where it is packed.
      path: of packed content, for messages.

    Raises:
      as `read_arrays`
    """
    with _value_errors():
        _check_size(path or source, source)
        matrix = sp.load_npz(source)
        check_sparse(matrix)
        return matrix


def check_sparse(matrix: sp.spmatrix | sp.sparray) -> None:
    """ValueError for a matrix that compiled code would read or write past the ends of.

    SciPy does not look at the contents of what a matrix is made of, nor does it when it converts.
    """
    if matrix.format in ("csr", "csc", "bsr"):
        matrix.check_format(full_check=True)
        if matrix.data.shape[0] < matrix.indptr[-1]:
            raise ValueError("fewer values than indices")
    elif matrix.format == "coo":
        for places, size in zip(matrix.coords, matrix.shape, strict=True):
            if len(places) != len(matrix.data):
                raise ValueError("another number of values than of places")
            if len(places) and not 0 <= places.min() <= places.max() < size:
                raise ValueError("a place outside of the shape")


def text_array(texts: Sequence[str] | np.ndarray) -> np.ndarray:
    """[n] NumPy text; ValueError for one that is longer than `LONGEST_ID`."""
    for number, text in enumerate(texts, 1):
        if len(text) > LONGEST_ID:
            raise ValueError(f"number {number} is longer than {LONGEST_ID} characters")
    return np.array(texts, np.str_)


def id_fault(text: str) -> str:
    """What keeps a text from being an id; "" where nothing does."""
    if not text:
        return "is empty"
    if "\n" in text or "\r" in text:
        return "has a line break in it"
    if "\x00" in text:
        return "has a NUL byte in it"
    if len(text) > LONGEST_ID:
        return f"is longer than {LONGEST_ID} characters"
    if is_broken(text):
        return "is not UTF-8"
    return ""


def is_broken(text: str) -> bool:
    """Whether a text was read, with "surrogateescape", of what is not UTF-8."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def _check_size(path: object, source: pathlib.Path | io.BytesIO) -> None:
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            n_bytes = sum(member.file_size for member in archive.infolist())
        packed = (
            source.stat().st_size if isinstance(source, pathlib.Path) else len(source.getbuffer())
        )
        check_unpacked(path, n_bytes, packed)
    if not isinstance(source, pathlib.Path):
        source.seek(0)


def _checked(array: np.ndarray | bytes) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise ValueError("a member that is no array")
    if array.size and not array.dtype.itemsize:  # of any length, in no bytes
        raise ValueError("an array of nothing")
    if array.dtype.kind == "U" and array.size:
        characters = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
        if not array.dtype.isnative or characters.max() > sys.maxunicode:
            raise ValueError("text of characters that there are not")
    return array


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers that are odd
            yield
    except (InputError, OSError):
        raise
    except Exception as error:  # NumPy, SciPy and zipfile raise many kinds
        raise ValueError(one_line(error) or type(error).__name__) from None
