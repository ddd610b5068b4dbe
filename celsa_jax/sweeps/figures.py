"""Figures of a sweep, each as PNG and SVG (needs the extra `figures`)."""

from __future__ import annotations

import json
import pathlib

import matplotlib
import numpy as np
import scipy.sparse as sp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator
from matplotlib.typing import ColorType
from ml_collections import ConfigDict

from celsa_jax.files import atomic_path, remove_left_overs
from celsa_jax.sweeps.grid import ANY_SIZE
from celsa_jax.sweeps.methods import Run
from celsa_jax.sweeps.tables import Cells, Results

_SIZE = (7.2, 4.4)
_FORMATS = ("png", "svg")


def draw_all(
    out: pathlib.Path, sweep: ConfigDict, runs: list[Run], results: Results, folder: pathlib.Path
) -> None:
    """Writes the figures that the results allow.

    `quality_bytes`, and of the rows that train sparse models, in the first column that is done:
    `training` (means over seeds), `schedules` and `factors` (the first seed that is done).
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_left_overs(out)
    cells = Cells(sweep, runs, results, folder)
    colours = _colours(cells.rows)
    if any(cells.done(row, column) for row in cells.rows for column in cells.columns):
        figure, axes = _axes("bytes per item", sweep.metric)
        _quality(axes, cells, colours)
        _save(figure, out / "quality_bytes")
    trained = _trained(cells)
    if not trained:
        return
    for name, x, y, draw in (
        ("schedules", "epoch", "non-zeros a row", _schedules),
        ("training", "epoch", "loss", _training),
        ("factors", "factors, by their number of items", "items", _factors),
    ):
        figure, axes = _axes(x, y)
        axes.set_title(f"column {_first_column(cells)}", fontsize=9)
        draw(axes, trained, colours, folder)
        _save(figure, out / name)


def _trained(cells: Cells) -> dict[str, list[tuple[Run, dict]]]:
    """By row, the runs of sparse models in the column that is shown."""
    column = _first_column(cells)
    found = {row: cells.done(row, column) for row in cells.rows} if column else {}
    return {row: done for row, done in found.items() if done and done[0][0].method == "elsa"}


def _first_column(cells: Cells) -> str | None:
    for column in cells.columns:
        for row in cells.rows:
            if any(run.method == "elsa" for run, _ in cells.done(row, column)):
                return column
    return None


def _quality(axes: Axes, cells: Cells, colours: dict) -> None:
    metric = cells.sweep.metric
    for row in cells.rows:
        columns = [c for c in cells.columns if cells.mean(row, c, metric) is not None]
        if not columns:
            continue
        means = np.array([cells.mean(row, column, metric) for column in columns])
        if columns == [ANY_SIZE]:
            size = cells.mean(row, ANY_SIZE, "bytes_per_item")
            label = row if size is None else f"{row} ({size:,.0f} bytes)"
            axes.axhline(means[0], color=colours[row], linestyle="--", linewidth=1, label=label)
            continue
        sizes = [cells.mean(row, c, "bytes_per_item") or cells.n_bytes[c] for c in columns]
        dense = cells.sweep.rows[row].method == "dense_elsa"
        axes.errorbar(
            sizes,
            means,
            yerr=[_stderr(cells.values(row, column, metric)) for column in columns],
            color=colours[row],
            linestyle="--" if dense else "-",
            marker="o",
            markersize=3,
            capsize=2,
            label=row,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")


def _schedules(axes: Axes, trained: dict, colours: dict, folder: pathlib.Path) -> None:
    drawn = set()
    for row, done in trained.items():
        log = _log(folder, done[0][1])
        k = tuple(line["k"] for line in log)
        if k in drawn:  # rows that differ in something else have one schedule
            continue
        drawn.add(k)
        epochs = [line["epoch"] for line in log]
        axes.step(epochs, k, where="mid", color=colours[row], label=row)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")


def _training(axes: Axes, trained: dict, colours: dict, folder: pathlib.Path) -> None:
    """The loss on the left, nDCG@100 of the validation users, dotted, on the right."""
    right = axes.twinx()
    right.set_ylabel("validation nDCG@100 (dotted)")
    for row, done in trained.items():
        logs = [_log(folder, result) for _, result in done]
        axes.plot(*_mean_line(logs, "loss"), color=colours[row], label=row)
        right.plot(*_mean_line(logs, "ndcg@100"), color=colours[row], linestyle=":", marker=".")


def _factors(axes: Axes, trained: dict, colours: dict, folder: pathlib.Path) -> None:
    for row, done in trained.items():
        n_items = items_per_factor(folder / done[0][1]["model_path"])
        dead = (n_items == 0).mean()
        label = f"{row} ({dead:.1%} dead)"
        axes.plot(np.sort(n_items)[::-1], color=colours[row], label=label)
    axes.set_ylim(bottom=0)


def items_per_factor(model: pathlib.Path) -> np.ndarray:
    """[n_factors] items that have each factor, of a run's `embeddings.npz`; 0 is a dead factor."""
    return sp.load_npz(model / "embeddings.npz").getnnz(axis=0)


def _log(folder: pathlib.Path, result: dict) -> list[dict]:
    text = (folder / result["model_path"] / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _mean_line(logs: list[list[dict]], name: str) -> tuple[list[int], list[float]]:
    """Epochs at which every seed has a value, and the means of these values."""
    defined = ([line for line in log if line.get(name) is not None] for log in logs)
    by_seed = [{line["epoch"]: line[name] for line in log} for log in defined]
    epochs = sorted(set.intersection(*(set(values) for values in by_seed)))
    return epochs, [float(np.mean([values[e] for values in by_seed])) for e in epochs]


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _colours(rows: list[str]) -> dict[str, ColorType]:
    palette = matplotlib.color_sequences["tab10" if len(rows) <= 10 else "tab20"]
    return {row: palette[at % len(palette)] for at, row in enumerate(rows)}


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    whole_numbers = AutoLocator()
    whole_numbers.set_params(integer=True)
    axes.xaxis.set_major_locator(whole_numbers)
    return figure, axes


def _save(figure: Figure, path: pathlib.Path) -> None:
    figure.legend(loc="outside right upper", fontsize=7)
    for form in _FORMATS:
        # Neither dates nor random ids: equal results give equal files.
        metadata = {"Date": None} if form == "svg" else {}
        with (
            matplotlib.rc_context({"svg.hashsalt": "celsa_jax"}),
            atomic_path(path.with_suffix(f".{form}")) as temporary,
        ):
            figure.savefig(temporary, format=form, dpi=160, metadata=metadata)
