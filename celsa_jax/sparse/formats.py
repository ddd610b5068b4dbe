"""How a non-zero is stored: a factor id and a value, in 2 to 8 bytes.

| format  | factor id     | value                                     | bytes (d <= 65,536) |
|---------|---------------|-------------------------------------------|---------------------|
| float32 | uint16/uint32 | float32                                   | 6                   |
| float16 | uint16/uint32 | float16                                   | 4                   |
| int8    | uint16/uint32 | int8, 127 steps to 1                      | 3                   |
| int4    | 12 bits       | 4 bits, one of 16 values of a codebook    | 2 (d <= 4096)       |

Rows of unit length need no scale of their own, so the two integer formats take nothing else (and
rows of zeros). The codebook of int4 is fitted to the values (Lloyd's algorithm), and decoded rows
are scaled back to unit length; both lose less than rounding to even steps. What each format loses
in nDCG@100 is in docs/serving.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError

FORMATS = ("float32", "float16", "int8", "int4")
BYTES_PER_NONZERO = 8  # in plain SciPy, a float32 and an int32, as the paper counts it
BYTES_PER_FACTOR = 4  # of a dense row, a float32
_INT4_FACTORS = 1 << 12
_UNIT_TOLERANCE = 0.02  # rows that were int8 before are off by up to that
_N_LEVELS = 16
_CODEBOOK_SAMPLE = 200_000


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Reads stored non-zeros: factor = ids >> shift, value = codes, or table[codes & mask].

    Attributes:
      shift: 0, or 4 where id and code share 16 bits.
      mask: the bits of the code.
      table: float32 values of the codes, or None where codes are the values.
    """

    shift: int
    mask: int
    table: np.ndarray | None


def bytes_per_nonzero(form: str, n_factors: int) -> int:
    """What a non-zero takes in a format; its codebook and row starts apart.

    Raises:
      InputError: an unknown format, or more factors than it can hold.
    """
    if form not in FORMATS:
        raise InputError(f"unknown format '{form}'; use one of {', '.join(FORMATS)}")
    if form == "int4":
        if n_factors > _INT4_FACTORS:
            raise InputError(f"int4 holds up to {_INT4_FACTORS} factors, not {n_factors}; use int8")
        return 2
    return _factor_type(n_factors).itemsize + np.dtype(form).itemsize


def _factor_type(n_factors: int) -> np.dtype:
    return np.dtype(np.uint16 if n_factors <= 1 << 16 else np.uint32)


def store(rows: sp.csr_matrix, form: str) -> dict[str, np.ndarray]:
    """The arrays that hold the non-zeros of a float32 CSR matrix, in its order.

    Returns:
      `factors` [nnz] and `values` [nnz]; for int4 `packed` [nnz] uint16 and `codebook` [16].

    Raises:
      InputError: a width, a range or a row length that the format cannot hold.
    """
    n_factors, values = rows.shape[1], rows.data
    bytes_per_nonzero(form, n_factors)  # whether it can hold them
    if form in ("int8", "int4"):
        _check_unit_rows(rows, form)
    if form == "int4":
        codebook = _fit_codebook(values)
        edges = (codebook[1:] + codebook[:-1]) / 2
        codes = np.searchsorted(edges, values).astype(np.uint16)
        return {"packed": rows.indices.astype(np.uint16) << 4 | codes, "codebook": codebook}
    factors = rows.indices.astype(_factor_type(n_factors))
    if form == "int8":
        return {"factors": factors, "values": np.rint(values * 127).astype(np.int8)}
    with np.errstate(over="ignore"):
        stored = values.astype(form)
    if not np.isfinite(stored).all():
        raise InputError(f"values up to {np.abs(values).max():g} do not fit {form}; use float32")
    return {"factors": factors, "values": stored}


def ids_and_codes(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stored arrays as a `Decoder` reads them: codes are float32 values or unsigned integers."""
    if "packed" in arrays:
        return arrays["packed"], arrays["packed"]
    values = arrays["values"]
    unsigned = {"f2": np.uint16, "i1": np.uint8}.get(values.dtype.str[1:])
    return arrays["factors"], values if unsigned is None else values.view(unsigned)


def check_stored(arrays: dict[str, np.ndarray], form: str) -> None:
    """ValueError unless these are the arrays of that format, in kind and dimension."""
    wanted = {"factors": ("uint16", "uint32"), "values": (form,)}
    if form == "int4":
        wanted = {"packed": ("uint16",), "codebook": ("float32",)}
    kinds = {name: array.dtype.name for name, array in arrays.items()}
    if form not in FORMATS or kinds.keys() != wanted.keys():
        raise ValueError(f"arrays {sorted(kinds)} for format '{form}'")
    for name, array in arrays.items():
        if kinds[name] not in wanted[name] or array.ndim != 1:
            raise ValueError(f"array '{name}' of {array.ndim} dimensions, {kinds[name]}")
    codebook = arrays.get("codebook", np.zeros(_N_LEVELS))
    if len(codebook) != _N_LEVELS or not np.isfinite(codebook).all():
        raise ValueError("a codebook that is not 16 finite numbers")


def decoder(arrays: dict[str, np.ndarray]) -> Decoder:
    """The reading of what `store` returned."""
    if "packed" in arrays:
        return Decoder(4, _N_LEVELS - 1, np.array(arrays["codebook"], np.float32))
    kind = arrays["values"].dtype
    if kind == np.float16:
        bits = np.arange(1 << 16, dtype=np.uint16)
        with np.errstate(invalid="ignore"):
            return Decoder(0, 0xFFFF, bits.view(np.float16).astype(np.float32))
    if kind == np.int8:
        steps = np.arange(1 << 8, dtype=np.uint8).view(np.int8)
        return Decoder(0, 0xFF, steps.astype(np.float32) / np.float32(127))
    return Decoder(0, 0, None)


def _check_unit_rows(rows: sp.csr_matrix, form: str) -> None:
    lengths = np.sqrt(row_sums(rows.data.astype(np.float64) ** 2, rows.indptr))
    wrong = (np.abs(lengths - 1) > _UNIT_TOLERANCE) & (lengths > 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{form} takes rows of unit length (or of zeros), but row {row} has length "
            f"{lengths[row]:.6g}; normalise the rows, or use float16"
        )


def row_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[n_rows] sums of values[starts[i]:starts[i + 1]]."""
    sums = np.zeros(len(starts) - 1, values.dtype)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        sums[filled] = np.add.reduceat(values, starts[filled])
    return sums


def _fit_codebook(values: np.ndarray) -> np.ndarray:
    """16 increasing values near the given ones: Lloyd's algorithm on a sample, from quantiles."""
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
