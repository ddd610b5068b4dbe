"""Reference methods, judged by the same protocol at the same bytes an item.

`BASELINES` fit interactions: `fit(train, *, n_bytes, seed=0, **options)`, from CSR
[n_users, n_items] float32 to a `Baseline`. `COMPRESSIONS` fit finished dense embeddings:
`fit(dense, *, n_bytes, seed=0, **options)`, from [n_items, n_factors] float32 to CSR float32
[n_items, width] of unit rows, which score as x A A^T (`embeddings_baseline`).

Each keeps what fits into `n_bytes` an item, 8 a non-zero and 4 a dense value, and raises an
InputError where nothing does or an option is at fault; `seed` is of what is drawn, if anything is.
Each function's signature names its options. A new method is such a function and its line below.
NumPy and SciPy; `item_knn` and `als` take the extra `baselines`, and `sparse_autoencoder` imports
JAX when it is called.

Example:
  >>> import scipy.sparse as sp
  >>> train = sp.csr_matrix([[1.0, 1, 0], [1, 1, 0], [0, 1, 1]], dtype="float32")
  >>> fitted = BASELINES["column_pruned_ease"](train, n_bytes=8, l2=1.0)
  >>> fitted.score(train[:1]).round(2), fitted.bytes_per_item
  (array([[0.57, 0.67, 0.38]], dtype=float32), 8.0)
"""

from collections.abc import Callable

import scipy.sparse as sp

from celsa_jax.baselines.als import fit_als
from celsa_jax.baselines.baseline import Baseline, embeddings_baseline
from celsa_jax.baselines.compressions import fit_sparse_autoencoder, fit_top_k
from celsa_jax.baselines.ease import (
    fit_column_pruned_ease,
    fit_ease,
    fit_pruned_ease,
)
from celsa_jax.baselines.neighbours import fit_item_knn, fit_user_knn
from celsa_jax.baselines.popularity import fit_popularity

BASELINES: dict[str, Callable[..., Baseline]] = {
    "popularity": fit_popularity,
    "ease": fit_ease,
    "pruned_ease": fit_pruned_ease,
    "column_pruned_ease": fit_column_pruned_ease,
    "item_knn": fit_item_knn,
    "user_knn": fit_user_knn,
    "als": fit_als,
}
COMPRESSIONS: dict[str, Callable[..., sp.csr_matrix]] = {
    "top_k": fit_top_k,
    "sparse_autoencoder": fit_sparse_autoencoder,
}

__all__ = ["BASELINES", "COMPRESSIONS", "Baseline", "embeddings_baseline"]
