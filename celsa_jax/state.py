"""The training state, and the jitted pruning of it."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp
from jax import lax
from jax.sharding import PartitionSpec

from celsa_jax.losses import unit
from celsa_jax.pruning import top_k_mask
from celsa_jax.sharding import ITEM, Placement, pad_rows, to_host
from celsa_jax.sparse.rows import from_places
from celsa_jax.starts import Start


@dataclasses.dataclass(frozen=True)
class Form:
    """What the compiled functions depend on beside the shapes of their arguments.

    Attributes:
      n_factors: d.
      dense: dtype of the operands of dense products; None for products by gathers.
      budget: interactions that any block of users may hold.
      n_sampled: items that a step scores, on each device; 0 for all.
      chosen_each_step: the mask is chosen afresh at every step, among all entries that are kept.
      unit_rows: rows of the embeddings have unit length (`model`).
      by_row: the optimizer has one second moment for each row (`row_nadam`), not each weight.
      as_published: steps are those of the paper's code.
      nested: smaller numbers of non-zeros a row that the model trains for, too.
      placement: of the state on several devices.
    """

    n_factors: int
    dense: str | None = None
    budget: int = 0
    n_sampled: int = 0
    chosen_each_step: bool = False
    unit_rows: bool = False
    by_row: bool = True
    as_published: bool = False
    nested: tuple[int, ...] = ()
    placement: Placement | None = None

    def n_items(self, n_rows: int) -> int:
        """Items of the catalogue, for the rows of a matrix (`sharding.Placement`)."""
        return n_rows if self.placement is None else self.placement.n_items


class Numbers(NamedTuple):
    """What may change without compiling again.

    Attributes:
      key: of everything that a step draws; with the step it gives the draws.
      learning_rate, b1: of the optimizer.
      dropout: chance of an interaction to be left out of the input.
      nnz: int32, non-zeros a row of the mask, where it is chosen at every step.
    """

    key: jax.Array
    learning_rate: jax.Array | float
    b1: jax.Array | float
    dropout: jax.Array | float
    nnz: jax.Array | int = 0


class TrainState(NamedTuple):
    """All that training changes; an item's factors and what belongs to them, nothing else.

    Attributes:
      step: int32 scalar, batches so far.
      weights: W where the mask is true, float32 [n_items, capacity]; 0 in places not in use.
      columns: the factors of these weights, int32, ascending in a row; n_factors where not in use.
      opt_state: of optax: the first moment in the shape of the weights, the second in that shape,
        too, or [n_items, 1] (`row_nadam`).

    On several devices there may be rows beyond those of the items (`sharding.Placement`), with no
    place in use.
    """

    step: jax.Array
    weights: jax.Array
    columns: jax.Array
    opt_state: optax.OptState


PAPER_OUTPUTS = 20_000  # columns of its scores


def optimizer(form: Form, b1: jax.Array | float) -> optax.GradientTransformation:
    """What turns gradients into updates, which are to be scaled by minus the rate."""
    if form.as_published:
        return paper_nadam(b1)
    return row_nadam(b1) if form.by_row else optax.scale_by_adam(b1=b1, nesterov=True)


def row_nadam(b1: jax.Array | float) -> optax.GradientTransformation:
    """Nadam with one second moment for each row: that of the length of its gradient.

    The rate is about the length of a row's step, whatever its non-zeros: items of few users move
    as far as others, and within an item weights move in proportion to their gradients, as in the
    row-wise AdaGrad of embedding tables (Mudigere et al., arXiv 2104.05158; there it is the mean of
    the squares, here their sum). Where each weight has a second moment, those of next to no
    gradient move as far as any other: away from where the data put them.
    """
    b2, epsilon = 0.999, 1e-12

    def init(weights: jax.Array) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            jnp.int32(0), jnp.zeros_like(weights), jnp.zeros_like(weights[:, :1])
        )

    def update(grad: jax.Array, state: optax.ScaleByAdamState, params=None):
        count = state.count + 1
        mu = b1 * state.mu + (1 - b1) * grad
        nu = b2 * state.nu + (1 - b2) * jnp.sum(grad * grad, axis=1, keepdims=True)
        step = count.astype(jnp.float32)
        ahead = b1 * mu / (1 - b1 ** (step + 1)) + (1 - b1) * grad / (1 - b1**step)
        direction = ahead / (jnp.sqrt(nu / (1 - b2**step)) + epsilon)
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def paper_nadam(b1: jax.Array | float) -> optax.GradientTransformation:
    """Nadam as the paper's code has it, from Keras.

    Its momentum begins at half of b1 and rises to it over some hundred steps (Dozat, "Incorporating
    Nesterov Momentum into Adam", 2016). Its loss is a mean over outputs, with an epsilon of 1e-7:
    on gradients of the sum that is as many times as much.
    """
    b2, epsilon = 0.999, 1e-7 * PAPER_OUTPUTS
    moments = optax.scale_by_adam(b1=b1, b2=b2)

    def momentum(step: jax.Array) -> jax.Array:
        return b1 * (1 - 0.5 * 0.96**step)

    def update(grad: jax.Array, state: optax.OptState, params=None):
        _, state = moments.update(grad, state)
        step = state.count.astype(jnp.float32)
        steps = jnp.arange(1, 513, dtype=jnp.float32)  # after so many the product is 0
        product = jnp.prod(jnp.where(steps <= step, momentum(steps), 1.0))
        ahead = momentum(step + 1)
        first = ahead * state.mu / (1 - product * ahead)
        first += (1 - momentum(step)) * grad / (1 - product)
        return first / (jnp.sqrt(state.nu / (1 - b2**step)) + epsilon), state

    return optax.GradientTransformation(moments.init, update)


def initial_weights(key: jax.Array, n_items: int, n_factors: int) -> jax.Array:
    """W at a random start: Xavier-uniform, float32 [n_items, n_factors]."""
    return jax.nn.initializers.glorot_uniform()(key, (n_items, n_factors), jnp.float32)


@functools.partial(jax.jit, static_argnames=("n_items", "form", "places"))
def random_state(key: jax.Array, n_items: int, form: Form, places: int) -> TrainState:
    """A dense model at its initial weights, with so many places a row (`products.capacity`)."""
    weights = initial_weights(key, n_items, form.n_factors)
    columns = jnp.broadcast_to(jnp.arange(form.n_factors, dtype=jnp.int32), weights.shape)
    return _state_of(weights, columns, form, places)


def sparse_state(start: Start, form: Form, places: int) -> TrainState:
    """A model at the factors and values of a start; columns of n_factors are not in use."""
    columns, values = start.columns, start.values
    if places == form.n_factors:  # place f is that of factor f
        matrix = from_places(columns, values, form.n_factors)
        columns = np.full(matrix.shape, form.n_factors, np.int32)
        rows = np.repeat(np.arange(len(columns)), np.diff(matrix.indptr))
        columns[rows, matrix.indices] = matrix.indices
        values = matrix.toarray()
    make = jax.jit(_state_of, static_argnames=("form", "places"))
    return make(values, columns, form=form, places=places)


def _state_of(weights: jax.Array, columns: jax.Array, form: Form, places: int) -> TrainState:
    n_rows = weights.shape[0] if form.placement is None else form.placement.n_rows
    more = places - weights.shape[1]
    weights = pad_rows(jnp.pad(weights, ((0, 0), (0, more))), n_rows)
    columns = pad_rows(
        jnp.pad(columns, ((0, 0), (0, more)), constant_values=form.n_factors),
        n_rows,
        form.n_factors,
    )
    state = _new_state(weights, columns, form)
    return state if form.placement is None else form.placement.constrain_state(state)


def state_shape(n_rows: int, places: int, form: Form) -> TrainState:
    """Shapes and dtypes of a state (`jax.eval_shape`)."""

    weights, columns = (jax.ShapeDtypeStruct((n_rows, places), of) for of in ("float32", "int32"))
    return jax.eval_shape(functools.partial(_new_state, form=form), weights, columns)


def _new_state(weights: jax.Array, columns: jax.Array, form: Form) -> TrainState:
    return TrainState(jnp.int32(0), weights, columns, optimizer(form, 0).init(weights))


def prune(
    state: TrainState,
    k: int,
    key: jax.Array,
    *,
    form: Form,
    places: int,
    rewind: bool = False,
) -> TrainState:
    """Keeps the k entries of largest magnitude in every row, so that masks are nested.

    Args:
      state: donated.
      k: non-zeros a row; another one compiles nothing.
      key: that of `random_state`.
      form: see there.
      places: of a row in the new state (`products.capacity`).
      rewind: the survivors go back to their initial values, drawn again from the key, and the
        optimizer starts afresh; for models that began at random.
    """
    mask = largest_mask(state, jnp.int32(k), form=form)
    # Buffers of another size cannot be taken over.
    apply = _apply_in_place if places == state.weights.shape[1] else _apply
    return apply(state, mask, key, form=form, places=places, rewind=rewind)


@functools.partial(jax.jit, static_argnames="form")
def largest_mask(state: TrainState, k: jax.Array, *, form: Form) -> jax.Array:
    """Which entries prune keeps, bool in the shape of the weights; k is an int32 scalar."""

    def of_rows(weights: jax.Array, columns: jax.Array, k: jax.Array) -> jax.Array:
        used = columns < form.n_factors
        return used & top_k_mask(weights, k, used)

    if form.placement is not None:
        rows = PartitionSpec(ITEM)
        of_rows = form.placement.on_devices(of_rows, (rows, rows, PartitionSpec()), rows)
    return of_rows(state.weights, state.columns, k)


def _masked(
    state: TrainState, mask: jax.Array, key: jax.Array, *, form: Form, places: int, rewind: bool
) -> TrainState:
    initial = None
    if rewind:
        n_rows = state.weights.shape[0]
        initial = pad_rows(initial_weights(key, form.n_items(n_rows), form.n_factors), n_rows)
    of_rows = functools.partial(_masked_rows, form, places)
    if form.placement is not None:
        specs, rows = form.placement.specs, PartitionSpec(ITEM)
        in_specs = (specs(state), rows, None if initial is None else rows)
        of_rows = form.placement.on_devices(of_rows, in_specs, specs(state))
    return of_rows(state, mask, initial)


_STATIC = ("form", "places", "rewind")
_apply = jax.jit(_masked, static_argnames=_STATIC)
_apply_in_place = jax.jit(_masked, static_argnames=_STATIC, donate_argnums=0)


def _masked_rows(
    form: Form, places: int, state: TrainState, mask: jax.Array, initial: jax.Array | None
) -> TrainState:
    """What is under the mask, in so many places; at its initial values where they are given.

    Rows keep their length, where it is learned: it says how readily an item is recommended, which
    pruning is not to change. A mask that was chosen at every step has had its lengths already.
    """
    n_factors = form.n_factors
    if places == n_factors:  # place f is that of factor f
        move, used = (lambda leaf: leaf), mask
    else:
        source, used = _first_places(mask, places)
        move = functools.partial(jnp.take_along_axis, indices=source, axis=1)

    def keep(leaf: jax.Array) -> jax.Array:
        # The momentum of a pruned weight must not move it off zero either.
        of_weights = leaf.shape == mask.shape
        return jnp.where(used, move(leaf), 0) if of_weights else leaf

    columns = jnp.where(used, move(state.columns), n_factors)
    weights, opt_state = jax.tree.map(keep, (state.weights, state.opt_state))
    if initial is not None:
        at_columns = jnp.take_along_axis(initial, jnp.minimum(columns, n_factors - 1), axis=1)
        weights = jnp.where(used, at_columns, 0)
        opt_state = optimizer(form, 0).init(weights)
    elif not (form.unit_rows or form.chosen_each_step):
        weights = unit(weights) * jnp.linalg.norm(state.weights, axis=1, keepdims=True)
    return TrainState(state.step, weights, columns, opt_state)


def _first_places(mask: jax.Array, places: int) -> tuple[jax.Array, jax.Array]:
    """Where to take an array's entries under the mask from, so that they come first in a row.

    Returns:
      int32 [n_rows, places] and which of these are in use, bool.
    """
    at = jnp.where(mask, jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, places)
    rows = jnp.arange(mask.shape[0], dtype=jnp.int32)[:, None]
    source = jnp.zeros((mask.shape[0], places), jnp.int32)
    source = source.at[rows, at].set(lax.broadcasted_iota(jnp.int32, mask.shape, 1), mode="drop")
    n_kept = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.int32)
    return source, jnp.arange(places, dtype=jnp.int32)[None] < n_kept


@functools.partial(jax.jit, static_argnames="form")
def without_rows_of_no_item(state: TrainState, form: Form) -> TrainState:
    """A state whose rows beyond those of the items have no place in use."""
    is_item = jnp.arange(state.columns.shape[0]) < form.n_items(state.columns.shape[0])
    columns = jnp.where(is_item[:, None], state.columns, form.n_factors)
    return state._replace(columns=columns)


@jax.jit
def nnz_per_row(state: TrainState) -> jax.Array:
    """[n_items] int32 non-zero weights, counted in the weights themselves."""
    return jnp.sum(state.weights != 0, axis=1, dtype=jnp.int32)


@jax.jit
def is_finite(state: TrainState) -> jax.Array:
    """Whether all weights and the optimizer's state are finite, a bool scalar."""
    leaves = jax.tree.leaves((state.weights, state.opt_state))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def embeddings_of(state: TrainState, n_items: int, form: Form) -> sp.csc_matrix:
    """The embeddings A: CSC float32 [n_items, n_factors].

    Every entry under the mask is stored, so each row has exactly k.

    Args:
      state: on any number of devices.
      n_items: of the catalogue; rows beyond it are left out.
      form: see there.
    """
    weights = unit(state.weights) if form.unit_rows else state.weights
    columns, values = (to_host(a)[:n_items] for a in (state.columns, weights))
    return from_places(columns, values, form.n_factors).tocsc()
