"""The evaluator on a model that is still on the device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.sharding import PartitionSpec

from celsa_jax.data.batches import Batch
from celsa_jax.evaluation.protocol import users_at_once
from celsa_jax.model import ELSA
from celsa_jax.products import Layout
from celsa_jax.sharding import ITEM, to_host
from celsa_jax.sparse.scores import Scorer
from celsa_jax.state import Form, TrainState


def device_scorer(state: TrainState, form: Form, layout: Layout | None) -> Scorer:
    """Serving scores x U A^T (`model`), computed on the device in batches of one shape.

    Args:
      state: whose scores these are.
      form: how products are taken.
      layout: of the state's columns, where they are gathers.
    """
    n_users = users_at_once(form.n_items(state.weights.shape[0]))

    def score(history: sp.csr_matrix) -> np.ndarray:
        # Budgets are powers of two, so that few are compiled for.
        budget = 1 << max(10, int(history.nnz - 1).bit_length())
        items = np.zeros(budget, np.int32)
        items[: history.nnz] = history.indices
        rows = np.full(budget, n_users, np.int32)
        rows[: history.nnz] = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
        scores = _serving_scores(state, layout, items, rows, form=form, n_users=n_users)
        return to_host(scores).T[: history.shape[0], : history.shape[1]]

    return score


@functools.partial(jax.jit, static_argnames=("form", "n_users"))
def _serving_scores(
    state: TrainState,
    layout: Layout | None,
    items: jax.Array,
    rows: jax.Array,
    *,
    form: Form,
    n_users: int,
) -> jax.Array:
    """x U A^T, [n_rows, n_users]."""
    item_axis = None if form.placement is None else ITEM

    def score(state: TrainState, layout: Layout | None, items: jax.Array) -> jax.Array:
        n_here = state.weights.shape[0]
        if item_axis is not None:
            items = items - jax.lax.axis_index(item_axis) * n_here
            items = jnp.where((items >= 0) & (items < n_here), items, n_here)
        batch = Batch(items, rows, jnp.ones(items.shape), jnp.zeros(n_users, jnp.int32))
        model = ELSA(
            state.weights,
            state.columns,
            form.n_factors,
            layout=layout,
            dense=form.dense and "float32",  # an accelerator would round operands
            unit_rows=form.unit_rows,
            item_axis=item_axis,
        )
        return model.products(model.embeddings(), batch)

    if form.placement is not None:
        specs = form.placement.specs(state), PartitionSpec(ITEM), PartitionSpec()
        score = form.placement.on_devices(score, specs, PartitionSpec(ITEM))
    return score(state, layout, items)
