"""Reference methods, judged by the same protocol at the same bytes an item.

`BASELINES` fit interactions: `fit(train, *, n_bytes, seed=0, **options)`, from CSR
[n_users, n_items] to a `Baseline`. `COMPRESSIONS` fit finished dense embeddings:
`fit(dense, *, n_bytes, seed=0, **options)`, from [n_items, n_factors] to CSR float32
[n_items, width] of unit rows, which score as x A A^T (`celsa_jax.sparse.scorer`). Each function's
signature names its options. A new method is such a function and its line below:

    def fit_mine(train, *, n_bytes, seed=0, l2=1.0):
        return weights_baseline(item_item_weights(train, n_bytes, l2))

NumPy and SciPy; `item_knn` and `als` take the extra `baselines`, and `sparse_autoencoder` imports
JAX when it is called.
"""

from collections.abc import Callable

import scipy.sparse as sp

from celsa_jax.baselines.als import fit_als
from celsa_jax.baselines.baseline import Baseline, embeddings_baseline, weights_baseline
from celsa_jax.baselines.compressions import fit_sparse_autoencoder, fit_top_k
from celsa_jax.baselines.ease import (
    fit_column_pruned_ease,
    fit_ease,
    fit_popularity,
    fit_pruned_ease,
)
from celsa_jax.baselines.neighbours import fit_item_knn

BASELINES: dict[str, Callable[..., Baseline]] = {
    "popularity": fit_popularity,
    "ease": fit_ease,
    "pruned_ease": fit_pruned_ease,
    "column_pruned_ease": fit_column_pruned_ease,
    "item_knn": fit_item_knn,
    "als": fit_als,
}
COMPRESSIONS: dict[str, Callable[..., sp.csr_matrix]] = {
    "top_k": fit_top_k,
    "sparse_autoencoder": fit_sparse_autoencoder,
}

__all__ = ["BASELINES", "COMPRESSIONS", "Baseline", "embeddings_baseline", "weights_baseline"]
