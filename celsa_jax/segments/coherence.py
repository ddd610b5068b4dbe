"""How much segments have in common, against other ways to divide the same items."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix

from celsa_jax.segments.find import Segmentation
from celsa_jax.segments.groups import Groups, extract, membership
from celsa_jax.segments.terms import ItemTerms
from celsa_jax.sparse.rows import unit_rows

LEAST_ITEMS = 3
MOST_ITEMS = 50_000


def metadata_vectors(terms: ItemTerms, columns: list[str] | None = None) -> sp.csr_matrix:
    """CSR [n_items, n_terms] float32: TF-IDF of the items' terms, rows of unit length or zero.

    Args:
      terms: of the items.
      columns: those to compare by; `compared_columns` if None.
    """
    chosen = terms.of_columns(columns or compared_columns(terms)).matrix
    return TfidfTransformer().fit_transform(chosen) if chosen.nnz else chosen


def compared_columns(terms: ItemTerms) -> list[str]:
    """The columns of lists (genres), or all where there is none."""
    lists = [name for name, kind in terms.kinds.items() if kind != "text"]
    return lists or list(terms.kinds)


@dataclasses.dataclass(frozen=True)
class Coherence:
    """Mean cosine of the metadata of two items of a cluster.

    Attributes:
      mean: over the clusters of at least three items, weighted by their items; None without any.
      by_cluster: [n_clusters] float64; NaN below two items.
      n_items: [n_clusters] items with metadata in each cluster; the others do not count.
    """

    mean: float | None
    by_cluster: np.ndarray
    n_items: np.ndarray


def coherence(labels: np.ndarray, vectors: sp.csr_matrix, n_clusters: int) -> Coherence:
    """The mean cosine of all pairs of distinct items within each cluster.

    Args:
      labels: [n_items] 0 ... n_clusters - 1; -1 for none.
      vectors: [n_items, size] unit rows; a zero row is an item without metadata.
      n_clusters: number of clusters.
    """
    known = np.where(np.diff(vectors.indptr) > 0, labels, -1)
    in_cluster = membership(known, n_clusters)
    n = np.diff(in_cluster.indptr)
    sums = in_cluster @ vectors.astype(np.float64)
    # The n^2 cosines of a cluster add up to |sum of its vectors|^2; n of them are of an item
    # with itself.
    total = np.asarray(sums.multiply(sums).sum(axis=1)).ravel()
    by_cluster = np.full(n_clusters, np.nan)
    np.divide(total - n, n * (n - 1.0), out=by_cluster, where=n > 1)
    large = n >= LEAST_ITEMS
    mean = float(np.average(by_cluster[large], weights=n[large])) if large.any() else None
    return Coherence(mean, by_cluster, n)


def compare(
    embeddings: sp.csr_matrix, groups: Groups, vectors: sp.csr_matrix, seed: int = 0
) -> dict[str, Any]:
    """Coherence of the signed groups and of three other partitions of the same items.

    The others are random groups of the same sizes; dominant factors whatever their sign; and
    scikit-learn's k-means (k-means++) on the embeddings, with as many clusters as there are groups.
    Above 50,000 items all four are of one random sample of 50,000.

    Returns:
      coherence, coherence_random, coherence_unsigned, coherence_kmeans, each None where no cluster
      has three items with metadata; the same names with `_share`, the share of the compared items
      in such clusters, of which alone a coherence speaks; and coherence_items, the number of
      items compared.
    """
    rng = np.random.default_rng(seed)
    items = np.flatnonzero(groups.of_item >= 0)
    if len(items) > MOST_ITEMS:
        items = np.sort(rng.choice(items, MOST_ITEMS, replace=False))
    signed = groups.of_item[items]
    partitions = {
        "coherence": signed,
        "coherence_random": rng.permutation(signed),
        "coherence_unsigned": groups.factors[signed],
        "coherence_kmeans": _kmeans(unit_rows(embeddings[items]), len(np.unique(signed)), seed),
    }
    report: dict[str, Any] = {}
    for name, labels in partitions.items():
        _, labels = np.unique(labels, return_inverse=True)
        result = coherence(labels, vectors[items], labels.max() + 1)
        counted = result.n_items[result.n_items >= LEAST_ITEMS].sum()
        report[name] = result.mean
        report[f"{name}_share"] = float(counted / len(items))
    return report | {"coherence_items": len(items)}


def _kmeans(rows: sp.csr_matrix, n_clusters: int, seed: int) -> np.ndarray:
    rows = sp.csr_matrix(rows, dtype=np.float32, copy=True)  # scikit-learn wants to write
    return KMeans(n_clusters, n_init=1, max_iter=50, random_state=seed).fit_predict(rows)


def purity(labels: np.ndarray, truth: np.ndarray) -> tuple[float | None, int]:
    """How far groups of at least three items keep to one true class each.

    Args:
      labels: [n_items] the group of each item; -1 for none.
      truth: [n_items] its class.

    Returns:
      The share of the items of such groups that are of their group's most common class (None
      without any), and the number of these items.
    """
    table = contingency_matrix(labels[labels >= 0], truth[labels >= 0])
    large = table[table.sum(axis=1) >= LEAST_ITEMS]
    n_items = int(large.sum())
    return (float(large.max(axis=1).sum() / n_items) if n_items else None), n_items


def stability(first: sp.csr_matrix, second: sp.csr_matrix) -> dict[str, float]:
    """How alike two models group the same items (rows in the same order).

    Returns:
      adjusted_rand: the adjusted Rand index of the two sets of groups (1: the same, 0: chance).
      kept_pairs: of the pairs of items in one group of the first, how many are in one of the
        second.
      kept_pairs_by_chance: the same, were the groups of the second of the same sizes but random.
    """
    a, b = extract(first).of_item, extract(second).of_item
    both = (a >= 0) & (b >= 0)
    n_pairs = pair_confusion_matrix(a[both], b[both])  # by together in the first, in the second
    return {
        "adjusted_rand": float(adjusted_rand_score(a[both], b[both])),
        "kept_pairs": float(n_pairs[1, 1] / max(n_pairs[1].sum(), 1)),
        "kept_pairs_by_chance": float(n_pairs[:, 1].sum() / max(n_pairs.sum(), 1)),
    }


def evaluate_segments(
    segmentation: Segmentation,
    embeddings: sp.csr_matrix,
    vectors: sp.csr_matrix,
    candidates: sp.csc_matrix,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of a segmentation: those of the whole, and those of every segment.

    Args:
      segmentation: groups and segments.
      embeddings: A, items x factors.
      vectors: of the items' metadata (`metadata_vectors`).
      candidates: `SegmentRecommender.candidates`.
      seed: of random groups, k-means and samples.

    Returns:
      JSON values by name, among them:
      coverage: share of the catalogue in segments of at least three items.
      coherence and others: of the groups before merging, beside three baselines (`compare`).
      coherence_groups, coherence_segments: of all groups before and of all segments after merging.
        Merging reads metadata, so the latter says less of the model.
      segments_per_item: mean number of segments that can recommend an item.
      segments: of each, size; candidates, items with a positive product with its vector;
        coverage, the share of the catalogue that these are; coherence; term_share, of
        its items with metadata the share that have the first term.
    """
    segments, groups = segmentation.segments, segmentation.groups
    n_items, n_groups = len(segments.item_ids), len(groups.pairs)
    before = coherence(groups.of_item, vectors, n_groups)
    after = coherence(segments.of_item, vectors, len(segments))
    sizes = np.array([len(segment.items) for segment in segments.segments])
    n_candidates = np.diff(candidates.indptr)
    by_segment = [
        {
            "name": segment.name.name,
            "size": int(sizes[at]),
            "candidates": int(n_candidates[at]),
            "coverage": float(n_candidates[at] / n_items),
            "coherence": _number(after.by_cluster[at]),
            "term_share": None if segment.name.share is None else round(segment.name.share, 4),
        }
        for at, segment in enumerate(segments.segments)
    ]
    return {
        "n_items": n_items,
        "n_items_without_weights": int((groups.of_item < 0).sum()),
        "n_groups": n_groups,
        "n_groups_of_three": int((groups.sizes >= LEAST_ITEMS).sum()),
        "n_segments": len(segments),
        "n_segments_of_three": int((sizes >= LEAST_ITEMS).sum()),
        "n_segments_unnamed": sum(not segment.name.terms for segment in segments.segments),
        "merge_threshold": segmentation.threshold,
        "coverage": float(sizes[sizes >= LEAST_ITEMS].sum() / n_items),
        "coverage_groups": float(groups.sizes[groups.sizes >= LEAST_ITEMS].sum() / n_items),
        **compare(embeddings, groups, vectors, seed),
        "coherence_groups": before.mean,
        "coherence_segments": after.mean,
        "segments_per_item": candidates.nnz / n_items,
        "segments": by_segment,
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
