"""How a non-zero is stored: a factor id and a value, in 2 to 8 bytes.

| format  | factor id           | value                                  | bytes (d > 65,536) |
|---------|---------------------|----------------------------------------|--------------------|
| float32 | uint16/uint32       | float32                                | 6 (8)              |
| float16 | uint16/uint32       | float16                                | 4 (6)              |
| int8    | uint16/uint32       | int8, 127 steps to 1                   | 3 (5)              |
| int4    | 12 bits, difference | 4 bits, one of 16 values of a codebook | 2 to 4, see below  |

The two integer formats describe the row at unit length. Its norm stands beside it, a float16, left
out where every norm rounds to 1 (or 0, for rows of zeros). In int8 a row of more than 128
non-zeros, whose values are small against its length, is described at a largest value of 1 instead.
The codebook of int4 is fitted to the values (Lloyd's algorithm), and decoded rows are scaled back
to their norm. What each format loses is in docs/serving.md.

int4 holds rows of any width in words of 16 bits. A word below 0xF000 is a non-zero: its upper 12
bits are the difference from the factor before it in its row (from 0 for the first), its lower 4
the code. Differences from 3,840 on are bridged: a word from 0xF000 on moves 3,840 factors for each
unit of its lower 12 bits, and the non-zero follows with what is left: 4 bytes then, the more often
the wider the rows and the fewer their non-zeros (`row_bytes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.sparse.rows import row_lengths

FORMATS = ("float32", "float16", "int8", "int4")
LARGEST = 1e16  # value of a model; with weights up to `LARGEST_WEIGHT` no score overflows float32
LARGEST_WEIGHT = 1e8  # of an item in a history
MOST_FACTORS = 1 << 25  # as each takes memory when it is served, also in a file of a few bytes
BYTES_PER_NONZERO = 8  # in plain SciPy, a float32 and an int32, as the paper counts it
BYTES_PER_FACTOR = 4  # of a dense row, a float32
BRIDGES = 0xF000  # the first word of int4 that is no non-zero
BRIDGED = BRIDGES >> 4  # factors that one unit of such a word stands for
_LONGEST_BRIDGE = 0xFFFF - BRIDGES
_NORM_TYPE = np.dtype(np.float16)
_TINY = np.finfo(_NORM_TYPE).tiny
_MANY = 128  # non-zeros of a row; int8 loses 2.6 % of its length up to them
_SHORTEST = 1e-30  # a length below it would overflow in `unit_scale`, times a norm
_N_LEVELS = 16
_CODEBOOK_SAMPLE = 200_000
_ROWS_AT_ONCE = 1 << 13


class Rows(NamedTuple):
    """Non-zeros row after row, as all formats have them in memory.

    Attributes:
      starts: [n_rows + 1] int64, where each row begins in `factors` and `codes`.
      factors: [nnz] uint16 or uint32, ascending in each row.
      codes: [nnz] unsigned, into the table; float32 values without one.
      table: the float32 value of every code, or None.
      scale: [n_rows] float32 that rows are to be multiplied by, or None.
    """

    starts: np.ndarray
    factors: np.ndarray
    codes: np.ndarray
    table: np.ndarray | None
    scale: np.ndarray | None


def row_bytes(format: str, n_factors: int, k: int, *, norms: bool = False) -> float:
    """What a row of k non-zeros takes in a format; codebook and row starts apart.

    For int4 the mean over random factors, as it depends on them. `norms` says that rows are not of
    unit length, which takes more in int8 and int4.
    """
    norm = _NORM_TYPE.itemsize if norms and format in ("int8", "int4") else 0
    if format != "int4":
        return norm + k * (_factor_type(n_factors).itemsize + np.dtype(format).itemsize)
    # A difference reaches r with probability (1 - r / d)^k; these r take one more word each.
    reach = np.arange(BRIDGED, n_factors, _LONGEST_BRIDGE * BRIDGED)
    return norm + 2 * k * (1 + float(((1 - reach / n_factors) ** k).sum()))


def row_nonzeros(format: str, n_factors: int, n_bytes: int, *, norms: bool = False) -> int:
    """The most non-zeros of a row that take, rounded, no more than so many bytes (`row_bytes`)."""
    ks = range(n_bytes + 1)
    fitting = (k for k in ks if round(row_bytes(format, n_factors, k, norms=norms)) <= n_bytes)
    return max(fitting, default=0)


def _factor_type(n_factors: int) -> np.dtype:
    return np.dtype(np.uint16 if n_factors <= 1 << 16 else np.uint32)


def pack(matrix: sp.csr_matrix, format: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The arrays that hold the non-zeros of a float32 matrix with ascending columns.

    Args:
      matrix: without explicit zeros.
      format: one of `FORMATS`.

    Returns:
      [n_rows + 1] int64, where each row begins in them, and the arrays: `factors` and `values`,
      [nnz] each; for int4 `words` [n_words] uint16 and `codebook` [16] float32. For int8 and int4,
      unless all rows are of unit length (or zeros), `norms` [n_rows] float16.

    Raises:
      InputError: an unknown format, or values or row lengths that it cannot hold.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format '{format}'; use one of {', '.join(FORMATS)}")
    values, starts = matrix.data, matrix.indptr.astype(np.int64)
    beside = {}
    if format in ("int8", "int4"):
        norms = _norms(matrix, format)
        if format == "int8" and (many := np.diff(starts) > _MANY).any():
            norms[many] = np.maximum(abs(matrix[many]).max(axis=1).toarray()[:, 0], _TINY)
        if ((norms != 0) & (norms != 1)).any():
            beside["norms"] = norms
            values = values / np.repeat(norms.astype(np.float32), np.diff(starts))
    if format == "int4":
        codebook = _fit_codebook(values)
        edges = (codebook[1:] + codebook[:-1]) / 2
        starts, words = _pack_words(matrix.indices, np.searchsorted(edges, values), starts)
        return starts, {"words": words, "codebook": codebook, **beside}
    factors = matrix.indices.astype(_factor_type(matrix.shape[1]))
    if format == "int8":
        codes = np.rint(values * 127).astype(np.int8)
        return starts, {"factors": factors, "values": codes, **beside}
    with np.errstate(over="ignore"):
        stored = values.astype(format)
    if not np.isfinite(stored).all():
        raise InputError(f"values up to {np.abs(values).max():g} do not fit {format}; use float32")
    return starts, {"factors": factors, "values": stored}


def _pack_words(
    factors: np.ndarray, codes: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Row starts and words of int4, from ascending factors and 4-bit codes of each row."""
    gaps = np.diff(factors.astype(np.int64), prepend=0)
    filled = starts[:-1][np.diff(starts) > 0]
    gaps[filled] = factors[filled]
    bridged, rest = np.divmod(gaps, BRIDGED)
    n_bridges = -(-bridged // _LONGEST_BRIDGE)
    ends = np.concatenate([[0], np.cumsum(1 + n_bridges)])
    words = np.full(ends[-1], BRIDGES + _LONGEST_BRIDGE, np.uint16)
    words[ends[1:] - 1] = rest << 4 | codes
    some = n_bridges > 0
    words[ends[1:][some] - 2] = BRIDGES + (bridged - (n_bridges - 1) * _LONGEST_BRIDGE)[some]
    return ends[starts], words


def unpack(arrays: dict[str, np.ndarray], starts: np.ndarray, n_factors: int) -> Rows:
    """The rows that `pack` stored, read-only; only those of int4 are copied for it."""
    norms = arrays["norms"].astype(np.float32) if "norms" in arrays else None
    if "words" in arrays:
        rows = _unpack_words(arrays["words"], arrays["codebook"], starts, n_factors)
        scale = unit_scale(rows)
        return rows._replace(scale=scale if norms is None else scale * norms)
    factors, values = arrays["factors"], arrays["values"]
    if values.dtype == np.float16:
        with np.errstate(invalid="ignore"):
            table = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        return Rows(starts, factors, values.view(np.uint16), table, None)
    if values.dtype == np.int8:
        steps = np.arange(1 << 8, dtype=np.uint8).view(np.int8)
        return Rows(starts, factors, values.view(np.uint8), steps / np.float32(127), norms)
    return Rows(starts, factors, values, None, None)


def unit_scale(rows: Rows) -> np.ndarray:
    """[n_rows] float32 that the unscaled values of rows make unit rows with; 0 for zeros."""
    scale = np.zeros(len(rows.starts) - 1, np.float32)
    for part, codes, begins in _blocks(rows.codes, rows.starts):
        values = codes if rows.table is None else rows.table[codes]
        lengths = np.sqrt(_row_sums(values.astype(np.float64) ** 2, begins))
        np.divide(1, np.maximum(lengths, _SHORTEST), out=scale[part], where=lengths > 0)
    return scale


def inverse_lengths(rows: Rows) -> np.ndarray:
    """[n_rows] float32, 1 over the length of each row as it is scaled; 0 for rows of zeros."""
    inverse = unit_scale(rows)
    if rows.scale is None:
        return inverse
    return np.divide(inverse, rows.scale, out=np.zeros_like(inverse), where=rows.scale > 0)


def _unpack_words(
    words: np.ndarray, codebook: np.ndarray, starts: np.ndarray, n_factors: int
) -> Rows:
    n = np.count_nonzero(words < BRIDGES)
    begins, factors = np.zeros_like(starts), np.empty(n, _factor_type(n_factors))
    codes = np.empty(n, np.uint8)
    for rows, block, first in _blocks(words, starts):
        is_value = block < BRIDGES
        ends = begins[rows.start] + np.concatenate([[0], np.cumsum(is_value)])
        begins[rows.start : rows.stop + 1] = ends[first]
        at = np.cumsum(_moves(block))
        at -= np.repeat(np.concatenate([[0], at])[first[:-1]], np.diff(first))  # from row to row
        part = slice(ends[0], ends[-1])
        factors[part], codes[part] = at[is_value], block[is_value] & _N_LEVELS - 1
    for array in (begins, factors, codes):
        array.flags.writeable = False
    return Rows(begins, factors, codes, np.array(codebook, np.float32), None)


def check_stored(
    arrays: dict[str, np.ndarray], format: str, starts: np.ndarray, n_factors: int
) -> None:
    """ValueError unless these are arrays of that format that `unpack` and products may trust."""
    wanted = {"factors": ("uint16", "uint32"), "values": (format,)}
    if format == "int4":
        wanted = {"words": ("uint16",), "codebook": ("float32",)}
    if format in ("int8", "int4") and "norms" in arrays:
        wanted["norms"] = ("float16",)
    kinds = {name: array.dtype.name for name, array in arrays.items()}
    if format not in FORMATS or kinds.keys() != wanted.keys():
        raise ValueError(f"arrays {sorted(kinds)} for format '{format}'")
    for name, array in arrays.items():
        if kinds[name] not in wanted[name] or array.ndim != 1:
            raise ValueError(f"array '{name}' of {array.ndim} dimensions, {kinds[name]}")
    codebook = arrays.get("codebook", np.zeros(_N_LEVELS))
    if len(codebook) != _N_LEVELS:
        raise ValueError("a codebook that is not 16 numbers")
    if not all(is_bounded(arrays[name]) for name in ("values", "codebook") if name in arrays):
        raise ValueError(f"values that are not finite, or above {LARGEST:g}")
    nonzeros = [arrays[name] for name in ("factors", "values", "words") if name in arrays]
    if any(len(array) != starts[-1] for array in nonzeros):
        raise ValueError("the rows do not fit the non-zeros")
    if "norms" in arrays:
        norms, lengths = arrays["norms"], np.diff(starts)
        if norms.shape != lengths.shape or not np.isfinite(norms).all():
            raise ValueError(f"norms that are not {len(lengths)} finite numbers")
        if (np.sign(norms) != np.sign(lengths)).any():
            raise ValueError("norms that are not above 0 for rows, and 0 for rows of zeros")
    if format == "int4":
        reached = (_row_sums(_moves(w), b) for _, w, b in _blocks(arrays["words"], starts))
        highest = max((int(block.max(initial=0)) for block in reached), default=0)
    else:
        highest = int(arrays["factors"].max(initial=0))
    if starts[-1] and highest >= n_factors:
        raise ValueError(f"a factor outside of the {n_factors}")


def is_bounded(values: np.ndarray, largest: float = LARGEST) -> bool:
    """Whether all values are numbers of at most that magnitude."""
    return -largest <= float(values.min(initial=0)) and float(values.max(initial=0)) <= largest


def _moves(words: np.ndarray) -> np.ndarray:
    """How many factors each word of int4 moves on, int64."""
    moves = (words >> 4).astype(np.int64)
    bridges = words >= BRIDGES
    moves[bridges] = (words[bridges] - BRIDGES) * np.int64(BRIDGED)
    return moves


def _blocks(
    entries: np.ndarray, starts: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Blocks of rows, their entries and where rows begin in these: no large temporary arrays."""
    for first in range(0, len(starts) - 1, _ROWS_AT_ONCE):
        begins = starts[first : first + _ROWS_AT_ONCE + 1]
        rows = slice(first, first + len(begins) - 1)
        yield rows, entries[begins[0] : begins[-1]], begins - begins[0]


def _norms(matrix: sp.csr_matrix, format: str) -> np.ndarray:
    """[n_rows] float16; InputError for one that would lose more than its last digits."""
    lengths = row_lengths(matrix)
    with np.errstate(over="ignore"):
        norms = lengths.astype(_NORM_TYPE)
    low, high = _TINY, np.finfo(_NORM_TYPE).max
    lost = ~np.isfinite(norms) | (norms < low) & (lengths > 0)
    if lost.any():
        row = int(np.argmax(lost))
        raise InputError(
            f"{format} holds rows of length 0 or {low:.2g} to {high:.6g}, but row {row} has length "
            f"{lengths[row]:.6g}; scale the rows, or use float32"
        )
    return norms


def _row_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[n_rows] sums of values[starts[i]:starts[i + 1]]."""
    sums = np.zeros(len(starts) - 1, values.dtype)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        sums[filled] = np.add.reduceat(values, starts[filled])
    return sums


def _fit_codebook(values: np.ndarray) -> np.ndarray:
    """16 increasing values near the given ones: Lloyd's algorithm on a sample, from quantiles."""
    # On sorted values, where SciPy's kmeans2 takes 70 times as long.
    sample = np.sort(values[:: -(-len(values) // _CODEBOOK_SAMPLE) or 1]).astype(np.float64)
    if not len(sample):
        return np.zeros(_N_LEVELS, np.float32)
    levels = np.quantile(sample, (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS)
    distinct = np.unique(sample)
    if len(distinct) <= _N_LEVELS:
        levels = np.concatenate([distinct, np.repeat(distinct[-1], _N_LEVELS - len(distinct))])
    sums = np.concatenate([[0.0], np.cumsum(sample)])
    for _ in range(100):
        edges = np.searchsorted(sample, (levels[1:] + levels[:-1]) / 2, side="right")
        edges = np.concatenate([[0], edges, [len(sample)]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        levels, before = np.where(counts > 0, means, levels), levels
        if np.array_equal(levels, before):
            break
    return np.sort(levels).astype(np.float32)
