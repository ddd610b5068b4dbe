"""The sparse autoencoder of CompresSAE (Kasalicky et al., RecSys 2025, arXiv 2505.11388).

With e a dense embedding of unit length, its activations are h = e W_enc + b, its code c_k(h) keeps
the k of largest magnitude, either sign, and its reconstruction is c_k(h) W_dec with decoder rows
of unit length. The loss is 1 - cos(e, c_k(h) W_dec) plus, as the authors weigh it, an eighth of
the same at 4k. Where they scale decoder rows after each step, these are unit by parametrisation;
and the encoder starts as the decoder's transpose, not at random. The only module of `baselines`
that imports JAX.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celsa_jax.losses import unit
from celsa_jax.pruning import top_k_mask

_WIDER = 4
_WIDER_WEIGHT = 1 / 8


class Autoencoder(NamedTuple):
    """The weights, float32.

    Attributes:
      encoder: W_enc, [n_factors, n_hidden].
      bias: b, [n_hidden].
      decoder: [n_hidden, n_factors] before its rows are scaled to unit length, so that gradients
        never point along a row.
    """

    encoder: jax.Array
    bias: jax.Array
    decoder: jax.Array


def train(
    dense: np.ndarray,
    k: int,
    *,
    n_hidden: int,
    seed: int = 0,
    learning_rate: float,
    n_epochs: int,
    batch_size: int,
) -> Autoencoder:
    """Trains with Adam on minibatches of items; deterministic in the seed.

    Args:
      dense: E, [n_items, n_factors], rows of any length but zero.
      k: non-zeros of a code, at most n_hidden.
      n_hidden, learning_rate, n_epochs, batch_size: see `compressions.fit_sparse_autoencoder`.
      seed: of the weights at the start and of the order of items.
    """
    embeddings = jnp.asarray(dense, jnp.float32)
    n_items, n_factors = embeddings.shape
    weights = initial(jax.random.key(seed), n_factors, n_hidden)
    optimizer_state = optax.adam(learning_rate).init(weights)
    rng = np.random.default_rng(seed)
    batch_size = min(batch_size, n_items)
    for _ in range(n_epochs):
        order = rng.permutation(n_items)
        # The last batch is filled up from the front.
        order = np.resize(order, -(-n_items // batch_size) * batch_size)
        batches = jnp.asarray(order.reshape(-1, batch_size))
        weights, optimizer_state = _train_epoch(
            weights, optimizer_state, embeddings, batches, k, learning_rate
        )
    return weights


@jax.jit
def activations(weights: Autoencoder, dense: jax.Array) -> jax.Array:
    """h = e W_enc + b of embeddings [n, n_factors], before the top k, [n, n_hidden]."""
    return _product(unit(dense), weights.encoder) + weights.bias[None]


def reconstructions(weights: Autoencoder, codes: jax.Array) -> jax.Array:
    """c W_dec of codes [n_items, n_hidden], [n_items, n_factors] of any length."""
    return _product(codes, unit(weights.decoder))


def initial(key: jax.Array, n_factors: int, n_hidden: int) -> Autoencoder:
    """Random directions for the decoder, and the encoder its transpose."""
    decoder = unit(jax.random.normal(key, (n_hidden, n_factors)))
    return Autoencoder(decoder.T, jnp.zeros(n_hidden), decoder)


def loss(weights: Autoencoder, dense: jax.Array, k: int) -> jax.Array:
    """The mean loss of embeddings [n, n_factors], a scalar."""
    hidden = activations(weights, dense)
    wider = _cosine_loss(weights, dense, hidden, min(_WIDER * k, hidden.shape[1]))
    return _cosine_loss(weights, dense, hidden, k) + _WIDER_WEIGHT * wider


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")  # an accelerator would round float32 operands


def _cosine_loss(weights: Autoencoder, dense: jax.Array, hidden: jax.Array, k: int) -> jax.Array:
    kept = top_k_mask(jax.lax.stop_gradient(hidden), k)
    rebuilt = reconstructions(weights, jnp.where(kept, hidden, 0.0))
    return 1 - jnp.mean(jnp.sum(unit(dense) * unit(rebuilt), axis=1))


@functools.partial(jax.jit, static_argnames=("k", "learning_rate"), donate_argnums=(0, 1))
def _train_epoch(
    weights: Autoencoder,
    optimizer_state: optax.OptState,
    dense: jax.Array,
    batches: jax.Array,
    k: int,
    learning_rate: float,
) -> tuple[Autoencoder, optax.OptState]:
    optimizer = optax.adam(learning_rate)

    def step(state, rows):
        weights, optimizer_state = state
        gradient = jax.grad(loss)(weights, dense[rows], k)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (optax.apply_updates(weights, updates), optimizer_state), None

    return jax.lax.scan(step, (weights, optimizer_state), batches)[0]
