"""Charts of the page of `experiments.demo` (Plotly), each with its content in words."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
from scipy.cluster import hierarchy

FOR, AGAINST, NO_SEGMENT = "#0072B2", "#D55E00", "#8a949e"
# Okabe and Ito's palette, told apart by people who see fewer colours.
SEGMENT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
OTHERS = "other segments"
_INK, _LINE = "#1c2733", "#dfe4e9"
_FONT = {"color": _INK, "size": 13, "family": '"Source Sans", sans-serif'}


def parts(shares: list[tuple[str, float]]) -> tuple[go.Figure, str]:
    """Horizontal bars of the parts of a sum, the first on top, each below its name."""
    values = [value for _, value in shares]
    rows = list(range(len(shares)))
    bars = {
        "type": "bar",
        "x": values,
        "y": rows,
        "orientation": "h",
        "width": 0.4,
        "marker": {"color": [FOR if value > 0 else AGAINST for value in values]},
        "hoverinfo": "skip",
    }
    names = [
        {
            "x": 0,
            "y": row,
            "xref": "paper",
            "xanchor": "left",
            "yshift": 17,
            "text": f"{_shown(name, 40)} <b>{value:+.3f}</b>",
            "showarrow": False,
        }
        for row, (name, value) in zip(rows, shares, strict=True)
    ]
    figure = _figure(
        [bars],
        40 * len(rows) + 16,
        {"visible": False},
        {"visible": False, "range": [len(rows) - 0.6, -1]},
        annotations=names,
    )
    return figure, "Bars: " + "; ".join(f"{name} {value:+.3f}" for name, value in shares)


def activations(
    factors: np.ndarray, values: np.ndarray, segments: np.ndarray, marked: dict[int, str]
) -> tuple[go.Figure, str]:
    """Bars of a user's factors, in the colour of the segment that each speaks for.

    Args:
      factors: [n] the factors shown.
      values: [n] their activations.
      segments: [n] their segments; -1 for none.
      marked: names of the segments to mark, by number, as many as there are colours at most;
        others are grey.
    """
    bars, words = [], []
    groups = [
        *zip(marked.values(), (segments == at for at in marked), SEGMENT_COLOURS, strict=False),
        (OTHERS, ~np.isin(segments, list(marked)), NO_SEGMENT),
    ]
    for name, own, colour in groups:
        at = np.flatnonzero(own)
        if not len(at):
            continue
        # Factors stand in the legend, too: colour is not all that tells segments apart.
        listed = "" if name == OTHERS else f": {', '.join(map(str, factors[at]))}"
        bars.append(
            {
                "type": "bar",
                "x": at.tolist(),
                "y": values[at].tolist(),
                "name": _shown(name + listed, 46),
                "marker": {"color": colour},
                "hovertext": [f"factor {f}, {_shown(name, 46)}" for f in factors[at]],
                "hoverinfo": "text+y",
            }
        )
        shown = zip(factors[at], values[at], strict=True)
        words.append(f"{name}: factors " + ", ".join(f"{f} ({v:+.2f})" for f, v in shown))
    ticks = {"tickvals": list(range(len(factors))), "ticktext": [str(f) for f in factors]}
    figure = _figure(
        bars,
        300 + 22 * len(bars),
        {**ticks, "tickangle": -90, "title": {"text": "factor", "standoff": 14}},
        {
            "title": {"text": "activation", "standoff": 10},
            "gridcolor": _LINE,
            "zerolinecolor": _INK,
        },
        showlegend=True,
        legend={"orientation": "v", "y": 1.04, "yanchor": "bottom", "x": 0},
    )
    return figure, "Activations by segment. " + ". ".join(words)


def merges(linkage: np.ndarray, leaves: list[str]) -> tuple[go.Figure, str]:
    """The tree of a segment's groups: leaves on the left, joined at their cosines.

    Args:
      linkage: [n_leaves - 1, 4] as of `celsa_jax.segments.load_merges`, at least one row.
      leaves: [n_leaves] what to call the groups.
    """
    tree = hierarchy.dendrogram(linkage, no_plot=True)
    x, y = [], []
    for along, across in zip(tree["dcoord"], tree["icoord"], strict=True):
        x += [*(1 - np.array(along)).tolist(), None]
        y += [*((np.array(across) - 5) / 10).tolist(), None]  # SciPy's leaves are at 5, 15, ...
    lines = {"type": "scatter", "x": x, "y": y, "mode": "lines", "line": {"color": FOR}}
    first, last = 1 - linkage[:, 2].min(), 1 - linkage[:, 2].max()
    names = [leaves[at] for at in tree["leaves"]]
    figure = _figure(
        [{**lines, "hoverinfo": "skip"}],
        24 * len(leaves) + 60,
        {
            "range": [1.005, min(last, 0.95) - 0.02],
            "title": {"text": "cosine of names and terms"},
            "gridcolor": _LINE,
        },
        {
            "tickvals": list(range(len(leaves))),
            "ticktext": [_shown(name, 28) for name in names],
            "range": [len(leaves) - 0.5, -0.5],
            "zeroline": False,
        },
    )
    return figure, (
        f"Tree of {len(leaves)} groups, merged at cosines from {first:.2f} down to {last:.2f}: "
        + "; ".join(names)
    )


def _figure(traces: list[dict], height: int, x: dict, y: dict, **layout) -> go.Figure:
    """Made at once: changing a figure takes Plotly longer than making one."""
    axis = {"automargin": True, "fixedrange": True, "showgrid": "gridcolor" in x}
    common = {
        "height": height,
        "margin": {"l": 0, "r": 0, "t": 6, "b": 6},
        "font": _FONT,
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "showlegend": False,
        "dragmode": False,
        "xaxis": {**axis, **x},
        "yaxis": {**axis, "showgrid": "gridcolor" in y, **y},
    }
    return go.Figure({"data": traces, "layout": {**common, **layout}})


def _shown(text: str, length: int) -> str:
    """Cut off, and safe from Plotly, which reads some tags in a text."""
    cut = text if len(text) <= length else text[: length - 1].rstrip() + "…"
    return html.escape(cut, quote=False)
