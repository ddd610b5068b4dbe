"""A start from an earlier run, item by item."""

from __future__ import annotations

import logging

import numpy as np
import scipy.sparse as sp

from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings
from celsa_jax.sparse.rows import keep_largest, unit_rows
from celsa_jax.starts import Start, complete, neighbours
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)

_OFFERED = 0.1  # of its length: that of the row of a known item's further factors


def warm_start(
    earlier: SparseEmbeddings, train: Interactions, k0: int, n_factors: int, alpha: float, seed: int
) -> tuple[Start, np.ndarray | None]:
    """Factors and values to begin with, and the items of the factors.

    Items of the earlier model begin at its embeddings; new rows have their median length. Where
    factors belong to items, new items begin like those of any run (`starts.neighbours`), known ones
    are offered their nearest items' factors, too, as a row of a tenth of their length, and factors
    of items that are gone stay. Elsewhere new items begin at the mean of their users' latent
    vectors, x U / |x U|. Where that is fewer factors than k0, random ones follow with tiny values.

    Args:
      earlier: embeddings of a trained model.
      train: interactions to train on.
      k0: factors an item.
      n_factors: of the new model, where its factors belong to no items.
      alpha, seed: see `neighbours`.

    Returns:
      The start, and the ids of its factors' items, [n_factors], or None.

    Raises:
      InputError: no item in common, or another number of factors.
    """
    at = lookup(earlier.item_ids, train.item_ids)
    known = (at >= 0) & (np.diff(earlier.starts)[np.maximum(at, 0)] > 0)  # not rows of zeros
    if not known.any():
        raise InputError("the earlier model has no item in common with the data; the same ids?")
    log.info("%d items start from an earlier model, %d are new", known.sum(), (~known).sum())
    learned, factor_ids = earlier.tocsr(), earlier.factor_ids
    if factor_ids is not None:
        learned, factor_ids = _renumbered(learned, factor_ids, train.item_ids)
    rows = sp.diags_array(known.astype(np.float32)) @ learned[np.maximum(at, 0)]
    lengths = sp.linalg.norm(rows, axis=1)
    length = np.median(lengths[known])
    if factor_ids is not None:
        nearest = neighbours(train.matrix, k0, alpha, seed)._replace(n_factors=rows.shape[1])
        fresh = unit_rows(nearest.tocsr())
        scale = np.where(known, _OFFERED * lengths, length).astype(np.float32)
        scale[known & (train.matrix.getnnz(axis=0) == 0)] = 0  # of whom nothing new is known
        offered = fresh.multiply(scale[:, None]).tocsr()
        rows = rows + offered - offered.multiply(rows != 0)
    else:
        latent = unit_rows((train.matrix @ unit_rows(rows.tocsr())).tocsr())
        new = sp.diags_array((~known).astype(np.float32)) @ train.matrix.T.tocsr()
        rows = rows + length * unit_rows((new @ latent).tocsr())
        if rows.shape[1] != n_factors:
            raise InputError(
                f"the earlier model has {rows.shape[1]} factors, and config.model.n_factors is "
                f"{n_factors}"
            )
    start = _start(keep_largest(rows.tocsr(), k0), k0, seed)
    start.values[~known] *= length / np.linalg.norm(start.values[~known], axis=1, keepdims=True)
    return start, factor_ids


def _renumbered(
    learned: sp.csr_matrix, factor_ids: np.ndarray, item_ids: np.ndarray
) -> tuple[sp.csr_matrix, np.ndarray]:
    """With the factors of the items there are now, in their order, and then of those gone."""
    at = lookup(item_ids, factor_ids)
    used = np.bincount(learned.indices, minlength=len(factor_ids)) > 0
    gone = (at < 0) & used
    number = np.where(gone, len(item_ids) + np.cumsum(gone) - 1, at)
    shape = (learned.shape[0], len(item_ids) + int(gone.sum()))
    renumbered = sp.csr_matrix((learned.data, number[learned.indices], learned.indptr), shape)
    return renumbered, np.concatenate([item_ids, factor_ids[gone]])


def _start(rows: sp.csr_matrix, k0: int, seed: int) -> Start:
    """Of rows of at most k0 entries."""
    lengths = np.diff(rows.indptr)
    shape = (rows.shape[0], k0)
    columns, values = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    at = (
        np.repeat(np.arange(len(lengths)), lengths),
        (np.arange(rows.nnz) - np.repeat(rows.indptr[:-1], lengths)),
    )
    columns[at], values[at] = rows.indices, rows.data
    rng = np.random.default_rng(seed)
    complete(columns, values, rows.shape[1], rng.random(len(columns)), rng)
    return Start(columns, values, rows.shape[1])


def finished_run(workdir: str) -> Workdir:
    """The folder to begin at; InputError where what is needed of it is missing."""
    folder = Workdir(workdir)
    for path in (folder.embeddings, folder.split):
        if not path.is_file():
            raise InputError(f"{workdir}: no finished run to begin at, {path} is missing")
    return folder
