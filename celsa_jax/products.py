"""The products of ELSA with row-sparse embeddings, and their gradients.

Embeddings A, [n_items, n_factors], are held as ELL: an item's factors and its values at them,
`columns` and `values`, both [n_items, capacity]. Users stand side by side in memory, [.., n_users].
A step takes these products:

  H = A^T x     `encode`, forward: each interaction adds the row of its item
  A H           `decode`, forward: an item adds up the latent vectors of its factors
  A^T G         `decode`, backward: a factor adds up its items, in blocks (`Layout`)
  G H^T         `decode`, backward: at an item's own factors alone
  x G^T         `encode`, backward: each interaction again

All of them gather whole rows of a few users, contiguous in memory, in loops over `_TURN` places of
all items whose inner loop runs along the users: XLA makes fast code of that. For G H^T, whose sum
runs along the users, `_LANES` partial sums are kept, because XLA does not vectorise a sum along the
last axis. Where it pays (`dense_pays`), A is expanded and products are dense.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from celsa_jax.data.batches import Array, Batch
from celsa_jax.sparse.rows import from_places

_LEAST_CAPACITY = 16
_BLOCKS = (16, 32)  # items that a factor adds up at once, where it has few, and where many
_MANY_ITEMS = 64
_TURN = 8  # places of an item in a turn
_LANES = 8  # users that are summed side by side
_CPU_BLOCK = 128  # users of a block
_SCORES_AT_ONCE = 1 << 28  # entries of items x users
# Dense products are the faster way while k is more than this share of d. On CPUs measured, on two
# makers' (`experiments.accelerator_report`); on accelerators from their peak rates, unmeasured.
_DENSE_SHARE = {"cpu": 1 / 4}
_DENSE_SHARE_ACCELERATOR = 1 / 256
_DENSE_MEMORY = 1 / 8  # of a device, for one array of items x factors


class Layout(NamedTuple):
    """The places of an ELL array by factor, made on the host when the columns change.

    Attributes:
      entries: int32 [n_blocks, block], places in the flattened columns, of one factor each block;
        one past the last place for none.
      items: int32 [n_blocks, block], the items of these places; 0 for none.
      factors: int32 [n_blocks], of each block, ascending; n_factors for blocks not in use.
    """

    entries: Array
    items: Array
    factors: Array


def make_layout(columns: np.ndarray, n_factors: int) -> Layout:
    """The layout of columns [n_items, capacity], where n_factors stands for no factor."""
    places = np.arange(columns.size, dtype=np.int32).reshape(columns.shape)
    by_factor = from_places(columns, places, n_factors).tocsc()  # a counting sort
    counts = np.diff(by_factor.indptr)
    block = _BLOCKS[columns.size > _MANY_ITEMS * n_factors]
    n_blocks = -(-counts // block)
    first_block, first_entry = np.cumsum(n_blocks) - n_blocks, np.cumsum(counts) - counts
    entries = np.full((columns.size // block + n_factors, block), columns.size, np.int32)
    to = np.repeat(first_block * block - first_entry, counts) + np.arange(by_factor.nnz)
    entries.ravel()[to] = by_factor.data
    items = np.where(entries < columns.size, entries // columns.shape[1], 0).astype(np.int32)
    factors = np.full(len(entries), n_factors, np.int32)
    factors[: n_blocks.sum()] = np.repeat(np.arange(n_factors), n_blocks)
    return Layout(entries, items, factors)


def capacity(k: int, n_factors: int, dense: bool) -> int:
    """Places of a row for k non-zeros: a power of four, so that few shapes are compiled.

    Where dense products are used on the host itself, all `n_factors`, place f for factor f.
    """
    if dense and jax.default_backend() == "cpu":
        return n_factors
    places = _LEAST_CAPACITY
    while places < k:
        places *= 4
    return places


def dense_pays(n_items: int, n_factors: int, k: int, device_bytes: int) -> bool:
    """Whether dense products are the faster way, and their array of items x factors fits.

    Args:
      n_items, n_factors: shape of the embeddings on one device.
      k: non-zeros a row.
      device_bytes: memory of the device.
    """
    share = _DENSE_SHARE.get(jax.default_backend(), _DENSE_SHARE_ACCELERATOR)
    return k > share * n_factors and 4 * n_items * n_factors <= _DENSE_MEMORY * device_bytes


def users_in_block(n_items: int, dense: bool) -> int:
    """Users whose scores are in memory at once; on a CPU few, whose latent vectors stay in cache.

    Args:
      n_items: that are scored.
      dense: whether products are dense.
    """
    most = max(_LANES, _SCORES_AT_ONCE // n_items)
    return min(most, _CPU_BLOCK) if jax.default_backend() == "cpu" and not dense else most


def operand_dtype(precision: str) -> str:
    """The dtype that `train.precision` names; auto is bfloat16, on a CPU float32."""
    if precision == "auto":
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return precision


def expand(values: jax.Array, columns: jax.Array, n_factors: int) -> jax.Array:
    """A as [n_items, n_factors]."""
    n_items, places = values.shape
    if places == n_factors:  # place f is that of factor f
        return jnp.where(columns < n_factors, values, 0)
    rows = jnp.arange(n_items, dtype=jnp.int32)[:, None]
    dense = jnp.zeros((n_items, n_factors), values.dtype)
    return dense.at[rows, columns].set(values, mode="drop")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@jax.named_scope("encode")
def encode(values: jax.Array, columns: jax.Array, batch: Batch, n_factors: int) -> jax.Array:
    """H = A^T x, [n_factors, n_users].

    Args:
      values, columns: A, [n_items, capacity].
      batch: x. Interactions of items or users that are out of range do not count.
      n_factors: d.
    """
    rows = _take(values, batch.items) * batch.kept[:, None]
    hidden = jnp.zeros((n_factors, batch.n_users), values.dtype)
    at = hidden.at[_take(columns, batch.items, n_factors), batch.rows[:, None]]
    return at.add(rows, mode="drop")


def _encode_forward(values, columns, batch, n_factors):
    return encode(values, columns, batch, n_factors), (values, columns, batch)


@jax.named_scope("encode_gradient")
def _encode_backward(n_factors, saved, hidden_grad):
    values, columns, batch = saved
    at = hidden_grad.at[_take(columns, batch.items, n_factors), batch.rows[:, None]]
    rows = at.get(mode="fill", fill_value=0) * batch.kept[:, None]
    return jnp.zeros_like(values).at[batch.items].add(rows, mode="drop"), None, None


encode.defvjp(_encode_forward, _encode_backward)


@jax.custom_vjp
def decode(
    values: jax.Array, columns: jax.Array, hidden: jax.Array, layout: Layout | None
) -> jax.Array:
    """A H, [n_items, n_users].

    Args:
      values, columns: A, [n_items, capacity].
      hidden: H, [n_factors, n_users].
      layout: of the columns; None where they change at every step, and a scatter does.
    """
    n_items = values.shape[0]

    def add(columns: jax.Array, values: jax.Array, total: jax.Array) -> jax.Array:
        for i in range(_TURN):
            total += values[:, i, None] * _rows(hidden, jnp.minimum(columns[:, i], n_factors - 1))
        return total

    n_factors = hidden.shape[0]
    start = jnp.zeros((n_items, hidden.shape[1]), values.dtype)
    with jax.named_scope("decode"):
        # Places of no factor read any row, and add nothing of it.
        values = jnp.where(columns < n_factors, values, 0)
        return _in_turns(add, start, columns, values, n_factors)


def _decode_forward(values, columns, hidden, layout):
    return decode(values, columns, hidden, layout), (values, columns, hidden, layout)


def _decode_backward(saved, given):
    values, columns, hidden, layout = saved
    grad = _products_of_rows(given, columns, hidden)
    if layout is None:
        hidden_grad = _scatter(values, columns, given, hidden.shape[0])
    else:
        hidden_grad = _add_up_items(values, given, hidden.shape[0], layout)
    return grad, None, hidden_grad, None


decode.defvjp(_decode_forward, _decode_backward)


@jax.named_scope("latent_gradient")
def _add_up_items(values: jax.Array, given: jax.Array, n_factors: int, layout: Layout) -> jax.Array:
    """A^T G, [n_factors, n_users], for G [n_items, n_users]."""
    weights = values.ravel().at[layout.entries].get(mode="fill", fill_value=0)
    total = jnp.zeros((), values.dtype)
    for i in range(layout.entries.shape[1]):
        total += weights[:, i, None] * _rows(given, layout.items[:, i])
    start = jnp.zeros((n_factors, given.shape[1]), values.dtype)
    return start.at[layout.factors].add(total, mode="drop", indices_are_sorted=True)


@jax.named_scope("latent_gradient")
def _scatter(values: jax.Array, columns: jax.Array, given: jax.Array, n_factors: int) -> jax.Array:
    """The same without a layout."""

    def add(columns: jax.Array, values: jax.Array, total: jax.Array) -> jax.Array:
        return total.at[columns].add(values[:, :, None] * given[:, None, :], mode="drop")

    start = jnp.zeros((n_factors, given.shape[1]), values.dtype)
    return _in_turns(add, start, columns, values, n_factors)


@jax.named_scope("decoder_gradient")
def _products_of_rows(given: jax.Array, columns: jax.Array, hidden: jax.Array) -> jax.Array:
    """Entries of G H^T, [n_items, capacity], for G [n_items, n_users] and H [n_factors, n_users].

    Those of unused places are 0.
    """
    n_items, n_users = given.shape
    n_factors = hidden.shape[0]
    lanes = _LANES if n_users % _LANES == 0 else 1
    in_bounds = jnp.minimum(columns, n_factors - 1)

    def multiply(turn: jax.Array, grad: jax.Array) -> jax.Array:
        at = (0, turn * _TURN)
        factors = lax.dynamic_slice(in_bounds, at, (n_items, _TURN))
        total = jnp.zeros((), given.dtype)
        for u in range(0, n_users, lanes):
            rows = _rows(hidden[:, u : u + lanes], factors)
            total += given[:, None, u : u + lanes] * rows
        # Without "highest" a GPU would round what is summed.
        sums = jnp.matmul(total, jnp.ones(lanes, given.dtype), precision="highest")
        return lax.dynamic_update_slice(grad, sums, at)

    start = jnp.zeros(columns.shape, given.dtype)
    grad = lax.fori_loop(0, _n_turns(columns, n_factors), multiply, start)
    return jnp.where(columns < n_factors, grad, 0)


def renumber(
    columns: jax.Array, items: jax.Array, n_factors: int, item_axis: str | None
) -> tuple[jax.Array, int]:
    """Factors counted among those of some items alone, so that latent vectors are short.

    Args:
      columns: [n_items, capacity].
      items: [budget] positions in it; others do not count.
      n_factors: d.
      item_axis: name of the mesh axis along which the items lie, or None. Factors are then counted
        among those of the items of all devices.

    Returns:
      Columns as before, and the number of factors they count to, which stands for all others.
    """
    n_devices = 1 if item_axis is None else lax.axis_size(item_axis)
    n_active = min(n_factors, n_devices * items.shape[0] * columns.shape[1])
    if n_active == n_factors:
        return columns, n_factors
    seen = jnp.zeros(n_factors, jnp.int8)
    seen = seen.at[_take(columns, items, n_factors)].set(1, mode="drop")
    seen = seen if item_axis is None else lax.pmax(seen, item_axis)
    number = jnp.where(seen > 0, jnp.cumsum(seen, dtype=jnp.int32) - 1, n_active)
    return number.at[columns].get(mode="fill", fill_value=n_active), n_active


def _in_turns(
    add: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    columns: jax.Array,
    values: jax.Array,
    n_factors: int,
) -> jax.Array:
    def turn(t: jax.Array, total: jax.Array) -> jax.Array:
        at, size = (0, t * _TURN), (columns.shape[0], _TURN)
        factors, weights = (lax.dynamic_slice(a, at, size) for a in (columns, values))
        return add(factors, weights, total)

    return lax.fori_loop(0, _n_turns(columns, n_factors), turn, start)


def _n_turns(columns: jax.Array, n_factors: int) -> jax.Array:
    """Turns up to the last place that any item uses."""
    last = jnp.max(jnp.where(columns < n_factors, jnp.arange(1, columns.shape[1] + 1), 0))
    return (last + _TURN - 1) // _TURN


def _rows(matrix: jax.Array, rows: Array) -> jax.Array:
    return matrix.at[rows].get(mode="promise_in_bounds")


def _take(matrix: jax.Array, rows: jax.Array, fill: Any = 0) -> jax.Array:
    return matrix.at[rows].get(mode="fill", fill_value=fill)
