"""Users as CSR on the device, and batches gathered from it (the only JAX in `data`)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

Array = jax.Array | np.ndarray  # on the device, or not there yet


class Chunk(NamedTuple):
    """Users that are resident on the device together.

    Attributes:
      indptr: [n_rows + 2] int32; one empty row stands behind the last for padding.
      indices: [nnz] int32 item positions.
    """

    indptr: Array
    indices: Array

    @property
    def n_rows(self) -> int:
        return self.indptr.shape[0] - 2


class Batch(NamedTuple):
    """Some users' interactions in a fixed number of places.

    Attributes:
      items: [budget] int32 item positions, user after user; 0 in the places that are not used.
      rows: [budget] int32 user within the batch; n_users in the places that are not used.
      indptr: [n_users + 1] int32; user u has the places indptr[u] to indptr[u + 1].
    """

    items: jax.Array
    rows: jax.Array
    indptr: jax.Array

    @property
    def n_users(self) -> int:
        return self.indptr.shape[0] - 1


def make_chunks(matrix: sp.csr_matrix, chunk_users: int, seed: int) -> list[Chunk]:
    """Splits users into chunks of equal shape, as NumPy arrays.

    Args:
      matrix: CSR [n_users, n_items].
      chunk_users: the most users in a chunk; 0 for one chunk in the order of the matrix. With
        several chunks, users are dealt out at random, once for the run.
      seed: of that deal.
    """
    n_users = matrix.shape[0]
    n_chunks = -(-n_users // chunk_users) if chunk_users else 1
    order = np.arange(n_users)
    if n_chunks > 1:
        order = np.random.default_rng(seed).permutation(n_users)
    parts = [matrix[rows] for rows in np.array_split(order, n_chunks)]
    n_rows, nnz = max(p.shape[0] for p in parts), max(p.nnz for p in parts)
    return [
        Chunk(
            np.pad(p.indptr, (0, n_rows + 1 - p.shape[0]), mode="edge").astype(np.int32),
            np.pad(p.indices, (0, nnz - p.nnz)).astype(np.int32),
        )
        for p in parts
    ]


@functools.partial(jax.jit, static_argnames=("n_rows", "batch_size"))
def shuffled_batches(key: jax.Array, n_rows: int, batch_size: int) -> jax.Array:
    """[n_batches, batch_size] int32 rows in a random order; the last batch is filled with the
    empty row `n_rows`."""
    order = jax.random.permutation(key, jnp.arange(n_rows, dtype=jnp.int32))
    n_batches = -(-n_rows // batch_size)
    padding = n_batches * batch_size - n_rows
    return jnp.pad(order, (0, padding), constant_values=n_rows).reshape(n_batches, batch_size)


def take_batch(chunk: Chunk, rows: jax.Array, budget: int) -> Batch:
    """Gathers the interactions of some rows.

    Args:
      chunk: users on the device.
      rows: [batch_size] int32.
      budget: places in the batch; at least the interactions of these rows (`nnz_budget`).
    """
    starts = chunk.indptr[rows]
    ends = jnp.cumsum(chunk.indptr[rows + 1] - starts, dtype=jnp.int32)
    indptr = jnp.pad(ends, (1, 0))
    place = jnp.arange(budget, dtype=jnp.int32)
    user = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
    used = place < ends[-1]
    source = jnp.where(used, (starts - indptr[:-1])[user] + place, 0)
    return Batch(jnp.where(used, chunk.indices[source], 0), user, indptr)


def nnz_budget(chunk: Chunk, batches: jax.Array) -> int:
    """Interactions in the largest of these batches."""
    lengths = np.diff(np.asarray(chunk.indptr))
    return int(lengths[np.asarray(batches)].sum(axis=1).max())
