"""Charts of the page of `experiments.demo`: HTML, with their content in words.

They stand as soon as the page does; a charting library in the browser took 100 to 200 ms a figure.
Lengths are in percent of the room there is, texts in pixels: narrow screens keep them legible.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.etree import ElementTree

import numpy as np

# Of Okabe and Ito's palette, told apart by people who see fewer colours. The last is pale on white,
# hence the outlines.
FOR, AGAINST, BESIDE = "#0072B2", "#D55E00", "#E69F00"
STYLE = """<style>
.parts, .key { list-style: none; margin: 0 !important; padding: 0 !important; }
.parts li, .key li { margin: 0; padding: 0; font-size: 0.875rem; }
.parts li { padding-bottom: 0.6rem; }
.parts .room { height: 14px; } .parts .bar { min-width: 1px; }
.key i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.5em;
  border: 1px solid; }
.room { position: relative; font-size: 12px; line-height: 1; }
.room > * { position: absolute; box-sizing: border-box; white-space: nowrap; }
.room > .tick { border: 0 solid #dfe4e9; }
.bars { height: 220px; margin: 1.2rem 0 11rem 2.2rem; }
.bars > .tick { border-top-width: 1px; } .bars > .zero { border-color: currentColor; }
.bars > .tick > span { position: absolute; right: 100%; padding-right: 8px; top: -0.5em; }
.bars > .bar { border: 1px solid; }
.bars > .factor { writing-mode: vertical-rl; transform: translateX(-50%) rotate(180deg);
  padding-bottom: 6px; max-height: 10.5rem; overflow: hidden; text-overflow: ellipsis; }
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


def latent(
    values: np.ndarray, beside: np.ndarray, names: list[str], user: str, segment: str
) -> str:
    """Pairs of bars, one pair a factor: of a user, and of a segment.

    Args:
      values: [n] the user's, at the factors shown.
      beside: [n] the segment's.
      names: [n] what to call the factors.
      user, segment: what to call the two.
    """
    low, high = _range([*values.tolist(), *beside.tolist()])
    up = high - low
    chart = ElementTree.Element("div", role="img")
    key = _add(chart, "ul", class_="key")
    bars = _add(chart, "div", class_="room bars")
    for tick in ticks(low, high):
        _add(_box(bars, "tick", top=(high - tick) / up, width=1), "span", f"{tick:g}")
    for side, (name, own, colour) in enumerate(((user, values, FOR), (segment, beside, BESIDE))):
        _add(_add(key, "li"), "i", style=f"background: {colour}").tail = name
        for at, value in enumerate(own.tolist()):
            across = {"left": (at + 0.1 + 0.4 * side) / len(own), "width": 0.4 / len(own)}
            upright = {"top": (high - max(value, 0)) / up, "height": abs(value) / up}
            bar = _box(bars, "bar", f"background: {colour}", **across, **upright)
            bar.set("title", f"{names[at]}, {name}: {value:+.3f}")
    for at, name in enumerate(names):
        _box(bars, "factor", left=(at + 0.5) / len(names), top=1).text = name
    _box(bars, "tick zero", top=high / up, width=1)
    pairs = zip(names, values.tolist(), beside.tolist(), strict=True)
    listed = (f"{name}: {value:+.2f} and {other:+.2f}" for name, value, other in pairs)
    chart.set("aria-label", f"Weights of {user} and of {segment}. {'; '.join(listed)}")
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
