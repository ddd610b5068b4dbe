"""The results of a sweep: `results.csv` with one row a run, `table.md` for people."""

from __future__ import annotations

import collections
import csv
import functools
import io
import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import scipy.stats

from celsa_jax.evaluation import MAIN_METRIC, METRICS
from celsa_jax.evaluation.paired import holm, paired_tests
from celsa_jax.files import write_text
from celsa_jax.sweeps import published
from celsa_jax.sweeps.grid import ANY_SIZE
from celsa_jax.sweeps.results import Results, state

_CSV_COLUMNS = [
    *("id", "row", "column", "seed", "training", "method", "options", "n_factors", "target_nnz"),
    *("state", "error", "chosen", "bytes_per_item"),
    *(name for metric in METRICS for name in (metric, f"{metric}_stderr")),
    *("n_users", "train_seconds", "evaluate_seconds", "model_path"),
]
_TESTED = (
    "Mean difference from the reference ± its standard error over users, each with the mean of the "
    "seeds that test it, and the p-value of a paired t-test, corrected (Holm) for the number of "
    "tests here. A row of any size is compared at every size of the reference."
)
_SPREAD = (
    "Standard deviations: of one split of the users against another, and of one training against "
    "another of the same split."
)


def write_csv(path: pathlib.Path, results: Results) -> None:
    """One row a run in the order of the grid, those not run included.

    Equal sweeps give equal files but for the columns that end in _seconds or _path.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run, result in results.runs:
        model = run.model_config
        names = ("id", "row", "column", "seed", "training", "method")
        writer.writerow(
            {
                **{name: getattr(run, name) for name in names},
                **result,
                "options": _json(run.options),
                # Empty where the model has a factor for every item.
                "n_factors": (model and model.model.n_factors) or "",
                "target_nnz": model.sparsity.target_nnz if model and run.method == "elsa" else "",
                "state": state(result),
                "chosen": _json(result.get("chosen")),
            }
        )
    write_text(path, text.getvalue())


def write_markdown(path: pathlib.Path, results: Results) -> None:
    """The means over seeds, tests against the reference, published figures, and what failed."""
    lines = [*_summary(results), *_means(results, MAIN_METRIC), *_chosen(results)]
    tested = _tests(results)
    title = f"{MAIN_METRIC} against {results.sweep.reference}"
    lines += _section(results, title, lambda *cell: tested.get(cell, ""), _TESTED)
    if results.sweep.trainings > 1:
        spread = functools.partial(_spread_cell, results)
        lines += _section(results, f"spread of {MAIN_METRIC}", spread, _SPREAD)
    for metric in METRICS:
        if metric != MAIN_METRIC:
            lines += _means(results, metric)
    lines += _section(results, "bytes_per_item", functools.partial(_bytes_cell, results))
    write_text(path, "\n".join([*lines, *_failures(results)]) + "\n")


def _summary(results: Results) -> Iterator[str]:
    states = collections.Counter(state(result) for _, result in results.runs)
    yield "# Results of the sweep"
    yield ""
    yield (
        f"{len(results.runs)} runs: {states['done']} done, {states['failed']} failed, "
        f"{states['']} not run. Seeds {', '.join(map(str, results.sweep.seeds))}. Cells are means "
        "over seeds ± their standard error, where there are several. (2 of 3) says that runs of a "
        "cell are missing. Of the complete cells the best of a column is bold."
    )


def _means(results: Results, metric: str) -> Iterator[str]:
    note = ""
    done = [(run, result) for run, result in results.runs if state(result) == "done"]
    if done and results.sweep.published:  # of the first: a sweep is on one set of data
        run, result = done[0]
        ours = (result["data"], run.config.data.n_test_users, run.config.eval.folds)
        note = published.statement(results.sweep.published, *ours)
    return _section(results, metric, functools.partial(_mean_cell, results, metric), note)


def _section(
    results: Results, title: str, cell: Callable[[str, str], str], note: str = ""
) -> Iterator[str]:
    """A table by row and column, with what was published under that title."""
    yield from ("", f"## {title}", "")
    if note:
        yield from (note, "")
    yield f"| row | {' | '.join(results.columns)} |"
    yield "|---|" + "---:|" * len(results.columns)
    theirs = published.figures(results.sweep.published, title)
    for row in [*results.rows, *(row for row in theirs if row not in results.rows)]:
        if row in results.rows:
            yield f"| {row} | {' | '.join(cell(row, column) for column in results.columns)} |"
        if figures := theirs.get(row):
            sizes = results.n_bytes
            if not figures.keys() & set(sizes.values()):  # it is of a size of its own
                sizes = {ANY_SIZE: min(figures)}
            texts = [figures.get(sizes.get(column, 0), "") for column in results.columns]
            yield f"| *{row}* | {' | '.join(text and f'*{text}*' for text in texts)} |"


def _mean_cell(results: Results, metric: str, row: str, column: str) -> str:
    values, runs = results.values(row, column, metric), results.cell(row, column)
    if not len(values):
        return "failed" if any(state(result) == "failed" for _, result in runs) else ""
    text = f"{values.mean():.4f}"
    if len(values) > 1:
        text += f" ± {scipy.stats.sem(values):.4f}"
    if not results.is_whole(row, column, metric):
        return f"{text} ({len(results.done(row, column))} of {len(runs)})"
    whole = [other for other in results.rows if results.is_whole(other, column, metric)]
    best = max(results.values(other, column, metric).mean() for other in whole)
    return f"**{text}**" if values.mean() == best else text


def _tests(results: Results) -> dict[tuple[str, ...], str]:
    """Texts of the cells that can be tested against the reference."""
    differences = {
        (row, column): results.differences(row, column)
        for row in results.rows
        for column in results.columns
        if row != results.sweep.reference
    }
    tests = {cell: paired_tests(of) for cell, of in differences.items() if len(of) > 1}
    p_values = holm(np.array([test["p_t"] for test in tests.values()]))
    return {
        cell: f"{test['difference']:+.4f} ± {test['stderr']:.4f} (p {p:.2g}, "
        f"{test['n_users']} users)"
        for (cell, test), p in zip(tests.items(), p_values, strict=True)
    }


def _spread_cell(results: Results, row: str, column: str) -> str:
    spread = results.spread(row, column)
    return "" if spread is None else f"split {spread[0]:.4f}, training {spread[1]:.4f}"


def _bytes_cell(results: Results, row: str, column: str) -> str:
    values = results.values(row, column, "bytes_per_item")
    return f"{values.mean():,.0f}" if len(values) else ""


def _chosen(results: Results) -> Iterator[str]:
    """A line for each option that a row chooses: which values, in how many of its runs."""
    lines = []
    for row in results.rows:
        done = [pair for column in results.columns for pair in results.done(row, column)]
        for name, grid in done[0][0].option_lists.items() if done else ():
            chosen = [result["chosen"][name] for _, result in done]
            lines.append(f"- {row}: {name} {_counted(chosen, grid)}; of {_listed(grid)}")
    if lines:
        yield from ("", f"Chosen on validation users, by {MAIN_METRIC}:", "", *lines)


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


def _failures(results: Results) -> Iterator[str]:
    failed = [(run, result) for run, result in results.runs if state(result) == "failed"]
    if failed:
        yield from ("", "## Failed", "")
    for run, result in failed:
        yield f"- {run.id}: {result['error']}"


def _json(options: dict | None) -> str:
    return json.dumps(options, sort_keys=True) if options else ""
