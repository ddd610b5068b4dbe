"""Charts of the page of `experiments.demo`: HTML, with their content in words.

They stand as soon as the page does; a charting library in the browser took 100 to 200 ms a figure.
Lengths are in percent of the room there is, texts in pixels: narrow screens keep them legible.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from xml.etree import ElementTree

import numpy as np
from scipy.cluster import hierarchy

FOR, AGAINST, NO_SEGMENT = "#0072B2", "#D55E00", "#8a949e"
# Okabe and Ito's palette, told apart by people who see fewer colours. Some of it is pale on white,
# hence the outlines.
SEGMENT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
OTHERS = "other segments"
_LEAF = 24  # pixels
STYLE = f"""<style>
.parts, .key, .leaves {{ list-style: none; margin: 0 !important; padding: 0 !important; }}
.parts li, .key li, .leaves li {{ margin: 0; padding: 0; font-size: 0.875rem; }}
.parts li {{ padding-bottom: 0.6rem; }}
.parts .room {{ height: 14px; }} .parts .bar {{ min-width: 1px; }}
.key i {{ display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.5em;
  border: 1px solid; }}
.room {{ position: relative; font-size: 12px; line-height: 1; }}
.room > * {{ position: absolute; box-sizing: border-box; white-space: nowrap; }}
.room > .tick {{ border: 0 solid #dfe4e9; }}
.bars {{ height: 220px; margin: 1.2rem 0 4rem 2.2rem; }}
.bars > .tick {{ border-top-width: 1px; }} .bars > .zero {{ border-color: currentColor; }}
.bars > .tick > span {{ position: absolute; right: 100%; padding-right: 8px; top: -0.5em; }}
.bars > .bar {{ border: 1px solid; }}
.bars > .factor {{ writing-mode: vertical-rl; transform: translateX(-50%) rotate(180deg);
  padding-bottom: 6px; }}
.title {{ transform: translateX(-50%); }}
.bars > .title {{ margin-top: 2.8rem; }}
.merges {{ display: grid; grid-template-columns: minmax(8rem, 45%) 1fr; column-gap: 0.8rem; }}
.leaves li {{ height: {_LEAF}px; line-height: {_LEAF}px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }}
.tree {{ margin: 0 0.8rem 3rem 0; }}
.tree > .tick {{ border-left-width: 1px; }}
.tree > .tick > span {{ position: absolute; top: 100%; padding-top: 6px;
  transform: translateX(-50%); }}
.tree > .line {{ background: {FOR}; min-width: 2px; min-height: 2px; margin: -1px; }}
.tree > .title {{ margin-top: 1.6rem; }}
</style>"""


def parts(shares: list[tuple[str, float]]) -> str:
    """Horizontal bars of the parts of a sum, each below its name."""
    low, high = _range(value for _, value in shares)
    chart = ElementTree.Element("ul", {"class": "parts"})
    for name, value in shares:
        row = _add(chart, "li", f"{name} ")
        _add(row, "b", f"{value:+.3f}")
        colour = f"background: {FOR if value > 0 else AGAINST}"
        start, length = (min(value, 0) - low) / (high - low), abs(value) / (high - low)
        _box(_add(row, "div", class_="room"), "bar", colour, left=start, width=length, height=1)
    return _html(chart)


def activations(
    factors: np.ndarray, values: np.ndarray, segments: np.ndarray, marked: dict[int, str]
) -> str:
    """Bars of a user's factors, in the colour of the segment that each speaks for.

    Args:
      factors: [n] the factors shown.
      values: [n] their activations.
      segments: [n] their segments; -1 for none.
      marked: names of the segments to mark, by number, as many as there are colours at most;
        others are grey.
    """
    low, high = _range(values.tolist())
    up = high - low
    chart = ElementTree.Element("div", role="img")
    key = _add(chart, "ul", class_="key")
    bars = _add(chart, "div", class_="room bars")
    for tick in ticks(low, high):
        _add(_box(bars, "tick", top=(high - tick) / up, width=1), "span", f"{tick:g}")
    words = ["Activations by segment"]
    groups = [
        *zip(marked.values(), (segments == at for at in marked), SEGMENT_COLOURS, strict=False),
        (OTHERS, ~np.isin(segments, list(marked)), NO_SEGMENT),
    ]
    for name, own, colour in groups:
        here = np.flatnonzero(own).tolist()
        if not here:
            continue
        # Factors stand in the key, too: colour is not all that tells segments apart.
        listed = "" if name == OTHERS else f": {', '.join(str(factors[at]) for at in here)}"
        _add(_add(key, "li"), "i", style=f"background: {colour}").tail = name + listed
        for at in here:
            across = {"left": (at + 0.1) / len(own), "width": 0.8 / len(own)}
            upright = {"top": (high - max(values[at], 0)) / up, "height": abs(values[at]) / up}
            bar = _box(bars, "bar", f"background: {colour}", **across, **upright)
            bar.set("title", f"factor {factors[at]}, {name}: {values[at]:+.2f}")
            _box(bars, "factor", left=(at + 0.5) / len(own), top=1).text = str(factors[at])
        shown = (f"{factors[at]} ({values[at]:+.2f})" for at in here)
        words.append(f"{name}: factors {', '.join(shown)}")
    _box(bars, "tick zero", top=high / up, width=1)
    _box(bars, "title", left=0.5, top=1).text = "factor"
    chart.set("aria-label", ". ".join(words))
    return _html(chart)


def merges(linkage: np.ndarray, leaves: list[str]) -> str:
    """The tree of a segment's groups: leaves on the left, joined at their cosines.

    Args:
      linkage: [n_leaves - 1, 4] as of `celsa_jax.segments.load_merges`, at least one row.
      leaves: [n_leaves] what to call the groups.
    """
    tree = hierarchy.dendrogram(linkage, no_plot=True)
    names = [leaves[at] for at in tree["leaves"]]
    first, last = 1 - linkage[:, 2].min(), 1 - linkage[:, 2].max()
    far = max(1 - last, 0.05)
    chart = ElementTree.Element("div", {"class": "merges"})
    listed = _add(chart, "ul", class_="leaves")
    for name in names:
        _add(listed, "li", name, title=name)
    words = f"Tree of {len(leaves)} groups, merged at cosines from {first:.2f} down to {last:.2f}"
    drawn = _add(chart, "div", class_="room tree", role="img", aria_label=words)
    drawn.set("style", f"height: {_LEAF * len(names)}px")
    for tick in ticks(1 - far, 1):
        _add(_box(drawn, "tick", left=(1 - tick) / far, height=1), "span", f"{tick:g}")
    _box(drawn, "title", left=0.5, top=1).text = "cosine of names and terms"
    x, y = np.array(tree["dcoord"]) / far, np.array(tree["icoord"]) / (10 * len(names))
    for corners in zip(x.tolist(), y.tolist(), strict=True):
        for start, end in itertools.pairwise(zip(*corners, strict=True)):
            (left, right), (top, bottom) = (sorted(ends) for ends in zip(start, end, strict=True))
            _box(drawn, "line", left=left, top=top, width=right - left, height=bottom - top)
    return _html(chart)


def _range(values: Iterable[float]) -> tuple[float, float]:
    """Bounds of the values and zero, apart."""
    ends = [0.0, *values]
    low, high = min(ends), max(ends)
    return (low, high) if low < high else (0.0, 1.0)


def ticks(low: float, high: float) -> list[float]:
    """At most six round numbers between two."""
    steps = (m * 10.0**p for p in range(-9, 9) for m in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step < 5.01)
    first, last = math.ceil(low / step - 0.01), math.floor(high / step + 0.01)
    return [n * step for n in range(first, last + 1)]


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str):
    named = {name.rstrip("_").replace("_", "-"): x for name, x in attributes.items()}
    child = ElementTree.SubElement(parent, tag, named)
    child.text = text
    return child


def _box(parent: ElementTree.Element, kind: str, style: str = "", **place: float):
    """An element at a place, in parts of its parent's room."""
    at = "; ".join(f"{side}: {100 * part:.2f}%" for side, part in place.items())
    return _add(parent, "div", class_=kind, style=f"{at}; {style}")


def _html(chart: ElementTree.Element) -> str:
    return ElementTree.tostring(chart, encoding="unicode", short_empty_elements=False)
