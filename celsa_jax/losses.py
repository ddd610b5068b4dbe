"""The normalised mean squared error of ELSA, on dense arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def unit(v: jax.Array) -> jax.Array:
    """v / max(|v|, 1e-12) along the last axis, with zero gradient at v = 0."""
    squared = jnp.sum(v * v, axis=-1, keepdims=True)
    # The inner where keeps the derivative of the root finite where the outer one drops it.
    zero = squared == 0
    norm = jnp.sqrt(jnp.where(zero, 1.0, squared))
    return jnp.where(zero, 0.0, v / jnp.maximum(norm, 1e-12))


def nmse(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """|| y/|y| - x/|x| ||^2 for every user (Vancura et al., RecSys 2022, equation 5).

    Args:
      scores: y, [n_users, n_items]; a user with y = 0 has loss 1 and no gradient.
      targets: x, [n_users, n_items].

    Returns:
      [n_users].
    """
    error = unit(scores) - unit(targets)
    return jnp.sum(error * error, axis=-1)
