"""The figures of a segmentation: every segment's, and those of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.segments.coherence import LEAST_ITEMS, coherence, compare, overlap
from celsa_jax.segments.find import Found


def judge(
    found: Found,
    embeddings: sp.csr_matrix,
    vectors: sp.csr_matrix,
    candidates: sp.csc_matrix,
    seed: int = 0,
) -> dict[str, Any]:
    """What `report.json` holds.

    Args:
      found: groups and segments.
      embeddings: A, items x factors.
      vectors: metadata of the items (`celsa_jax.segments.coherence.metadata_vectors`).
      candidates: `SegmentRecommender.candidates`.
      seed: of random groups, k-means and samples.

    Returns:
      JSON values by name, among them:
      coverage: share of the catalogue in segments of at least three items.
      coherence, coherence_random, coherence_kmeans, coherence_unsigned: of the groups before
        merging, beside three baselines; with `_share`, of how many items they speak
        (`celsa_jax.segments.coherence.compare`).
      coherence_groups, coherence_segments: of all groups before and of all segments after merging.
        Merging reads metadata, so the latter says less of the model.
      segments_per_item, nearest_jaccard: `celsa_jax.segments.coherence.overlap`.
      segments: of each, size; candidates, items with a positive product with its vector;
        coverage, the share of the catalogue that these are; coherence; term_share, of
        its items with metadata the share that have the first term.
    """
    segments, groups = found.segments, found.groups
    n_items, n_groups = len(segments.item_ids), len(groups.pairs)
    before = coherence(groups.of_item, vectors, n_groups)
    after = coherence(segments.of_item, vectors, len(segments))
    sizes = np.array([len(segment.items) for segment in segments.segments])
    lists = np.diff(candidates.indptr)
    by_segment = [
        {
            "name": segment.name.name,
            "size": int(sizes[at]),
            "candidates": int(lists[at]),
            "coverage": float(lists[at] / n_items),
            "coherence": _number(after.by_cluster[at]),
            "term_share": None if segment.name.share is None else round(segment.name.share, 4),
        }
        for at, segment in enumerate(segments.segments)
    ]
    report: dict[str, Any] = {
        "n_items": n_items,
        "n_items_without_weights": int((groups.of_item < 0).sum()),
        "n_groups": n_groups,
        "n_groups_of_three": int((groups.sizes >= LEAST_ITEMS).sum()),
        "n_segments": len(segments),
        "n_segments_of_three": int((sizes >= LEAST_ITEMS).sum()),
        "n_segments_unnamed": sum(not segment.name.terms for segment in segments.segments),
        "merge_threshold": found.threshold,
        "coverage": float(sizes[sizes >= LEAST_ITEMS].sum() / n_items),
        "coverage_groups": float(groups.sizes[groups.sizes >= LEAST_ITEMS].sum() / n_items),
    }
    report |= compare(embeddings, groups, vectors, seed)
    report |= {"coherence_groups": before.mean, "coherence_segments": after.mean}
    report |= overlap(candidates, seed)
    return report | {"segments": by_segment}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
