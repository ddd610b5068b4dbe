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

from celsa_jax.files import write_text
from celsa_jax.segments.groups import shown_pair
from celsa_jax.segments.naming import printable
from celsa_jax.segments.recommend import Row
from celsa_jax.segments.segments import Segments

_N_SHOWN = 60
_N_ITEMS = 8
_N_ON_MAP = 400
_N_LABELS = 45
_WIDTH, _HEIGHT = 1080, 720  # of the map
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
      report: of `celsa_jax.segments.judge.judge`.
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
        sizes=_size_classes(np.array([s["size"] for s in report["segments"]])),
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
    result = []
    for at in range(classes.max() + 1):
        low, high = 2 ** (at - 1) + 1 if at else 1, 2**at
        label = str(low) if low == high else f"{low}\u2013{high}"
        result.append((label, int((classes == at).sum()), int(sizes[classes == at].sum())))
    return result


def _map(segments: Segments, figures: list[dict], embeddings: sp.csr_matrix, seed: int) -> list:
    """The largest segments in the plane: near where their items share factors (t-SNE)."""
    n_shown = min(_N_ON_MAP, len(segments))
    shown = segments.segments[:n_shown]
    items = np.concatenate([segment.items for segment in shown])
    rows = np.repeat(np.arange(n_shown), [len(segment.items) for segment in shown])
    members = sp.csr_matrix((np.ones(len(items)), (rows, items)), (n_shown, embeddings.shape[0]))
    x, y = _plane(members @ embeddings, seed).T
    points = []
    boxes: list[tuple[float, float, float, float]] = []
    for at, segment in enumerate(shown):
        radius = float(np.clip(1.6 * np.sqrt(len(segment.items)), 3, 26))
        label = segment.name.name
        label = label if len(label) <= 28 else label[:27] + "…"
        # The right edge keeps its labels inside.
        anchor = "end" if x[at] > _WIDTH - 200 else "start"
        left = x[at] - radius - 7 * len(label) if anchor == "end" else x[at] + radius
        box = (left, y[at] - 7, left + 7 * len(label) + 6, y[at] + 7)
        free = not any(
            box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes
        )
        if free and len(boxes) < _N_LABELS:
            boxes.append(box)
        else:
            label = ""
        points.append(
            {
                **figures[at],
                "x": round(float(x[at]), 1),
                "y": round(float(y[at]), 1),
                "r": round(radius, 1),
                "label": label,
                "anchor": anchor,
                "dx": round((radius + 3) * (-1 if anchor == "end" else 1), 1),
            }
        )
    return points


def _plane(centroids: sp.csr_matrix, seed: int) -> np.ndarray:
    """[n, 2] positions on the map."""
    n = centroids.shape[0]
    if n < 8:  # too few for t-SNE: a circle
        angle = 2 * np.pi * np.arange(n) / n
        plane = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        size = min(50, n - 1, centroids.shape[1] - 1)
        reduced = TruncatedSVD(size, random_state=seed).fit_transform(centroids)
        reduced /= np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
        plane = TSNE(
            perplexity=min(20, (n - 1) / 3), random_state=seed, init="random"
        ).fit_transform(reduced)
    low, high = plane.min(axis=0), plane.max(axis=0)
    scaled = (plane - low) / np.maximum(high - low, 1e-9)
    return 30 + scaled * (np.array([_WIDTH, _HEIGHT]) - 60)
