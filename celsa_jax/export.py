"""From the training state to SciPy."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from celsa_jax.sharding import to_host
from celsa_jax.step import TrainState, final_embeddings

_BLOCK_ENTRIES = 1 << 27


def sparse_embeddings(state: TrainState, n_items: int) -> sp.csc_matrix:
    """The masked, row-normalised embeddings: CSC float32 [n_items, n_factors].

    Every entry under the mask is stored, so each row has exactly k.

    Args:
      state: on any number of devices.
      n_items: of the catalogue; rows beyond it are left out.
    """
    embeddings, n_factors = final_embeddings(state), state.mask.shape[1]
    size = max(1, _BLOCK_ENTRIES // n_factors)  # no process or device need hold all rows
    parts = []
    for start in range(0, n_items, size):
        at = slice(start, min(start + size, n_items))
        mask, block = to_host(state.mask[at]), to_host(embeddings[at])
        rows, columns = np.nonzero(mask)
        parts.append(sp.csr_matrix((block[mask], (rows, columns)), shape=mask.shape))
    return sp.vstack(parts, format="csc", dtype=np.float32)
