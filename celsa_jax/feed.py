"""Which users each step of a run sees, and their way to the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from ml_collections import ConfigDict

from celsa_jax.data.batches import (
    Chunk,
    by_items,
    in_blocks,
    make_chunks,
    most_items,
    nnz_budget,
    shuffled_batches,
)
from celsa_jax.sharding import DATA, ITEM, Placement


class Feed:
    """The users of a run in chunks, and the batches of every epoch.

    Of several devices along `item` each has the interactions of its own items. All orders follow
    from the seed and are known before training, and so are the largest batches.

    Attributes:
      batch_size: users in a step, over all devices: as many as configured or, so that batches are
        of like sizes, a few less.
      steps_per_epoch: batches of all chunks.
    """

    def __init__(
        self,
        matrix: sp.csr_matrix,
        train: ConfigDict,
        n_epochs: int,
        seed: int,
        placement: Placement | None,
    ):
        """Cuts the users into chunks.

        Args:
          matrix: users to train on, CSR [n_users, n_items].
          train: the section of the configuration.
          n_epochs: of the run.
          seed: of the order of users.
          placement: on several devices, or None.
        """
        self._seed, self._n_epochs, self._placement = seed, n_epochs, placement
        chunks = make_chunks(matrix, train.chunk_users, seed)
        n_shares = 1 if placement is None else placement.mesh.shape[ITEM]
        n_items = matrix.shape[1] if placement is None else placement.n_rows // n_shares
        self._chunks = by_items(chunks, n_items, n_shares)
        self._n_rows = chunks[0].n_rows
        self._resident = put_chunk(self._chunks[0], placement) if len(chunks) == 1 else None
        self._n_parts = 1 if placement is None else placement.mesh.shape[DATA]
        self._largest_blocks: dict[int, int] = {}  # by users in a block
        n_batches = -(-self._n_rows // train.batch_size)
        self.batch_size = -(-self._n_rows // n_batches)
        self.batch_size += -self.batch_size % self._n_parts
        self.steps_per_epoch = len(self._chunks) * -(-self._n_rows // self.batch_size)

    def block(self, most: int) -> int:
        """Users in a block of at most `most`: evenly cut, a multiple of 8 (`products`)."""
        users = self.batch_size // self._n_parts
        block = -(-users // -(-users // most))
        return block + -block % 8

    def most_items(self) -> int:
        """Different items that a batch of the run has on any device, at most."""
        return self._largest(most_items, lambda batches: batches)

    def largest_block(self, block: int) -> int:
        """Interactions that any device has of the largest block of so many users."""
        if block not in self._largest_blocks:
            largest = self._largest(nnz_budget, lambda batches: self._blocks(batches, block))
            self._largest_blocks[block] = largest
        return self._largest_blocks[block]

    def on_device(self, epoch: int, block: int) -> Iterator[tuple[np.ndarray, Chunk, jax.Array]]:
        """The steps of each chunk of an epoch, the chunk, and its batches in blocks (`in_blocks`).

        The next chunk is on its way to the device while one is trained on.
        """
        steps = np.split(np.arange(self.steps_per_epoch), len(self._chunks))
        parts = (
            (
                self._resident or put_chunk(shares, self._placement),
                self.put(self._blocks(batches, block)),
            )
            for shares, batches in self._epoch(epoch)
        )
        ahead = next(parts)
        for at in steps:
            now, ahead = ahead, next(parts, ahead)
            yield at, *now

    def put(self, array: jax.Array | np.ndarray) -> jax.Array:
        """An array, whole on every device."""
        return jnp.asarray(array) if self._placement is None else self._placement.put(array)

    def _epoch(self, epoch: int) -> list[tuple[list[Chunk], jax.Array]]:
        """The shares of every chunk of an epoch, in the order of chunks, and its batches."""
        key = jax.random.fold_in(jax.random.key(self._seed), epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._chunks))

        def batches(chunk: int) -> jax.Array:
            return shuffled_batches(jax.random.fold_in(key, chunk), self._n_rows, self.batch_size)

        return [(self._chunks[c], batches(int(c))) for c in order]

    def _blocks(self, batches: jax.Array, block: int) -> jax.Array:
        return in_blocks(batches, block, self._n_parts, self._n_rows)

    def _largest(
        self,
        count: Callable[[Chunk, jax.Array], int],
        cut: Callable[[jax.Array], jax.Array],
    ) -> int:
        """Rounded up by an eighth at most, so that another order of users compiles nothing."""
        largest = max(
            count(chunk, cut(batches))
            for epoch in range(self._n_epochs)
            for shares, batches in self._epoch(epoch)
            for chunk in shares
        )
        step = 1 << max(0, largest.bit_length() - 4)
        return -(-largest // step) * step


def put_chunk(shares: list[Chunk], placement: Placement | None) -> Chunk:
    """A chunk on the device, or on several, each of which has one of the shares (`by_items`)."""
    if placement is None:
        return jax.device_put(shares[0])
    arrays = map(np.concatenate, zip(*shares, strict=True))
    return Chunk(*(placement.put(array, ITEM) for array in arrays))
