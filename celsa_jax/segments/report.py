"""One self-contained HTML page about segments."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.manifold import TSNE

from celsa_jax.data.metadata import printable
from celsa_jax.files import write_text
from celsa_jax.segments.groups import membership, shown_pair
from celsa_jax.segments.recommend import Row
from celsa_jax.segments.segments import Segments
from celsa_jax.sparse.rows import unit_rows

_N_SHOWN = 60
_N_ITEMS = 8
_N_ON_MAP = 400
_N_LABELS = 45
_LONGEST_LABEL = 28
_WIDTH, _HEIGHT, _MARGIN = 1080, 720, 30  # of the map
_LETTER, _LINE = 7, 14  # width and height of its text
_BASELINES = (
    ("coherence", "signed groups"),
    ("coherence_kmeans", "k-means"),
    ("coherence_unsigned", "sign ignored"),
    ("coherence_random", "random groups"),
)


def write_report(
    path: pathlib.Path,
    segments: Segments,
    report: dict[str, Any],
    embeddings: sp.csr_matrix,
    titles: list[str],
    homepages: Sequence[tuple[str, list[Row]]] = (),
    seed: int = 0,
) -> None:
    """Writes the page: sizes, coherence beside the baselines, a map, the largest segments.

    All text is escaped, and blanks take the place of characters that cannot be seen. Nothing is
    loaded from elsewhere.

    Args:
      path: the file.
      segments: what is shown.
      report: of `celsa_jax.segments.coherence.evaluate_segments`.
      embeddings: A, items x factors.
      titles: [n_items] what to call each item.
      homepages: (user id, page) each.
      seed: of the map.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("celsa_jax.segments", ""),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = [
        {
            **figures,
            "terms": segment.name.terms,
            "pairs": [shown_pair(*pair) for pair in segment.pairs],
            "titles": [titles[i] for i in segment.items[:_N_ITEMS]],
        }
        for segment, figures in zip(
            segments.segments[:_N_SHOWN], report["segments"][:_N_SHOWN], strict=True
        )
    ]
    pages = [
        (user, [(row.title, [titles[i] for i in row.items]) for row in page])
        for user, page in homepages
    ]
    text = environment.get_template("report.html.jinja").render(
        report=report,
        bars=[(label, report[name]) for name, label in _BASELINES if report[name] is not None],
        sizes=_size_classes(np.array([figures["size"] for figures in report["segments"]])),
        map=_map(segments, report["segments"], embeddings, seed),
        width=_WIDTH,
        height=_HEIGHT,
        cards=cards,
        homepages=pages,
    )
    write_text(path, text)


def _shown(value: object) -> object:
    """What the page prints of a value; what is HTML already (a macro's) is left as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _size_classes(sizes: np.ndarray) -> list[tuple[str, int, int]]:
    """Segments by size: 1, 2, 3-4, 5-8, ...: label, number of segments, items in them."""
    classes = np.ceil(np.log2(sizes)).astype(int)
    n_segments, n_items = np.bincount(classes), np.bincount(classes, sizes).astype(int)
    labels = ["1", "2", *(f"{2 ** (at - 1) + 1}\u2013{2**at}" for at in range(2, len(n_items)))]
    return list(zip(labels, n_segments.tolist(), n_items.tolist(), strict=False))


def _map(
    segments: Segments, figures: list[dict[str, Any]], embeddings: sp.csr_matrix, seed: int
) -> list[dict[str, Any]]:
    """The largest segments in the plane: near where their items share factors (t-SNE)."""
    shown = segments.segments[:_N_ON_MAP]
    labels = np.where(segments.of_item < len(shown), segments.of_item, -1)
    x, y = _plane(membership(labels, len(shown)) @ unit_rows(embeddings), seed).T
    sizes = [len(segment.items) for segment in shown]
    radius = np.clip(1.6 * np.sqrt(sizes), 3, 26)
    points = []
    labelled: list[tuple[float, float, float]] = []  # left, right, height
    for at, segment in enumerate(shown):
        label = segment.name.name
        if len(label) > _LONGEST_LABEL:
            label = label[: _LONGEST_LABEL - 1] + "…"
        left = x[at] + radius[at]
        right = left + _LETTER * (len(label) + 1)
        is_free = all(
            right <= other_left or other_right <= left or abs(y[at] - height) >= _LINE
            for other_left, other_right, height in labelled
        )
        if is_free and len(labelled) < _N_LABELS:
            labelled.append((left, right, y[at]))
        else:
            label = ""
        place = {"x": x[at], "y": y[at], "r": radius[at]}
        place = {name: round(float(value), 1) for name, value in place.items()}
        points.append({**figures[at], **place, "label": label})
    return points


def _plane(centroids: sp.csr_matrix, seed: int) -> np.ndarray:
    """[n, 2] positions on the map."""
    n = centroids.shape[0]
    if n < 8:  # too few for t-SNE: a circle
        angle = 2 * np.pi * np.arange(n) / n
        plane = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        n_components = min(50, n - 1, centroids.shape[1] - 1)
        reduced = TruncatedSVD(n_components, random_state=seed).fit_transform(centroids)
        reduced /= np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
        tsne = TSNE(perplexity=min(20, (n - 1) / 3), random_state=seed, init="random")
        plane = tsne.fit_transform(reduced)
    low, high = plane.min(axis=0), plane.max(axis=0)
    labels = np.array([_LETTER * _LONGEST_LABEL, 0])  # on the right of their circles
    size = np.array([_WIDTH, _HEIGHT]) - labels - 2 * _MARGIN
    return _MARGIN + (plane - low) / np.maximum(high - low, 1e-9) * size
