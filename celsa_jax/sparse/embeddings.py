"""Row-sparse item embeddings with their item ids, in memory and on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError, one_line
from celsa_jax.sparse.formats import BRIDGES, check_stored, read, row_scale, store, value_table
from celsa_jax.sparse.npz import load_embeddings, load_factor_ids
from celsa_jax.sparse.tensors import read_tensors, write_tensors

KIND = "celsa_jax.sparse_embeddings"
VERSION = 2
_VALUES_AT_ONCE = 1 << 18


@dataclasses.dataclass(frozen=True, eq=False)
class SparseEmbeddings:
    """Item embeddings A, items x factors, with few non-zeros a row; immutable.

    Made by `from_dense`, `from_scipy` or `load`. The non-zeros are held row after row, factors
    ascending, in one of the formats of `celsa_jax.sparse.formats`; all products use them as
    float32.

    Attributes:
      n_factors: d.
      starts: [n_items + 1] int64, where each row begins in the arrays.
      arrays: the non-zeros as stored (`formats.store`).
      metadata: what made them: JSON values by name.
    """

    n_factors: int
    starts: np.ndarray
    arrays: dict[str, np.ndarray]
    metadata: dict[str, object]
    _encoded_ids: np.ndarray = dataclasses.field(repr=False)
    _encoded_factor_ids: np.ndarray | None = dataclasses.field(repr=False)

    @classmethod
    def from_dense(
        cls,
        embeddings: np.ndarray,
        item_ids: np.ndarray | None = None,
        *,
        factor_ids: np.ndarray | None = None,
        format: str = "float32",
        metadata: dict[str, object] | None = None,
    ) -> SparseEmbeddings:
        """From a dense array, items x factors; what is 0 is not stored. See `from_scipy`."""
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2:
            raise InputError(f"embeddings are items x factors, not of shape {embeddings.shape}")
        return cls.from_scipy(
            sp.csr_matrix(embeddings),
            item_ids,
            factor_ids=factor_ids,
            format=format,
            metadata=metadata,
        )

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
          InputError: values that are not finite, ids that repeat or of another number than rows
            or columns, or values that the format cannot hold.
        """
        try:
            rows = sp.csr_matrix(embeddings, copy=True)
            rows.check_format()
        except ValueError as error:
            raise InputError(f"the embeddings are no sound sparse matrix: {error}") from None
        if np.iscomplexobj(rows):
            raise InputError("the embeddings are complex; they must be real")
        rows = rows.astype(np.float32)
        if not np.isfinite(rows.data).all():
            row = np.searchsorted(rows.indptr, np.argmin(np.isfinite(rows.data)), side="right") - 1
            raise InputError(f"the embeddings hold values that are not finite, first in row {row}")
        rows.sum_duplicates()
        rows.eliminate_zeros()
        n_items, n_factors = rows.shape
        ids = np.arange(n_items).astype(np.str_) if item_ids is None else np.asarray(item_ids)
        encoded = _encode(ids, n_items, "item ids", "rows")
        factors = None
        if factor_ids is not None:
            factors = _encode(np.asarray(factor_ids), n_factors, "factor ids", "columns")
        return cls._of(n_factors, *store(rows, format), dict(metadata or {}), encoded, factors)

    @classmethod
    def _of(cls, n_factors, starts, arrays, metadata, ids, factor_ids) -> SparseEmbeddings:
        for array in (starts, ids, factor_ids, *arrays.values()):
            if array is not None:
                array.flags.writeable = False
        return cls(n_factors, starts, arrays, metadata, ids, factor_ids)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path,
        items: str | pathlib.Path | None = None,
        *,
        verify: bool = True,
    ) -> SparseEmbeddings:
        """Reads a file of `save`, or a SciPy sparse `.npz` with text files of ids.

        A file of `save` is mapped into memory: what is not used is not read, but for the
        checksum.

        Args:
          path: the file.
          items: for a `.npz`, one id a line in row order; `items.txt` beside it by default. (The
            items of its factors are those of `factors.txt` beside it, if there is one.) A file of
            `save` brings its own ids, and none of these are read.
          verify: compare the checksum of a file of `save`.

        Raises:
          InputError: a file is missing, of another kind or version, truncated or altered.
        """
        path = pathlib.Path(path)
        if not is_saved(path):
            matrix, item_ids = load_embeddings(path, items)
            make = cls.from_scipy if sp.issparse(matrix) else cls.from_dense
            return make(matrix, item_ids, factor_ids=load_factor_ids(path, matrix.shape[1]))
        tensors, fields = read_tensors(path, verify, lambda fields: _accept(path, fields))
        try:
            return cls._from_tensors(tensors, fields)
        except (
            InputError,
            KeyError,
            ValueError,
            TypeError,
            IndexError,
            OverflowError,
            MemoryError,
            RecursionError,
        ) as error:
            raise InputError(f"{path}: damaged: {one_line(error)}; export it again") from None

    @classmethod
    def _from_tensors(cls, tensors: dict, fields: dict[str, str]) -> SparseEmbeddings:
        """Checks all that compiled code relies on; a whole file may be of another's making."""
        n_items, n_factors = int(fields["n_items"]), int(fields["n_factors"])
        if not 0 <= n_factors <= 1 << 32:
            raise ValueError("an impossible number of factors")
        ids = _from_bytes(tensors.pop("item_ids"), n_items)
        factor_ids = tensors.pop("factor_ids", None)
        if factor_ids is not None:
            factor_ids = _from_bytes(factor_ids, n_factors)
        lengths = tensors.pop("lengths")
        if lengths.dtype.kind != "u" or lengths.shape != (n_items,):
            raise ValueError("row lengths that do not fit the items")
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        check_stored(tensors, fields["format"], starts, n_factors)
        metadata = json.loads(fields["metadata"])
        loaded = cls._of(n_factors, starts, tensors, metadata, ids, factor_ids)
        if not np.isfinite(loaded.largest):
            raise ValueError("values that are not finite")
        return loaded

    def save(self, path: str | pathlib.Path) -> None:
        """Writes one file: ids, non-zeros, metadata, checksum; whole or not at all.

        The layout is that of safetensors (`celsa_jax.sparse.tensors`), readable elsewhere.
        """
        tensors = dict(self.arrays)
        lengths = np.diff(self.starts)
        tensors["lengths"] = lengths.astype(np.min_scalar_type(int(lengths.max(initial=0))))
        tensors["item_ids"] = _to_bytes(self._encoded_ids)
        if self._encoded_factor_ids is not None:
            tensors["factor_ids"] = _to_bytes(self._encoded_factor_ids)
        fields = {
            "kind": KIND,
            "version": str(VERSION),
            "format": self.format,
            "n_items": str(self.n_items),
            "n_factors": str(self.n_factors),
            "metadata": json.dumps(self.metadata),
        }
        write_tensors(pathlib.Path(path), tensors, fields)

    def to_format(self, format: str) -> SparseEmbeddings:
        """The same embeddings in another format."""
        if format == self.format:
            return self
        stored = store(self.tocsr(), format)
        ids = self._encoded_ids, self._encoded_factor_ids
        return self._of(self.n_factors, *stored, self.metadata, *ids)

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
        return "int4" if "words" in self.arrays else self.arrays["values"].dtype.name

    @functools.cached_property
    def item_ids(self) -> np.ndarray:
        """[n_items] external ids, NumPy text, in row order."""
        return np.char.decode(self._encoded_ids, "utf-8")

    @functools.cached_property
    def factor_ids(self) -> np.ndarray | None:
        """[n_factors] NumPy text, the id of the item that each factor belongs to; None if none."""
        ids = self._encoded_factor_ids
        return None if ids is None else np.char.decode(ids, "utf-8")

    @functools.cached_property
    def value_table(self) -> np.ndarray | None:
        """The float32 value of every stored code; None for float32."""
        return value_table(self.arrays)

    @functools.cached_property
    def largest(self) -> float:
        """A bound of the magnitudes of all values; NaN where one is."""
        if self.value_table is not None and self.format != "float16":
            return max(1.0, float(np.abs(self.value_table).max()))  # rows of int4 are made unit
        bounds = [0.0]
        for first in range(0, self.nnz, _VALUES_AT_ONCE):  # no large temporary arrays
            values = self.arrays["values"][first : first + _VALUES_AT_ONCE].astype(np.float32)
            bounds += [float(values.max()), -float(values.min())]
        return float(np.max(bounds))

    @functools.cached_property
    def row_scale(self) -> np.ndarray | None:
        """[n_items] float32 factors that make the rows of int4 unit; None for other formats."""
        return row_scale(self.arrays, self.starts)

    def tocsr(self) -> sp.csr_matrix:
        """The decoded matrix in float32, row access."""
        starts, factors, codes = read(self.arrays, self.starts, self.n_factors)
        values = codes if self.value_table is None else self.value_table[codes]
        if self.row_scale is not None:
            values = values * np.repeat(self.row_scale, np.diff(starts))
        index = np.int32 if max(self.nnz, self.n_factors) < 1 << 31 else np.int64
        arrays = (values, factors.astype(index), starts.astype(index))
        return sp.csr_matrix(arrays, shape=(self.n_items, self.n_factors))

    def tocsc(self) -> sp.csc_matrix:
        """The decoded matrix in float32, column access: the inverted index."""
        return self.tocsr().tocsc()

    @property
    def bytes_per_item(self) -> float:
        """Mean bytes of an item's non-zeros as stored; row starts and ids apart."""
        per_item = sum(a.nbytes for name, a in self.arrays.items() if name != "codebook")
        return per_item / max(self.n_items, 1)

    @property
    def nbytes(self) -> int:
        """All bytes that scoring needs: non-zeros, codebook, row starts; without item ids."""
        return sum(a.nbytes for a in self.arrays.values()) + self.starts.nbytes

    def summary(self) -> dict[str, object]:
        """Sizes, non-zeros a row, and lengths of the 2 d lists of items per (factor, sign)."""
        rows = self.tocsr()
        signed = 2 * rows.indices.astype(np.int64) + (rows.data < 0)
        lists = np.bincount(signed, minlength=2 * self.n_factors)
        used = lists[lists > 0]
        return {
            "format": self.format,
            "n_items": self.n_items,
            "n_factors": self.n_factors,
            "nnz": self.nnz,
            "nnz_per_row": _spread(np.diff(rows.indptr)),
            "bytes_per_item": self.bytes_per_item,
            "bytes": self.nbytes,
            "lists": {
                "used": len(used),
                "empty": len(lists) - len(used),
                "length": _spread(used),
            },
        }


def _spread(counts: np.ndarray) -> dict[str, float] | None:
    if not len(counts):
        return None
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "p99": float(np.quantile(counts, 0.99)),
        "max": int(counts.max()),
    }


def _encode(ids: np.ndarray, n: int, name: str, of: str) -> np.ndarray:
    """[n] UTF-8; InputError for another number of ids, or one that repeats."""
    encoded = np.char.encode(ids.astype(np.str_), "utf-8")
    if encoded.shape != (n,):
        raise InputError(f"{len(encoded)} {name} for {n} {of}")
    unique, counts = np.unique(encoded, return_counts=True)
    if (counts > 1).any():
        repeated = unique[np.argmax(counts > 1)].decode()
        raise InputError(f"{name}: '{repeated}' is there twice")
    return encoded


def _to_bytes(encoded: np.ndarray) -> np.ndarray:
    """[n, width] uint8, for a file."""
    width = max(encoded.dtype.itemsize, 1)
    return np.ascontiguousarray(encoded, f"S{width}").view(np.uint8).reshape(len(encoded), width)


def _from_bytes(stored: np.ndarray, n: int) -> np.ndarray:
    """[n] UTF-8 from the bytes of a file; ValueError for what is not."""
    # No text begins in the middle of a character, so that all together tell of each.
    if ((stored[:, 0] & 0xC0) == 0x80).any():
        raise ValueError("ids that are not UTF-8")
    stored.tobytes().decode("utf-8")
    return stored.view(f"S{stored.shape[1]}").reshape(n)


def _accept(path: pathlib.Path, fields: dict[str, str]) -> None:
    if fields.get("kind") != KIND:
        raise InputError(f"{path}: holds no sparse embeddings")
    version = fields.get("version", "")
    if not version.isdecimal():
        raise InputError(f"{path}: damaged: no version of the format")
    if int(version) != VERSION:
        remedy = "update celsa_jax" if int(version) > VERSION else "export it again"
        raise InputError(
            f"{path}: written in version {version} of the format, not {VERSION}; {remedy}"
        )


def is_saved(path: pathlib.Path) -> bool:
    """Whether a file is to be read as one of `SparseEmbeddings.save` (not `.npz` or `.npy`)."""
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as stream:
            return not stream.read(6).startswith((b"PK", b"\x93NUMPY"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
