"""Item metadata (titles, authors, genres) from tables, in the order of a catalogue."""

from __future__ import annotations

import dataclasses

import numpy as np

from celsa_jax.data.interactions import lookup
from celsa_jax.data.tables import column_names, read_text_columns, shown_columns
from celsa_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Text columns of a catalogue.

    Attributes:
      columns: by name, [n_items] text objects; "" where an item has nothing.
      counts: how many items have metadata, how many each table has a row of, and what was left out.
    """

    columns: dict[str, np.ndarray]
    counts: dict[str, object]

    def shown(self, item_ids: np.ndarray) -> list[str]:
        """What to call each item: its first column, or its id where that is empty."""
        ids = item_ids.tolist()
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
        raise InputError(
            f"--text_columns={','.join(text_columns)}: of which table? Give --metadata"
        )
    if not paths:
        return Metadata({}, {"items_with_metadata": 0, "items_without_metadata": len(item_ids)})
    if len(id_columns) not in (1, len(paths)):
        raise InputError(f"{len(id_columns)} id columns for {len(paths)} metadata files")
    if not text_columns:
        raise InputError("no text columns; name those to read, --text_columns=title,genres")
    if len(id_columns) == 1:
        id_columns = id_columns * len(paths)
    sources = _sources(paths, id_columns, text_columns, encoding)
    columns = {name: np.full(len(item_ids), "", object) for name in text_columns}
    n_outside = n_repeated = 0
    items_by_table = {}
    for path, id_column, wanted in zip(paths, id_columns, sources, strict=True):
        table = read_text_columns(
            path, [id_column, *(n for n in wanted if n != id_column)], encoding
        )
        ids = table[id_column].astype(np.str_)
        at = lookup(item_ids, ids)
        rows = np.flatnonzero(at >= 0)
        if not len(rows):
            theirs, ours = (", ".join(some[:3].tolist()) for some in (ids, item_ids))
            raise InputError(
                f"{path}: no item of the catalogue in column '{id_column}' (it has {theirs} ..., "
                f"the catalogue {ours} ...); is --id_column right?"
            )
        n_outside += len(ids) - len(rows)
        for name in wanted:
            table[name][rows] = [" ".join(cell.split()) for cell in table[name][rows].tolist()]
        first = _first_rows(path, ids, rows, {name: table[name] for name in wanted})
        items_by_table[str(path)] = len(first)
        n_repeated += len(rows) - len(first)
        for name in wanted:
            columns[name][at[first]] = table[name][first]
    known = np.zeros(len(item_ids), bool)
    for cells in columns.values():
        known |= cells != ""
    counts = {
        "metadata_rows_outside_catalogue": n_outside,
        "metadata_rows_repeated": n_repeated,
        "items_by_table": items_by_table,
        "items_with_metadata": int(known.sum()),
        "items_without_metadata": int((~known).sum()),
    }
    return Metadata(columns, counts)


def _sources(
    paths: list[str], id_columns: list[str], text_columns: list[str], encoding: str
) -> list[list[str]]:
    """Which of the text columns to read from which table."""
    found = [column_names(path, encoding) for path in paths]
    for path, names, id_column in zip(paths, found, id_columns, strict=True):
        if id_column not in names:
            raise InputError(
                f"{path}: no column '{id_column}' of --id_column ({shown_columns(names)})"
            )
    for name in text_columns:
        n_tables = sum(name in names for names in found)
        if n_tables != 1:
            shown = "; ".join(
                f"{p}: {shown_columns(names)}" for p, names in zip(paths, found, strict=True)
            )
            problem = "no metadata file has" if not n_tables else "several metadata files have"
            raise InputError(f"{problem} the column '{name}' of --text_columns ({shown})")
    return [[name for name in text_columns if name in names] for names in found]


def _first_rows(
    path: str, ids: np.ndarray, rows: np.ndarray, table: dict[str, np.ndarray]
) -> np.ndarray:
    """Those of the rows that are first of their id; InputError where another says otherwise."""
    _, first, inverse = np.unique(ids[rows], return_index=True, return_inverse=True)
    first = rows[first]
    others = first[inverse]
    for row, other in zip(rows[rows != others], others[rows != others], strict=True):
        for name, cells in table.items():
            if cells[row] != cells[other]:
                raise InputError(
                    f"{path}: rows {other + 1} and {row + 1} are both of item '{ids[row]}' but "
                    f"differ in column '{name}'; keep one row an item"
                )
    return first
