"""Training on a split, in memory or in the folder of a run."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from ml_collections import ConfigDict

from celsa_jax import recipe
from celsa_jax.checkpoint import Checkpoints, steps_in
from celsa_jax.config import seed_of
from celsa_jax.data import Interactions, Split
from celsa_jax.data.interactions import lookup
from celsa_jax.errors import InputError
from celsa_jax.loop import TrainingLoop
from celsa_jax.memory import check_memory, training_bytes
from celsa_jax.sharding import DATA, ITEM, Placement, is_first_process, make_placement, wait_for_all
from celsa_jax.sparse import SparseEmbeddings
from celsa_jax.sparse.rows import row_lengths
from celsa_jax.starts import Start, clusters, neighbours
from celsa_jax.warm_start import finished_run, warm_start
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)

Callback = Callable[[dict], None]


class Fitted(NamedTuple):
    """A trained model.

    Attributes:
      embeddings: CSC float32 [n_items, n_factors], exactly k non-zeros a row.
      factor_ids: [n_factors] the item that each factor belongs to, or None.
      recipe: what the data decided, by field (`recipe.chosen`).
      step: batches that it was trained on.
      stopped: whether training was asked to stop.
      seconds: spent on the start and on each part of training.
      seconds_before: that earlier processes spent on the run.
    """

    embeddings: sp.csc_matrix
    factor_ids: np.ndarray | None
    recipe: dict[str, float | str]
    step: int
    stopped: bool
    seconds: dict[str, float]
    seconds_before: float


def fit(
    config: ConfigDict,
    split: Split,
    folder: Workdir | None = None,
    *,
    earlier: SparseEmbeddings | None = None,
    callbacks: Sequence[Callback] = (),
    stop: Callable[[], bool] = lambda: False,
    show_bar: bool = False,
) -> Fitted:
    """Trains on the users of a split.

    Args:
      config: validated; of `data` nothing is read.
      split: users to train on and to validate with.
      folder: of the run, which no other process has; gone on from where it has checkpoints. None
        to train in memory.
      earlier: embeddings to begin at, instead of those of `config.train.init_from`.
      callbacks: called after every epoch with its metrics.
      stop: asked after every epoch whether it is to be the last.
      show_bar: a bar on stderr; lines in the log otherwise.

    Raises:
      InputError: a field does not fit the data, memory does not suffice, or training diverges.
    """
    train = split.train
    going_on = earlier is not None or bool(config.train.init_from)
    filled = recipe.filled(config, train.matrix, going_on)
    chosen = recipe.chosen(config, filled)
    log.info("recipe: %s", ", ".join(f"{field} {value}" for field, value in chosen.items()))
    placement = make_placement(config, train.n_items)
    check_memory(_needed(filled, train, placement))
    starting = time.perf_counter()
    start, factor_ids = _start(filled, train, earlier, folder)
    seconds = {"start_seconds": round(time.perf_counter() - starting, 2)}
    with contextlib.ExitStack() as stack:
        checkpoints = None
        if folder is not None:
            _begin_folder(folder, config, split, factor_ids if going_on and start else None)
            checkpoints = stack.enter_context(
                Checkpoints(folder.checkpoints, config.checkpoint.keep)
            )
        profile = folder.path / "profile" if folder and config.train.profile else None
        loop = TrainingLoop(filled, split, placement, checkpoints, profile)
        begun = loop.begin(start)
        if folder is not None:
            folder.cut_metrics(int(begun.state.step), begun.epoch)
            callbacks = (folder.log_metrics, *callbacks)
        reached = loop.train(begun, callbacks, stop, show_bar)
    step = int(reached.state.step)  # pruning gives the arrays of the state away
    embeddings = loop.embeddings(reached)
    if earlier is not None:
        embeddings = _unused_as_before(embeddings, factor_ids, train, earlier)
    return Fitted(
        embeddings,
        factor_ids,
        chosen,
        step,
        reached.stopped,
        seconds | loop.seconds_by_part(),
        begun.seconds,
    )


def _unused_as_before(
    embeddings: sp.csc_matrix,
    factor_ids: np.ndarray | None,
    train: Interactions,
    earlier: SparseEmbeddings,
) -> sp.csc_matrix:
    """With the earlier rows of items that no user has, of whom nothing new was learned."""
    at = lookup(earlier.item_ids, train.item_ids)
    unused = (train.matrix.getnnz(axis=0) == 0) & (at >= 0)
    rows = earlier.tocsr()[at[unused]]
    factors = rows.indices
    if factor_ids is not None and earlier.factor_ids is not None:
        factors = lookup(factor_ids, earlier.factor_ids)[factors]
    shape = (rows.shape[0], embeddings.shape[1])
    both = sp.vstack([embeddings.tocsr(), sp.csr_matrix((rows.data, factors, rows.indptr), shape)])
    number = np.where(unused, len(at) + np.cumsum(unused) - 1, np.arange(len(at)))
    return both.tocsr()[number].tocsc()


def _begin_folder(
    folder: Workdir, config: ConfigDict, split: Split, factor_ids: np.ndarray | None
) -> None:
    folder.start(config)
    if factor_ids is not None:
        folder.keep_factors(factor_ids)  # which follow from the earlier run alone
    if is_first_process() and not folder.split.exists():
        split.save(folder.split)
    wait_for_all("split saved")


def _start(
    config: ConfigDict,
    train: Interactions,
    earlier: SparseEmbeddings | None,
    folder: Workdir | None,
) -> tuple[Start | None, np.ndarray | None]:
    """What to begin with, None at random or where a run is resumed; and the items of the factors.

    The width of the model is written to the configuration where the start decides it.
    """
    model, k0, seed = config.model, config.sparsity.start_nnz, seed_of(config, "start")
    factor_ids, init_from = None, config.train.init_from
    if model.start == "neighbours":
        factor_ids = train.item_ids
    if folder is not None and steps_in(folder.checkpoints):  # a run to resume
        if init_from and factor_ids is not None:
            factor_ids = folder.kept_factors()
            model.n_factors = len(factor_ids)
        return None, factor_ids
    if earlier is None and init_from:
        earlier = SparseEmbeddings.load(finished_run(init_from).embeddings)
    if earlier is not None:
        if earlier.factor_ids is not None and model.start != "neighbours":
            raise InputError(
                f"config.model.start is {model.start}, and the factors of the earlier model are "
                "those of items; leave it at neighbours"
            )
        lengths = row_lengths(earlier.tocsr())
        if model.norms == "unit" and not np.allclose(lengths[lengths > 0], 1, atol=0.01):
            log.warning(
                "the earlier model has learned lengths, and rows go on at unit length, as is the "
                "rule where data are thin; config.model.norms=learned keeps them"
            )
        sizes = k0, model.n_factors
        start, factor_ids = warm_start(earlier, train, *sizes, model.alpha, seed)
        model.n_factors = start.n_factors
        return start.with_even_rows() if model.norms == "unit" else start, factor_ids
    if model.start == "random":
        return None, factor_ids
    if model.start == "clusters":
        start = clusters(train.matrix, model.n_factors, k0, model.alpha, seed)
    else:
        start = neighbours(train.matrix, k0, model.alpha, seed)
    # At unit length those of many neighbours turn the more slowly for being longer, which is as
    # well: where items have few interactions, even rows lose a tenth.
    return start.with_even_rows() if model.norms == "learned" else start, factor_ids


def _needed(config: ConfigDict, users: Interactions, placement: Placement | None) -> int:
    """Bytes of training on these users, of whom three chunks are on the device at most."""
    chunk = config.train.chunk_users or users.n_users
    resident = min(1.0, 3 * chunk / users.n_users)
    batch_size = min(config.train.batch_size, chunk)
    data, items = (1, 1) if placement is None else (placement.mesh.shape[a] for a in (DATA, ITEM))
    columns = here = -(-users.n_items // items)
    if config.train.n_negatives:
        # Batches of the mean length; how long they are is known when they are drawn.
        n_own = batch_size * users.matrix.nnz // users.n_users
        columns = min(here, n_own + -(-config.train.n_negatives // items))
    return training_bytes(
        here,
        config.model.n_factors,
        config.sparsity.start_nnz,
        -(-batch_size // data),
        columns,
        int(resident * users.n_users),
        int(resident * users.matrix.nnz) // items,
    )
