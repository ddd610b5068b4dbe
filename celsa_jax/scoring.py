"""The evaluator on embeddings that are still on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from ml_collections import ConfigDict

from celsa_jax.data import Interactions
from celsa_jax.evaluation import Evaluation, evaluate
from celsa_jax.evaluation.folds import N_FOLDS
from celsa_jax.sharding import to_host
from celsa_jax.sparse.retrieval import Scorer

_EVAL_BATCH = 512


def device_scorer(embeddings: jax.Array) -> Scorer:
    """Serving scores x A A^T, computed on the device in batches of one shape."""

    def score(history: sp.csr_matrix) -> np.ndarray:
        n_users, n_items = history.shape  # on several devices there are rows beyond the items
        x = np.zeros((_EVAL_BATCH, embeddings.shape[0]), np.float32)
        x[:n_users, :n_items] = history.toarray()
        return to_host(_serving_scores(embeddings, x))[:n_users, :n_items]

    return score


@jax.jit
def _serving_scores(embeddings: jax.Array, x: jax.Array) -> jax.Array:
    hidden = jnp.matmul(x, embeddings, precision="highest")  # an accelerator would round operands
    return jnp.matmul(hidden, embeddings.T, precision="highest")


def evaluate_embeddings(
    config: ConfigDict,
    embeddings: jax.Array,
    users: Interactions,
    item_ids: np.ndarray,
    held_out_from: int | None,
    n_folds: int = N_FOLDS,
) -> Evaluation:
    """The protocol of `config.eval` on embeddings [n_rows, n_factors] that are on the device."""
    return evaluate(
        device_scorer(embeddings),
        users,
        item_ids,
        folds=config.eval.folds,
        seed=config.train.seed,
        n_folds=n_folds,
        held_out_from=held_out_from,
        batch_size=_EVAL_BATCH,
    )
