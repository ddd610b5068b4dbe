"""The published figures, and whether ours are on the same data.

The figures are those of Vančura, Spišák, Alves and Peška, "Efficient Learning of Sparse
Representations from Interactions" (WWW 2026, arXiv 2602.09935), in `published_results.csv`. Its
column `ours` names the row of `celsa_jax.sweeps.paper` that is the same method.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from typing import NamedTuple

from celsa_jax.errors import InputError

SOURCE = "arXiv 2602.09935"


class PublishedData(NamedTuple):
    """What the paper's figures were measured on; as many users validate as test."""

    name: str
    n_ratings: int  # rows of the publisher's file
    n_test_users: int


DATA = {
    "goodbooks": PublishedData("the current release of Goodbooks-10k", 5_976_479, 2_500),
    "ml20m": PublishedData("MovieLens-20M", 20_000_263, 10_000),
    "netflix": PublishedData("the Netflix Prize data", 100_480_507, 40_000),
}
_PROTOCOL = (
    "The paper's test users are another draw; it holds out independent draws and ranks only the "
    "items that are held out of any test user, where ours ranks the whole catalogue."
)


@functools.cache
def _read() -> dict[tuple[str, str, str], dict[int, float]]:
    """Values by `DATASET/TABLE`, row of ours and metric, then by bytes per item."""
    path = importlib.resources.files("celsa_jax.sweeps") / "published_results.csv"
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    figures: dict[tuple[str, str, str], dict[int, float]] = {}
    for r in csv.DictReader(lines):
        key = f"{r['dataset']}/{r['table']}", r["ours"], r["metric"]
        figures.setdefault(key, {})[int(r["bytes_per_item"])] = float(r["value"])
    return figures


def check(table: str) -> None:
    """InputError unless `config.published` is empty or `DATASET/TABLE`, one of those there are."""
    known = sorted({table for table, _, _ in _read()})
    if table and table not in known:
        raise InputError(f"config.published is '{table}'; choose one of {', '.join(known)}")


def values(table: str, row: str, metric: str) -> dict[int, float]:
    """By bytes per item, what was published for a row of ours; empty where nothing was."""
    return _read().get((table, row, metric), {})


def statement(table: str, counts: dict[str, int], n_test_users: int, folds: str) -> str:
    """Says plainly whether the published figures are on the same data as ours.

    Args:
      table: `DATASET/TABLE`.
      counts: of the data set that ours were measured on (`Dataset.counts`).
      n_test_users: of ours.
      folds: of ours.
    """
    data = DATA[table.partition("/")[0]]
    same = counts.get("rows") == data.n_ratings
    verdict = "on the same data" if same else "on DIFFERENT DATA and cannot be compared"
    ours = f"{counts['rows']:,} ratings" if "rows" in counts else "made-up interactions"
    return (
        f"Published figures ({SOURCE}) are {verdict}: {data.name}, {data.n_ratings:,} ratings, "
        f"{data.n_test_users:,} test users, independent folds; ours {ours}, {n_test_users:,} test "
        f"users, {folds} folds. {_PROTOCOL}"
    )
