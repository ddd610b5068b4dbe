"""How much segments have in common, against other ways to divide the same items."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import adjusted_rand_score

from celsa_jax.segments.groups import Groups, extract
from celsa_jax.segments.terms import ItemTerms

LEAST_ITEMS = 3
MOST_ITEMS = 50_000


def metadata_vectors(terms: ItemTerms, columns: list[str] | None = None) -> sp.csr_matrix:
    """CSR [n_items, n_terms] float32: TF-IDF of the items' terms, rows of unit length or zero.

    Args:
      terms: of the items.
      columns: those to compare by; by default the columns of lists (genres), or all without one.
    """
    chosen = terms.of_columns(columns or compared_columns(terms)).matrix
    return TfidfTransformer().fit_transform(chosen) if chosen.nnz else chosen


def compared_columns(terms: ItemTerms) -> list[str]:
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
    known = np.flatnonzero((labels >= 0) & (np.diff(vectors.indptr) > 0))
    membership = sp.csr_matrix(
        (np.ones(len(known)), (labels[known], known)), (n_clusters, len(labels))
    )
    n = np.bincount(labels[known], minlength=n_clusters)
    sums = membership @ vectors.astype(np.float64)
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
) -> dict[str, object]:
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
        "coherence_kmeans": _kmeans(embeddings[items], len(np.unique(signed)), seed),
    }
    result: dict[str, object] = {}
    for name, labels in partitions.items():
        _, labels = np.unique(labels, return_inverse=True)
        found = coherence(labels, vectors[items], labels.max(initial=-1) + 1)
        result[name] = found.mean
        counted = found.n_items[found.n_items >= LEAST_ITEMS].sum()
        result[f"{name}_share"] = float(counted / max(len(items), 1))
    return result | {"coherence_items": len(items)}


def _kmeans(rows: sp.csr_matrix, n_clusters: int, seed: int) -> np.ndarray:
    rows = sp.csr_matrix(rows, dtype=np.float32, copy=True)  # scikit-learn wants to write
    return KMeans(n_clusters, n_init=1, max_iter=50, random_state=seed).fit_predict(rows)


def purity(labels: np.ndarray, truth: np.ndarray) -> tuple[float | None, int]:
    """How far groups of at least three items keep to one true class each.

    Args:
      labels: [n_items] the group of each item; -1 for none.
      truth: [n_items] its class, from 0.

    Returns:
      The share of the items of such groups that are of their group's most common class (None
      without any), and the number of these items.
    """
    inside = labels >= 0
    table = np.zeros((labels.max(initial=-1) + 1, truth.max(initial=-1) + 1), np.int64)
    np.add.at(table, (labels[inside], truth[inside]), 1)
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
    a, b = a[both], b[both]
    together = float(_pairs(sp.coo_matrix((np.ones(len(a)), (a, b))).tocsr().data).sum())
    in_first = float(_pairs(np.bincount(a)).sum())
    in_second = float(_pairs(np.bincount(b)).sum())
    return {
        "adjusted_rand": float(adjusted_rand_score(a, b)),
        "kept_pairs": together / max(in_first, 1),
        "kept_pairs_by_chance": in_second / max(_pairs(np.array([len(a)])).sum(), 1),
    }


def _pairs(n: np.ndarray) -> np.ndarray:
    return n * (n - 1.0) / 2


def overlap(candidates: sp.csc_matrix, seed: int = 0) -> dict[str, float]:
    """How far the lists of candidates of segments cover the same items.

    Returns:
      segments_per_item: mean number of segments that can recommend an item.
      nearest_jaccard: mean over segments of the highest Jaccard index with another segment's list;
        on a sample of 50,000 items above that.
    """
    rows = candidates.tocsr()
    if rows.shape[0] > MOST_ITEMS:
        keep = np.random.default_rng(seed).choice(rows.shape[0], MOST_ITEMS, replace=False)
        rows = rows[np.sort(keep)]
    common = (rows.T @ rows).tocoo()
    sizes = np.bincount(rows.indices, minlength=rows.shape[1])
    other = common.row != common.col
    row, column, both = common.row[other], common.col[other], common.data[other]
    nearest = np.zeros(rows.shape[1])
    np.maximum.at(nearest, row, both / (sizes[row] + sizes[column] - both))
    return {
        "segments_per_item": candidates.nnz / max(candidates.shape[0], 1),
        "nearest_jaccard": float(nearest.mean()) if len(nearest) else 0.0,
    }
