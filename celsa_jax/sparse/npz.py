"""Item embeddings as plain SciPy or NumPy files, with a text file of external item ids."""

from __future__ import annotations

import pathlib

import numpy as np
import scipy.sparse as sp

from celsa_jax.arrays import read_arrays, read_sparse
from celsa_jax.errors import InputError
from celsa_jax.files import write_text
from celsa_jax.seals import check_seal, write_sealed
from celsa_jax.sparse.formats import BYTES_PER_FACTOR, BYTES_PER_NONZERO

_LARGEST = 1 << 26  # items or factors


def save_embeddings(folder: pathlib.Path, embeddings: sp.csc_matrix, item_ids: np.ndarray) -> None:
    """Writes `embeddings.npz` (items x factors, CSC) and `items.txt` (one id a line).

    A checksum in the first covers both; SciPy reads past it.
    """
    if embeddings.shape[0] != len(item_ids):
        raise ValueError(f"{embeddings.shape[0]} embeddings for {len(item_ids)} item ids")
    lines = _lines(item_ids)
    write_text(folder / "items.txt", lines)
    path = folder / "embeddings.npz"
    write_sealed(path, lambda stream: sp.save_npz(stream, embeddings), lines)


def load_embeddings(
    path: str | pathlib.Path, items: str | pathlib.Path | None = None
) -> tuple[sp.csc_matrix | np.ndarray, np.ndarray]:
    """Reads embeddings (SciPy sparse `.npz` or NumPy `.npy`) and the ids of their rows.

    Args:
      path: the matrix.
      items: one id a line in row order; `items.txt` beside the matrix by default.

    Returns:
      items x factors in float32, CSC or a dense array, and [n_items] text ids.

    Raises:
      InputError: a file is missing or damaged, values are not finite, ids repeat, or the ids are
        not those of the rows.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        embeddings = _load_matrix(path)
    except InputError:
        raise
    except (ValueError, TypeError, MemoryError, OSError) as error:
        raise InputError(
            f"{path}: damaged, or neither a SciPy sparse .npz nor a NumPy .npy matrix: {error}"
        ) from None
    if embeddings.ndim != 2:
        raise InputError(f"{path}: has {embeddings.ndim} dimensions; items x factors has two")
    if not np.isfinite(embeddings.data if sp.issparse(embeddings) else embeddings).all():
        raise InputError(f"{path}: holds values that are not finite")
    items = pathlib.Path(items or path.with_name("items.txt"))
    if not items.is_file():
        raise InputError(f"{items}: no such file; it holds the item ids of {path}, one a line")
    item_ids = read_item_ids(items)
    if len(item_ids) != embeddings.shape[0]:
        raise InputError(
            f"{items}: {len(item_ids)} ids for the {embeddings.shape[0]} rows of {path}"
        )
    try:
        check_seal(path, _lines(item_ids))
    except ValueError:
        raise InputError(
            f"{path}: damaged, or {items} is not the file of ids that it was written with"
        ) from None
    return embeddings, item_ids


def _lines(item_ids: np.ndarray) -> str:
    return "".join(f"{item}\n" for item in item_ids)


def read_item_ids(path: str | pathlib.Path) -> np.ndarray:
    """[n_items] text ids, one a line; InputError where the file is missing or an id repeats."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    # Only line feeds end a line: an id may hold any other character that Python calls a break.
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, 1):
        if not line or "\x00" in line:
            problem = "has a NUL byte in it" if line else "is empty"
            raise InputError(f"{path}: line {number}: the item id {problem}")
    item_ids = np.array(lines, np.str_)
    unique, counts = np.unique(item_ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{path}: the id '{unique[np.argmax(counts > 1)]}' is there twice")
    return item_ids


def _load_matrix(path: pathlib.Path) -> sp.csc_matrix | np.ndarray:
    stored = read_arrays(path)
    if isinstance(stored, dict):
        if len(stored) == 1:
            return _real(next(iter(stored.values())))
        matrix = read_sparse(path)
        if max(matrix.shape) > _LARGEST:  # it would take memory without having entries
            raise ValueError(f"its shape is {matrix.shape}")
        return _real(matrix.tocsc() if matrix.ndim == 2 else matrix)
    return _real(stored)


def _real(matrix: sp.spmatrix | np.ndarray) -> sp.spmatrix | np.ndarray:
    if np.iscomplexobj(matrix):
        raise ValueError("the values are complex")
    return matrix.astype(np.float32)


def bytes_per_item(embeddings: sp.spmatrix | np.ndarray) -> float:
    """Mean bytes an item: 4 a dense float32 value; 8 a non-zero (value and index).

    Args:
      embeddings: items x factors, SciPy sparse or a NumPy array.
    """
    n_items, n_factors = embeddings.shape
    if isinstance(embeddings, np.ndarray):
        return float(BYTES_PER_FACTOR * n_factors)
    return BYTES_PER_NONZERO * embeddings.nnz / max(n_items, 1)
