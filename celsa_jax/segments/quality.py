"""How much segments have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfTransformer

from celsa_jax.segments.groups import membership
from celsa_jax.segments.segments import SegmentTree
from celsa_jax.segments.terms import ItemTerms
from celsa_jax.sparse.rows import unit_rows

LEAST_ITEMS = 3


def compared_columns(terms: ItemTerms) -> list[str]:
    """The column of lists whose terms recur most (genres), or all where there is none."""

    def recurrence(name: str) -> float:
        matrix = terms.of_columns([name]).matrix
        return matrix.nnz / max(matrix.shape[1], 1)

    lists = list_columns(terms)
    return [max(lists, key=recurrence)] if lists else list(terms.kinds)


def list_columns(terms: ItemTerms) -> list[str]:
    return [name for name, kind in terms.kinds.items() if kind != "text"]


def metadata_vectors(terms: ItemTerms, columns: Sequence[str] | None = None) -> sp.csr_matrix:
    """CSR [n_items, n_terms] float32: TF-IDF of the items' terms, rows of unit length or zero.

    Args:
      terms: of the items.
      columns: those to compare by; `compared_columns` if None.
    """
    chosen = terms.of_columns(list(columns or compared_columns(terms))).matrix
    return TfidfTransformer().fit_transform(chosen) if chosen.nnz else chosen


def coherence(
    labels: np.ndarray, vectors: sp.csr_matrix, n_clusters: int
) -> tuple[float | None, np.ndarray]:
    """The mean cosine of the metadata of all pairs of distinct items within each cluster.

    Args:
      labels: [n_items] 0 ... n_clusters - 1; -1 for none.
      vectors: [n_items, size] unit rows; a zero row is an item without metadata, which does not
        count.
      n_clusters: number of clusters.

    Returns:
      The mean over the clusters of at least three items, weighted by their items (None without
      any), and that of each cluster, [n_clusters] float64, NaN below two items.
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
    return float(
        np.average(by_cluster[large], weights=n[large])
    ) if large.any() else None, by_cluster


def level_figures(tree: SegmentTree, vectors: sp.csr_matrix) -> list[dict[str, Any]]:
    """Of each level: segments, the largest, share of the items in those of three, coherence.

    Args:
      tree: the segments.
      vectors: of the items' metadata (`metadata_vectors`).
    """
    return [
        _figures(level.of_item, len(level), vectors)
        | {"unnamed": sum(not segment.name.terms for segment in level)}
        for level in tree.levels
    ]


def kmeans_figures(
    embeddings: sp.csr_matrix, n_clusters: int, vectors: sp.csr_matrix, seed: int = 0
) -> dict[str, Any]:
    """The same of scikit-learn's k-means (k-means++) on the rows, scaled to unit length."""
    rows = unit_rows(embeddings)
    known = np.flatnonzero(np.diff(rows.indptr))
    kmeans = KMeans(n_clusters, n_init=1, max_iter=50, random_state=seed)
    labels = np.full(rows.shape[0], -1)
    labels[known] = kmeans.fit_predict(rows[known])
    return _figures(labels, n_clusters, vectors)


def _figures(labels: np.ndarray, n: int, vectors: sp.csr_matrix) -> dict[str, Any]:
    sizes = np.bincount(labels[labels >= 0], minlength=n)
    return {
        "segments": n,
        "largest": int(sizes.max()),
        "share_in_three": float(sizes[sizes >= LEAST_ITEMS].sum() / len(labels)),
        "coherence": coherence(labels, vectors, n)[0],
    }
