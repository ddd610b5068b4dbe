r"""Measures how the time and memory of a run grow with items, users, non-zeros and factors.

    python -m experiments.scaling --output=docs/scaling.csv --figure=docs/figures/scaling.svg

Every point is a run of its own on made-up users of 30 interactions: the start, and an epoch at the
target (the second, which compiles nothing). One quantity at a time is changed from the middle;
every item has a factor of its own but where factors change. Needs the extra `figures`.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import pathlib
import tempfile

import scipy.sparse as sp
from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.files import write_text
from experiments import cli
from experiments.random_data import random_users
from experiments.whole_run import whole_run

MIDDLE = {"items": 30_000, "users": 20_000, "non-zeros": 16, "factors": 0}
VALUES = {
    "items": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "users": (5_000, 20_000, 80_000, 320_000),
    "non-zeros": (4, 8, 16, 32, 64),
    "factors": (500, 2_000, 8_000),
}
_MEASURED = {"start_seconds": "the start", "epoch_seconds": "an epoch", "peak_gb": ""}

_OUTPUT = flags.DEFINE_string("output", "", "The table, .csv.")
_FIGURE = flags.DEFINE_string("figure", "", "The figure, .svg or .png.")


def main() -> None:
    figure = pathlib.Path(_FIGURE.value)
    if not importlib.util.find_spec("matplotlib") or figure.suffix not in (".svg", ".png"):
        raise InputError('--figure is a .svg or .png, and needs pip install "celsa_jax[figures]"')
    rows = []
    for quantity, values in VALUES.items():
        for value in values:
            rows.append({"quantity": quantity, **measured({**MIDDLE, quantity: value})})
            lines = io.StringIO()
            writer = csv.DictWriter(lines, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_text(pathlib.Path(_OUTPUT.value), lines.getvalue())
    draw(rows, figure)


def measured(sizes: dict[str, int]) -> dict[str, float]:
    """The sizes of a point, and what its run took."""
    fields = ["train.n_epochs=0", "train.n_final_epochs=2", "data.min_user_interactions=0"]
    nnz = f"sparsity.target_nnz={sizes['non-zeros']}"
    fields += ["data.n_val_users=0", "data.n_test_users=0", nnz]
    if sizes["factors"]:
        fields += ["model.start=clusters", f"model.n_factors={sizes['factors']}"]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/users.npz"
        sp.save_npz(path, random_users(sizes["users"], sizes["items"], history=30))
        found = whole_run("file", path, *fields)
    return {**sizes, **{name: found[name] for name in _MEASURED}}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """Seconds above, memory below, a column for each quantity."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    from celsa_jax.sweeps.figures import save

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(2, len(VALUES), sharex="col", sharey="row")
    for at, (quantity, values) in enumerate(VALUES.items()):
        for name, label in _MEASURED.items():
            measured = [row[name] for row in rows if row["quantity"] == quantity]
            axes[int(name == "peak_gb"), at].plot(values, measured, marker="o", label=label)
        axes[1, at].set(xlabel=quantity, xscale="log")
        axes[1, at].set_xticks(values)
        axes[1, at].xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[1, at].minorticks_off()
    axes[0, 0].set(ylabel="seconds", yscale="log")
    axes[1, 0].set(ylabel="GB at the peak", ylim=(0, None))
    axes[0, 0].legend(frameon=False)
    for panel in axes.flat:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, out)


if __name__ == "__main__":
    cli.run(main, required=("output", "figure"))
