"""What is loaded into an engine, and conditions on its metadata."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings

Condition = tuple[str, str, Any]
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "in", "has")
_KINDS = {bool: "boolean", int: "integer", float: "real", str: "text"}
_RESERVED = ("id", "position", "embedding")
_ITEMS_AT_ONCE, _NONZEROS_AT_ONCE = 5_000, 500_000


class Item(NamedTuple):
    """One item: its position, external id, factors (ascending), values, and metadata cells."""

    position: int
    id: str
    factors: list[int]
    values: list[float]
    cells: tuple


class Items:
    """Embeddings and metadata as engines store them.

    Args:
      embeddings: in any format; decoded to float32.
      metadata: columns by name, each [n_items]: text, whole numbers, numbers, booleans or lists of
        text; None and NaN where an item has nothing.

    Attributes:
      version: 12 hexadecimal digits of a checksum over all that is stored.
      kinds: of the columns: text, integer, real, boolean or texts.

    Raises:
      InputError: columns of other lengths, names or types, text that no database stores.
    """

    def __init__(self, embeddings: SparseEmbeddings, metadata: Mapping[str, Sequence] | None):
        self.ids: list[str] = embeddings.item_ids.tolist()
        for item in self.ids:
            if not storable(item):
                raise InputError(f"item id {item!r} holds what no database stores; rename it")
        self.n_factors = embeddings.n_factors
        self.kinds: dict[str, str] = {}
        self._columns: list[list] = []
        for name, values in (metadata or {}).items():
            self.kinds[name], cells = _column(name, values, self.ids)
            self._columns.append(cells)
        columns = json.dumps([self.kinds, self._columns]).encode() if self.kinds else b""
        self.version = hashlib.sha256(embeddings.version.encode() + columns).hexdigest()[:12]
        self._rows = embeddings.tocsr().copy()
        self._rows.eliminate_zeros()
        self._rows.sort_indices()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def longest(self) -> int:
        """Non-zeros of the longest row."""
        return int(np.diff(self._rows.indptr).max(initial=0))

    @property
    def block_size(self) -> int:
        """Items that are loaded at once; what a load that is killed loses at most."""
        return max(1, min(_ITEMS_AT_ONCE, _NONZEROS_AT_ONCE // max(self.longest, 1)))

    def block(self, first: int, last: int) -> Iterator[Item]:
        """The items of positions first to last - 1."""
        starts = self._rows.indptr[first : last + 1].tolist()
        factors = self._rows.indices[starts[0] : starts[-1]].tolist()
        values = self._rows.data[starts[0] : starts[-1]].tolist()
        for position in range(first, min(last, len(self))):
            own = slice(
                starts[position - first] - starts[0], starts[position - first + 1] - starts[0]
            )
            cells = tuple(column[position] for column in self._columns)
            yield Item(position, self.ids[position], factors[own], values[own], cells)


def storable(text: str) -> bool:
    """Whether databases store it: no NUL, no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def check_where(where: Iterable, kinds: Mapping[str, str]) -> list[Condition]:
    """Conditions (column, operator, value), all to be met, that fit the columns.

    An item without a value meets none. `in` takes a list of values; `has` is for lists of text.

    Raises:
      InputError: another column, operator or type of value.
    """
    if isinstance(where, str | bytes | Mapping) or not isinstance(where, Iterable):
        raise InputError("where is a list of (column, operator, value)")
    return [_condition(condition, kinds) for condition in where]


def _condition(condition: Any, kinds: Mapping[str, str]) -> Condition:
    if not isinstance(condition, list | tuple) or len(condition) != 3:
        raise InputError(f"where: {condition!r} is not (column, operator, value)")
    column, operator, value = condition
    if not isinstance(column, str) or column not in kinds:
        known = ", ".join(kinds) or "no metadata columns at all"
        raise InputError(f"where: no column {column!r}; there are {known}")
    kind = kinds[column]
    allowed = {
        "text": ("=", "!=", "in"),
        "texts": ("has",),
        "boolean": ("=", "!="),
        "integer": OPERATORS[:-1],
        "real": OPERATORS[:-1],
    }[kind]
    if operator not in allowed:
        raise InputError(
            f"where: {operator!r} is no operator for '{column}' ({kind}); use {', '.join(allowed)}"
        )
    if operator != "in":
        return column, operator, _value(column, kind, value)
    if not isinstance(value, list | tuple):
        raise InputError(f"where: '{column}' in takes a list of values, not {value!r}")
    values = [_value(column, kind, one) for one in value]
    if any(isinstance(one, float) for one in values):
        values = [float(one) for one in values]
    return column, operator, values


def _value(column: str, kind: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    is_text, is_boolean = kind in ("text", "texts"), kind == "boolean"
    wanted = str if is_text else bool if is_boolean else int | float
    is_of_kind = isinstance(value, wanted) and isinstance(value, bool) == is_boolean
    if not (is_of_kind and _fits("text" if is_text else kind, value)):
        raise InputError(f"where: {value!r} is no value for '{column}' ({kind})")
    return value


def _column(name: str, values: Sequence, ids: list[str]) -> tuple[str, list]:
    """The kind of a metadata column, and its cells as plain Python values."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,62}", name, re.ASCII):
        raise InputError(f"metadata column {name!r}: use letters, digits and _, at most 63")
    if name.lower() in _RESERVED:
        raise InputError(f"metadata column '{name}': engines have one of that name; rename it")
    cells = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(cells) != len(ids):
        raise InputError(f"metadata column '{name}': {len(cells)} values for {len(ids)} items")
    cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in cells]
    cells = [None if cell is None or cell != cell else cell for cell in cells]
    kinds = {_KINDS.get(type(cell), "texts") for cell in cells if cell is not None}
    if kinds == {"integer", "real"}:
        kinds = {"real"}
        cells = [None if cell is None else float(cell) for cell in cells]
    if len(kinds) > 1:
        raise InputError(f"metadata column '{name}' mixes {' and '.join(sorted(kinds))}")
    kind = kinds.pop() if kinds else "text"
    if kind == "texts":
        cells = [list(c) if isinstance(c, list | tuple | set) else c for c in cells]
    for item, cell in zip(ids, cells, strict=True):
        if cell is not None and not _fits(kind, cell):
            raise InputError(f"metadata column '{name}': {cell!r} of item '{item}' is not {kind}")
    return kind, cells


def _fits(kind: str, cell: Any) -> bool:
    if kind == "texts":
        return isinstance(cell, list) and all(isinstance(t, str) and storable(t) for t in cell)
    if kind == "text":
        return storable(cell)
    return math.isfinite(cell) and abs(cell) < 1 << 63
