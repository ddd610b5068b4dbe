"""Item embeddings as plain SciPy or NumPy files, with text files of external item ids."""

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
      item_ids: [n_items] external ids.
      factor_ids: [n_factors] the item that each factor belongs to; without, there is no
        `factors.txt`, and an older one goes.

    Raises:
      InputError: ids of another number than rows or columns.
    """
    n_items, n_factors = embeddings.shape
    if len(item_ids) != n_items:
        raise InputError(f"{len(item_ids)} item ids for {n_items} rows")
    if factor_ids is not None and len(factor_ids) != n_factors:
        raise InputError(f"{len(factor_ids)} factor ids for {n_factors} columns")
    write_text(folder / "items.txt", _lines(item_ids))
    factors = folder / "factors.txt"
    if factor_ids is None:
        factors.unlink(missing_ok=True)
    else:
        write_text(factors, _lines(factor_ids))
    text = _sealed_text(item_ids, factor_ids)
    write_sealed(folder / "embeddings.npz", lambda stream: sp.save_npz(stream, embeddings), text)


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
    factor_ids = load_factor_ids(path, embeddings.shape[1])
    try:
        check_seal(path, _sealed_text(item_ids, factor_ids))
    except ValueError:
        factors = "no factors.txt" if factor_ids is None else "the factors.txt beside it"
        raise InputError(
            f"{path}: damaged, or not written with these ids: {items}, and {factors}"
        ) from None
    return embeddings, item_ids


def load_factor_ids(path: str | pathlib.Path, n_factors: int) -> np.ndarray | None:
    """[n_factors] text: the item that each factor belongs to, if an `.npz` is to say.

    Args:
      path: the matrix; `factors.txt` beside it has one id a line.
      n_factors: of the matrix.

    Raises:
      InputError: the file is damaged, an id repeats, or there are more or fewer than factors.
    """
    path = pathlib.Path(path)
    factors = path.with_name("factors.txt")
    if path.suffix != ".npz" or not factors.is_file():
        return None
    factor_ids = read_item_ids(factors)
    if len(factor_ids) != n_factors:
        raise InputError(f"{factors}: {len(factor_ids)} ids for the {n_factors} factors of {path}")
    return factor_ids


def _lines(ids: np.ndarray) -> str:
    return "".join(f"{item}\n" for item in ids)


def _sealed_text(item_ids: np.ndarray, factor_ids: np.ndarray | None) -> str:
    """What a checksum covers besides the matrix; no id is empty, so that an empty line parts."""
    lines = _lines(item_ids)
    return lines if factor_ids is None else f"{lines}\n{_lines(factor_ids)}"


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
