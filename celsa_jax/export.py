"""From the training state to SciPy."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from celsa_jax.sharding import to_host
from celsa_jax.step import TrainState, final_embeddings


def sparse_embeddings(state: TrainState, n_items: int) -> sp.csc_matrix:
    """The masked, row-normalised embeddings: CSC float32 [n_items, n_factors].

    Every entry under the mask is stored, so each row has exactly k.

    Args:
      state: on any number of devices.
      n_items: of the catalogue; rows beyond it are left out.
    """
    mask = to_host(state.mask)[:n_items]
    values = to_host(final_embeddings(state))[:n_items][mask]
    rows, columns = np.nonzero(mask)
    matrix = sp.csr_matrix((values, (rows, columns)), shape=mask.shape, dtype=np.float32)
    return matrix.tocsc()
