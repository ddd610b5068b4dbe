"""The engines that `experiments.benchmark_inference` times, each behind one small interface.

An engine is made from a file of `SparseEmbeddings` and answers `serve(histories, k)`: positions
[n_users, k] of the best unseen items, -1 where there are fewer. All that a service must do is
inside: encode the histories, score, leave out what was seen, order the rest. Libraries that cannot
leave out items are asked for as many more as the longest history has. `n_bytes` is what stays in
memory, `n_threads` how many may be used; those of BLAS and OpenMP are limited from outside.
"""

from __future__ import annotations

import pathlib

import numpy as np
import scipy.sparse as sp

from celsa_jax.sparse import Recommender, SparseEmbeddings
from celsa_jax.sparse.rows import unit_rows

_SCORES_AT_ONCE = 1 << 24
_MAX_DENSE_BYTES = 2e9


class ExactFast:
    """`celsa_jax.sparse.Recommender`, from the file on: load, check, build the lists."""

    n_threads = 1

    def __init__(self, path: pathlib.Path):
        self.recommender = Recommender(SparseEmbeddings.load(path), engine="numba")
        self.recommender.warm_up()
        self.n_bytes = self.recommender.nbytes

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        self.recommender.n_threads = self.n_threads
        return self.recommender.recommend(histories, k)[0]


class ExactScipy:
    """Plain SciPy: X U A^T, argpartition. Its sparse products have one thread."""

    n_threads = 1

    def __init__(self, path: pathlib.Path):
        rows = SparseEmbeddings.load(path).tocsr()
        self.directions, self.columns = unit_rows(rows), rows.T.tocsr()
        self.n_bytes = sum(
            array.nbytes
            for matrix in (self.directions, self.columns)
            for array in (matrix.data, matrix.indices, matrix.indptr)
        )

    def scores(self, histories: sp.csr_matrix) -> np.ndarray:
        return (histories @ self.directions @ self.columns).toarray()

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        return _rank_in_blocks(self.scores, histories, k)


class SparseDotTopn(ExactScipy):
    """sparse_dot_topn: a threaded sparse product that keeps the best n."""

    def __init__(self, path: pathlib.Path):
        from sparse_dot_topn import sp_matmul_topn

        super().__init__(path)
        self.multiply = sp_matmul_topn

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        latent = histories @ self.directions
        n = min(k + _longest(histories), histories.shape[1])
        best = self.multiply(latent, self.columns, n, sort=True, n_threads=self.n_threads)
        ranked = np.full((histories.shape[0], n), -1)
        lengths = np.diff(best.indptr)
        ranked[np.arange(n) < lengths[:, None]] = best.indices
        return _drop_seen(ranked, histories, k)


class Dense:
    """NumPy and its BLAS: the whole matrix, dense, at the same width.

    Raises:
      MemoryError: it is larger than 2 GB.
    """

    n_threads = 1

    def __init__(self, path: pathlib.Path):
        rows = SparseEmbeddings.load(path).tocsr()
        self.n_bytes = 4 * rows.shape[0] * rows.shape[1]
        if self.n_bytes > _MAX_DENSE_BYTES:
            raise MemoryError(f"{self.n_bytes / 1e9:.1f} GB in dense form")
        self.directions, self.vectors = unit_rows(rows), rows.toarray()

    def latent(self, histories: sp.csr_matrix) -> np.ndarray:
        # Sparse, its product with dense vectors would go without BLAS, and copy them.
        return (histories @ self.directions).toarray()

    def scores(self, histories: sp.csr_matrix) -> np.ndarray:
        return self.latent(histories) @ self.vectors.T

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        return _rank_in_blocks(self.scores, histories, k)


class FaissFlat(Dense):
    """faiss, exact: dense inner products."""

    kind = "Flat"

    def __init__(self, path: pathlib.Path):
        import faiss

        super().__init__(path)
        n_factors, metric = self.vectors.shape[1], faiss.METRIC_INNER_PRODUCT
        self.index = faiss.index_factory(n_factors, self.kind, metric)
        self.index.add(self.vectors)
        del self.vectors  # of which the index has a copy

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        n = min(k + _longest(histories), histories.shape[1])
        return _drop_seen(self.index.search(self.latent(histories), n)[1], histories, k)


class FaissHnsw(FaissFlat):
    """faiss, approximate: a graph with 32 links an item, 512 candidates a search."""

    kind = "HNSW32"

    def __init__(self, path: pathlib.Path):
        super().__init__(path)
        self.index.hnsw.efSearch = 512


class Implicit(Dense):
    """implicit's own compiled top k over dense factors."""

    def __init__(self, path: pathlib.Path):
        from implicit.cpu.topk import topk

        super().__init__(path)
        self.top_k = topk

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        given = {"filter_query_items": histories, "num_threads": self.n_threads}
        return self.top_k(self.vectors, self.latent(histories), k, **given)[0]


ENGINES = {
    "exact_scipy": ExactScipy,
    "exact_fast": ExactFast,
    "dense_same_d": Dense,
    "sparse_dot_topn": SparseDotTopn,
    "faiss_flat": FaissFlat,
    "faiss_hnsw": FaissHnsw,
    "implicit": Implicit,
}


def _longest(histories: sp.csr_matrix) -> int:
    return int(np.diff(histories.indptr).max(initial=0))


def _rank_in_blocks(score, histories: sp.csr_matrix, k: int) -> np.ndarray:
    """The k best unseen items by argpartition, for as many users at once as memory allows."""
    n_users, n_items = histories.shape
    k = min(k, n_items)
    at_once = max(1, _SCORES_AT_ONCE // n_items)
    blocks = []
    for first in range(0, n_users, at_once):
        block = histories[first : first + at_once] if n_users > at_once else histories
        scores = score(block)
        scores[np.repeat(np.arange(len(scores)), np.diff(block.indptr)), block.indices] = -np.inf
        best = np.argpartition(scores, n_items - k, axis=1)[:, n_items - k :]
        values = np.take_along_axis(scores, best, axis=1)
        best = np.where(values > -np.inf, best, -1)
        blocks.append(np.take_along_axis(best, np.argsort(-values, axis=1), axis=1))
    return np.concatenate(blocks)


def _drop_seen(ranked: np.ndarray, histories: sp.csr_matrix, k: int) -> np.ndarray:
    """The first k of each row of `ranked` that are not in the user's history."""
    seen = np.zeros(histories.shape[1] + 1, bool)
    result = np.full((len(ranked), k), -1)
    for user, row in enumerate(ranked):
        history = histories.indices[histories.indptr[user] : histories.indptr[user + 1]]
        seen[history] = True
        unseen = row[~seen[row]][:k]
        result[user, : len(unseen)] = unseen
        seen[history] = False
    return result
