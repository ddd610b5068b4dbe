"""One self-contained HTML page about segments."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
import scipy.sparse as sp

from celsa_jax.data.metadata import printable
from celsa_jax.files import write_text
from celsa_jax.segments.quality import coherence
from celsa_jax.segments.recommend import Row
from celsa_jax.segments.segments import SegmentTree

_N_ITEMS = 8
_N_PARTS = 60
# What was found in what: `experiments.segment_pages.page_figures`.
_FOUND = {
    "flat": "one list by score",
    "page": "Recommended for you, and rows of segments",
    "rows": "rows of segments alone",
    "genres": "rows of genres",
    "popular": "the most popular",
}


def write_report(
    path: pathlib.Path,
    tree: SegmentTree,
    report: dict[str, Any],
    vectors: sp.csr_matrix,
    titles: list[str],
    homepages: Sequence[tuple[str, list[Row]]] = (),
) -> None:
    """Writes the page: figures of the levels, what is found on pages, the tree, homepages.

    All text is escaped, and blanks take the place of characters that cannot be seen. Nothing is
    loaded from elsewhere.

    Args:
      path: the file.
      tree: what is shown.
      report: `levels` (of `celsa_jax.segments.quality`), `coherence_columns`, `n_items`, and
        `pages` if they were measured.
      vectors: of the items' metadata.
      titles: [n_items] what to call each item.
      homepages: (user id, page) each.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("celsa_jax.segments", ""),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = (report.get("pages") or {}).get("found", {})
    page = environment.get_template("report.html.jinja").render(
        report=report,
        found=[(label, found[name]) for name, label in _FOUND.items() if name in found],
        tree=_nodes(tree, vectors, titles),
        n_parts=_N_PARTS,
        homepages=[
            (user, [(row.title, [titles[i] for i in row.items]) for row in rows])
            for user, rows in homepages
        ],
    )
    write_text(path, page)


def _shown(value: Any) -> Any:
    """Text as it can be read; the text of macros is HTML."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _nodes(tree: SegmentTree, vectors: sp.csr_matrix, titles: list[str]) -> list[dict[str, Any]]:
    """The segments of the top level, each with its parts."""
    below: list[dict[str, Any]] = []
    for at in reversed(range(len(tree.levels))):
        level = tree.levels[at]
        _, alike = coherence(level.of_item, vectors, len(level))
        parts = tree.children[at] if below else [np.empty(0, int)] * len(level)
        below = [
            {
                "name": segment.name.name,
                "terms": segment.name.terms,
                "size": len(segment.items),
                "coherence": float(alike[number]),
                "titles": [titles[item] for item in segment.items[:_N_ITEMS]],
                "parts": [below[part] for part in parts[number]],
            }
            for number, segment in enumerate(level)
        ]
    return below
