"""The loss on a part of the catalogue: a batch's own items, and others drawn for each batch.

The terms x.y and |x| of the loss need the batch's own items alone. |y|^2 is estimated without bias:
of n others of N drawn without replacement each counts N / n times. The loss divides by its root,
whose bias falls with the variance of |y|^2.

The optimizer changes the rows and moments of these items alone. On several devices each draws among
its own items.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def draw_items(
    key: jax.Array, own: jax.Array, n_items: jax.Array | int, size: int
) -> tuple[jax.Array, jax.Array]:
    """A batch's own items, and others at random without replacement.

    Args:
      key: of the draw.
      own: [n_rows] bool, the items of the batch.
      n_items: items there are; rows from it on belong to none.
      size: how many in all, at least as many as the batch's own.

    Returns:
      int32 [size] positions, ascending; float32 [size] how often each counts: a batch's own once,
      rows of no item not at all.
    """
    n_rows = own.shape[0]
    # Own ones come before any that is drawn; the first `size` of a random order are a draw.
    order = jnp.where(own, -1.0, jax.random.uniform(key, (n_rows,)))
    order = jnp.where(jnp.arange(n_rows, dtype=jnp.int32) < n_items, order, 2.0)
    _, items = jax.lax.top_k(-order, size)
    items = jnp.sort(items).astype(jnp.int32)
    there, n_own = jnp.float32(n_items), jnp.sum(own, dtype=jnp.float32)
    n_drawn = jnp.minimum(jnp.float32(size), there) - n_own
    share = (there - n_own) / jnp.maximum(n_drawn, 1.0)
    return items, jnp.where(own[items], 1.0, jnp.where(items < n_items, share, 0.0))
