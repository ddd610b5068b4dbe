"""The exact row-wise top-k mask, without a sort and with k traced."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

# On a CPU the counting passes run over a few rows at a time, so that these stay in the first
# levels of cache; large blocks took three times as long when this was chosen.
_CPU_BLOCK_ENTRIES = 1 << 14


def top_k_mask(scores: jax.Array, k: jax.Array | int, among: jax.Array | None = None) -> jax.Array:
    """Marks the k entries of largest magnitude in every row; ties go to the lower index.

    The bits of |x|, read as an integer, order like |x|: the k-th largest is found by bisection on
    its 31 bits, and the last of its ties to keep by bisection on the index.

    Args:
      scores: [n_items, n_factors] float32; only magnitudes count, and -0 equals 0.
      k: non-zeros to keep in each row, 1 <= k <= n_factors; may be traced.
      among: [n_items, n_factors] bool, the entries to choose from, at least k in every row; None
        for all.

    Returns:
      [n_items, n_factors] bool with exactly k true entries a row.
    """
    n_items, n_factors = scores.shape
    rows = n_items
    if jax.default_backend() == "cpu":
        rows = max(1, min(n_items, _CPU_BLOCK_ENTRIES // n_factors))
    k = jnp.asarray(k, jnp.int32)
    magnitudes = jax.lax.bitcast_convert_type(scores, jnp.int32) & jnp.int32(0x7FFFFFFF)
    if among is not None:  # one step up, so that 0 is below all that may be chosen
        magnitudes = jnp.where(among, magnitudes + 1, 0)
    return jax.lax.map(lambda row: _row_mask(row, k), magnitudes, batch_size=rows)


def _row_mask(magnitude: jax.Array, k: jax.Array) -> jax.Array:
    length = magnitude.shape[0]
    index = jnp.arange(length, dtype=jnp.int32)

    # The largest threshold that at least k magnitudes reach, or any that exactly k reach.
    threshold = _bisect(31, lambda t: _count(magnitude >= t), lambda n: n >= k, k, length)
    above, tied = magnitude > threshold, magnitude == threshold
    # Of the ties, those before an end that leaves as many as are still wanted.
    wanted = k - _count(above)
    n_bits = length.bit_length()
    end = _bisect(n_bits, lambda e: _count(tied & (index < e)), lambda n: n <= wanted, wanted, 0)
    return above | (tied & (index < end))


def _bisect(
    n_bits: int,
    count: Callable[[jax.Array], jax.Array],
    accept: Callable[[jax.Array], jax.Array],
    goal: jax.Array,
    count_at_zero: int,
) -> jax.Array:
    """The largest n-bit integer whose count is accepted; the first whose count is the goal."""

    def unfinished(state):
        bit, _, counted = state
        return (bit >= 0) & (counted != goal)

    def try_bit(state):
        bit, value, counted = state
        candidate = value | (jnp.int32(1) << bit)
        n = count(candidate)
        accepted = accept(n)
        return bit - 1, jnp.where(accepted, candidate, value), jnp.where(accepted, n, counted)

    first = (jnp.int32(n_bits - 1), jnp.int32(0), jnp.int32(count_at_zero))
    return jax.lax.while_loop(unfinished, try_bit, first)[1]


def _count(flags: jax.Array) -> jax.Array:
    # Summed in float32, exact below 2^24, which a CPU vectorises better than integers.
    return jnp.sum(flags, dtype=jnp.float32).astype(jnp.int32)
