"""The results of a sweep: `results.csv` with one row a run, `table.md` for people."""

from __future__ import annotations

import collections
import csv
import functools
import io
import json
import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.baselines.choice import CHOSEN_BY, several
from celsa_jax.errors import InputError
from celsa_jax.evaluation import EXPOSURE_METRICS, METRICS
from celsa_jax.evaluation.paired import paired_tests
from celsa_jax.files import write_text
from celsa_jax.sweeps import published
from celsa_jax.sweeps.grid import ANY_SIZE, column_names
from celsa_jax.sweeps.methods import Run

Results = dict[str, dict | None]  # by run id; None where a run is not done

_METRIC_COLUMNS = [name for m in METRICS for name in (m, f"{m}_stderr")]
_NUMBERS = [
    "bytes_per_item",
    *_METRIC_COLUMNS,
    *EXPOSURE_METRICS,
    "n_users",
    "train_seconds",
    "evaluate_seconds",
    "model_path",
]
_CSV_COLUMNS = [
    *("id", "row", "column", "seed", "method", "options", "n_factors", "target_nnz"),
    *("state", "error", "chosen", *_NUMBERS),
]


def read_result(folder: pathlib.Path, run: Run) -> dict | None:
    """What came of a run, or None where it has not ended."""
    path = folder / "runs" / run.id / "result.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}; delete it to do the run again") from None


def state(result: dict | None) -> str:
    """`done`, `failed`, or empty where the run has not ended."""
    if result is None:
        return ""
    return "done" if result["error"] is None else "failed"


def write_csv(path: pathlib.Path, runs: list[Run], results: Results) -> None:
    """One row a run in the order of the grid, those not run included.

    Equal sweeps give equal files but for the columns that end in _seconds or _path.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for run in runs:
        result = results[run.id] or {}
        sparsity = (run.model_config or run.config).sparsity
        width = run.model_config and run.model_config.model.n_factors  # 0: as the data have items
        writer.writerow(
            {
                "id": run.id,
                "row": run.row,
                "column": run.column,
                "seed": run.seed,
                "method": run.method,
                "options": _json(run.options),
                "n_factors": width or "",
                "target_nnz": sparsity.target_nnz if run.method == "elsa" else "",
                "state": state(results[run.id]),
                "error": result.get("error") or "",
                "chosen": _json(result.get("chosen")),
                **{name: result[name] for name in _NUMBERS if result.get(name) is not None},
            }
        )
    write_text(path, text.getvalue())


class Cells:
    """The results by row and column."""

    def __init__(self, sweep: ConfigDict, runs: list[Run], results: Results, folder: pathlib.Path):
        self.sweep, self.folder = sweep, folder
        self.rows, self.columns = list(sweep.rows), column_names(sweep)
        self.n_bytes = {run.column: run.n_bytes for run in runs if run.column != ANY_SIZE}
        self._runs: dict[tuple[str, str], list[tuple[Run, dict | None]]] = {}
        for run in runs:
            self._runs.setdefault((run.row, run.column), []).append((run, results[run.id]))

    def all(self, row: str, column: str) -> list[tuple[Run, dict | None]]:
        return self._runs.get((row, column), [])

    def done(self, row: str, column: str) -> list[tuple[Run, dict]]:
        runs = self.all(row, column)
        return [(run, r) for run, r in runs if r is not None and r["error"] is None]

    def values(self, row: str, column: str, name: str) -> np.ndarray:
        """[n_seeds] of a cell, in the order of the seeds; those that are done and defined."""
        values = [result.get(name) for _, result in self.done(row, column)]
        return np.array([value for value in values if value is not None], float)

    def is_whole(self, row: str, column: str, name: str) -> bool:
        """Whether every seed of a cell that was planned has a value."""
        return 0 < len(self.all(row, column)) == len(self.values(row, column, name))

    def mean(self, row: str, column: str, name: str) -> float | None:
        values = self.values(row, column, name)
        return float(values.mean()) if len(values) else None

    @functools.lru_cache(maxsize=64)  # noqa: B019, an object lives for one table
    def users(self, run_id: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / "runs" / run_id / "per_user.npz") as stored:
            return dict(stored)

    def differences(self, row: str, column: str) -> np.ndarray:
        """[n] of each user that both can be judged on, row - reference, the seeds in one.

        A row without a budget of bytes is compared at every size of the other.
        """
        reference = self.sweep.reference
        mine, theirs = (
            column if (name, column) in self._runs else ANY_SIZE for name in (row, reference)
        )
        if column not in (mine, theirs):
            return np.empty(0)
        others = {run.seed: run for run, _ in self.done(reference, theirs)}
        parts = [np.empty(0)]
        for run, _ in self.done(row, mine):
            other = others.get(run.seed)
            if other is None or not _same_test(run, other):
                continue
            a, b = self.users(run.id), self.users(other.id)
            difference = a[self.sweep.metric] - b[self.sweep.metric]
            parts.append(difference[~np.isnan(difference)])
        return np.concatenate(parts)


def write_markdown(
    path: pathlib.Path, sweep: ConfigDict, runs: list[Run], results: Results, folder: pathlib.Path
) -> None:
    """The means over seeds, tests against the reference, published figures, and what failed."""
    cells = Cells(sweep, runs, results, folder)
    write_text(path, "\n".join(_lines(cells, runs, results)) + "\n")


def _lines(cells: Cells, runs: list[Run], results: Results) -> Iterator[str]:
    sweep = cells.sweep
    states = [state(results[run.id]) for run in runs]
    seeds = ", ".join(map(str, sweep.seeds))
    yield "# Results of the sweep"
    yield ""
    yield (
        f"{len(runs)} runs: {states.count('done')} done, {states.count('failed')} failed, "
        f"{states.count('')} not run. Seeds {seeds}. Cells are means ± standard errors over seeds "
        "(no error with one seed); (2 of 3) are seeds that are done; of the cells with all of "
        "their seeds the best of a column is bold."
    )
    others = [name for name in METRICS if name != sweep.metric]
    for metric in (sweep.metric, *others):
        yield from _section(cells, metric, functools.partial(_mean_cell, cells, metric))
        if metric == sweep.metric:
            yield from _chosen(cells)
            yield from _section(
                cells,
                f"{metric} against {sweep.reference}",
                functools.partial(_test_cell, cells),
                "Mean difference from the reference over users, seeds in one, ± its standard "
                "error, and the p-value of a paired t-test (not corrected for the number of "
                "tests). A row of any size is compared at every size of the reference.",
            )
    for name in (*EXPOSURE_METRICS, "bytes_per_item"):
        yield from _section(cells, name, functools.partial(_plain_cell, cells, name))
    ended = [(run, result) for run in runs if (result := results[run.id]) is not None]
    if failed := [f"- {run.id}: {r['error']}" for run, r in ended if r["error"] is not None]:
        yield from ("", "## Failed", "", *failed)


def _section(
    cells: Cells, title: str, cell: Callable[[str, str], str], note: str = ""
) -> Iterator[str]:
    settings = cells.sweep.get("published", {})
    shows_published = bool(settings) and title in METRICS
    yield from ("", f"## {title}", "")
    if note:
        yield from (note, "")
    if shows_published:
        yield from (_statement(cells, settings.to_dict()), "")
    yield f"| row | {' | '.join(cells.columns)} |"
    yield "|---|" + "---:|" * len(cells.columns)
    for row in cells.rows:
        yield f"| {row} | {' | '.join(cell(row, column) for column in cells.columns)} |"
        if shows_published:
            yield from _published_row(cells, settings.to_dict(), row, title)


def _mean_cell(cells: Cells, metric: str, row: str, column: str) -> str:
    values = cells.values(row, column, metric)
    if not len(values):
        failed = any(state(result) == "failed" for _, result in cells.all(row, column))
        return "failed" if failed else ""
    text = f"{values.mean():.4f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1) / math.sqrt(len(values)):.4f}"
    if not cells.is_whole(row, column, metric):
        return f"{text} ({len(values)} of {len(cells.all(row, column))})"
    whole = [other for other in cells.rows if cells.is_whole(other, column, metric)]
    best = max(cells.values(other, column, metric).mean() for other in whole)
    return f"**{text}**" if values.mean() == best else text


def _test_cell(cells: Cells, row: str, column: str) -> str:
    if row == cells.sweep.reference:
        return ""
    differences = cells.differences(row, column)
    if len(differences) < 2:
        return ""
    tests = paired_tests(differences)
    difference = f"{tests['difference']:+.4f} ± {tests['stderr']:.4f}"
    return f"{difference} (p {tests['p_t']:.2g}, {tests['n_users']} users)"


def _chosen(cells: Cells) -> Iterator[str]:
    """A line for each option that a row chooses: which values, in how many of its runs."""
    lines = []
    for row in cells.rows:
        done = [pair for column in cells.columns for pair in cells.done(row, column)]
        for name, grid in several(done[0][0].options).items() if done else ():
            chosen = [result["chosen"][name] for _, result in done]
            lines.append(f"- {row}: {name} {_counted(chosen, grid)}; of {_listed(grid)}")
    if lines:
        yield from ("", f"Chosen on validation users, by {CHOSEN_BY}:", "", *lines)


def _counted(chosen: list, grid: list | tuple) -> str:
    """50 (2 of 3 runs), 25 (1, at the edge of the grid): the most frequent first."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in grid)
    edges = (min(grid), max(grid)) if numbers else ()
    parts: list[str] = []
    for value, n in collections.Counter(chosen).most_common():
        times = f"{n}" if parts else f"{n} of {len(chosen)} runs"
        edge = ", at the edge of the grid" if value in edges else ""
        parts.append(f"{_listed([value])} ({times}{edge})")
    return ", ".join(parts)


def _listed(values: list | tuple) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def _json(options: dict | None) -> str:
    return json.dumps(options, sort_keys=True) if options else ""


def _plain_cell(cells: Cells, name: str, row: str, column: str) -> str:
    mean = cells.mean(row, column, name)
    if mean is None:
        return ""
    return f"{mean:,.0f}" if name == "bytes_per_item" else f"{mean:.3f}"


def _published_row(cells: Cells, settings: dict, row: str, metric: str) -> Iterator[str]:
    values = published.values(settings, row, metric)
    if not values:
        return
    # A row without a budget was published at a size of its own.
    single = next(iter(values.values())) if len(values) == 1 else None
    shown = [
        single if column == ANY_SIZE else values.get(cells.n_bytes[column])
        for column in cells.columns
    ]
    texts = ["" if value is None else f"*{value:.3f}*" for value in shown]
    yield f"| *{row}, published* | {' | '.join(texts)} |"


def _statement(cells: Cells, settings: dict) -> str:
    """Of the data of a run that is done; all runs have those of base unless a row says other."""
    for row in cells.rows:
        for column in cells.columns:
            for run, result in cells.done(row, column):
                folds = run.config.eval.folds
                n_users = run.config.data.n_test_users
                return published.statement(settings, result["data"], n_users, folds)
    return f"Published figures are from {published.SOURCE}."


def _same_test(a: Run, b: Run) -> bool:
    """Whether two runs are judged on the same users and folds."""
    one, other = (run.config for run in (a, b))
    return (
        one.data.to_dict() == other.data.to_dict()
        and one.eval.folds == other.eval.folds
        and a.seed == b.seed
    )
