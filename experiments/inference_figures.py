"""Figures of accuracy against size and against latency, for `experiments.benchmark_inference`."""

from __future__ import annotations

import functools
import pathlib
import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
import threadpoolctl

from celsa_jax.data import Interactions
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.files import atomic_path
from celsa_jax.sparse import FORMATS, Recommender, SparseEmbeddings
from experiments.inference_engines import Catalogue, rank_dense

QUERY_FACTORS = (16, 32, 64, 128, 256)
STYLES = {
    "sparse": ("sparse, exact", "C0o"),
    "approximate": ("sparse, approximate, by query factors", "C2^-"),
    "dense": ("dense", "C1s-"),
}
_N_TIMED = 64
_ROUNDS = 5


def draw(
    folder: str,
    catalogue: Catalogue,
    users: Interactions,
    histories: sp.csr_matrix,
    dense_models: list[str],
    k: int,
) -> list[dict]:
    """Writes `ndcg_bytes.png` and `ndcg_latency.png`; returns the points.

    nDCG@100 is that of `evaluate` (disjoint folds, seed 0) on `users`; latency is the median
    time of one user on one thread, all points in turn.
    """
    stored = SparseEmbeddings.load(catalogue.path)
    points = []
    for form in FORMATS if stored.format == "float32" else (stored.format,):
        recommender = Recommender(stored.to_format(form), engine="numba")
        size = recommender.embeddings.bytes_per_item
        points.append(Point("sparse", form, size, served(recommender)))
    for n in QUERY_FACTORS:
        recommender = Recommender(stored, engine="numba", query_factors=n)
        points.append(Point("approximate", str(n), stored.bytes_per_item, served(recommender)))
    for workdir in dense_models:
        model = SparseEmbeddings.load(pathlib.Path(workdir) / "embeddings.npz")
        if not np.array_equal(model.item_ids, stored.item_ids):
            raise InputError(f"--dense_models: {workdir} has other items than --embeddings")
        rank = functools.partial(rank_dense, model.tocsr().toarray())
        points.append(Point("dense", f"d = {model.n_factors}", 4 * model.n_factors, rank))
    with threadpoolctl.threadpool_limits(1):
        for point in points:
            point.ndcg = ndcg(point, users, stored.item_ids, k)
        ones = [histories[u] for u in range(min(_N_TIMED, histories.shape[0]))]
        for turn in range(_ROUNDS + 1):
            for point in points:
                times = [point.seconds(one, k) for one in ones]
                point.times += times if turn else []
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    plot(out / "ndcg_bytes.png", points, "bytes per item", lambda p: p.n_bytes, ("sparse", "dense"))
    plot(out / "ndcg_latency.png", points, "one user, one thread: microseconds", Point.latency_us)
    return [point.report() for point in points]


def served(recommender: Recommender):
    """Positions alone, as the dense ranking returns."""
    return lambda histories, k: recommender.recommend(histories, k)[0]


class Point:
    """One way to serve: its size, its accuracy, its times."""

    def __init__(self, family: str, name: str, n_bytes: float, recommend):
        self.family, self.name, self.n_bytes, self.recommend = family, name, n_bytes, recommend
        self.ndcg, self.times = None, []

    def seconds(self, history: sp.csr_matrix, k: int) -> float:
        started = time.perf_counter()
        self.recommend(history, k)
        return time.perf_counter() - started

    def latency_us(self) -> float:
        return 1e6 * float(np.median(self.times))

    def report(self) -> dict:
        return {
            "family": self.family,
            "name": self.name,
            "bytes_per_item": self.n_bytes,
            "ndcg@100": self.ndcg,
            "one_user_p50_us": round(self.latency_us(), 1),
        }


def ndcg(point: Point, users: Interactions, item_ids: np.ndarray, k: int) -> float:
    """nDCG@100 of what is recommended; what is not ranks behind, by position."""

    def ranks_as_scores(history: sp.csr_matrix) -> np.ndarray:
        items = point.recommend(history, k)
        scores = np.zeros(history.shape, np.float32)
        user, rank = np.nonzero(items >= 0)
        scores[user, items[user, rank]] = k - rank
        return scores

    return evaluate(ranks_as_scores, users, item_ids).summary()["ndcg@100"]


def plot(path: pathlib.Path, points: list[Point], label: str, x, families=STYLES) -> None:
    """nDCG@100 over x, by family."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for family in families:
        chosen = [point for point in points if point.family == family]
        if not chosen:
            continue
        name, style = STYLES[family]
        axes.plot([x(p) for p in chosen], [p.ndcg for p in chosen], style, label=name)
        for at, point in enumerate(chosen):
            # Formats lie close together: their names form a column above them.
            height = 9 * (len(chosen) - at) - 2 if family == "sparse" else 7
            axes.annotate(
                point.name,
                (x(point), point.ndcg),
                xytext=(0, height),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("nDCG@100")
    axes.grid(alpha=0.3)
    axes.margins(0.1, 0.2)
    axes.legend(fontsize=8, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    plt.close(figure)
