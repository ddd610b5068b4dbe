"""Nearest neighbours: items, by the library implicit, and users."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp

from celsa_jax.baselines.baseline import Baseline, implicit, numbers_within, weights_baseline
from celsa_jax.errors import InputError
from celsa_jax.sparse.formats import BYTES_PER_FACTOR, BYTES_PER_NONZERO
from celsa_jax.sparse.rows import keep_largest, unit_rows

SIMILARITIES = ("cosine", "bm25")


def fit_item_knn(
    train: sp.csr_matrix, *, n_bytes: int, seed: int = 0, similarity: str = "cosine"
) -> Baseline:
    """Scores x S, where row i of S holds the similarities of item i to its k nearest others.

    An item is no neighbour of its own: what a user has is never recommended, so that the entry
    would cost 8 bytes for nothing.

    Args:
      train, n_bytes, seed: see `celsa_jax.baselines`; n_bytes // 8 neighbours an item.
      similarity: `cosine` of two items' columns, or `bm25`, their inner product after BM25 weights
        (k1 = 1.2, b = 0.75).
    """
    if similarity not in SIMILARITIES:
        names = " or ".join(SIMILARITIES)
        raise InputError(f"the similarity of item_knn is '{similarity}'; choose {names}")
    k = numbers_within(n_bytes, BYTES_PER_NONZERO)
    models = implicit("nearest_neighbours")
    # One more, as an item is most often its own nearest.
    if similarity == "cosine":
        model = models.CosineRecommender(k + 1)
    else:
        model = models.BM25Recommender(k + 1, K1=1.2, B=0.75)
    with warnings.catch_warnings():
        # The library's own weighting makes COO, and its own check wants CSR.
        warnings.filterwarnings("ignore", "Method expects CSR input")
        model.fit(train, show_progress=False)
    others = model.similarity.tocsr()
    others.setdiag(0)
    return weights_baseline(keep_largest(others, k))


def fit_user_knn(
    train: sp.csr_matrix,
    *,
    n_bytes: int = 0,
    seed: int = 0,
    n_neighbours: int = 50,
    locality: float = 4.0,
) -> Baseline:
    """Scores sum_v cos(x, v)^locality v over the training users v that are nearest to x.

    With the locality of Aiolli (RecSys 2013, "Efficient top-N recommendation for very large scale
    binary rated datasets"). The defaults are the best on validation users of a sample of
    Goodbooks-10k, of 50 to 400 and of 1, 2, 4. Serving keeps every training interaction, 4 bytes
    each, whatever `n_bytes` is.

    Args:
      train, n_bytes, seed: see `celsa_jax.baselines`.
      n_neighbours: training users that have a say.
      locality: above 1 the nearer of them have more.
    """
    users = unit_rows(train).T.tocsr()

    def score(history: sp.csr_matrix) -> np.ndarray:
        nearest = keep_largest(unit_rows(history) @ users, n_neighbours)
        nearest.data **= locality
        return (nearest @ train).toarray()

    return Baseline(score, BYTES_PER_FACTOR * train.nnz / train.shape[1])
