"""What the paper published, and whether ours is on the same data.

The figures are those of Vančura, Spišák, Alves and Peška, "Efficient Learning of Sparse
Representations from Interactions" (WWW 2026, arXiv 2602.09935), in `published_results.csv`: to four
digits where the authors' files of data have them, otherwise as on their pages (docs/paper.md).
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from typing import NamedTuple

from celsa_jax.errors import InputError


class PublishedData(NamedTuple):
    """What the paper's figures were measured on.

    Attributes:
      name: ours, `config.data.name`.
      title: for people.
      n_ratings: rows of the publisher's file.
      n_test_users: as many validated.
      dense_width: at which its dense model was best.
    """

    name: str
    title: str
    n_ratings: int
    n_test_users: int
    dense_width: int


_GOODBOOKS = "the current release of Goodbooks-10k"
DATA = {
    "goodbooks": PublishedData("goodbooks", _GOODBOOKS, 5_976_479, 2_500, 3250),
    "ml20m": PublishedData("ml-20m", "MovieLens-20M", 20_000_263, 10_000, 800),
    "netflix": PublishedData("netflix", "the Netflix Prize data", 100_480_507, 40_000, 2450),
}


@functools.cache
def _tables() -> dict[str, dict[str, dict[str, dict[int, str]]]]:
    """Figures by `DATASET/TABLE`, metric, row, and bytes per item."""
    path = importlib.resources.files("celsa_jax.sweeps") / "published_results.csv"
    found: dict[str, dict[str, dict[str, dict[int, str]]]] = {}
    for r in csv.DictReader(path.read_text("utf-8").splitlines()):
        rows = found.setdefault(f"{r['dataset']}/{r['table']}", {}).setdefault(r["metric"], {})
        rows.setdefault(r["row"], {})[int(r["bytes_per_item"])] = r["value"]
    return found


def check(table: str) -> None:
    """InputError unless `config.published` is empty or `DATASET/TABLE`, one of those there are."""
    if table and table not in _tables():
        known = ", ".join(sorted(_tables()))
        raise InputError(f"config.published is '{table}'; choose one of {known}")


def figures(table: str, metric: str) -> dict[str, dict[int, str]]:
    """By row and bytes per item; empty where nothing was published."""
    return _tables().get(table, {}).get(metric, {})


def statement(table: str, counts: dict[str, int], n_test_users: int, folds: str) -> str:
    """Says what the published figures are on, and whether ours are on the same data.

    Args:
      table: `DATASET/TABLE`.
      counts: of the data set that ours were measured on (`Dataset.counts`).
      n_test_users, folds: of ours.
    """
    data = DATA[table.partition("/")[0]]
    same = counts.get("rows") == data.n_ratings
    verdict = "the same data" if same else "OTHER DATA, not to be compared"
    return (
        f"In italics what was published (arXiv 2602.09935), on {data.title}: {data.n_ratings:,} "
        f"ratings, {data.n_test_users:,} test users, independent folds. Ours: {verdict}, "
        f"{n_test_users:,} other test users, {folds} folds (docs/paper.md)."
    )
