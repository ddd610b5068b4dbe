"""Figures of a sweep, each as PNG and SVG (needs the extra `figures`)."""

from __future__ import annotations

import json
import pathlib

import matplotlib
import numpy as np
import scipy.sparse as sp
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from celsa_jax.files import atomic_path, remove_left_overs
from celsa_jax.sweeps.grid import ANY_SIZE
from celsa_jax.sweeps.results import MAIN_METRIC, Results, state

Colours = dict[str, ColorType]  # by row
Models = dict[str, list[pathlib.Path]]  # by row, folders of trained models, one a seed


def draw_all(out: pathlib.Path, results: Results) -> None:
    """Writes the figures that the results allow.

    `quality_bytes`, and of the rows that train sparse models, in the first column that is done:
    `training` (means over seeds), `schedules` and `factors` (the first seed that is done).
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_left_overs(out)
    if not any(state(result) == "done" for _, result in results.runs):
        return
    palette = matplotlib.color_sequences["tab10" if len(results.rows) <= 10 else "tab20"]
    colours = {row: palette[at % len(palette)] for at, row in enumerate(results.rows)}

    figure, axes = _axes("bytes per item", MAIN_METRIC)
    _quality(axes, results, colours)
    _save(figure, out / "quality_bytes")
    column, models = _sparse_models(results)
    for name, x, y, draw in (
        ("schedules", "epoch", "non-zeros a row", _schedules),
        ("training", "epoch", "loss", _training),
        ("factors", "factors, by their number of items", "items", _factors),
    ):
        if models:
            figure, axes = _axes(x, y)
            axes.set_title(f"column {column}", fontsize=9)
            draw(axes, models, colours)
            _save(figure, out / name)


def _sparse_models(results: Results) -> tuple[str, Models]:
    """The first column with trained sparse models, and these."""
    for column in results.columns:
        models = {
            row: [results.folder / result["model_path"] for _, result in done]
            for row in results.rows
            if results.sweep.rows[row].method == "elsa" and (done := results.done(row, column))
        }
        if models:
            return column, models
    return "", {}


def _quality(axes: Axes, results: Results, colours: Colours) -> None:
    for row in results.rows:
        columns = [c for c in results.columns if results.mean(row, c, MAIN_METRIC) is not None]
        if not columns:
            continue
        cells = [results.values(row, column, MAIN_METRIC) for column in columns]
        means = [values.mean() for values in cells]
        if columns == [ANY_SIZE]:
            size = results.mean(row, ANY_SIZE, "bytes_per_item")
            label = row if size is None else f"{row} ({size:,.0f} bytes)"
            axes.axhline(means[0], color=colours[row], linestyle="--", linewidth=1, label=label)
            continue
        axes.errorbar(
            [results.mean(row, c, "bytes_per_item") or results.n_bytes[c] for c in columns],
            means,
            yerr=[scipy.stats.sem(values) if len(values) > 1 else 0.0 for values in cells],
            color=colours[row],
            linestyle="--" if results.sweep.rows[row].method == "dense_elsa" else "-",
            marker="o",
            markersize=3,
            capsize=2,
            label=row,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")


def _schedules(axes: Axes, models: Models, colours: Colours) -> None:
    drawn = set()
    for row, folders in models.items():
        k = _logged(folders[0], "k")
        if tuple(k.values()) in drawn:  # rows that differ in something else have one schedule
            continue
        drawn.add(tuple(k.values()))
        axes.step(list(k), list(k.values()), where="mid", color=colours[row], label=row)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")


def _training(axes: Axes, models: Models, colours: Colours) -> None:
    """The loss on the left, nDCG@100 of the validation users, dotted, on the right."""
    right = axes.twinx()
    right.set_ylabel("validation nDCG@100 (dotted)")
    for row, folders in models.items():
        axes.plot(*_mean_line(folders, "loss"), color=colours[row], label=row)
        epochs, ndcg = _mean_line(folders, "ndcg@100")
        right.plot(epochs, ndcg, color=colours[row], linestyle=":", marker=".")


def _factors(axes: Axes, models: Models, colours: Colours) -> None:
    for row, folders in models.items():
        n_items = items_per_factor(folders[0])
        dead = (n_items == 0).mean()
        label = f"{row} ({dead:.1%} dead)"
        axes.plot(np.sort(n_items)[::-1], color=colours[row], label=label)
    axes.set_ylim(bottom=0)


def items_per_factor(model: pathlib.Path) -> np.ndarray:
    """[n_factors] items that have each factor, of a run's `embeddings.npz`; 0 is a dead factor."""
    return sp.load_npz(model / "embeddings.npz").getnnz(axis=0)


def _logged(model: pathlib.Path, name: str) -> dict[int, float]:
    """A value of metrics.jsonl by epoch, where it is defined."""
    text = (model / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["epoch"]: line[name] for line in lines if line.get(name) is not None}


def _mean_line(models: list[pathlib.Path], name: str) -> tuple[list[int], list[float]]:
    """Epochs at which every seed has a value, and the means of these values."""
    by_seed = [_logged(model, name) for model in models]
    epochs = sorted(set.intersection(*map(set, by_seed)))
    return epochs, [float(np.mean([values[epoch] for values in by_seed])) for epoch in epochs]


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _save(figure: Figure, path: pathlib.Path) -> None:
    figure.legend(loc="outside right upper", fontsize=7)
    for form in ("png", "svg"):
        # Neither dates nor random ids: equal results give equal files.
        metadata = {"Date": None} if form == "svg" else {}
        with (
            matplotlib.rc_context({"svg.hashsalt": "celsa_jax"}),
            atomic_path(path.with_suffix(f".{form}")) as temporary,
        ):
            figure.savefig(temporary, format=form, dpi=160, metadata=metadata)
