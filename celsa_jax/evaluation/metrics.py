"""Ranking metrics, one value a user."""

from __future__ import annotations

import numpy as np

METRICS = ("recall@20", "recall@50", "ndcg@100")
MAIN_METRIC = "ndcg@100"  # which options are chosen by, and rows are tested by
DEPTH = 100


def ranking_metrics(hits: np.ndarray, n_held_out: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of ranked lists (protocol of the ELSA papers).

    recall@k = hits among the first k / min(k, held out). nDCG@100 is binary, with the ideal
    list cut at min(100, held out).

    Args:
      hits: [n_users, n_ranked] bool, whether the item at each rank was held out.
      n_held_out: [n_users] int, at least 1 each; held-out items that no list can hold count.

    Returns:
      For each name in METRICS, [n_users] float64.

    Example:
      >>> hits = np.array([[True, False, True], [False, False, False]])
      >>> ranking_metrics(hits, np.array([4, 1]))["recall@20"].tolist()
      [0.5, 0.0]
    """
    n_held_out = np.asarray(n_held_out)
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    ideal = np.cumsum(discounts)[np.minimum(n_held_out, DEPTH) - 1]
    ranked = hits[:, :DEPTH]
    return {
        "recall@20": ranked[:, :20].sum(axis=1) / np.minimum(20, n_held_out),
        "recall@50": ranked[:, :50].sum(axis=1) / np.minimum(50, n_held_out),
        "ndcg@100": ranked @ discounts[: ranked.shape[1]] / ideal,
    }
