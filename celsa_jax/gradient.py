"""Loss of a batch and its gradient, by three dense products instead of five.

With s_i = 1/|w_i| the scores are z = (h W^T) s - x for h = (x s) W, so A = s W is never formed:
the row norms act on the narrow side, batch x items. The decoder takes three products of
batch x items x factors; the two of the encoder, (x s) W and its transpose, have one operand that
is sparse. On accelerators they are dense products all the same. On a CPU they are done without
(times of one development run, each part alone; `experiments.benchmark_training` times the step):

  encoder, 10,000 x 1024, 256 users of 76 items, 2 cores, float32   forward  backward
  dense product                                                       30 ms     30 ms
  XLA's gather with a sum, XLA's scatter-add                          35 ms     45 ms
  a loop over each user's rows, `_encode`                              5 ms
  gathers fused over the items, `_add_encoder_gradient`                         8 ms

The named scopes stand in profiles, and in the table of `experiments.benchmark_training --parts`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from celsa_jax.data.batches import Batch
from celsa_jax.sharding import DATA, ITEM, Placement

_ROWS_A_TURN = 4
# Items with up to this many users in the batch are gathered; the popular rest is multiplied.
_GATHERS = 8
_POPULAR_BLOCK = 256
_TRANSPOSE_LEFT = (((0,), (0,)), ((), ()))  # contracts the first axis of both operands
_TRANSPOSE_RIGHT = (((1,), (1,)), ((), ()))
_PLAIN = (((1,), (0,)), ((), ()))


def loss_and_grad(
    weights: jax.Array,
    mask: jax.Array,
    batch: Batch,
    relu_cap: float | None,
    relu: bool = True,
    *,
    item_weights: jax.Array | None = None,
    precision: str = "auto",
    placement: Placement | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The mean NMSE of a batch, and its gradient with respect to W.

    Equal to differentiating `losses.nmse` of `model.training_scores`.

    Args:
      weights: W, float32 [n_items, n_factors], zero where the mask is false.
      mask: bool [n_items, n_factors].
      batch: interactions; users without any (padding) do not count.
      relu_cap: upper bound of the scores, or None.
      relu: whether 0 is their lower bound.
      item_weights: [n_items] how often an item's squared score counts, or None for once.
      precision: of the operands of products (`operand_dtype`), whose sums are float32.
      placement: of weights and mask on several devices.

    Returns:
      The loss, a scalar, and the gradient [n_items, n_factors], zero where the mask is false.
    """
    n_items, n_users = weights.shape[0], batch.n_users
    dtype = operand_dtype(precision)
    sparse_encoder = jax.default_backend() == "cpu" and dtype == jnp.float32 and placement is None
    # Sorting (item, user) as one integer needs that many integers.
    sparse_encoder = sparse_encoder and n_items * n_users < 2**31
    lengths = (batch.indptr[1:] - batch.indptr[:-1]).astype(weights.dtype)

    def shared(array: jax.Array, *axes: str | None) -> jax.Array:
        return array if placement is None else placement.constrain(array, *axes)

    def product(name: str, a: jax.Array, b: jax.Array, contracted: tuple) -> jax.Array:
        # Without "highest" a GPU would round float32 operands, too.
        with jax.named_scope(name):
            return lax.dot_general(
                a.astype(dtype),
                b.astype(dtype),
                contracted,
                precision="highest",
                preferred_element_type=jnp.float32,
            )

    with jax.named_scope("batch"):
        x = shared(jnp.zeros((n_users, n_items), jnp.uint8), DATA, ITEM)
        # A byte an entry; every fusion that reads it converts it.
        x = shared(x.at[batch.rows, batch.items].set(1, mode="drop"), DATA, ITEM)
    with jax.named_scope("norms"):
        scale = inverse_root(jnp.sum(weights * weights, axis=1))

    def scaled_x() -> jax.Array:
        return jnp.where(x > 0, scale[None], 0.0)

    if sparse_encoder:
        hidden = _encode(weights, scale, batch)
    else:
        hidden = shared(product("encoder", scaled_x(), weights, _PLAIN), DATA, None)
    z = product("scores", hidden, weights, _TRANSPOSE_RIGHT) * scale[None] - x.astype(weights.dtype)
    z = shared(z, DATA, ITEM)
    loss, z_grad = loss_of_scores(z, x, lengths, relu_cap, relu, item_weights)
    z_grad = z_grad * scale[None]
    hidden_grad = shared(product("latent_gradient", z_grad, weights, _PLAIN), DATA, None)
    if sparse_encoder:
        # The sum with nothing makes this product wait for the one before: side by side on one
        # thread pool they slow each other down.
        hidden = hidden + 0.0 * hidden_grad
        grad = product("decoder_gradient", z_grad, hidden, _TRANSPOSE_LEFT)
        grad = _add_encoder_gradient(grad, hidden_grad, scale, mask, x, batch)
    else:
        grad = product("decoder_gradient", z_grad, hidden, _TRANSPOSE_LEFT)
        grad += product("encoder_gradient", scaled_x(), hidden_grad, _TRANSPOSE_LEFT)
        grad = shared(jnp.where(mask, grad, 0.0), ITEM)
    with jax.named_scope("norms"):
        # The length of a row does not matter, so neither does a gradient along it.
        along = jnp.sum(grad * weights, axis=1) * scale * scale
        return loss, grad - along[:, None] * weights


def operand_dtype(precision: str) -> Any:
    """The dtype that `config.train.precision` names; auto is bfloat16, on a CPU float32."""
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(precision)


@jax.named_scope("loss")
def loss_of_scores(
    z: jax.Array,
    x: jax.Array,
    lengths: jax.Array,
    relu_cap: float | None,
    relu: bool,
    item_weights: jax.Array | None = None,
    item_axis: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """The mean NMSE of scores, and its gradient with respect to them.

    Args:
      z: x A A^T - x, [n_users, n_items], or the other way round with `item_axis` 0.
      x: 0 or 1, in the shape of z.
      lengths: [n_users] interactions of each user; those without any do not count.
      relu_cap, relu: bounds of the scores.
      item_weights: see `loss_and_grad`.
      item_axis: of z and x.

    Returns:
      The loss, a scalar, and its gradient in the shape of z; both of its dtype.
    """
    lengths = jnp.expand_dims(lengths, item_axis)
    floor = 0.0 if relu else -jnp.inf
    y = jnp.clip(z, floor, relu_cap)
    counted = y if item_weights is None else y * jnp.expand_dims(item_weights, 1 - item_axis)
    y_scale = inverse_root(jnp.sum(counted * y, axis=item_axis, keepdims=True))
    x_scale = inverse_root(lengths)
    cosine = jnp.sum(jnp.where(x > 0, y, 0.0), axis=item_axis, keepdims=True) * y_scale * x_scale
    n_real = jnp.maximum(jnp.sum(lengths > 0, dtype=z.dtype), 1.0)
    # |y/|y| - x/|x||^2 = 2 - 2 cos, or 1 where y = 0.
    losses = jnp.where(y_scale == 0, 1.0, 2 - 2 * cosine)
    loss = jnp.sum(jnp.where(lengths > 0, losses, 0.0)) / n_real

    active = z > floor if relu_cap is None else (z > floor) & (z < relu_cap)
    x_part = jnp.where(x > 0, x_scale, 0.0)
    y_part = (cosine * y_scale) * counted
    return loss, jnp.where(active, (2 / n_real * y_scale) * (y_part - x_part), 0.0)


def inverse_root(squared: jax.Array) -> jax.Array:
    """1 / max(root, 1e-12), and 0 where the root is 0; what is not a number stays so."""
    return jnp.where(squared == 0, 0.0, lax.rsqrt(jnp.maximum(squared, 1e-24)))


@jax.named_scope("encoder")
def _encode(weights: jax.Array, scale: jax.Array, batch: Batch) -> jax.Array:
    """(x s) W: adds up each user's own rows, a few at a turn, whatever the user's length."""
    n_users, n_factors = batch.n_users, weights.shape[1]
    items = jnp.pad(batch.items, (0, _ROWS_A_TURN))
    item_scale = scale[items]

    def encode_user(user: jax.Array, hidden: jax.Array) -> jax.Array:
        first, last = batch.indptr[user], batch.indptr[user + 1]

        def add_rows(turn: jax.Array, total: jax.Array) -> jax.Array:
            place = first + turn * _ROWS_A_TURN
            for i in range(_ROWS_A_TURN):
                factor = jnp.where(place + i < last, item_scale[place + i], 0.0)
                total += factor * lax.dynamic_slice(weights, (items[place + i], 0), (1, n_factors))
            return total

        turns = (last - first + _ROWS_A_TURN - 1) // _ROWS_A_TURN
        total = lax.fori_loop(0, turns, add_rows, jnp.zeros((1, n_factors), weights.dtype))
        return lax.dynamic_update_slice(hidden, total, (user, 0))

    return lax.fori_loop(0, n_users, encode_user, jnp.zeros((n_users, n_factors), weights.dtype))


@jax.named_scope("encoder_gradient")
def _add_encoder_gradient(
    grad: jax.Array,
    hidden_grad: jax.Array,
    scale: jax.Array,
    mask: jax.Array,
    x: jax.Array,
    batch: Batch,
) -> jax.Array:
    """where(mask, grad + s x^T hidden_grad, 0).

    An item sums the rows of its users, which stay in cache. Most have few users in a batch:
    `_GATHERS` gathers serve them all at once, in the same pass over `grad` that adds the sums.
    The popular ones go through small dense products.
    """
    n_items, n_users, budget = grad.shape[0], batch.n_users, batch.items.shape[0]
    used = jnp.arange(budget, dtype=jnp.int32) < batch.indptr[-1]
    # Sorted by item; one packed key sorts eight times as fast as pairs.
    pairs = lax.sort(jnp.where(used, batch.items * n_users + batch.rows, n_items * n_users))
    counts = jnp.zeros(n_items, jnp.int32).at[batch.items].add(used.astype(jnp.int32))
    starts = jnp.cumsum(counts, dtype=jnp.int32) - counts

    popular = counts > _GATHERS
    n_popular = jnp.sum(popular, dtype=jnp.int32)
    (listed,) = jnp.nonzero(popular, size=n_items + _POPULAR_BLOCK, fill_value=n_items)

    def add_popular(block: jax.Array, grad: jax.Array) -> jax.Array:
        items = lax.dynamic_slice(listed, (block * _POPULAR_BLOCK,), (_POPULAR_BLOCK,))
        columns = x.at[:, items].get(mode="fill", fill_value=0)
        rows = lax.dot_general(columns.astype(grad.dtype), hidden_grad, _TRANSPOSE_LEFT)
        return grad.at[items].add(rows * scale.at[items].get(mode="clip")[:, None], mode="drop")

    blocks = (n_popular + _POPULAR_BLOCK - 1) // _POPULAR_BLOCK
    grad = lax.fori_loop(0, blocks, add_popular, grad)

    rows = jnp.pad(hidden_grad, ((0, 1), (0, 0)))  # the last one, zero, stands for no user
    total = jnp.zeros((), grad.dtype)
    for i in range(_GATHERS):
        pair = pairs[jnp.minimum(starts + i, budget - 1)]
        user = jnp.where((counts > i) & ~popular, pair % n_users, n_users)
        total = total + rows.at[user].get(mode="promise_in_bounds")
    # Beside its purpose, the select keeps XLA from writing out every gather before the sum.
    return jnp.where(mask, grad + scale[:, None] * total, 0.0)
