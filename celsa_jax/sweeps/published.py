"""The published figures, and whether ours are on the same data.

The figures are those of Vančura, Spišák, Alves and Peška, "Efficient Learning of Sparse
Representations from Interactions" (WWW 2026, arXiv 2602.09935), in `published_results.csv`.
`config.published` of a sweep has `dataset` and `table` of that file, and `rows`, from our rows to
its rows.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources

from celsa_jax.errors import InputError

SOURCE = "arXiv 2602.09935"
_FIELDS = ("dataset", "table", "rows")


@dataclasses.dataclass(frozen=True)
class PublishedData:
    """What the paper's figures were measured on.

    Attributes:
      name: of the data.
      n_ratings: rows of the publisher's file.
      n_test_users: of the paper.
    """

    name: str
    n_ratings: int
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
def read() -> dict[tuple[str, str, str, str, int], float]:
    """Values by dataset, table, row, metric and bytes per item."""
    path = importlib.resources.files("celsa_jax.sweeps") / "published_results.csv"
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {
        (r["dataset"], r["table"], r["row"], r["metric"], int(r["bytes_per_item"])): float(
            r["value"]
        )
        for r in csv.DictReader(lines)
    }


def check(settings: dict, rows: list[str]) -> None:
    """InputError unless `config.published` is empty or names what there is."""
    if not settings:
        return
    for name in (*settings, *_FIELDS):
        if (name in settings) != (name in _FIELDS):
            state = "no such field" if name in settings else "it is missing"
            raise InputError(f"config.published.{name}: {state}")
    dataset, table = settings["dataset"], settings["table"]
    known = {key[2] for key in read() if key[:2] == (dataset, table)}
    if not known:
        raise InputError(f"config.published: there is no table '{table}' of '{dataset}'")
    if not isinstance(settings["rows"], dict):
        raise InputError("config.published.rows must name rows")
    for ours, theirs in settings["rows"].items():
        if ours not in rows:
            raise InputError(f"config.published.rows.{ours}: no such row in config.rows")
        if theirs not in known:
            raise InputError(f"config.published.rows.{ours}: no published row '{theirs}'")


def values(settings: dict, row: str, metric: str) -> dict[int, float]:
    """By bytes per item, what was published for a row of the sweep; empty where nothing was."""
    theirs = settings["rows"].get(row) if settings else None
    key = (settings.get("dataset"), settings.get("table"), theirs, metric)
    return {at[4]: value for at, value in read().items() if at[:4] == key}


def statement(settings: dict, counts: dict[str, int], n_test_users: int, folds: str) -> str:
    """Says plainly whether the published figures are on the same data as ours.

    Args:
      settings: `config.published`.
      counts: of the data set that ours were measured on (`Dataset.counts`).
      n_test_users: of ours.
      folds: of ours.
    """
    data = DATA[settings["dataset"]]
    differing = []
    if counts.get("rows") != data.n_ratings:
        rows = f"{counts['rows']:,} ratings" if "rows" in counts else "made-up interactions"
        differing.append(f"ours are on {rows}, not on the {data.n_ratings:,} of {data.name}")
    if n_test_users != data.n_test_users:
        differing.append(f"{n_test_users:,} test users, not {data.n_test_users:,}")
    if folds != "independent":
        differing.append(f"{folds} folds, not independent")
    if counts.get("rows") == data.n_ratings:
        start = f"Published figures ({SOURCE}) are on the same data, {data.name}"
        start += f", but: {'; '.join(differing)}. " if differing else ". "
    else:
        start = f"Published figures ({SOURCE}) are on DIFFERENT DATA and cannot be compared: "
        start += "; ".join(differing) + ". "
    return start + _PROTOCOL
