"""The figure of a sweep, quality against bytes (needs the extra `figures`)."""

from __future__ import annotations

import csv
import pathlib

import matplotlib
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from celsa_jax.evaluation import MAIN_METRIC
from celsa_jax.files import atomic_path

_OURS = "#0b6e4f"  # of the row that stands out
_COLOURS = ("#c1440e", "#1f5fa8", "#b8860b", "#7b2d8b", "#8d8d8d", "#d9799b", "#5a3e2b", "#17a2b8")
_MARKERS = "os^Dv"


def draw(results_csv: str | pathlib.Path, out: str | pathlib.Path, ours: str = "ours") -> None:
    """Draws the means of a sweep's rows, with standard errors over runs, if there are any.

    Args:
      results_csv: as a sweep leaves it.
      out: the figure, .svg or .png.
      ours: the row that stands out.
    """
    points, out = read_points(pathlib.Path(results_csv)), pathlib.Path(out)
    if not points:
        return
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    best_first = sorted(points, key=lambda row: -max(mean for _, mean, _ in points[row]))
    for at, row in enumerate(best_first):
        sizes, means, errors = np.transpose(sorted(points[row]))
        axes.errorbar(
            sizes,
            means,
            errors,
            label=row,
            color=_OURS if row == ours else _COLOURS[at % len(_COLOURS)],
            marker=_MARKERS[at % len(_MARKERS)],
            linewidth=3 if row == ours else 1.2,
            markersize=7 if row == ours else 4,
            zorder=3 if row == ours else 2,
            capsize=2,
        )
    axes.set(xlabel="bytes per item", ylabel=MAIN_METRIC, ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(
        loc="outside right center", fontsize=9, labelcolor="linecolor", frameon=False
    )
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() == ours else "normal")
    save(figure, out)


def save(figure: Figure, out: pathlib.Path) -> None:
    """Writes a figure, .svg or .png, without dates and random ids: equal ones are equal files."""
    undated = {"Date": None} if out.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "celsa_jax"}), atomic_path(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:], dpi=160, metadata=undated)


def read_points(results_csv: pathlib.Path) -> dict[str, list[tuple[float, float, float]]]:
    """By row: bytes an item, mean of the metric and its standard error, of each column."""
    cells: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    with results_csv.open(newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            if line["state"] == "done" and line[MAIN_METRIC]:
                point = float(line["bytes_per_item"]), float(line[MAIN_METRIC])
                seeds = cells.setdefault((line["row"], line["column"]), {})
                seeds.setdefault(line["seed"], []).append(point)
    points: dict[str, list[tuple[float, float, float]]] = {}
    for (row, _), seeds in cells.items():
        # Of several trainings on a seed's users the mean, as in the tables.
        sizes, scores = np.transpose([np.mean(trainings, axis=0) for trainings in seeds.values()])
        error = float(scipy.stats.sem(scores)) if len(scores) > 1 else 0.0
        points.setdefault(row, []).append((sizes.mean(), scores.mean(), error))
    return points
