"""Compressions of finished dense embeddings E to few non-zeros a row, scored as x A A^T."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from celsa_jax.baselines.baseline import numbers_within
from celsa_jax.errors import InputError
from celsa_jax.sparse.formats import BYTES_PER_NONZERO
from celsa_jax.sparse.rows import keep_largest, unit_rows


def fit_top_k(dense: np.ndarray, *, n_bytes: int, seed: int = 0) -> sp.csr_matrix:
    """The entries of largest magnitude of every row, scaled back to unit length."""
    return unit_rows(keep_largest(dense, numbers_within(n_bytes, BYTES_PER_NONZERO)))


def fit_sparse_autoencoder(
    dense: np.ndarray,
    *,
    n_bytes: int,
    seed: int = 0,
    n_hidden: int = 4096,
    learning_rate: float = 3e-3,
    n_epochs: int = 10,
    batch_size: int = 256,
) -> sp.csr_matrix:
    """The codes, n_hidden wide, of a sparse autoencoder (`celsa_jax.baselines.autoencoder`).

    They are scored by their own inner products, the paper's fast mode and the one that Compressed
    ELSA is compared with. n_hidden and n_epochs are that comparison's; learning_rate (of Adam) and
    batch_size did better on a sample of Goodbooks-10k than its 0.001 and 1024.
    """
    k = numbers_within(n_bytes, BYTES_PER_NONZERO)
    if k > n_hidden:
        raise InputError(f"{n_bytes} bytes are {k} non-zeros, more than n_hidden ({n_hidden})")
    try:
        from celsa_jax.baselines import autoencoder  # JAX, which nothing else here needs
    except ImportError as error:
        raise InputError(f"the sparse autoencoder needs JAX: {error}") from None
    trained = autoencoder.train(
        dense,
        k,
        n_hidden=n_hidden,
        seed=seed,
        learning_rate=learning_rate,
        n_epochs=n_epochs,
        batch_size=batch_size,
    )
    hidden = np.asarray(autoencoder.activations(trained, dense.astype(np.float32)))
    return unit_rows(keep_largest(hidden, k))
