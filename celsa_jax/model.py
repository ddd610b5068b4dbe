"""ELSA: a shallow linear autoencoder over items, with row-sparse weights.

Vancura et al., "Scalable Linear Shallow Autoencoder for Collaborative Filtering" (RecSys 2022);
with pruned rows, "Efficient Learning of Sparse Representations from Interactions" (WWW 2026, arXiv
2602.09935). Both have rows of unit length, A = rownorm(M * W), and scores relu(x A A^T - x). Here
the length of a row may be learned as well, A = M * W: it says how readily an item is recommended,
and a history is encoded with U = rownorm(A). Scores are relu(x U A^T - x diag(U A^T)), at unit
length the same; what is subtracted keeps an item from recommending itself.

A row holds its factors and its weights at them alone, so M is which factors it has.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from celsa_jax.data.batches import Batch
from celsa_jax.losses import unit
from celsa_jax.products import Layout, decode, encode, expand, renumber
from celsa_jax.pruning import top_k_mask
from celsa_jax.sharding import sum_along


class Columns(nnx.Variable):
    """The factors of each item, int32 [n_items, capacity]; n_factors for places not in use."""


class ELSA(nnx.Module):
    """The model that trains.

    Attributes:
      weights: W where the mask is true, float32 [n_items, capacity]; 0 in places not in use.
      columns: the factors of these weights, in the same shape.
      n_factors: d.
      layout: of the columns, for products by gathers (`products`), or None.
      dense: the dtype of the operands of dense products; None for products by gathers.
      unit_rows: whether the rows of A have unit length.
      cap: of the training scores, or None.
      item_axis: name of the mesh axis along which the items lie (`shard_map`), or None.
    """

    def __init__(
        self,
        weights: jax.Array,
        columns: jax.Array,
        n_factors: int,
        *,
        layout: Layout | None = None,
        dense: str | None = None,
        unit_rows: bool = False,
        cap: float | None = None,
        item_axis: str | None = None,
    ):
        self.weights = nnx.Param(weights)
        self.columns = Columns(columns)
        self.n_factors = n_factors
        self.layout = nnx.data(layout)
        self.dense, self.unit_rows, self.item_axis = dense, unit_rows, item_axis
        self.cap = cap

    def embeddings(self, nnz: int | None = None) -> jax.Array:
        """A: [n_items, capacity], or expanded to [n_items, n_factors] where dense.

        Args:
          nnz: cut to so many of the largest non-zeros a row, which keeps its length; None for all.
        """
        values = self.weights[...]
        if nnz is not None:
            used = self.columns[...] < self.n_factors
            largest = top_k_mask(lax.stop_gradient(values), nnz, used)
            length = jnp.sum(values * unit(values), axis=1, keepdims=True)  # no NaN at 0
            values = unit(jnp.where(largest, values, 0)) * length
        if self.unit_rows:
            values = unit(values)
        if self.dense is None:
            return values
        return expand(values, self.columns[...], self.n_factors)

    def directions(self, embeddings: jax.Array) -> jax.Array:
        """U: the embeddings with rows of unit length, those of zeros apart."""
        return embeddings if self.unit_rows else unit(embeddings)

    def products(self, embeddings: jax.Array, batch: Batch) -> jax.Array:
        """x U A^T, [n_items, n_users], of what is seen of the histories, for A of `embeddings`."""
        directions = self.directions(embeddings)
        if self.dense is None:
            columns, n_factors = self.columns[...], self.n_factors
            if self.layout is None:
                columns, n_factors = renumber(columns, batch.items, n_factors, self.item_axis)
            hidden = encode(directions, columns, batch, n_factors)
            hidden = _sum_along(hidden, self.item_axis)
            return decode(embeddings, columns, hidden, self.layout)
        x = batch.inputs(embeddings.shape[0])
        hidden = _sum_along(_dense_product(directions, x, 0, self.dense), self.item_axis)
        return _dense_product(embeddings, hidden, 1, self.dense)

    def scores(self, embeddings: jax.Array, batch: Batch) -> jax.Array:
        """Training scores relu(x U A^T - x diag(U A^T)), [n_items, n_users]."""
        x = batch.inputs(embeddings.shape[0])
        itself = jnp.sum(self.directions(embeddings) * embeddings, axis=1, keepdims=True)
        scores = jax.nn.relu(self.products(embeddings, batch) - itself * x)
        return scores if self.cap is None else jnp.minimum(scores, self.cap)


def _dense_product(a: jax.Array, b: jax.Array, contracted: int, dtype: str) -> jax.Array:
    """Contracts an axis of a with the first of b; without "highest" GPUs round float32, too."""
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((contracted,), (0,)), ((), ())),
        precision="highest",
        preferred_element_type=jnp.float32,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_along(part: jax.Array, axis: str | None) -> jax.Array:
    """The sum of what each device has along an axis of the mesh, if any; so is its gradient."""
    return sum_along(part, axis)


_sum_along.defvjp(
    lambda part, axis: (_sum_along(part, axis), None),
    lambda axis, _, given: (sum_along(given, axis),),
)
