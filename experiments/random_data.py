"""Random embeddings and histories for benchmarks."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings

_LONGEST_LIST = 10  # over the mean


def random_embeddings(n_items: int, n_factors: int, nnz: int) -> SparseEmbeddings:
    """Unit rows of normal values; factor f is drawn with a weight of (f + 1)^-a."""
    if nnz > n_factors:
        raise InputError(f"--nnz={nnz} is more than --n_factors={n_factors}")
    rng = np.random.default_rng(0)
    ranks = np.arange(1, n_factors + 1)

    def excess(power: float) -> float:
        weights = ranks**-power
        return weights[0] / weights.mean() - _LONGEST_LIST

    power = scipy.optimize.brentq(excess, 0, 4)
    edges = np.cumsum(ranks**-power)
    factors = np.empty((n_items, nnz), np.int32)
    rows = np.arange(n_items)
    while len(rows):  # rows with a factor twice are drawn again
        drawn = np.searchsorted(edges, rng.random((len(rows), nnz)) * edges[-1], side="right")
        factors[rows] = np.sort(drawn, axis=1)
        rows = rows[(np.diff(factors[rows], axis=1) == 0).any(axis=1)]
    values = rng.standard_normal((n_items, nnz), np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    starts = np.arange(0, n_items * nnz + 1, nnz)
    matrix = sp.csr_matrix((values.ravel(), factors.ravel(), starts), shape=(n_items, n_factors))
    return SparseEmbeddings.from_scipy(matrix)


def random_histories(n_users: int, n_items: int, length: int) -> sp.csr_matrix:
    """Each user has `length` different items, all equally likely."""
    rng = np.random.default_rng(1)
    length = min(length, n_items)
    rows = [np.sort(rng.choice(n_items, length, replace=False)) for _ in range(n_users)]
    indices = np.concatenate(rows).astype(np.int32)
    starts = np.arange(0, len(indices) + 1, length)
    values = np.ones(len(indices), np.float32)
    return sp.csr_matrix((values, indices, starts), shape=(n_users, n_items))


def random_users(n_users: int, n_items: int, history: int) -> sp.csr_matrix:
    """Log-normal history lengths of the given mean; popularity falls like rank^-0.7.

    Items are drawn with replacement and count once, so that histories are a little shorter.
    """
    rng, sigma = np.random.default_rng(0), 0.5
    lengths = rng.lognormal(np.log(history) - sigma**2 / 2, sigma, n_users)
    starts = np.concatenate([[0], np.cumsum(np.maximum(np.rint(lengths), 1).astype(np.int64))])
    edges = np.cumsum((1.0 + rng.permutation(n_items)) ** -0.7)
    items = np.searchsorted(edges, rng.random(starts[-1]) * edges[-1], side="right")
    users = (np.ones(starts[-1], np.float32), items.astype(np.int32), starts)
    matrix = sp.csr_matrix(users, shape=(n_users, n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
