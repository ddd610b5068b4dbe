"""ELSA: a shallow linear autoencoder over items, with pruned rows.

Vancura et al., "Scalable Linear Shallow Autoencoder for Collaborative Filtering" (RecSys 2022);
with masks, "Efficient Learning of Sparse Representations from Interactions" (WWW 2026, arXiv
2602.09935). Scores are relu(x A A^T - x) with A = rownorm(M * W).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from celsa_jax.losses import unit


def initial_weights(key: jax.Array, n_items: int, n_factors: int) -> jax.Array:
    """W at the start: Xavier-uniform, float32 [n_items, n_factors]."""
    return jax.nn.initializers.glorot_uniform()(key, (n_items, n_factors), jnp.float32)


def item_embeddings(weights: jax.Array, mask: jax.Array) -> jax.Array:
    """A = rownorm(M * W), [n_items, n_factors]."""
    return unit(jnp.where(mask, weights, 0.0))


def training_scores(
    embeddings: jax.Array, x: jax.Array, relu_cap: float | None, relu: bool = True
) -> jax.Array:
    """y = relu(x A A^T - x), at most `relu_cap`; x and y are [n_users, n_items].

    Without `relu`, an ablation, scores below 0 stay.
    """
    y = x @ embeddings @ embeddings.T - x
    y = jax.nn.relu(y) if relu else y
    return y if relu_cap is None else jnp.minimum(y, relu_cap)


class Mask(nnx.Variable):
    """Which weights are left, bool [n_items, n_factors]."""


class ELSA(nnx.Module):
    """The handle on weights and mask; the functions of this module do the work."""

    def __init__(
        self,
        n_items: int,
        n_factors: int,
        *,
        relu_cap: float | None = 6.0,
        relu: bool = True,
        rngs: nnx.Rngs,
    ):
        self.relu_cap, self.relu = relu_cap, relu
        self.weights = nnx.Param(initial_weights(rngs.params(), n_items, n_factors))
        self.mask = Mask(jnp.ones((n_items, n_factors), bool))

    def embeddings(self) -> jax.Array:
        """A, [n_items, n_factors]: unit rows, zero where the mask is false."""
        return item_embeddings(self.weights[...], self.mask[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Training scores of histories x, [n_users, n_items] in {0, 1}."""
        return training_scores(self.embeddings(), x, self.relu_cap, self.relu)
