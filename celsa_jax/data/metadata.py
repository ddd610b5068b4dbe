"""Item metadata (titles, authors, genres) from tables, in the order of a catalogue."""

from __future__ import annotations

import dataclasses

import numpy as np

from celsa_jax.arrays import text_array
from celsa_jax.data.interactions import lookup
from celsa_jax.data.tables import (
    check_columns,
    column_names,
    read_text_columns,
    shown_columns,
)
from celsa_jax.errors import InputError

_JOINERS = "\u200c\u200d"  # invisible, too, but Persian and emoji are written with them


def printable(text: str) -> str:
    """The text with a blank for each character that cannot be seen: of control, or of direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else " " for c in text)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Text columns of a catalogue.

    Attributes:
      columns: by name, [n_items] text objects, printable; "" where an item has nothing.
      counts: how many items have metadata, how many each table has a row of, and what was left out.
    """

    columns: dict[str, np.ndarray]
    counts: dict[str, object]

    def shown(self, item_ids: np.ndarray) -> list[str]:
        """What to call each item: its first column, or its id where that is empty."""
        ids = [printable(item) for item in item_ids.tolist()]
        first = next(iter(self.columns.values()), None)
        return ids if first is None else [t or i for t, i in zip(first, ids, strict=True)]

    def details(self, item_ids: np.ndarray) -> list[str]:
        """What to say of each item beside that: its second column, or ""."""
        columns = list(self.columns.values())
        return columns[1].tolist() if len(columns) > 1 else [""] * len(item_ids)


def read_metadata(
    paths: list[str],
    id_columns: list[str],
    text_columns: list[str],
    item_ids: np.ndarray,
    encoding: str = "utf-8",
) -> Metadata:
    """Reads the metadata of a catalogue from one or more tables (CSV, TSV, parquet).

    Args:
      paths: the tables; each row is an item.
      id_columns: the column of item ids, one for all tables or one each.
      text_columns: columns to read, each from the only table that has it, and once.
      item_ids: [n_items] text ids of the catalogue.
      encoding: of CSV and TSV files.

    Raises:
      InputError: a column that no table or more than one has; an item with two different rows; a
        table of other items; columns without a table.
    """
    text_columns = list(dict.fromkeys(text_columns))
    if not paths and text_columns:
        raise InputError(f"text columns {','.join(text_columns)}: no metadata file to read them of")
    if not paths:
        return Metadata({}, {"items_with_metadata": 0, "items_without_metadata": len(item_ids)})
    if len(id_columns) not in (1, len(paths)):
        raise InputError(f"{len(id_columns)} id columns for {len(paths)} metadata files")
    if not text_columns:
        raise InputError("no text columns; name those to read, title and genres for instance")
    if len(id_columns) == 1:
        id_columns = id_columns * len(paths)
    columns = {name: np.full(len(item_ids), "", object) for name in text_columns}
    n_outside = n_repeated = 0
    items_by_table = {}
    names_by_path = _columns_to_read(paths, id_columns, text_columns, encoding)
    for path, id_column, names in zip(paths, id_columns, names_by_path, strict=True):
        table = read_text_columns(path, list(dict.fromkeys([id_column, *names])), encoding)
        try:
            ids = text_array(table[id_column])
        except ValueError as error:
            raise InputError(f"{path}: column '{id_column}': {error}") from None
        positions = lookup(item_ids, ids)
        cells = _cells(path, ids, positions, {name: table[name] for name in names})
        if not cells:
            theirs, ours = (", ".join(some[:3].tolist()) for some in (ids, item_ids))
            raise InputError(
                f"{path}: no item of the catalogue in column '{id_column}' (it has {theirs} ..., "
                f"the catalogue {ours} ...); is that the column of item ids?"
            )
        for position, row in cells.items():
            for name, cell in zip(names, row, strict=True):
                columns[name][position] = cell
        n_inside = int((positions >= 0).sum())
        n_outside += len(ids) - n_inside
        n_repeated += n_inside - len(cells)
        items_by_table[str(path)] = len(cells)
    n_known = int(np.logical_or.reduce([cells != "" for cells in columns.values()]).sum())
    counts = {
        "metadata_rows_outside_catalogue": n_outside,
        "metadata_rows_repeated": n_repeated,
        "items_by_table": items_by_table,
        "items_with_metadata": n_known,
        "items_without_metadata": len(item_ids) - n_known,
    }
    return Metadata(columns, counts)


def _columns_to_read(
    paths: list[str], id_columns: list[str], text_columns: list[str], encoding: str
) -> list[list[str]]:
    """Which of the text columns are those of which table."""
    names_by_path = [column_names(path, encoding) for path in paths]
    for path, names, id_column in zip(paths, names_by_path, id_columns, strict=True):
        check_columns(path, names, [id_column])
    for name in text_columns:
        n_tables = sum(name in names for names in names_by_path)
        if n_tables != 1:
            tables = zip(paths, names_by_path, strict=True)
            shown = "; ".join(f"{path}: {shown_columns(names)}" for path, names in tables)
            problem = "no metadata file has" if not n_tables else "several metadata files have"
            raise InputError(f"{problem} the column '{name}' ({shown})")
    return [[name for name in text_columns if name in names] for names in names_by_path]


def _cells(
    path: str, ids: np.ndarray, positions: np.ndarray, table: dict[str, np.ndarray]
) -> dict[int, tuple[str, ...]]:
    """The cells of each item by its position in the catalogue, which is -1 outside of it."""
    first_rows: dict[int, int] = {}
    cells: dict[int, tuple[str, ...]] = {}
    for row, position in enumerate(positions.tolist()):
        if position < 0:
            continue
        own = tuple(" ".join(printable(column[row]).split()) for column in table.values())
        first = first_rows.setdefault(position, row)
        for name, cell, known in zip(table, own, cells.setdefault(position, own), strict=True):
            if cell != known:
                raise InputError(
                    f"{path}: rows {first + 1} and {row + 1} are both of item '{ids[row]}' but "
                    f"differ in column '{name}'; keep one row an item"
                )
    return cells
