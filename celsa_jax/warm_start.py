"""Weights for a new run from an earlier one, item by item."""

from __future__ import annotations

import logging

import numpy as np

from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings
from celsa_jax.sparse.rows import unit_rows
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)


def warm_weights(workdir: str, train: Interactions, n_factors: int) -> np.ndarray:
    """Initial weights, float32 [n_items, n_factors].

    They know the users that the earlier run was trained on, so the new run is split by
    `make_split` with `earlier`.

    Items of the earlier run begin at its embeddings. A new item begins at the mean of its users'
    latent vectors, x A / |x A|, as the known items give them; the mask keeps what is largest of
    it. A new item whose users have no known item begins at zero, and is the caller's to fill.

    Args:
      workdir: of a finished run.
      train: interactions to train on.
      n_factors: d of the new run.

    Raises:
      InputError: no finished run, another number of factors, or no item in common.
    """
    earlier = SparseEmbeddings.load(finished_run(workdir).embeddings)
    if earlier.n_factors != n_factors:
        raise InputError(
            f"config.train.init_from={workdir}: has {earlier.n_factors} factors, and "
            f"config.model.n_factors is {n_factors}"
        )
    at = lookup(earlier.item_ids, train.item_ids)
    known = np.flatnonzero(at >= 0)
    new = np.flatnonzero(at < 0)
    if not len(known):
        raise InputError(f"config.train.init_from={workdir}: no item in common; the same ids?")
    log.info("%d items start from %s, %d are new", len(known), workdir, len(new))
    rows = earlier.tocsr()[at[known]]
    weights = np.zeros((train.n_items, n_factors), np.float32)
    weights[known] = rows.toarray()
    if len(new):
        latent = unit_rows(train.matrix[:, known] @ rows)
        weights[new] = unit_rows(train.matrix[:, new].T.tocsr() @ latent).toarray()
    return weights


def finished_run(workdir: str) -> Workdir:
    """The folder to begin at; InputError where what is needed of it is missing."""
    folder = Workdir(workdir)
    for path in (folder.embeddings, folder.split):
        if not path.is_file():
            raise InputError(
                f"config.train.init_from={workdir}: no finished run, {path} is missing"
            )
    return folder
