"""The training step: batch after batch in one compiled loop."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec

from celsa_jax.data.batches import Batch, Chunk, take_batch
from celsa_jax.losses import nmse
from celsa_jax.model import ELSA
from celsa_jax.products import Layout
from celsa_jax.pruning import top_k_mask
from celsa_jax.sampling import draw_items, place_in
from celsa_jax.sharding import DATA, ITEM, sum_along
from celsa_jax.state import PAPER_OUTPUTS, Form, Numbers, TrainState, optimizer


@functools.partial(jax.jit, static_argnames="form", donate_argnums=0)
def train_steps(
    state: TrainState,
    chunk: Chunk,
    batches: jax.Array,
    rates: jax.Array,
    steps: jax.Array,
    layout: Layout | None,
    numbers: Numbers,
    *,
    form: Form,
) -> tuple[TrainState, jax.Array]:
    """Trains on batch after batch of a chunk without returning to the host.

    Args:
      state: donated.
      chunk: users on the device, on several with the interactions of its items (`feed`).
      batches: [n_batches, n_blocks, block] int32 rows of the chunk (`in_blocks`).
      rates: [n_batches] float32 share of the learning rate at each step.
      steps: [2] int32, the first batch to train on and the one to stop before.
      layout: of the state's columns, where products are gathers over all items, or None.
      numbers, form: see there.

    Returns:
      The new state, and [n_batches] float32 sums of the losses of each batch's users, 0 for
      batches that it did not train on.
    """
    train = functools.partial(_train_steps, form)
    if form.placement is not None:
        specs, whole = form.placement.specs, PartitionSpec()
        rows = None if layout is None else PartitionSpec(ITEM)
        users = PartitionSpec(ITEM), PartitionSpec(None, DATA)
        in_specs = (specs(state), *users, whole, whole, rows, whole)
        train = form.placement.on_devices(train, in_specs, (specs(state), whole))
    return train(state, chunk, batches, rates, steps, layout, numbers)


def _train_steps(
    form: Form,
    state: TrainState,
    chunk: Chunk,
    batches: jax.Array,
    rates: jax.Array,
    steps: jax.Array,
    layout: Layout | None,
    numbers: Numbers,
) -> tuple[TrainState, jax.Array]:
    """`train_steps` on one device, whose rows of the state, batches and layout these are."""
    item_axis, data_axis = (None, None) if form.placement is None else (ITEM, DATA)
    n_rows = state.weights.shape[0]
    first_item = 0 if item_axis is None else lax.axis_index(item_axis) * n_rows
    n_here = jnp.clip(form.n_items(n_rows) - first_item, 0, n_rows)
    update = optimizer(form, numbers.b1).update

    def train_step(at: jax.Array, carry: tuple[TrainState, jax.Array]):
        state, losses = carry
        blocks, key = batches[at], jax.random.fold_in(numbers.key, state.step)
        lengths = sum_along(chunk.indptr[blocks + 1] - chunk.indptr[blocks], item_axis)
        n_users = jnp.maximum(sum_along(jnp.sum(lengths > 0, dtype=jnp.float32), data_axis), 1)

        def take(rows: jax.Array) -> Batch:
            """The users of a block, with items by their rows here, n_rows for those elsewhere."""
            batch = take_batch(chunk, rows, form.budget, key, numbers.dropout)
            items = batch.items - first_item
            return batch._replace(items=jnp.where((items >= 0) & (items < n_rows), items, n_rows))

        part, item_weights, take_part = state, None, take
        if form.n_sampled:
            own = _items_of(take, blocks, n_rows, data_axis)
            draw = key if item_axis is None else jax.random.fold_in(key, lax.axis_index(item_axis))
            items, item_weights = draw_items(draw, own, n_rows, n_here, form.n_sampled)
            part = jax.tree.map(lambda leaf: leaf[items] if leaf.ndim == 2 else leaf, state)

            def take_part(rows: jax.Array) -> Batch:
                batch = take(rows)
                return batch._replace(items=place_in(items, batch.items, missing=len(items)))

        elif form.as_published:  # others are drawn with replacement, to so many in all
            own = _items_of(take, blocks, n_rows, data_axis)
            own = jnp.zeros(n_rows, bool).at[own].set(True, mode="drop")
            counts = jnp.stack([jnp.sum(own, dtype=jnp.int32), n_here]).astype(jnp.float32)
            n_own, n_items = sum_along(counts, item_axis)
            times = jnp.maximum(PAPER_OUTPUTS - n_own, 1) / jnp.maximum(n_items - n_own, 1)
            item_weights = jnp.where(own, 1.0, times)

        weights, mask = part.weights, None
        if form.chosen_each_step:
            used = part.columns < form.n_factors
            mask = used & top_k_mask(weights, numbers.nnz, used)
            weights = jnp.where(mask, weights, 0)
        model = ELSA(
            weights,
            part.columns,
            form.n_factors,
            layout=layout,
            dense=form.dense,
            unit_rows=form.unit_rows,
            cap=6.0 if form.as_published else None,
            item_axis=item_axis,
        )

        def mean_nmse(model: ELSA) -> tuple[jax.Array, jax.Array]:
            def loss_of_block(embeddings: jax.Array, rows: jax.Array) -> jax.Array:
                batch = take_part(rows)
                scores = model.scores(embeddings, batch)
                targets = batch.targets(scores.shape[0])
                return jnp.sum(nmse(scores, targets, item_weights, item_axis)) / n_users

            def loss_of(embeddings: jax.Array) -> jax.Array:
                return _sum_over_blocks(loss_of_block, embeddings, blocks)

            loss = loss_of(model.embeddings())
            return loss + sum(loss_of(model.embeddings(nnz)) for nnz in form.nested), loss

        (_, loss), grads = nnx.value_and_grad(mean_nmse, has_aux=True)(model)
        loss, grad = sum_along((loss, grads["weights"][...]), data_axis)
        if mask is not None:
            grad = jnp.where(mask, grad, 0)
        with jax.named_scope("optimizer"):
            updates, opt_state = update(grad, part.opt_state)
            rate = -numbers.learning_rate * rates[at]
            weights = optax.apply_updates(part.weights, optax.tree.scale(rate, updates))
        trained = TrainState(state.step + 1, weights, part.columns, opt_state)
        if form.n_sampled:  # rows that no score belongs to keep their moments, too
            trained = jax.tree.map(
                lambda leaf, new: leaf.at[items].set(new) if leaf.ndim == 2 else new, state, trained
            )
        return trained, losses.at[at].set(loss * n_users)

    return lax.fori_loop(steps[0], steps[1], train_step, (state, jnp.zeros(len(rates))))


def _items_of(
    take: Callable[[jax.Array], Batch], blocks: jax.Array, n_rows: int, data_axis: str | None
) -> jax.Array:
    """int32 [n] items of a batch's users, on whatever device they are; n_rows for none."""

    def of_block(rows: jax.Array) -> jax.Array:
        batch = take(rows)
        return jnp.where(batch.rows < batch.n_users, batch.items, n_rows)

    items = lax.map(of_block, blocks).ravel()
    return items if data_axis is None else lax.all_gather(items, data_axis, tiled=True)


def _sum_over_blocks(
    loss_of_block: Callable[[jax.Array, jax.Array], jax.Array],
    embeddings: jax.Array,
    blocks: jax.Array,
) -> jax.Array:
    """The sum of a loss over blocks of users, [n_blocks, block], one after the other.

    Its gradient with respect to the embeddings is taken along the way, so that the scores of one
    block are in memory (and the latent vectors of one in cache), not those of the batch.
    """

    def forward(embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
        def add(sums, rows):
            return jax.tree.map(
                jnp.add, sums, jax.value_and_grad(loss_of_block)(embeddings, rows)
            ), None

        return lax.scan(add, (jnp.float32(0), jnp.zeros_like(embeddings)), blocks)[0]

    total = jax.custom_vjp(lambda embeddings: forward(embeddings)[0])
    total.defvjp(forward, lambda grad, given: (given * grad,))
    return total(embeddings)
