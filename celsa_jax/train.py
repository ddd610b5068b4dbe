"""A run: load, split, train with gradual pruning, checkpoint, evaluate, export."""

from __future__ import annotations

import hashlib
import logging
import pathlib
import platform
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from celsa_jax import recipe, runtime
from celsa_jax.checkpoint import Checkpoints, steps_in
from celsa_jax.config import seed_of, validate
from celsa_jax.data import Interactions, Split, load_dataset, make_split
from celsa_jax.data.splits import check_data, load_split, read_split
from celsa_jax.loop import TrainingLoop
from celsa_jax.memory import check_memory, training_bytes
from celsa_jax.sampling import n_columns
from celsa_jax.scoring import evaluate_model
from celsa_jax.sharding import DATA, ITEM, Placement, is_first_process, make_placement, wait_for_all
from celsa_jax.sparse import bytes_per_item, save_embeddings
from celsa_jax.starts import Start, clusters, neighbours
from celsa_jax.warm_start import finished_run, warm_start
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Runs the configuration in a folder; resumes it, or only reports it if it is finished.

    Args:
      config: see `celsa_jax.config.default_config`.
      workdir: receives config.json, split.npz, metrics.jsonl, checkpoints/, embeddings.npz,
        items.txt and results.json; tensorboard/ and profile/, if asked for.

    Returns:
      The contents of results.json.

    Raises:
      InputError: a field, a file or the folder is at fault, another process has the folder, or
        training diverges.
      Stopped: the program was asked to stop (`celsa_jax.stopping`); the run can go on.
    """
    validate(config)
    if config.train.deterministic:
        runtime.check_deterministic()
    if not is_first_process():
        logging.getLogger("celsa_jax").setLevel(logging.WARNING)
    folder = Workdir(workdir, writes=is_first_process())
    results = _finished(config, folder)
    if results is None:
        with folder.locked():
            results = _finished(config, folder) or _run(config, folder)
    return results


def _finished(config: ConfigDict, folder: Workdir) -> dict | None:
    folder.check(config)
    results = folder.results()
    if results is not None:
        log.info("%s holds a finished run (step %d)", folder.path, results["step"])
    return results


def _run(config: ConfigDict, folder: Workdir) -> dict:
    devices = jax.devices()
    log.info("devices: %d (%s)", len(devices), devices[0].device_kind)
    log.info("versions: %s", ", ".join(f"{n} {v}" for n, v in runtime.versions().items()))
    log.info("config: SHA-256 %s", hashlib.sha256(config.to_json().encode()).hexdigest())
    started = time.perf_counter()
    dataset = load_dataset(config.data, seed_of(config, "split"))
    log.info("data: %s", dataset.counts)
    split = _split(config, dataset.interactions, folder)
    log.info("data: SHA-256 %s", split.digest or dataset.interactions.digest())
    log.info("split: %s", split.counts())
    return train_split(config, split, folder, dataset.counts, time.perf_counter() - started)


def train_split(
    config: ConfigDict,
    split: Split,
    folder: Workdir,
    counts: dict[str, int],
    seconds: float = 0.0,
) -> dict:
    """Trains on a split, or resumes, evaluates and exports.

    Args:
      config: validated.
      split: of the data.
      folder: of the run, which no other process has.
      counts: of the data, for the results.
      seconds: that it took to load them.

    Returns:
      as `train_and_evaluate`
    """
    started = time.perf_counter() - seconds
    devices = jax.devices()
    train = split.train
    filled = recipe.filled(config, train.matrix)
    chosen = recipe.chosen(config, filled)
    log.info("recipe: %s", ", ".join(f"{field} {value}" for field, value in chosen.items()))
    placement = make_placement(config, train.n_items)
    check_memory(_needed(filled, train, placement))
    starting = time.perf_counter()
    start, factor_ids = _start(filled, train, folder)
    start_seconds = time.perf_counter() - starting
    folder.start(config)
    if start is not None and config.train.init_from and factor_ids is not None:
        folder.keep_factors(factor_ids)  # which follow from the earlier run alone
    if is_first_process() and not folder.split.exists():
        split.save(folder.split)
    wait_for_all("split saved")

    with (
        Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints,
        runtime.compilations() as compilations,
    ):
        loop = TrainingLoop(filled, split, folder, checkpoints, placement)
        state, seconds_before = loop.train(start)

    embeddings = loop.embeddings(state)
    if is_first_process():
        save_embeddings(folder.path, embeddings, train.item_ids, factor_ids)
    test = None
    if split.test.n_users:
        scorer = loop.scorer(state, config.sparsity.target_nnz)
        test = evaluate_model(filled, scorer, split.test, train.item_ids, split.test_from)
    results = {
        "test": test and {**test.summary(), **test.counts},
        "folds": config.eval.folds if split.test_from is None else "temporal",
        "step": int(state.step),
        "nnz_per_row": config.sparsity.target_nnz,
        "bytes_per_item": bytes_per_item(embeddings),
        "n_factors": filled.model.n_factors,
        "seed": config.seed,
        "recipe": chosen,
        "data": {**counts, **split.counts()},
        "wall_seconds": round(seconds_before + time.perf_counter() - started, 1),
        "start_seconds": round(start_seconds, 2),
        **loop.seconds_by_part(),
        "device": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()})",
        "versions": runtime.versions(),
    }
    folder.finish(results)
    log.info("compiled: %d functions in %.1f s", len(compilations), sum(compilations))
    peak = runtime.peak_memory().items()
    log.info("peak memory: %s", ", ".join(f"{where} {n / 2**20:,.0f} MiB" for where, n in peak))
    log.info("test: %s", results["test"])
    return results


def _split(config: ConfigDict, interactions: Interactions, folder: Workdir) -> Split:
    if folder.split.exists():
        if config.data.split == "users":
            return load_split(folder.split, interactions)
        # A split by time follows from the data and the configuration alone.
        check_data(folder.split, interactions)
        return make_split(interactions, config.data, seed_of(config, "split"))
    earlier = None
    if config.train.init_from:
        earlier = read_split(finished_run(config.train.init_from).split)
    return make_split(interactions, config.data, seed_of(config, "split"), earlier)


def _start(
    config: ConfigDict, train: Interactions, folder: Workdir
) -> tuple[Start | None, np.ndarray | None]:
    """What to begin with, None at random or where a run is resumed; and the items of the factors.

    The width of the model is written to the configuration where the start decides it.
    """
    model, k0, seed = config.model, config.sparsity.start_nnz, seed_of(config, "start")
    earlier, resumed = config.train.init_from, bool(steps_in(folder.checkpoints))
    factor_ids = train.item_ids if model.start == "neighbours" else None
    if resumed and earlier and factor_ids is not None:
        factor_ids = folder.kept_factors()
        model.n_factors = len(factor_ids)
    if earlier and not resumed:
        sizes = k0, model.n_factors
        start, factor_ids = warm_start(earlier, train, *sizes, model.alpha, seed)
        model.n_factors = start.n_factors
        return start.with_even_rows() if model.norms == "unit" else start, factor_ids
    if resumed or model.start == "random":
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
        columns = n_columns(here, n_own, -(-config.train.n_negatives // items))
    return training_bytes(
        here,
        config.model.n_factors,
        config.sparsity.start_nnz,
        -(-batch_size // data),
        columns,
        int(resident * users.n_users),
        int(resident * users.matrix.nnz),
    )
