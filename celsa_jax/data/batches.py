"""Users as CSR on the device, and batches gathered from it (the only JAX in `data`)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError

Array = jax.Array | np.ndarray  # on the device, or not there yet
MOST_RESIDENT = 2**31 - 1  # interactions that int32 can count


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
      kept: [budget] float32, 1 for interactions that are seen, 0 for those left out of the input.
      lengths: [n_users] int32 interactions of each user, those left out included.
    """

    items: jax.Array
    rows: jax.Array
    kept: jax.Array
    lengths: jax.Array

    @property
    def n_users(self) -> int:
        return self.lengths.shape[0]

    def targets(self, n_items: int) -> jax.Array:
        """The whole histories, float32 [n_items, n_users] of 0 and 1; other items do not count."""
        return self._scattered(n_items, jnp.ones_like(self.kept))

    def inputs(self, n_items: int) -> jax.Array:
        """What is seen of them, in the same shape."""
        return self._scattered(n_items, self.kept)

    def _scattered(self, n_items: int, values: jax.Array) -> jax.Array:
        x = jnp.zeros((n_items, self.n_users), values.dtype)
        return x.at[self.items, self.rows].set(values, mode="drop")


def make_chunks(matrix: sp.csr_matrix, chunk_users: int, seed: int) -> list[Chunk]:
    """Splits users into chunks of equal shape, as NumPy arrays.

    Args:
      matrix: CSR [n_users, n_items].
      chunk_users: the most users in a chunk; 0 for one chunk in the order of the matrix. With
        several chunks, users are dealt out at random, once for the run.
      seed: of that deal.

    Raises:
      InputError: a chunk has more interactions than can be on the device together.
    """
    n_users = matrix.shape[0]
    n_chunks = -(-n_users // chunk_users) if chunk_users else 1
    parts = [matrix]
    if n_chunks > 1:
        order = np.random.default_rng(seed).permutation(n_users)
        parts = [matrix[rows] for rows in np.array_split(order, n_chunks)]
    n_rows, nnz = max(p.shape[0] for p in parts), max(p.nnz for p in parts)
    check_chunk(n_rows, nnz)
    return [
        Chunk(
            np.pad(p.indptr, (0, n_rows + 1 - p.shape[0]), mode="edge").astype(np.int32),
            np.pad(p.indices, (0, nnz - p.nnz)).astype(np.int32),
        )
        for p in parts
    ]


def by_items(chunks: list[Chunk], n_items: int, n_shares: int) -> list[list[Chunk]]:
    """For each chunk, the same users with the interactions of some items alone, of equal shape.

    Args:
      chunks: NumPy arrays (`make_chunks`).
      n_items: of a share; the first has items below it, the second the next ones.
      n_shares: how many.
    """
    if n_shares == 1:
        return [[chunk] for chunk in chunks]

    def share(chunk: Chunk, number: int) -> Chunk:
        indices = chunk.indices[: chunk.indptr[-1]]
        mine = indices // n_items == number
        before = np.concatenate([[0], np.cumsum(mine)])
        return Chunk(before[chunk.indptr].astype(np.int32), indices[mine])

    shares = [[share(chunk, number) for number in range(n_shares)] for chunk in chunks]
    nnz = max(len(chunk.indices) for parts in shares for chunk in parts)
    return [
        [Chunk(indptr, np.pad(indices, (0, nnz - len(indices)))) for indptr, indices in parts]
        for parts in shares
    ]


def check_chunk(n_users: int, n_interactions: int) -> None:
    """InputError for a chunk of more interactions than `MOST_RESIDENT`."""
    if n_interactions > MOST_RESIDENT:
        fewer = max(1, n_users * MOST_RESIDENT // n_interactions * 9 // 10)  # as chunks differ
        raise InputError(
            f"{n_users:,} users with {n_interactions:,} interactions are a chunk of training, and "
            f"it may have {MOST_RESIDENT:,}; lower chunk_users, to {fewer} say"
        )


@functools.partial(jax.jit, static_argnames=("n_rows", "batch_size"))
def shuffled_batches(key: jax.Array, n_rows: int, batch_size: int) -> jax.Array:
    """[n_batches, batch_size] int32 rows in a random order, as few batches as hold them all.

    They are of like sizes, filled with the empty row `n_rows`: a last one of the few users that are
    left would move every item as far as a whole one.
    """
    order = jax.random.permutation(key, jnp.arange(n_rows, dtype=jnp.int32))
    n_batches = -(-n_rows // batch_size)
    bounds = (np.arange(n_batches + 1) * n_rows // n_batches).astype(np.int32)[:, None]
    at = bounds[:-1] + jnp.arange(batch_size, dtype=jnp.int32)[None]
    return jnp.where(at < bounds[1:], order[jnp.minimum(at, n_rows - 1)], n_rows)


def in_blocks(batches: jax.Array, block: int, n_parts: int, n_rows: int) -> jax.Array:
    """Batches cut into blocks of users.

    Args:
      batches: [n_batches, batch_size] rows, batch_size a multiple of `n_parts`.
      block: users in a block.
      n_parts: equal parts that a batch is dealt to, each with blocks of its own.
      n_rows: the empty row, which fills the last block of a part.

    Returns:
      int32 [n_batches, n_blocks, block], n_blocks a multiple of `n_parts`.
    """
    n_batches, batch_size = batches.shape
    parts = batches.reshape(n_batches, n_parts, batch_size // n_parts)
    padding = -parts.shape[2] % block
    parts = jnp.pad(parts, ((0, 0), (0, 0), (0, padding)), constant_values=n_rows)
    return parts.reshape(n_batches, -1, block)


def take_batch(
    chunk: Chunk, rows: jax.Array, budget: int, key: jax.Array, dropout: jax.Array | float = 0.0
) -> Batch:
    """Gathers the interactions of some rows.

    Args:
      chunk: users on the device.
      rows: [n_users] int32.
      budget: places in the batch; at least the interactions of these rows (`nnz_budget`).
      key: of the draw of those left out of the input. It depends on key, row and item alone, so
        it is the same however users are dealt to blocks and devices.
      dropout: chance of each to be left out.
    """
    starts = chunk.indptr[rows]
    lengths = chunk.indptr[rows + 1] - starts
    ends = jnp.cumsum(lengths, dtype=jnp.int32)
    place = jnp.arange(budget, dtype=jnp.int32)
    user = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
    used = place < ends[-1]
    source = jnp.where(used, (starts - ends + lengths)[user] + place, 0)
    items = jnp.where(used, chunk.indices[source], 0)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(rows)
    chance = jax.vmap(lambda u, i: jax.random.uniform(jax.random.fold_in(keys[u], i)))(user, items)
    return Batch(items, user, (chance >= dropout).astype(jnp.float32), lengths)


def nnz_budget(chunk: Chunk, batches: jax.Array) -> int:
    """Interactions in the largest of these batches or blocks, which lie along the last axis."""
    lengths = np.diff(np.asarray(chunk.indptr))
    return int(lengths[np.asarray(batches)].sum(axis=-1).max())


def most_items(chunk: Chunk, batches: jax.Array) -> int:
    """Different items in the one of these batches that has the most."""
    users = sp.csr_matrix((chunk.indices, chunk.indices, chunk.indptr))
    return max(len(np.unique(users[rows].indices)) for rows in np.asarray(batches))
