"""A run: load, split, train with gradual pruning, checkpoint, evaluate, export."""

from __future__ import annotations

import hashlib
import logging
import pathlib
import platform
import sys
import time

import jax
from ml_collections import ConfigDict

from celsa_jax import runtime, stopping
from celsa_jax.config import seed_of, validate
from celsa_jax.data import Interactions, Split, dataset_of, make_split
from celsa_jax.data.splits import check_data, load_split, read_split
from celsa_jax.evaluation import evaluate
from celsa_jax.fitting import fit
from celsa_jax.sharding import is_first_process
from celsa_jax.sparse import bytes_per_item, save_embeddings, scorer
from celsa_jax.warm_start import finished_run
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Runs the configuration in a folder; resumes it, or only reports it if it is finished.

    Args:
      config: see `celsa_jax.config.default_config`.
      workdir: receives config.json, split.npz, metrics.jsonl, checkpoints/, embeddings.npz,
        items.txt, factors.txt and results.json; profile/, if asked for.

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
    dataset = dataset_of(config.data, seed_of(config, "split"))
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
    fitted = fit(config, split, folder, stop=stopping.requested, show_bar=sys.stderr.isatty())
    if fitted.stopped:
        stopping.leave(f"checkpoint at step {fitted.step}")
    if is_first_process():
        save_embeddings(folder.path, fitted.embeddings, split.train.item_ids, fitted.factor_ids)
    test = None
    if split.test.n_users:
        test = evaluate(
            scorer(fitted.embeddings),
            split.test,
            split.train.item_ids,
            folds=config.eval.folds,
            seed=seed_of(config, "folds"),
            held_out_from=split.test_from,
        )
    devices, peak = jax.devices(), runtime.peak_memory()
    spent = fitted.seconds_before + time.perf_counter() - started
    results = {
        "test": test and {**test.summary(), **test.counts},
        "folds": config.eval.folds if split.test_from is None else "temporal",
        "step": fitted.step,
        "nnz_per_row": config.sparsity.target_nnz,
        "bytes_per_item": bytes_per_item(fitted.embeddings),
        "n_factors": fitted.embeddings.shape[1],
        "seed": config.seed,
        "recipe": fitted.recipe,
        "data": {**counts, **split.counts()},
        "wall_seconds": round(spent, 1),
        **fitted.seconds,
        "peak_bytes": peak,
        "device": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()})",
        "versions": runtime.versions(),
    }
    folder.finish(results)
    peaks = (f"{where} {n / 2**20:,.0f} MiB" for where, n in peak.items())
    log.info("peak memory: %s", ", ".join(peaks))
    if results["test"] is not None:
        shown = (f"{k} {v:.4f}" for k, v in results["test"].items() if isinstance(v, float))
        log.info("test: %s", ", ".join(shown))
    log.info("embeddings: %s", folder.embeddings)
    return results


def _split(config: ConfigDict, interactions: Interactions, folder: Workdir) -> Split:
    if folder.split.exists():
        if config.data.split == "users":
            return load_split(folder.split, interactions)
        # A split by time follows from the data and the configuration alone.
        check_data(folder.split, interactions.digest())
        return make_split(interactions, config.data, seed_of(config, "split"))
    earlier = None
    if config.train.init_from:
        earlier = read_split(finished_run(config.train.init_from).split)
    return make_split(interactions, config.data, seed_of(config, "split"), earlier)
