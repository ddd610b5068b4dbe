"""Draws nDCG@100 against bytes an item, from the table that a sweep of methods leaves.

    pip install -e ".[figures]"
    python -m experiments.quality_figure --results=docs/methods.csv \
        --output=docs/figures/quality.svg

Means and standard errors over seeds. Rows of the sweep that are one method at several widths are
one line; rows that are not listed here are left out.
"""

from __future__ import annotations

import csv
import pathlib

import numpy as np
from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path
from experiments import cli

_RESULTS = flags.DEFINE_string("results", None, "results.csv of a sweep.")
_OUTPUT = flags.DEFINE_string("output", None, "The figure, .svg or .png.")

# Label, colour, rows of configs/sweeps/methods.py; where the label stands beside the last point.
_LINES = (
    ("Compressed ELSA", "#0b6e4f", ("ours",), (8, 6)),
    ("EASE", "#c1440e", ("EASE",), (-8, 10)),
    ("EASE, pruned by columns", "#e39b73", ("column-pruned EASE",), (8, -7)),
    ("discounted EDLAE", "#7b2d8b", ("discounted EDLAE",), (-8, 12)),
    ("EDLAE, pruned by columns", "#b07cc0", ("column-pruned EDLAE",), (8, 5)),
    ("item k-NN", "#7a6c9d", ("item k-NN",), (8, 9)),
    ("sparse autoencoder", "#b8860b", ("sparse autoencoder",), (8, -4)),
    ("ALS", "#8d8d8d", ("ALS",), (8, -13)),
    ("dense ELSA", "#1f5fa8", ("dense ELSA", "dense ELSA, 1024", "dense ELSA, 4096"), (-30, -14)),
    ("largest entries of dense ELSA", "#9ec3e6", ("top k of dense ELSA",), (8, -3)),
)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "celsa_jax"  # the same file again
    import matplotlib.pyplot as plt

    points = read_points(pathlib.Path(_RESULTS.value))
    figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    for label, colour, rows, offset in _LINES:
        shown = sorted(point for row in rows for point in points.get(row, ()))
        if not shown:
            continue
        sizes, means, errors = np.transpose(shown)
        ours = label == _LINES[0][0]
        axes.errorbar(
            sizes, means, errors, color=colour, marker="o", markersize=4, capsize=2,
            linewidth=2.4 if ours else 1.3, zorder=3 if ours else 2,
        )  # fmt: skip
        axes.annotate(
            label, (sizes[-1], means[-1]), offset, textcoords="offset points", color=colour,
            fontsize=9, va="center", ha="right" if label.endswith(("EASE", " EDLAE")) else "left",
            fontweight="bold" if ours else "normal",
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = 64, 128, 256, 1024, 4096, 16384, 39245
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="bytes per item", ylabel="nDCG@100", xlim=(55, 50_000), ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    output = pathlib.Path(_OUTPUT.value)
    with atomic_path(output) as part:
        undated = {"Date": None} if output.suffix == ".svg" else None
        figure.savefig(part, format=output.suffix[1:], dpi=150, metadata=undated)
    print(output)


def read_points(path: pathlib.Path) -> dict[str, list[tuple[float, float, float]]]:
    """By row: bytes an item, mean nDCG@100 and its standard error over seeds, of each column."""
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for line in csv.DictReader(lines):
                if line["state"] == "done":
                    point = float(line["bytes_per_item"]), float(line["ndcg@100"])
                    cells.setdefault((line["row"], line["column"]), []).append(point)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"--results={path} is not the results.csv of a sweep of methods ({error!r}); give "
            "docs/methods.csv or that of configs/sweeps/methods.py"
        ) from error
    points: dict[str, list[tuple[float, float, float]]] = {}
    for (row, _), values in cells.items():
        sizes, scores = np.transpose(values)
        error = scores.std(ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
        points.setdefault(row, []).append((sizes.mean(), scores.mean(), error))
    return points


if __name__ == "__main__":
    cli.run(main, required=("results", "output"))
