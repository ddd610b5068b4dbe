"""The loss on a part of the catalogue: a batch's own items, and others drawn for each batch.

The terms x.y and |x| of the loss need the batch's own items alone. |y|^2 is estimated without bias
as long as any other is drawn: where n different ones of N others are, each counts N / n times. The
loss divides by its root, whose bias falls with the variance of |y|^2.

The optimizer changes the rows and moments of these items alone. On several devices each draws among
its own items.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def draw_items(
    key: jax.Array, own: jax.Array, n_rows: int, n_items: jax.Array | int, size: int
) -> tuple[jax.Array, jax.Array]:
    """A batch's own items, and others at random.

    Draws are with replacement, which takes no pass over the catalogue, and count once; so of a
    catalogue that is hardly larger than `size` there are fewer.

    Args:
      key: of the draw.
      own: [n] int32, the items of the batch, any number of times; `n_rows` for none.
      n_rows: of the state.
      n_items: items there are; rows from it on belong to none.
      size: of items in all, at least as many as the batch's own.

    Returns:
      int32 [size] positions, ascending, `n_rows` + 1 in places that are not used; float32 [size]
      how often each counts: a batch's own once, places that are not used not at all.
    """
    none = n_rows + 1
    own = jnp.sort(jnp.where(own < n_rows, own, none))
    first = jnp.concatenate([jnp.array([True]), own[1:] != own[:-1]])
    n_own = jnp.sum(first & (own < none), dtype=jnp.int32)
    drawn = jax.random.randint(key, (size,), 0, jnp.maximum(n_items, 1), jnp.int32)
    left = jnp.where(n_items > 0, size - n_own, 0)
    drawn = jnp.where(jnp.arange(size, dtype=jnp.int32) < left, drawn, none)
    items = jnp.unique(jnp.concatenate([own, drawn]), size=size, fill_value=none)
    n_drawn = (jnp.sum(items < none, dtype=jnp.int32) - n_own).astype(jnp.float32)
    share = (n_items - n_own).astype(jnp.float32) / jnp.maximum(n_drawn, 1.0)
    is_own = own[place_in(own, items, 0)] == items
    return items, jnp.where(items < none, jnp.where(is_own, 1.0, share), 0.0)


def place_in(items: jax.Array, wanted: jax.Array, missing: int) -> jax.Array:
    """The first place of each item in ascending ones, int32; `missing` of those not there."""
    at = jnp.searchsorted(items, wanted).astype(jnp.int32)
    found = items.at[at].get(mode="fill", fill_value=-1) == wanted
    return jnp.where(found, at, jnp.int32(missing))
