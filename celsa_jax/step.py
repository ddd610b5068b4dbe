"""The training state and the jitted functions that change it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from celsa_jax import compact
from celsa_jax.data.batches import Batch, Chunk, take_batch
from celsa_jax.gradient import loss_and_grad
from celsa_jax.model import ELSA, item_embeddings
from celsa_jax.pruning import top_k_mask
from celsa_jax.sampling import n_columns, sampled_loss_and_grad
from celsa_jax.sharding import Placement, pad_rows

_NEGATIVES = 1 << 30  # far from what the seed is folded with elsewhere
_WIDER = 4  # times k: weights that an auxiliary loss keeps


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the compiled functions depend on beside the shapes of their arguments."""

    relu_cap: float | None
    rewind: bool
    regrow: bool
    optimizer: str
    learning_rate: float
    seed: int
    epsilon: float = 1e-8
    reset_optimizer: bool = False
    auxiliary_weight: float = 0.0
    relu: bool = True
    b1: float = 0.9
    precision: str = "auto"
    n_negatives: int = 0  # the loss is on a part of the catalogue; 0 for all of it
    placement: Placement | None = None  # on several devices

    @classmethod
    def from_config(cls, config: ConfigDict, placement: Placement | None = None) -> Recipe:
        """That of a configuration, but for rewinding, which the phases of a run decide."""
        train, sparsity = config.train, config.sparsity
        return cls(
            relu_cap=config.model.relu_cap,
            relu=config.model.relu,
            rewind=False,
            regrow=sparsity.regrow,
            reset_optimizer=sparsity.reset_optimizer,
            optimizer=train.optimizer,
            learning_rate=train.learning_rate,
            b1=train.b1,
            epsilon=train.epsilon,
            auxiliary_weight=train.auxiliary_weight,
            precision=train.precision,
            n_negatives=train.n_negatives,
            seed=train.seed,
            placement=placement,
        )

    def n_items(self, n_rows: int) -> int:
        """Items of the catalogue, for the rows of a matrix (`sharding.Placement`)."""
        return n_rows if self.placement is None else self.placement.n_items

    def place(self, tree: Any) -> Any:
        """Inside of jit: keeps a state where it lies."""
        return tree if self.placement is None else self.placement.constrain_state(tree)

    def make_optimizer(self) -> optax.GradientTransformation:
        return getattr(optax, self.optimizer)(self.learning_rate, b1=self.b1, eps=self.epsilon)


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
      step: int32 scalar, batches so far.
      weights: W, float32 [n_items, n_factors]. They are zero where the mask is false, unless
        pruned weights may regrow or an auxiliary loss keeps more of them.
      mask: M, bool [n_items, n_factors], the same number of true entries in every row.
      opt_state: of optax.

    On several devices there may be rows beyond those of the items (`sharding.Placement`).
    """

    step: jax.Array
    weights: jax.Array
    mask: jax.Array
    opt_state: optax.OptState


@functools.partial(jax.jit, static_argnames=("recipe", "n_items", "n_factors"))
def create_state(
    recipe: Recipe, n_items: int, n_factors: int, warm: jax.Array | None = None
) -> TrainState:
    """A dense model at its initial weights.

    Args:
      recipe: see there.
      n_items, n_factors: shape of the weights.
      warm: weights to begin at, [n_items, n_factors] or with the rows of a state; rows of zeros
        begin like those of others, zeros elsewhere at the same values made tiny.
    """
    model = _initial_model(recipe, n_items, n_factors)
    n_rows = n_items if recipe.placement is None else recipe.placement.n_rows
    weights, mask = pad_rows(model.weights[...], n_rows), pad_rows(model.mask[...], n_rows)
    if warm is not None:
        weights = _fill_in(pad_rows(warm, n_rows), weights)
    opt_state = recipe.make_optimizer().init(weights)
    return recipe.place(TrainState(jnp.int32(0), weights, mask, opt_state))


@functools.partial(jax.jit, static_argnames="recipe", donate_argnums=0)
def unprune(state: TrainState, recipe: Recipe) -> TrainState:
    """Begins afresh at the embeddings of a state, which is donated, every factor back in, tiny."""
    weights = item_embeddings(state.weights, state.mask)
    n_rows, n_factors = weights.shape
    start = create_state(recipe, recipe.n_items(n_rows), n_factors, weights)
    return start._replace(step=state.step)


def _fill_in(weights: jax.Array, initial: jax.Array) -> jax.Array:
    """Rows with initial values, far below what is given, in place of zeros.

    A mask that holds more than what is given takes them at random, where ties of zeros would give
    every item the first factors. Rows of nothing but zeros begin like those of a new model.
    """
    least = jnp.where(weights != 0, jnp.abs(weights), jnp.inf).min(axis=1, keepdims=True)
    filled = jnp.where(weights != 0, weights, 1e-6 * least * initial)
    return jnp.where(jnp.isfinite(least), filled, initial)


def _initial_model(recipe: Recipe, n_items: int, n_factors: int) -> ELSA:
    """The model that the seed gives, the same at the start and at every rewinding."""
    rngs = nnx.Rngs(params=recipe.seed)
    return ELSA(n_items, n_factors, relu_cap=recipe.relu_cap, relu=recipe.relu, rngs=rngs)


@functools.partial(jax.jit, static_argnames="recipe", donate_argnums=0)
def update_mask(state: TrainState, k: jax.Array, recipe: Recipe) -> TrainState:
    """Prunes every row to its k weights of largest magnitude.

    Scores are |M * W|, so that masks are nested, or |W| with `regrow`. With `rewind` the
    survivors go back to their initial values and the optimizer starts afresh; the initial
    values are drawn again from the seed, so no second copy of W is kept. With an auxiliary loss
    the largest 4k weights survive, and the next mask is chosen among them.

    Args:
      state: donated.
      k: int32 scalar, non-zeros of each row of the new mask.
      recipe: see there.
    """
    n_rows, n_factors = state.weights.shape
    mask = _top_k_mask(state.weights, k, recipe)
    weights, opt_state = state.weights, state.opt_state
    if recipe.rewind:
        weights = create_state(recipe, recipe.n_items(n_rows), n_factors).weights
    if recipe.rewind or recipe.reset_optimizer:
        opt_state = recipe.make_optimizer().init(weights)
    if not recipe.regrow:
        kept = mask
        if recipe.auxiliary_weight:
            kept = _top_k_mask(state.weights, jnp.minimum(_WIDER * k, n_factors), recipe)
        # The momentum of a pruned weight must not move it off zero either.
        prune = functools.partial(_where_like, kept)
        weights, opt_state = jax.tree.map(prune, (weights, opt_state))
    return recipe.place(state._replace(weights=weights, mask=mask, opt_state=opt_state))


def _top_k_mask(weights: jax.Array, k: jax.Array, recipe: Recipe) -> jax.Array:
    """`top_k_mask`, on each device for its rows; those of no item stay empty."""
    if recipe.placement is None:
        return top_k_mask(weights, k)
    mask = recipe.placement.by_items(top_k_mask)(weights, k)
    return mask & (jnp.arange(mask.shape[0]) < recipe.placement.n_items)[:, None]


def _where_like(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    return jnp.where(mask, leaf, 0.0) if leaf.shape == mask.shape else leaf


@functools.partial(
    jax.jit,
    static_argnames=("recipe", "budget", "prune_every_step"),
    donate_argnums=0,
)
def train_chunk(
    state: TrainState,
    chunk: Chunk,
    batches: jax.Array,
    nnz: jax.Array,
    rate_scale: jax.Array,
    layout: compact.Layout | None = None,
    *,
    recipe: Recipe,
    budget: int,
    prune_every_step: bool = False,
) -> tuple[TrainState, jax.Array]:
    """Trains on batch after batch of a chunk without returning to the host.

    Args:
      state: donated.
      chunk: users on the device.
      batches: [n_batches, batch_size] int32 rows of the chunk (`shuffled_batches`).
      nnz: [n_batches] int32 non-zeros a row at each step, used if `prune_every_step`.
      rate_scale: [n_batches] float32 share of the learning rate at each step.
      layout: of the mask, to train on the weights under it alone (`compact`); not with weights
        that are kept beside them, nor with `prune_every_step`.
      recipe: see there.
      budget: interactions that any batch may hold (`nnz_budget`).
      prune_every_step: update the mask before each step at which it changes.

    Returns:
      The new state, and [n_batches] float32 sums of the losses of each batch's users.
    """
    optimizer = recipe.make_optimizer()
    n_factors = state.weights.shape[1]
    if layout is not None:
        weights, opt_state = compact.compress((state.weights, state.opt_state), layout, n_factors)
        state = state._replace(weights=weights, opt_state=opt_state)

    def train_step(state: TrainState, inputs: tuple[jax.Array, jax.Array, jax.Array]):
        rows, k, share = inputs
        if prune_every_step:
            changed = k < jnp.sum(state.mask[0], dtype=jnp.int32)
            if recipe.regrow:
                changed = k < state.mask.shape[1]
            state = jax.lax.cond(
                changed, lambda s: update_mask(s, k, recipe=recipe), lambda s: s, state
            )
        with jax.named_scope("batch"):
            batch = take_batch(chunk, rows, budget)
        n_users = jnp.sum(batch.indptr[1:] > batch.indptr[:-1], dtype=jnp.int32)
        pruned = state.weights
        if recipe.regrow or recipe.auxiliary_weight:
            pruned = jnp.where(state.mask, pruned, 0.0)
        if layout is not None:
            scores = recipe.relu_cap, recipe.relu
            loss, grad = compact.loss_and_grad(pruned, layout, n_factors, batch, *scores)
        else:
            loss, grad = _loss_and_grad(pruned, state.mask, batch, state.step, budget, recipe)
        if recipe.auxiliary_weight:
            wider = state.weights, state.weights != 0
            _, wider_grad = _loss_and_grad(*wider, batch, state.step, budget, recipe)
            grad += recipe.auxiliary_weight * wider_grad
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grad, state.opt_state, state.weights)
            weights = optax.apply_updates(state.weights, optax.tree.scale(share, updates))
        state = recipe.place(TrainState(state.step + 1, weights, state.mask, opt_state))
        return state, loss * n_users.astype(loss.dtype)

    state, losses = jax.lax.scan(train_step, state, (batches, nnz, rate_scale))
    if layout is not None:
        weights, opt_state = compact.expand((state.weights, state.opt_state), layout, n_factors)
        state = state._replace(weights=weights, opt_state=opt_state)
    return state, losses


def _loss_and_grad(
    weights: jax.Array,
    mask: jax.Array,
    batch: Batch,
    step: jax.Array,
    budget: int,
    recipe: Recipe,
) -> tuple[jax.Array, jax.Array]:
    scores = weights, mask, batch, recipe.relu_cap, recipe.relu
    options: dict[str, Any] = {"precision": recipe.precision, "placement": recipe.placement}
    if not recipe.n_negatives:
        return loss_and_grad(*scores, **options)
    n_items = recipe.n_items(weights.shape[0])
    return sampled_loss_and_grad(
        *scores,
        key=jax.random.fold_in(jax.random.key(recipe.seed), step + _NEGATIVES),
        size=n_columns(n_items, budget, recipe.n_negatives),
        n_items=n_items,
        **options,
    )


@jax.jit
def final_embeddings(state: TrainState) -> jax.Array:
    """A = rownorm(M * W), [n_items, n_factors]."""
    return item_embeddings(state.weights, state.mask)


@jax.jit
def nnz_per_row(state: TrainState) -> jax.Array:
    """[n_items] int32 non-zero weights, counted in the weights themselves."""
    return jnp.sum(jnp.where(state.mask, state.weights, 0.0) != 0, axis=1, dtype=jnp.int32)


@jax.jit
def entries_kept(before: jax.Array, after: jax.Array) -> jax.Array:
    """[n_items] int32 true entries of each row of one mask that are true in another, too."""
    return jnp.sum(before & after, axis=1, dtype=jnp.int32)


@jax.jit
def is_finite(state: TrainState) -> jax.Array:
    """Whether all weights and the optimizer's state are finite, a bool scalar."""
    leaves = jax.tree.leaves((state.weights, state.opt_state))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
