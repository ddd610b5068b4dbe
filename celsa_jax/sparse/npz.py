"""Item embeddings as plain SciPy or NumPy files, with text files of external item ids."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.arrays import id_fault, read_arrays, read_sparse
from celsa_jax.errors import InputError
from celsa_jax.files import write_text
from celsa_jax.seals import check_seal, write_sealed
from celsa_jax.sparse.formats import BYTES_PER_FACTOR, BYTES_PER_NONZERO

_LARGEST = 1 << 26  # items or factors


def save_embeddings(
    folder: pathlib.Path,
    embeddings: sp.csc_matrix,
    item_ids: np.ndarray,
    factor_ids: np.ndarray | None = None,
) -> None:
    """Writes `embeddings.npz` (CSC), `items.txt` and `factors.txt` (one id a line).

    A checksum in the first covers all; SciPy reads past it.

    Args:
      folder: exists.
      embeddings: items x factors.
      item_ids: [n_items] external ids, unique.
      factor_ids: [n_factors] the item that each factor belongs to, unique; if None, no
        `factors.txt` is written, and an older one is removed.
    """
    if factor_ids is not None:
        write_ids(folder / "factors.txt", factor_ids)
    else:
        (folder / "factors.txt").unlink(missing_ok=True)
    write_ids(folder / "items.txt", item_ids)
    text = _sealed_text(item_ids, factor_ids)
    write_sealed(folder / "embeddings.npz", lambda stream: sp.save_npz(stream, embeddings), text)


def load_embeddings(
    path: str | pathlib.Path, items: str | pathlib.Path | None = None
) -> tuple[sp.csc_matrix | np.ndarray, np.ndarray, np.ndarray | None]:
    """Reads embeddings (SciPy sparse `.npz` or NumPy `.npy`), and of what items they are.

    Args:
      path: the matrix.
      items: one id a line in row order; `items.txt` beside the matrix by default.

    Returns:
      Items x factors in float32, CSC or a dense array; [n_items] text ids; and [n_factors] those of
      `factors.txt` beside an `.npz`, None where there is none.

    Raises:
      InputError: a file is missing or damaged, values are not finite, ids repeat, or the ids are
        not those of the rows.
    """
    path = pathlib.Path(path)
    items = pathlib.Path(items or path.with_name("items.txt"))
    factors = path.with_name("factors.txt")
    embeddings = _load_matrix(path)
    if not items.is_file():
        raise InputError(f"{items}: no such file; it holds the item ids of {path}, one a line")
    item_ids, factor_ids = read_item_ids(items, embeddings.shape[0], f"rows of {path}"), None
    if path.suffix == ".npz" and factors.is_file():
        factor_ids = read_item_ids(factors, embeddings.shape[1], f"factors of {path}")
    try:
        check_seal(path, _sealed_text(item_ids, factor_ids))
    except ValueError:
        beside = "no factors.txt" if factor_ids is None else "the factors.txt beside it"
        raise InputError(
            f"{path}: damaged, or not written with these ids: {items}, and {beside}"
        ) from None
    return embeddings, item_ids, factor_ids


def check_ids(ids: np.ndarray, n: int, name: str, of: str) -> None:
    """InputError for another number of ids, or one that repeats."""
    if np.shape(ids) != (n,):
        raise InputError(f"{name}: {len(ids)} ids for the {n} {of}")
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{name}: '{unique[np.argmax(counts > 1)]}' is there twice")


def write_ids(path: pathlib.Path, ids: np.ndarray) -> None:
    """Writes ids for `read_item_ids`, one a line; whole or not at all."""
    text = _lines(ids)
    mark = "\ufeff" if text.startswith("\ufeff") else ""  # one is read as that of the encoding
    write_text(path, mark + text)


def read_item_ids(path: str | pathlib.Path, n: int | None = None, of: str = "") -> np.ndarray:
    """[n] text ids, one a line.

    Args:
      path: UTF-8 text.
      n: how many there must be; any number if None.
      of: what they belong to, for the message.

    Raises:
      InputError: the file is missing or damaged, an id repeats, or there are not n.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    # Only line feeds end a line: an id may hold other characters that Python calls breaks.
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, 1):
        if fault := id_fault(line):
            raise InputError(f"{path}: line {number}: the item id {fault}")
    item_ids = np.array(lines, np.str_)
    check_ids(item_ids, len(lines) if n is None else n, str(path), of)
    return item_ids


def _lines(ids: np.ndarray) -> str:
    return "".join(f"{item}\n" for item in ids)


def _sealed_text(item_ids: np.ndarray, factor_ids: np.ndarray | None) -> str:
    """What a checksum covers besides the matrix; no id is empty, so that an empty line parts."""
    lines = _lines(item_ids)
    return lines if factor_ids is None else f"{lines}\n{_lines(factor_ids)}"


def _load_matrix(path: pathlib.Path) -> sp.csc_matrix | np.ndarray:
    """Items x factors in float32, CSC or dense, all finite."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        matrix: Any = read_sparse(path) if zipfile.is_zipfile(path) else read_arrays(path)
        if sp.issparse(matrix) and max(matrix.shape) > _LARGEST:  # takes memory without entries
            raise ValueError(f"its shape is {matrix.shape}")
        if matrix.ndim != 2:
            raise ValueError(f"{matrix.ndim} dimensions; items x factors has two")
        if np.iscomplexobj(matrix):
            raise ValueError("the values are complex")
        matrix = (matrix.tocsc() if sp.issparse(matrix) else matrix).astype(np.float32)
    except (ValueError, TypeError, MemoryError, OSError) as error:
        raise InputError(
            f"{path}: damaged, or neither a SciPy sparse .npz nor a NumPy .npy matrix: {error}"
        ) from None
    if not np.isfinite(matrix.data if sp.issparse(matrix) else matrix).all():
        raise InputError(f"{path}: holds values that are not finite")
    return matrix


def bytes_per_item(embeddings: sp.spmatrix | np.ndarray) -> float:
    """Mean bytes an item: 4 a dense float32 value; 8 a non-zero (value and index).

    Args:
      embeddings: items x factors, SciPy sparse or a NumPy array.
    """
    n_items, n_factors = embeddings.shape
    if isinstance(embeddings, np.ndarray):
        return float(BYTES_PER_FACTOR * n_factors)
    return BYTES_PER_NONZERO * embeddings.nnz / max(n_items, 1)
