"""The normalised mean squared error of ELSA."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax


def unit(v: jax.Array) -> jax.Array:
    """v / max(|v|, 1e-12) along the last axis, with zero gradient at v = 0."""
    squared = jnp.sum(v * v, axis=-1, keepdims=True)
    # The inner where keeps the derivative of the root finite where the outer one drops it.
    zero = squared == 0
    norm = jnp.sqrt(jnp.where(zero, 1.0, squared))
    return jnp.where(zero, 0.0, v / jnp.maximum(norm, 1e-12))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@jax.named_scope("loss")
def nmse(
    scores: jax.Array,
    targets: jax.Array,
    item_weights: jax.Array | None = None,
    item_axis: str | None = None,
) -> jax.Array:
    """|| y/|y| - x/|x| ||^2 for every user (Vancura et al., RecSys 2022, equation 5).

    Args:
      scores: y, [n_items, n_users]; a user with y = 0 has loss 1 and no gradient.
      targets: x, 0 or 1, in the same shape; a user with x = 0 has no loss.
      item_weights: [n_items] how often an item counts in |y|^2 (`sampling`); None for once.
      item_axis: name of the mesh axis along which the items lie (`shard_map`), or None.

    Returns:
      [n_users]
    """
    return _nmse_forward(scores, targets, item_weights, item_axis)[0]


def _nmse_forward(y, x, item_weights, item_axis):
    counted = y if item_weights is None else y * item_weights[:, None]
    sums = jnp.stack([jnp.sum(x * x, axis=0), jnp.sum(x * y, axis=0), jnp.sum(counted * y, axis=0)])
    length, product, squared = sums if item_axis is None else lax.psum(sums, item_axis)
    y_scale, x_scale = _inverse_root(squared), _inverse_root(length)
    cosine = product * y_scale * x_scale
    losses = jnp.where(y_scale == 0, 1.0, 2 - 2 * cosine)
    return jnp.where(length > 0, losses, 0.0), (y, x, item_weights, y_scale, x_scale, cosine)


@jax.named_scope("loss_gradient")
def _nmse_backward(item_axis, saved, given):
    y, x, item_weights, y_scale, x_scale, cosine = saved
    counted = y if item_weights is None else y * item_weights[:, None]
    given = jnp.where(x_scale > 0, 2 * given * y_scale, 0.0)
    grad = given[None] * ((cosine * y_scale)[None] * counted - x_scale[None] * x)
    return grad, None, None


nmse.defvjp(_nmse_forward, _nmse_backward)


def _inverse_root(squared: jax.Array) -> jax.Array:
    """1 / max(root, 1e-12), and 0 where the root is 0; what is not a number stays so."""
    return jnp.where(squared == 0, 0.0, lax.rsqrt(jnp.maximum(squared, 1e-24)))
