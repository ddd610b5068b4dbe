"""From the training state to SciPy."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from celsa_jax.step import TrainState, final_embeddings


def sparse_embeddings(state: TrainState) -> sp.csc_matrix:
    """The masked, row-normalised embeddings: CSC float32 [n_items, n_factors].

    Every entry under the mask is stored, so each row has exactly k.
    """
    mask = np.asarray(state.mask)
    values = np.asarray(final_embeddings(state))[mask]
    rows, columns = np.nonzero(mask)
    matrix = sp.csr_matrix((values, (rows, columns)), shape=mask.shape, dtype=np.float32)
    return matrix.tocsc()
