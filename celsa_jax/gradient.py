"""Loss of a batch and its gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from celsa_jax.data.batches import Batch
from celsa_jax.losses import nmse
from celsa_jax.model import item_embeddings, training_scores


def loss_and_grad(weights, mask, batch: Batch, relu_cap):
    def f(w):
        x = jnp.zeros((batch.n_users + 1, w.shape[0]), w.dtype)
        x = x.at[batch.rows, batch.items].set(1.0, mode="drop")[:-1]
        a = item_embeddings(w, mask)
        real = batch.indptr[1:] > batch.indptr[:-1]
        return jnp.sum(jnp.where(real, nmse(training_scores(a, x, relu_cap), x), 0.0)) / jnp.sum(
            real
        )

    return jax.value_and_grad(f)(weights)
