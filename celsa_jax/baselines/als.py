"""Matrix factorisation by alternating least squares, by the library implicit."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from celsa_jax.baselines.baseline import Baseline, implicit, numbers_within
from celsa_jax.sparse.formats import BYTES_PER_FACTOR


def fit_als(
    train: sp.csr_matrix,
    *,
    n_bytes: int,
    seed: int = 0,
    l2: float = 1.0,
    alpha: float = 3.0,
    n_iterations: int = 15,
) -> Baseline:
    """Implicit-feedback ALS (Hu, Koren and Volinsky, ICDM 2008).

    A new user's vector solves the users' half of the problem for the history alone,
    (Y^T Y + (alpha - 1) sum_i y_i y_i^T + l2 I) u = alpha sum_i y_i over the items i of the
    history, with Y the items' n_bytes // 4 factors each; scores are Y u. An interaction has the
    weight alpha, and what is missing 1. The defaults of l2 and alpha are the best on validation
    users of a sample of Goodbooks-10k, of 1, 10, 30, 100 and of 1, 3, 10, 40.
    """
    n_factors = numbers_within(n_bytes, BYTES_PER_FACTOR)
    models = implicit("cpu.als")
    with _one_blas_thread():
        model = models.AlternatingLeastSquares(
            factors=n_factors,
            regularization=l2,
            alpha=alpha,
            iterations=n_iterations,
            random_state=seed,
        )
        model.fit(train, show_progress=False)
    items = np.asarray(model.item_factors)

    def score(history: sp.csr_matrix) -> np.ndarray:
        with _one_blas_thread():
            users = model.recalculate_user(np.arange(history.shape[0]), history)
        return np.asarray(users @ items.T, np.float32)

    return Baseline(score, float(BYTES_PER_FACTOR * n_factors))


def _one_blas_thread():
    # The library has threads of its own; a BLAS with several in each of them crawls.
    import threadpoolctl  # comes with implicit

    return threadpoolctl.threadpool_limits(1, "blas")
