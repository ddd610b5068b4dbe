"""The figure of a sweep, quality against bytes, as PNG and SVG (needs the extra `figures`)."""

from __future__ import annotations

import pathlib

import matplotlib
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from celsa_jax.files import atomic_path, remove_left_overs
from celsa_jax.sweeps.grid import ANY_SIZE
from celsa_jax.sweeps.results import MAIN_METRIC, Results, state


def draw(out: pathlib.Path, results: Results) -> None:
    """Writes `quality_bytes.png` and `.svg` into a folder, if there is anything to draw."""
    out.mkdir(parents=True, exist_ok=True)
    remove_left_overs(out)
    if not any(state(result) == "done" for _, result in results.runs):
        return
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="bytes per item", ylabel=MAIN_METRIC)
    axes.grid(alpha=0.3)
    _quality(axes, results)
    figure.legend(loc="outside right upper", fontsize=7)
    for form in ("png", "svg"):
        # Neither dates nor random ids: equal results give equal files.
        metadata = {"Date": None} if form == "svg" else {}
        with (
            matplotlib.rc_context({"svg.hashsalt": "celsa_jax"}),
            atomic_path(out / f"quality_bytes.{form}") as temporary,
        ):
            figure.savefig(temporary, format=form, dpi=160, metadata=metadata)


def _quality(axes: Axes, results: Results) -> None:
    palette = matplotlib.color_sequences["tab10" if len(results.rows) <= 10 else "tab20"]
    colours = {row: palette[at % len(palette)] for at, row in enumerate(results.rows)}
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
