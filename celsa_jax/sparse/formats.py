"""How a non-zero is stored: a factor id and a value, in 2 to 8 bytes.

| format  | factor id           | value                                  | bytes (d > 65,536) |
|---------|---------------------|----------------------------------------|--------------------|
| float32 | uint16/uint32       | float32                                | 6 (8)              |
| float16 | uint16/uint32       | float16                                | 4 (6)              |
| int8    | uint16/uint32       | int8, 127 steps to 1                   | 3 (5)              |
| int4    | 12 bits, difference | 4 bits, one of 16 values of a codebook | 2 to 4, see below  |

Rows of unit length need no scale of their own, so the two integer formats take nothing else (and
rows of zeros). The codebook of int4 is fitted to the values (Lloyd's algorithm), and decoded rows
are scaled back to unit length; both lose less than rounding to even steps. What each format loses
in nDCG@100 is in docs/serving.md.

int4 holds rows of any width in words of 16 bits. A word below 0xF000 is a non-zero: its upper 12
bits are the difference from the factor before it in its row (from 0 for the first), its lower 4
the code. Differences from 3,840 on are bridged: a word from 0xF000 on moves 3,840 factors for each
unit of its lower 12 bits, and the non-zero follows with what is left. One bridge reaches over 15
million factors, so that a non-zero of narrower rows takes 2 or 4 bytes: the wider the rows and the
fewer their non-zeros, the more bridges (`row_bytes`; docs/serving.md has a table).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError

FORMATS = ("float32", "float16", "int8", "int4")
BYTES_PER_NONZERO = 8  # in plain SciPy, a float32 and an int32, as the paper counts it
BYTES_PER_FACTOR = 4  # of a dense row, a float32
BRIDGES = 0xF000  # the first word of int4 that is no non-zero
BRIDGED = BRIDGES >> 4  # factors that one unit of such a word stands for
_LONGEST_BRIDGE = 0xFFFF - BRIDGES
_UNIT_TOLERANCE = 0.02  # rows that were int8 before are off by up to that
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


def row_bytes(format: str, n_factors: int, k: int) -> float:
    """What a row of k non-zeros takes in a format; codebook and row starts apart.

    For int4 the mean over random factors, as it depends on them.
    """
    if format != "int4":
        return k * (_factor_type(n_factors).itemsize + np.dtype(format).itemsize)
    # A difference reaches r with probability (1 - r / d)^k; these r take one more word each.
    reach = np.arange(BRIDGED, n_factors, _LONGEST_BRIDGE * BRIDGED)
    return 2 * k * (1 + float(((1 - reach / n_factors) ** k).sum()))


def row_nonzeros(format: str, n_factors: int, n_bytes: int) -> int:
    """The most non-zeros of a row that take, rounded, no more than so many bytes (`row_bytes`)."""
    ks = range(n_bytes + 1)
    return max(k for k in ks if round(row_bytes(format, n_factors, k)) <= n_bytes)


def _factor_type(n_factors: int) -> np.dtype:
    return np.dtype(np.uint16 if n_factors <= 1 << 16 else np.uint32)


def pack(matrix: sp.csr_matrix, format: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The arrays that hold the non-zeros of a float32 matrix with ascending columns.

    Returns:
      [n_rows + 1] int64, where each row begins in them, and the arrays: `factors` and `values`,
      [nnz] each; for int4 `words` [n_words] uint16 and `codebook` [16] float32.

    Raises:
      InputError: an unknown format, or a range or a row length that it cannot hold.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format '{format}'; use one of {', '.join(FORMATS)}")
    values, starts = matrix.data, matrix.indptr.astype(np.int64)
    if format in ("int8", "int4"):
        _check_unit_rows(matrix, format)
    if format == "int4":
        codebook = _fit_codebook(values)
        edges = (codebook[1:] + codebook[:-1]) / 2
        starts, words = _pack_words(matrix.indices, np.searchsorted(edges, values), starts)
        return starts, {"words": words, "codebook": codebook}
    factors = matrix.indices.astype(_factor_type(matrix.shape[1]))
    if format == "int8":
        return starts, {"factors": factors, "values": np.rint(values * 127).astype(np.int8)}
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
    if "words" in arrays:
        return _unpack_words(arrays["words"], arrays["codebook"], starts, n_factors)
    factors, values = arrays["factors"], arrays["values"]
    if values.dtype == np.float16:
        with np.errstate(invalid="ignore"):
            table = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        return Rows(starts, factors, values.view(np.uint16), table, None)
    if values.dtype == np.int8:
        steps = np.arange(1 << 8, dtype=np.uint8).view(np.int8)
        return Rows(starts, factors, values.view(np.uint8), steps / np.float32(127), None)
    return Rows(starts, factors, values, None, None)


def _unpack_words(
    words: np.ndarray, codebook: np.ndarray, starts: np.ndarray, n_factors: int
) -> Rows:
    n = np.count_nonzero(words < BRIDGES)
    begins, factors = np.zeros_like(starts), np.empty(n, _factor_type(n_factors))
    codes = np.empty(n, np.uint8)
    scale = np.zeros(len(starts) - 1, np.float32)
    for rows, block, first in _blocks(words, starts):
        is_value = block < BRIDGES
        ends = begins[rows.start] + np.concatenate([[0], np.cumsum(is_value)])
        begins[rows.start : rows.stop + 1] = ends[first]
        at = np.cumsum(_moves(block))
        at -= np.repeat(np.concatenate([[0], at])[first[:-1]], np.diff(first))  # from row to row
        part = slice(ends[0], ends[-1])
        factors[part], codes[part] = at[is_value], block[is_value] & _N_LEVELS - 1
        squares = _row_sums(codebook[codes[part]] ** 2, ends[first] - ends[0])
        np.divide(1, np.sqrt(squares), out=scale[rows], where=squares > 0)  # rows become unit
    for array in (begins, factors, codes):
        array.flags.writeable = False
    return Rows(begins, factors, codes, np.array(codebook, np.float32), scale)


def check_stored(
    arrays: dict[str, np.ndarray], format: str, starts: np.ndarray, n_factors: int
) -> None:
    """ValueError unless these are arrays of that format that `unpack` and products may trust."""
    wanted = {"factors": ("uint16", "uint32"), "values": (format,)}
    if format == "int4":
        wanted = {"words": ("uint16",), "codebook": ("float32",)}
    kinds = {name: array.dtype.name for name, array in arrays.items()}
    if format not in FORMATS or kinds.keys() != wanted.keys():
        raise ValueError(f"arrays {sorted(kinds)} for format '{format}'")
    for name, array in arrays.items():
        if kinds[name] not in wanted[name] or array.ndim != 1:
            raise ValueError(f"array '{name}' of {array.ndim} dimensions, {kinds[name]}")
    codebook = arrays.get("codebook", np.zeros(_N_LEVELS))
    if len(codebook) != _N_LEVELS or not np.isfinite(codebook).all():
        raise ValueError("a codebook that is not 16 finite numbers")
    if any(len(array) != starts[-1] for name, array in arrays.items() if name != "codebook"):
        raise ValueError("the rows do not fit the non-zeros")
    if format == "int4":
        reached = (_row_sums(_moves(w), b) for _, w, b in _blocks(arrays["words"], starts))
        highest = max((int(block.max(initial=0)) for block in reached), default=0)
    else:
        highest = int(arrays["factors"].max(initial=0))
    if starts[-1] and highest >= n_factors:
        raise ValueError(f"a factor outside of the {n_factors}")


def _moves(words: np.ndarray) -> np.ndarray:
    """How many factors each word of int4 moves on, int64."""
    moves = (words >> 4).astype(np.int64)
    bridges = words >= BRIDGES
    moves[bridges] = (words[bridges] - BRIDGES) * np.int64(BRIDGED)
    return moves


def _blocks(
    words: np.ndarray, starts: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Blocks of rows, their words and where the rows begin in these: no large temporary arrays."""
    for first in range(0, len(starts) - 1, _ROWS_AT_ONCE):
        begins = starts[first : first + _ROWS_AT_ONCE + 1]
        rows = slice(first, first + len(begins) - 1)
        yield rows, words[begins[0] : begins[-1]], begins - begins[0]


def _check_unit_rows(matrix: sp.csr_matrix, format: str) -> None:
    lengths = np.sqrt(_row_sums(matrix.data.astype(np.float64) ** 2, matrix.indptr))
    wrong = (np.abs(lengths - 1) > _UNIT_TOLERANCE) & (lengths > 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{format} takes rows of unit length (or of zeros), but row {row} has length "
            f"{lengths[row]:.6g}; normalise the rows, or use float16"
        )


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
