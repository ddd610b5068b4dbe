"""The gradient on a CPU once few weights of a row are left: work in proportion to k, not to d.

The weights under the mask, [n_items, capacity], take the place of W; pruned ones are zero and stay
so. With A their rows scaled to unit length and users side by side in memory, [.., n_users], every
product is a sum of such rows, gathered:

  A H for H [n_factors, n_users]    `decode`: an item adds up its factors
  A^T G for G [n_items, n_users]    `encode`: a factor adds up its items, in blocks
  G H^T where the mask is true      `products_of_rows`: of an item's row and its factors' rows

Gathers of whole rows are what makes this pay in XLA; the scatter of single rows does not. A step of
9,800 items, 16 of 4096 factors and 128 users takes 29 ms on 2 cores of an AMD EPYC, by the dense
products 485 ms (`experiments.benchmark_training --n_items=9800 --n_factors=4096 --nnz=16
--batch_size=128 --steps=16 --rounds=3`, other work beside it).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from celsa_jax.data.batches import Array, Batch
from celsa_jax.gradient import inverse_root, loss_of_scores

_LEAST_CAPACITY = 8
_BLOCK = 16  # items that a factor adds up at once
_TURN = 8  # factors that an item adds up at once
_ITEMS_A_TURN = 128
# Below this share of the factors it is faster than the dense products are.
_PAYS = 1 / 16


class Layout(NamedTuple):
    """Where the mask is true: by item, and by factor in blocks of items.

    Attributes:
      columns: int32 [n_items, capacity], the factors of an item, ascending; 0 beyond its first k.
      k: int32 scalar.
      entries: int32 [n_blocks, _BLOCK], places in `columns` (flattened) of one factor each block;
        one past the last for none.
      factors: int32 [n_blocks], of each block, ascending; n_factors for blocks not in use.
    """

    columns: Array
    k: Array
    entries: Array
    factors: Array


def pays(n_factors: int, k: int) -> bool:
    """Whether the compact gradient is the faster one for these sizes, on this backend."""
    return jax.default_backend() == "cpu" and _capacity(k) <= _PAYS * n_factors


def make_layout(mask: np.ndarray) -> Layout:
    """The layout of a mask, bool [n_items, n_factors], k true entries in every row.

    Its shapes depend on those of the mask and on k up to the next power of two, so few are
    compiled for in a run.
    """
    n_items, n_factors = mask.shape
    k = int(mask[0].sum())
    columns = np.zeros((n_items, _capacity(k)), np.int32)
    columns[:, :k] = (np.flatnonzero(mask) % n_factors).reshape(n_items, k)

    places = np.arange(columns.size).reshape(columns.shape)[:, :k].ravel()
    factors = columns[:, :k].ravel()
    order = np.argsort(factors, kind="stable")
    counts = np.bincount(factors, minlength=n_factors)
    n_blocks = -(-counts // _BLOCK)
    first_block, first_entry = np.cumsum(n_blocks) - n_blocks, np.cumsum(counts) - counts
    entries = np.full((columns.size // _BLOCK + n_factors, _BLOCK), columns.size, np.int32)
    to = np.repeat(first_block * _BLOCK - first_entry, counts) + np.arange(len(order))
    entries.ravel()[to] = places[order]
    block_factors = np.full(len(entries), n_factors, np.int32)
    block_factors[: n_blocks.sum()] = np.repeat(np.arange(n_factors), n_blocks)
    return Layout(columns, np.array(k, np.int32), entries, block_factors)


def compress(tree: Any, layout: Layout, n_factors: int) -> Any:
    """Leaves [n_items, n_factors] become [n_items, capacity]; others stay."""
    rows = jnp.arange(layout.columns.shape[0], dtype=jnp.int32)[:, None]

    def take(leaf: jax.Array) -> jax.Array:
        values = leaf.at[rows, layout.columns].get(mode="promise_in_bounds")
        return jnp.where(_in_use(layout), values, 0)

    return _map(take, tree, (layout.columns.shape[0], n_factors))


def expand(tree: Any, layout: Layout, n_factors: int) -> Any:
    """The reverse, with zeros where the mask is false."""
    n_items, capacity = layout.columns.shape
    rows = jnp.arange(n_items, dtype=jnp.int32)[:, None]
    columns = jnp.where(_in_use(layout), layout.columns, n_factors)

    def put(leaf: jax.Array) -> jax.Array:
        dense = jnp.zeros((n_items, n_factors), leaf.dtype)
        return dense.at[rows, columns].set(leaf, mode="drop")

    return _map(put, tree, (n_items, capacity))


def loss_and_grad(
    weights: jax.Array,
    layout: Layout,
    n_factors: int,
    batch: Batch,
    relu_cap: float | None,
    relu: bool,
) -> tuple[jax.Array, jax.Array]:
    """What `gradient.loss_and_grad` gives, of the weights under the mask.

    Args:
      weights: float32 [n_items, capacity], see `compress`.
      layout, n_factors: of the mask.
      batch: interactions; users without any (padding) do not count.
      relu_cap, relu: bounds of the scores.

    Returns:
      The loss, a scalar, and the gradient [n_items, capacity].
    """
    n_items, n_users = weights.shape[0], batch.n_users
    lengths = (batch.indptr[1:] - batch.indptr[:-1]).astype(weights.dtype)
    x = jnp.zeros((n_items, n_users), weights.dtype)
    x = x.at[batch.items, batch.rows].set(1, mode="drop")
    scale = inverse_root(jnp.sum(weights * weights, axis=1, keepdims=True))
    unit = weights * scale

    hidden = encode(unit, x, layout, n_factors)
    z = decode(unit, hidden, layout) - x
    loss, z_grad = loss_of_scores(z, x, lengths, relu_cap, relu, item_axis=0)
    hidden_grad = encode(unit, z_grad, layout, n_factors)
    grad = products_of_rows(z_grad, hidden, layout)
    # x itself has few entries: each adds the row of its user at the factors of its item.
    of_users = hidden_grad.at[layout.columns[batch.items], batch.rows[:, None]]
    grad = grad.at[batch.items].add(of_users.get(mode="fill", fill_value=0))
    grad = jnp.where(_in_use(layout), grad, 0)
    along = jnp.sum(grad * unit, axis=1, keepdims=True)
    return loss, scale * (grad - along * unit)


@jax.named_scope("decode")
def decode(values: jax.Array, hidden: jax.Array, layout: Layout) -> jax.Array:
    """A H, [n_items, n_users], for values of A [n_items, capacity] and H [n_factors, n_users]."""
    n_items, capacity = values.shape

    def add_factors(turn: jax.Array, total: jax.Array) -> jax.Array:
        at, size = (0, turn * _TURN), (n_items, _TURN)
        columns, weights = (lax.dynamic_slice(a, at, size) for a in (layout.columns, values))
        for i in range(_TURN):
            total += weights[:, i, None] * _rows(hidden, columns[:, i])
        return total

    start = jnp.zeros((n_items, hidden.shape[1]), values.dtype)
    return lax.fori_loop(0, capacity // _TURN, add_factors, start)


@jax.named_scope("encode")
def encode(values: jax.Array, given: jax.Array, layout: Layout, n_factors: int) -> jax.Array:
    """A^T G, [n_factors, n_users], for values of A [n_items, capacity] and G [n_items, n_users]."""
    n_items, capacity = values.shape
    weights = values.ravel().at[layout.entries].get(mode="fill", fill_value=0)
    items = jnp.minimum(layout.entries // capacity, n_items - 1)
    total = jnp.zeros((), values.dtype)
    for i in range(_BLOCK):
        total += weights[:, i, None] * _rows(given, items[:, i])
    start = jnp.zeros((n_factors, given.shape[1]), values.dtype)
    return start.at[layout.factors].add(total, mode="drop", indices_are_sorted=True)


@jax.named_scope("products_of_rows")
def products_of_rows(given: jax.Array, hidden: jax.Array, layout: Layout) -> jax.Array:
    """Entries of G H^T, [n_items, capacity], for G [n_items, n] and H [n_factors, n]."""

    def of_item(row_and_columns: tuple[jax.Array, jax.Array]) -> jax.Array:
        row, columns = row_and_columns
        return _rows(hidden, columns) @ row

    return lax.map(of_item, (given, layout.columns), batch_size=_ITEMS_A_TURN)


def _rows(matrix: jax.Array, rows: jax.Array) -> jax.Array:
    return matrix.at[rows].get(mode="promise_in_bounds")


def _in_use(layout: Layout) -> jax.Array:
    places = jnp.arange(layout.columns.shape[1], dtype=jnp.int32)
    return (places < layout.k)[None]


def _map(function: Any, tree: Any, shape: tuple[int, int]) -> Any:
    return jax.tree.map(lambda leaf: function(leaf) if leaf.shape == shape else leaf, tree)


def _capacity(k: int) -> int:
    return max(_LEAST_CAPACITY, 1 << (k - 1).bit_length())
