"""The loss on a part of the catalogue: a batch's own items, and others drawn for each batch.

The terms x.y and |x| of the loss need the batch's own items alone. |y|^2 is estimated: with n
others of N drawn without replacement each counts N / n times, so its expectation is the sum over
the whole catalogue, and so is that of its gradient. The loss divides by the root of it, which no
estimate that is drawn once makes unbiased; the bias falls with the variance of |y|^2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from celsa_jax.data.batches import Batch
from celsa_jax.gradient import loss_and_grad


def n_columns(n_items: int, budget: int, n_negatives: int) -> int:
    """Items that a step scores: as many as any batch can have of its own, and the others.

    Args:
      n_items: of the catalogue.
      budget: interactions that any batch may hold.
      n_negatives: others that are drawn at least; a batch with fewer items of its own has more.
    """
    return min(n_items, budget + n_negatives)


def draw_columns(
    key: jax.Array, batch: Batch, n_items: int, size: int
) -> tuple[jax.Array, jax.Array]:
    """A batch's own items, and others at random without replacement.

    Args:
      key: of the draw.
      batch: interactions.
      n_items: of the catalogue.
      size: how many items in all, at least as many as the batch's own.

    Returns:
      int32 [size] items, ascending; float32 [size] how often each counts: a batch's own once.
    """
    used = batch.rows < batch.n_users
    own = jnp.zeros(n_items, bool).at[jnp.where(used, batch.items, n_items)].set(True, mode="drop")
    # Own ones come before any that is drawn; the first `size` of a random order are a draw.
    order = jnp.where(own, -1.0, jax.random.uniform(key, (n_items,)))
    _, columns = jax.lax.top_k(-order, size)
    columns = jnp.sort(columns).astype(jnp.int32)
    n_own = jnp.sum(own, dtype=jnp.int32).astype(jnp.float32)
    share = (n_items - n_own) / jnp.maximum(size - n_own, 1.0)
    return columns, jnp.where(own[columns], 1.0, share)


def sampled_loss_and_grad(
    weights: jax.Array,
    mask: jax.Array,
    batch: Batch,
    relu_cap: float | None,
    relu: bool,
    *,
    key: jax.Array,
    size: int,
    n_items: int,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """`gradient.loss_and_grad` on drawn columns; rows of other items have no gradient.

    Args:
      weights, mask: [n_rows, n_factors], with `n_items` of them in the catalogue.
      batch, relu_cap, relu, options: see there.
      key, size: see `draw_columns`.

    Returns:
      The loss, a scalar, and the gradient [n_rows, n_factors].
    """
    columns, item_weights = draw_columns(key, batch, n_items, size)
    column_of = jnp.zeros(n_items, jnp.int32).at[columns].set(jnp.arange(size, dtype=jnp.int32))
    loss, grad = loss_and_grad(
        weights[columns],
        mask[columns],
        batch._replace(items=column_of[batch.items]),
        relu_cap,
        relu,
        item_weights=item_weights,
        **options,
    )
    return loss, jnp.zeros_like(weights).at[columns].set(grad)
