"""Row-sparse item embeddings with their item ids, in memory and on disk."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.arrays import check_sparse
from celsa_jax.errors import InputError, one_line
from celsa_jax.sparse.formats import (
    BRIDGES,
    LARGEST,
    MOST_FACTORS,
    Rows,
    check_stored,
    is_bounded,
    pack,
    unpack,
)
from celsa_jax.sparse.npz import check_ids, load_embeddings
from celsa_jax.sparse.rows import keep_largest, row_lengths, unit_rows
from celsa_jax.sparse.tensors import checksum, read_tensors, write_tensors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SparseEmbeddings:
    """Item embeddings A, items x factors, with few non-zeros a row; immutable.

    Made by `from_scipy`, `from_dense` or `load`. The non-zeros are held row after row, factors
    ascending, in one of the formats of `celsa_jax.sparse.formats`; all products use them as
    float32.

    Attributes:
      n_factors: d.
      starts: [n_items + 1] int64, where each row begins in the arrays.
      arrays: the non-zeros as stored (`formats.pack`).
      metadata: what made them: JSON values by name.

    Example:
      >>> import numpy as np
      >>> from celsa_jax.sparse import SparseEmbeddings
      >>> embeddings = SparseEmbeddings.from_dense(np.eye(3), ["a", "b", "c"], format="int8")
      >>> embeddings.nnz, embeddings.stored_bytes_per_item
      (3, 3.0)
    """

    n_factors: int
    starts: np.ndarray
    arrays: dict[str, np.ndarray]
    metadata: dict[str, object]
    _encoded_ids: np.ndarray  # [n, width] uint8
    _encoded_factor_ids: np.ndarray | None

    def __post_init__(self):
        ids = () if self._encoded_factor_ids is None else (self._encoded_factor_ids,)
        for array in (self.starts, self._encoded_ids, *ids, *self.arrays.values()):
            array.flags.writeable = False

    def __repr__(self) -> str:
        return (
            f"SparseEmbeddings({self.n_items:,} items x {self.n_factors:,} factors, "
            f"{self.nnz:,} non-zeros, {self.format})"
        )

    @classmethod
    def from_dense(
        cls, embeddings: np.ndarray, item_ids: np.ndarray | None = None, **options: Any
    ) -> SparseEmbeddings:
        """From a dense array; what is 0 is not stored. Arguments and errors of `from_scipy`."""
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2:
            raise InputError(f"embeddings are items x factors, not of shape {embeddings.shape}")
        return cls.from_scipy(sp.csr_matrix(embeddings), item_ids, **options)

    @classmethod
    def from_scipy(
        cls,
        embeddings: sp.spmatrix | sp.sparray,
        item_ids: np.ndarray | None = None,
        *,
        factor_ids: np.ndarray | None = None,
        format: str = "float32",
        metadata: dict[str, object] | None = None,
    ) -> SparseEmbeddings:
        """From a SciPy sparse matrix, items x factors, of any kind.

        Args:
          embeddings: real numbers; explicit zeros are dropped, repeated entries added up.
          item_ids: [n_items] external ids, unique; "0", "1", ... if not given.
          factor_ids: [n_factors] the item that each factor belongs to, unique, if they do.
          format: one of `FORMATS`.
          metadata: values that JSON can hold.

        Raises:
          InputError: values that are not finite or above 1e16, ids that repeat or of another
            number than rows or columns, more than 2^25 factors, or values that the format cannot
            hold.
        """
        try:
            if sp.issparse(embeddings):
                check_sparse(embeddings)
            rows = sp.csr_matrix(embeddings, copy=True)
            check_sparse(rows)  # of a kind that is not looked at otherwise
        except ValueError as error:
            raise InputError(f"the embeddings are no sound sparse matrix: {error}") from None
        if np.iscomplexobj(rows):
            raise InputError("the embeddings are complex; they must be real")
        rows = rows.astype(np.float32)
        rows.sum_duplicates()
        if not is_bounded(rows.data):
            first = np.argmin(np.abs(rows.data) <= LARGEST)
            row = np.searchsorted(rows.indptr, first, side="right") - 1
            problem = f"not finite, or above {LARGEST:g}, first in row {row}"
            raise InputError(f"the embeddings hold values that are {problem}")
        rows.eliminate_zeros()
        n_items, n_factors = rows.shape
        if n_factors > MOST_FACTORS:
            raise InputError(f"{n_factors} factors are more than a model may have, {MOST_FACTORS}")
        ids = _encode(range(n_items) if item_ids is None else item_ids, n_items, "item_ids", "rows")
        factors = None
        if factor_ids is not None:
            factors = _encode(factor_ids, n_factors, "factor_ids", "columns")
        return cls(n_factors, *pack(rows, format), dict(metadata or {}), ids, factors)

    @classmethod
    def load(
        cls, path: str | pathlib.Path, items: str | pathlib.Path | None = None
    ) -> SparseEmbeddings:
        """Reads a file of `save`, or a SciPy sparse `.npz` with text files of ids.

        All is read into memory: a file may be replaced, even overwritten, while it is served.

        Args:
          path: the file.
          items: for a `.npz`, one id a line in row order; `items.txt` beside it by default. (The
            items of its factors are those of `factors.txt` beside it, if there is one.) A file of
            `save` brings its own ids, and none of these are read.

        Raises:
          InputError: a file is missing, of another kind or version, truncated or altered.
        """
        path = pathlib.Path(path)
        if not is_saved(path):
            matrix, item_ids, factor_ids = load_embeddings(path, items)
            return cls.from_scipy(matrix, item_ids, factor_ids=factor_ids)
        try:
            tensors, fields = read_tensors(path)
            return cls._from_tensors(tensors, fields)
        except (InputError, OSError):
            raise
        except MemoryError:
            raise InputError(f"{path}: does not fit into the memory that there is") from None
        except Exception as error:  # a file may be of another's making, whatever its checksum
            raise InputError(
                f"{path}: damaged, or not embeddings: those are files of experiments.export, SciPy "
                f".npz and NumPy .npy ({one_line(error)})"
            ) from None

    @classmethod
    def _from_tensors(cls, tensors: dict, fields: dict[str, Any]) -> SparseEmbeddings:
        """Checks all that compiled code relies on."""
        n_factors, metadata = int(fields["n_factors"]), fields["metadata"]
        if not 0 <= n_factors <= MOST_FACTORS:
            raise ValueError("an impossible number of factors")
        ids, factor_ids = tensors.pop("item_ids"), tensors.pop("factor_ids", None)
        lengths = tensors.pop("lengths")
        if lengths.dtype not in (np.uint8, np.uint16, np.uint32) or lengths.ndim != 1:
            raise ValueError("lengths of rows that are none")
        _check_encoded(ids, len(lengths))
        if factor_ids is not None:
            _check_encoded(factor_ids, n_factors)
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        check_stored(tensors, _format(tensors), starts, n_factors)
        return cls(n_factors, starts, tensors, metadata, ids, factor_ids)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes one file: ids, non-zeros, metadata, checksum; whole or not at all.

        The layout is that of safetensors, readable elsewhere.
        """
        fields = {"n_factors": self.n_factors, "metadata": self.metadata}
        write_tensors(pathlib.Path(path), self._tensors(), fields)

    def _tensors(self) -> dict[str, np.ndarray]:
        """What files hold, metadata apart."""
        lengths = np.diff(self.starts)
        lengths = lengths.astype(np.min_scalar_type(int(lengths.max(initial=0))))
        tensors = {**self.arrays, "lengths": lengths, "item_ids": self._encoded_ids}
        if self._encoded_factor_ids is not None:
            tensors["factor_ids"] = self._encoded_factor_ids
        return tensors

    def to_format(self, format: str) -> SparseEmbeddings:
        """The same embeddings in another format; errors as of `from_scipy`."""
        if format == self.format:
            return self
        matrix = self.tocsr().copy()
        matrix.eliminate_zeros()  # values that were rounded to 0
        if (self.format, format) == ("int8", "int4") and "norms" not in self.arrays:
            matrix = unit_rows(matrix)  # as they were before rounding
        starts, arrays = pack(matrix, format)
        return dataclasses.replace(self, starts=starts, arrays=arrays)

    def cut(self, nnz: int) -> SparseEmbeddings:
        """The largest `nnz` non-zeros of each row, which keeps its length; in the same format.

        A model that was trained for it (`sparsity.nested_nnz`) loses little.

        Example:
          >>> embeddings = SparseEmbeddings.from_dense(np.array([[4.0, 3.0, 0.0]]))
          >>> embeddings.cut(1).tocsr().toarray()
          array([[5., 0., 0.]], dtype=float32)
        """
        if nnz < 1:
            raise InputError(f"nnz is {nnz}; keep at least 1")
        rows = self.tocsr()
        kept = unit_rows(keep_largest(rows, nnz))
        kept.data *= np.repeat(row_lengths(rows), np.diff(kept.indptr))
        starts, arrays = pack(kept, self.format)
        return dataclasses.replace(self, starts=starts, arrays=arrays)

    def with_metadata(self, metadata: dict[str, object]) -> SparseEmbeddings:
        """The same embeddings with these values beside those that they have."""
        return dataclasses.replace(self, metadata={**self.metadata, **metadata})

    @property
    def n_items(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def nnz(self) -> int:
        if self.format == "int4":
            return int(np.count_nonzero(self.arrays["words"] < BRIDGES))
        return int(self.starts[-1])

    @property
    def format(self) -> str:
        """float32, float16, int8 or int4."""
        return _format(self.arrays)

    @functools.cached_property
    def item_ids(self) -> np.ndarray:
        """[n_items] external ids, NumPy text, in row order."""
        return _decode(self._encoded_ids)

    @functools.cached_property
    def factor_ids(self) -> np.ndarray | None:
        """[n_factors] NumPy text, the id of the item that each factor belongs to; None if none."""
        ids = self._encoded_factor_ids
        return None if ids is None else _decode(ids)

    @functools.cached_property
    def version(self) -> str:
        """12 hexadecimal digits that tell one model, in one format, from another."""
        return checksum(self._tensors(), str(self.n_factors))[:12]

    def rows(self) -> Rows:
        """The non-zeros as all formats have them in memory; those of int4 are unpacked for it."""
        return unpack(self.arrays, self.starts, self.n_factors)

    def tocsr(self) -> sp.csr_matrix:
        """The decoded matrix in float32, row access."""
        rows = self.rows()
        values = rows.codes if rows.table is None else rows.table[rows.codes]
        if rows.scale is not None:
            values = values * np.repeat(rows.scale, np.diff(rows.starts))
        index = np.int32 if max(self.nnz, self.n_factors) < 1 << 31 else np.int64
        arrays = (values, rows.factors.astype(index), rows.starts.astype(index))
        return sp.csr_matrix(arrays, shape=(self.n_items, self.n_factors))

    @property
    def stored_bytes_per_item(self) -> float:
        """Mean bytes of an item's non-zeros and norm as stored; codebook, starts and ids apart.

        (`celsa_jax.sparse.bytes_per_item` counts 8 a non-zero, as in SciPy and in the paper.)
        """
        n_bytes = sum(a.nbytes for name, a in self.arrays.items() if name != "codebook")
        return n_bytes / max(self.n_items, 1)


def is_saved(path: pathlib.Path) -> bool:
    """Whether a file is to be read as one of `SparseEmbeddings.save` (not `.npz` or `.npy`)."""
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    with path.open("rb") as stream:
        return not stream.read(6).startswith((b"PK", b"\x93NUMPY"))


def _format(arrays: dict[str, np.ndarray]) -> str:
    return "int4" if "words" in arrays else arrays["values"].dtype.name


def _encode(ids: Sequence | np.ndarray, n: int, name: str, of: str) -> np.ndarray:
    """[n, width] uint8, UTF-8 filled up with zeros."""
    text = np.asarray(ids).astype(np.str_)
    check_ids(text, n, name, of)
    encoded = np.char.encode(text, "utf-8")
    width = max(encoded.dtype.itemsize, 1)
    return encoded.astype(f"S{width}").view(np.uint8).reshape(n, width)


def _decode(encoded: np.ndarray) -> np.ndarray:
    """[n] text."""
    n, width = encoded.shape
    return np.char.decode(encoded.view(f"S{width}").reshape(n), "utf-8")


def _check_encoded(encoded: np.ndarray, n: int) -> None:
    """ValueError for what is not n texts of `_encode`."""
    if encoded.dtype != np.uint8 or encoded.ndim != 2 or len(encoded) != n or not encoded.shape[1]:
        raise ValueError("ids that do not fit the rows")
    # No text begins in the middle of a character, so that all together tell of each.
    if ((encoded[:, 0] & 0xC0) == 0x80).any():
        raise ValueError("ids that are not UTF-8")
    encoded.tobytes().decode("utf-8")
