"""The engines that `experiments.benchmark_inference` times, each behind one small interface.

An engine is made from a `Catalogue` and answers `serve(histories, k)`: positions [n_users, k] of
the best unseen items, -1 where there are fewer. All that a service must do is inside: encode the
histories, score, leave out what was seen, order the rest. Libraries that cannot leave out items
are asked for as many more as the longest history has. `n_bytes` is what stays in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np
import scipy.sparse as sp

from celsa_jax.sparse import Recommender, SparseEmbeddings
from celsa_jax.sparse.rows import unit_rows

_SCORES_AT_ONCE = 1 << 24
_MAX_DENSE_BYTES = 2e9


class Skipped(Exception):
    """This engine cannot run here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What engines are made of: saved `SparseEmbeddings`."""

    path: pathlib.Path

    @functools.cached_property
    def rows(self) -> sp.csr_matrix:
        return SparseEmbeddings.load(self.path).tocsr()

    @functools.cached_property
    def directions(self) -> sp.csr_matrix:
        """What histories are encoded with, the rows at unit length."""
        return unit_rows(self.rows)

    def dense(self) -> np.ndarray:
        size = 4 * self.rows.shape[0] * self.rows.shape[1]
        if size > _MAX_DENSE_BYTES:
            raise Skipped(f"{size / 1e9:.1f} GB in dense form")
        return self.rows.toarray()


class ExactFast:
    """`celsa_jax.sparse.Recommender`, from the file on: load, check, build the lists."""

    def __init__(self, catalogue: Catalogue):
        self.recommender = Recommender(SparseEmbeddings.load(catalogue.path), engine="numba")
        self.recommender.warm_up()
        self.n_bytes = self.recommender.nbytes

    def set_threads(self, n: int) -> None:
        self.recommender.n_threads = n

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        return self.recommender.recommend(histories, k)[0]


class ExactScipy:
    """Plain SciPy: X U A^T, argpartition."""

    def __init__(self, catalogue: Catalogue):
        self.directions = catalogue.directions
        self.columns = catalogue.rows.T.tocsr()
        self.n_bytes = sum(_csr_bytes(matrix) for matrix in (self.directions, self.columns))

    def set_threads(self, n: int) -> None:
        """SciPy's sparse products have one."""

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        return _rank_in_blocks(
            lambda x: (x @ self.directions @ self.columns).toarray(), histories, k
        )


class Dense:
    """NumPy and its BLAS: the whole matrix, dense, at the same width."""

    def __init__(self, catalogue: Catalogue):
        self.vectors, self.directions = catalogue.dense(), catalogue.directions
        self.n_bytes = self.vectors.nbytes

    def set_threads(self, n: int) -> None:
        """Set for all BLAS libraries by the benchmark."""

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        return _rank_in_blocks(lambda x: (x @ self.directions) @ self.vectors.T, histories, k)


class SparseDotTopn:
    """sparse_dot_topn: a threaded sparse product that keeps the best n."""

    def __init__(self, catalogue: Catalogue):
        from sparse_dot_topn import sp_matmul_topn

        self.multiply = sp_matmul_topn
        self.directions = catalogue.directions
        self.columns = catalogue.rows.T.tocsr()
        self.n_bytes = sum(_csr_bytes(matrix) for matrix in (self.directions, self.columns))
        self.set_threads(1)

    def set_threads(self, n: int) -> None:
        self.n_threads = n

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        latent = histories @ self.directions
        n = min(k + _longest(histories), self.directions.shape[0])
        best = self.multiply(latent, self.columns, n, sort=True, n_threads=self.n_threads)
        ranked = np.full((histories.shape[0], n), -1)
        lengths = np.diff(best.indptr)
        ranked[np.arange(n) < lengths[:, None]] = best.indices
        return _drop_seen(ranked, histories, k)


class FaissFlat:
    """faiss, exact: dense inner products."""

    def __init__(self, catalogue: Catalogue):
        import faiss

        self.faiss = faiss
        self.directions = catalogue.directions
        self.index = self._index(catalogue.dense())
        self.n_bytes = self.index.ntotal * self.index.d * 4

    def _index(self, vectors: np.ndarray):
        index = self.faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index

    def set_threads(self, n: int) -> None:
        self.faiss.omp_set_num_threads(n)

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        n = min(k + _longest(histories), self.index.ntotal)
        ranked = self.index.search((histories @ self.directions).toarray(), n)[1]
        return _drop_seen(ranked, histories, k)


class FaissHnsw(FaissFlat):
    """faiss, approximate: a graph with 32 links an item, 512 candidates a search."""

    def _index(self, vectors: np.ndarray):
        index = self.faiss.IndexHNSWFlat(vectors.shape[1], 32, self.faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 512
        index.add(vectors)
        return index


class Implicit:
    """implicit's own compiled top k over dense factors."""

    def __init__(self, catalogue: Catalogue):
        from implicit.cpu.topk import topk

        self.top_k = topk
        self.directions = catalogue.directions
        self.vectors = catalogue.dense()
        self.n_bytes = self.vectors.nbytes
        self.set_threads(1)

    def set_threads(self, n: int) -> None:
        self.n_threads = n

    def serve(self, histories: sp.csr_matrix, k: int) -> np.ndarray:
        latent = (histories @ self.directions).toarray()
        return self.top_k(
            self.vectors, latent, k, filter_query_items=histories, num_threads=self.n_threads
        )[0]


ENGINES = {
    "exact_scipy": ExactScipy,
    "exact_fast": ExactFast,
    "dense_same_d": Dense,
    "sparse_dot_topn": SparseDotTopn,
    "faiss_flat": FaissFlat,
    "faiss_hnsw": FaissHnsw,
    "implicit": Implicit,
}


def _csr_bytes(matrix: sp.csr_matrix) -> int:
    return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


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
