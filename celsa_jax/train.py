"""A run: load, split, train with gradual pruning, checkpoint, evaluate, export."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import pathlib
import platform
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import tqdm
from ml_collections import ConfigDict

from celsa_jax import compact, runtime, stopping
from celsa_jax.checkpoint import Checkpoints
from celsa_jax.config import validate
from celsa_jax.data import Interactions, Split, load_dataset, make_split
from celsa_jax.data.batches import Chunk, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.data.splits import check_data, load_split, read_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import Evaluation, evaluate
from celsa_jax.evaluation.folds import N_FOLDS
from celsa_jax.export import sparse_embeddings
from celsa_jax.memory import check_memory, training_bytes
from celsa_jax.phases import phase_at, phases_of
from celsa_jax.schedules import nnz_at
from celsa_jax.sparse import bytes_per_item, save_embeddings
from celsa_jax.sparse.retrieval import Scorer
from celsa_jax.step import (
    Recipe,
    TrainState,
    create_state,
    entries_kept,
    final_embeddings,
    is_finite,
    nnz_per_row,
    train_chunk,
    unprune,
    update_mask,
)
from celsa_jax.warm_start import finished_run, warm_weights
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)

_EVAL_BATCH = 512


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict:
    """Runs the configuration in a folder; resumes it, or only reports it if it is finished.

    Args:
      config: see `celsa_jax.config.default_config`.
      workdir: receives config.json, split.npz, metrics.jsonl, checkpoints/, embeddings.npz,
        items.txt and results.json.

    Returns:
      The contents of results.json.

    Raises:
      InputError: a field, a file or the folder is at fault, another process has the folder, or
        training diverges.
      Stopped: the program was asked to stop (`celsa_jax.stopping`); the run can go on.
    """
    validate(config)
    folder = Workdir(workdir)
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
    started = time.perf_counter()
    if config.train.deterministic:
        runtime.use_deterministic_operations()
    devices = jax.devices()
    log.info("devices: %d (%s)", len(devices), devices[0].device_kind)
    log.info("versions: %s", ", ".join(f"{n} {v}" for n, v in runtime.versions().items()))
    log.info("config: SHA-256 %s", hashlib.sha256(config.to_json().encode()).hexdigest())
    dataset = load_dataset(config.data, config.train.seed)
    log.info("data: %s", dataset.counts)
    split = _split(config, dataset.interactions, folder)
    log.info("data: SHA-256 %s", split.digest or dataset.interactions.digest())
    log.info("split: %s", split.counts())
    check_memory(_needed(config, split.train))
    warm = None
    if config.train.init_from and not folder.has_checkpoint():
        warm = warm_weights(config.train.init_from, split.train, config.model.n_factors)
        if config.refine.n_rounds:
            log.info("no refinement (config.refine): a warm start is one")
        if config.sparsity.rewind:
            log.info("no rewinding (config.sparsity.rewind): the run goes on from learned weights")
    folder.start(config)
    if not folder.split.exists():
        split.save(folder.split)

    with (
        Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints,
        runtime.compilations() as compilations,
    ):
        run = _Run(config, split, folder, checkpoints, warm)
        state, seconds_before = run.train()

    embeddings = sparse_embeddings(state)
    save_embeddings(folder.path, embeddings, split.train.item_ids)
    test = None
    if split.test.n_users:
        test = _evaluate(
            config, final_embeddings(state), split.test, split.train.item_ids, split.test_from
        )
    results = {
        "test": test and {**test.summary(), **test.counts},
        "folds": config.eval.folds if split.test_from is None else "temporal",
        "step": int(state.step),
        "nnz_per_row": config.sparsity.target_nnz,
        "bytes_per_item": bytes_per_item(embeddings),
        "n_factors": config.model.n_factors,
        "seed": config.train.seed,
        "data": {**dataset.counts, **split.counts()},
        "wall_seconds": round(seconds_before + time.perf_counter() - started, 1),
        **run.seconds_by_part(),
        "device": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()})",
        "versions": runtime.versions(),
    }
    folder.finish(results)
    log.info("compiled: %d functions in %.1f s", len(compilations), sum(compilations))
    peak = runtime.peak_memory().items()
    log.info("peak memory: %s", ", ".join(f"{where} {n / 2**20:,.0f} MiB" for where, n in peak))
    log.info("test: %s", results["test"])
    return results


def device_scorer(embeddings: jax.Array) -> Scorer:
    """Serving scores x A A^T, computed on the device in batches of one shape."""

    def score(history: sp.csr_matrix) -> np.ndarray:
        x = np.zeros((_EVAL_BATCH, embeddings.shape[0]), np.float32)
        x[: history.shape[0]] = history.toarray()
        return np.asarray(_serving_scores(embeddings, x))[: history.shape[0]]

    return score


@jax.jit
def _serving_scores(embeddings: jax.Array, x: jax.Array) -> jax.Array:
    return x @ embeddings @ embeddings.T


def _evaluate(
    config: ConfigDict,
    embeddings: jax.Array,
    users: Interactions,
    item_ids: np.ndarray,
    held_out_from: int | None,
    n_folds: int = N_FOLDS,
) -> Evaluation:
    return evaluate(
        device_scorer(embeddings),
        users,
        item_ids,
        folds=config.eval.folds,
        seed=config.train.seed,
        n_folds=n_folds,
        held_out_from=held_out_from,
        batch_size=_EVAL_BATCH,
    )


def _split(config: ConfigDict, interactions: Interactions, folder: Workdir) -> Split:
    if folder.split.exists():
        if config.data.split == "users":
            return load_split(folder.split, interactions)
        # A split by time follows from the data and the configuration alone.
        check_data(folder.split, interactions)
        return make_split(interactions, config.data, config.train.seed)
    earlier = None
    if config.train.init_from:
        earlier = read_split(finished_run(config.train.init_from).split)
    return make_split(interactions, config.data, config.train.seed, earlier)


def _needed(config: ConfigDict, users: Interactions) -> int:
    """Bytes of training on these users, of whom three chunks are on the device at most."""
    chunk = config.train.chunk_users or users.n_users
    resident = min(1.0, 3 * chunk / users.n_users)
    return training_bytes(
        users.n_items,
        config.model.n_factors,
        min(config.train.batch_size, chunk),
        int(resident * users.n_users),
        int(resident * users.matrix.nnz),
    )


class _Run:
    """The loop over epochs."""

    def __init__(
        self,
        config: ConfigDict,
        split: Split,
        folder: Workdir,
        checkpoints: Checkpoints,
        warm: np.ndarray | None,
    ):
        self.config = config
        self.warm = warm
        self.split = split
        self.folder = folder
        self.checkpoints = checkpoints
        train = config.train
        self.recipe = Recipe(
            relu_cap=config.model.relu_cap,
            rewind=False,  # but in the phases that say so
            regrow=config.sparsity.regrow,
            optimizer=train.optimizer,
            learning_rate=train.learning_rate,
            seed=train.seed,
            epsilon=train.epsilon,
            reset_optimizer=config.sparsity.reset_optimizer,
            auxiliary_weight=train.auxiliary_weight,
            relu=config.model.relu,
            b1=train.b1,
        )
        self.phases = phases_of(config)
        self.n_epochs = self.phases[-1].end
        self.chunks = make_chunks(split.train.matrix, train.chunk_users, train.seed)
        self.streaming = len(self.chunks) > 1
        if not self.streaming:
            self.chunks = [jax.device_put(self.chunks[0])]
        self.batch_size = min(train.batch_size, self.chunks[0].n_rows)
        self.steps_per_epoch = len(self.chunks) * -(-self.chunks[0].n_rows // self.batch_size)
        # Every order of users is known before training, and so is the largest batch.
        self.budget = max(
            nnz_budget(chunk, batches)
            for epoch in range(self.n_epochs)
            for chunk, batches in self._epoch(epoch)
        )
        val = split.val
        if val.n_users > config.eval.max_val_users:
            rng = np.random.default_rng(train.seed)
            val = val.take_users(
                np.sort(rng.choice(val.n_users, config.eval.max_val_users, replace=False))
            )
        self.val = val
        self.seconds = {"training": 0.0, "mask": 0.0, "validation": 0.0, "checkpoint": 0.0}
        self.mask_kept: float | None = None  # by an update that is not logged yet

    def train(self) -> tuple[TrainState, float]:
        """The trained state, and the seconds spent before this process resumed the run."""
        started = time.perf_counter()
        state, first, before = self._resume()
        self.folder.cut_metrics(int(state.step), first)
        k = int(np.asarray(state.mask[0]).sum())
        # On a terminal a bar shows the epochs; elsewhere the log has one line for each.
        bar = tqdm.tqdm(
            initial=first, total=self.n_epochs, unit="epoch", disable=not sys.stderr.isatty()
        )
        with bar:
            for epoch in range(first, self.n_epochs):
                state, k = self._prune_before(epoch, state, k)
                state, k, record = self._train_epoch(epoch, state, k)
                self.folder.log_metrics(record)
                stop = stopping.requested()
                due = self._due(epoch, self.config.checkpoint.every_epochs)
                if due or stop or "ndcg@100" in record:
                    score = record.get("ndcg@100") if k == self.config.sparsity.target_nnz else None
                    elapsed = before + time.perf_counter() - started
                    notes = {"epoch": epoch + 1, "seconds": self.seconds, "elapsed": elapsed}
                    with _timed(self.seconds, "checkpoint"):
                        self.checkpoints.save(int(state.step), state, notes, score)
                bar.update()
                bar.set_postfix(k=k, loss=record["loss"], users_per_s=record["users_per_s"])
                if bar.disable:
                    done = (epoch + 1 - first) / (self.n_epochs - first)
                    left = (time.perf_counter() - started) * (1 / done - 1)
                    self._log_line(record, left)
                if stop:
                    stopping.leave(f"checkpoint at step {int(state.step)}")
        return state, before

    def seconds_by_part(self) -> dict[str, float]:
        return {f"{part}_seconds": round(spent, 2) for part, spent in self.seconds.items()}

    def _resume(self) -> tuple[TrainState, int, float]:
        n_items, n_factors = self.split.train.n_items, self.config.model.n_factors
        like = jax.eval_shape(lambda: create_state(self.recipe, n_items, n_factors))
        found = self.checkpoints.restore_latest(like)
        if found is None:
            return create_state(self.recipe, n_items, n_factors, self.warm), 0, 0.0
        step, state, notes = found
        log.info("resumed at step %d", step)
        self.seconds |= notes["seconds"]
        return state, notes["epoch"], notes["elapsed"]

    def _epoch(self, epoch: int) -> list[tuple[Chunk, jax.Array]]:
        """The chunks of an epoch in their order, each with its batches."""
        key = jax.random.fold_in(jax.random.key(self.config.train.seed), epoch)
        rng = np.random.default_rng((self.config.train.seed, epoch))
        order = rng.permutation(len(self.chunks))
        n_rows = self.chunks[0].n_rows
        return [
            (
                self.chunks[c],
                shuffled_batches(jax.random.fold_in(key, int(c)), n_rows, self.batch_size),
            )
            for c in order
        ]

    def _on_device(self, epoch: int) -> Iterator[tuple[Chunk, jax.Array]]:
        """An epoch's chunks on the device; the next is on its way while one is trained on."""
        chunks = (
            (jax.device_put(chunk) if self.streaming else chunk, batches)
            for chunk, batches in self._epoch(epoch)
        )
        ahead = next(chunks)
        for arriving in chunks:
            yield ahead
            ahead = arriving
        yield ahead

    def _prune_before(self, epoch: int, state: TrainState, k: int) -> tuple[TrainState, int]:
        """The mask updates that happen before an epoch, the one to the target included."""
        sparsity, n_factors = self.config.sparsity, self.config.model.n_factors
        phase = phase_at(self.phases, epoch)
        if epoch == phase.first > 0:
            state, _ = self._prune_at_end(state, k)
            state, k = unprune(state, self.recipe), n_factors
        every = sparsity.update_every
        due = epoch < phase.at_target and every and (epoch - phase.first) % every == 0
        if not due and epoch != phase.at_target:
            return state, k
        progress = phase.pruned(epoch)
        wanted = int(nnz_at(sparsity.schedule, progress, n_factors, sparsity.target_nnz))
        # An update that would change nothing would only rewind.
        if wanted == k and not (sparsity.regrow and k < n_factors):
            return state, k
        return self._prune(state, wanted, phase.rewind), wanted

    def _prune_at_end(self, state: TrainState, k: int) -> tuple[TrainState, int]:
        """Meets the target where no final phase follows, and keeps what was learned."""
        target = self.config.sparsity.target_nnz
        if k > target:
            state = self._prune(state, target, rewind=False)
        return state, target

    def _prune(self, state: TrainState, k: int, rewind: bool) -> TrainState:
        recipe = dataclasses.replace(self.recipe, rewind=rewind)
        with _timed(self.seconds, "mask"):
            before = state.mask.copy()  # the state is donated
            state = jax.block_until_ready(update_mask(state, jnp.int32(k), recipe))
            kept = np.asarray(entries_kept(before, state.mask), np.int64)
            n_before = np.asarray(entries_kept(before, before), np.int64)
            self.mask_kept = float(kept.sum() / n_before.sum())
        return state

    def _train_epoch(
        self, epoch: int, state: TrainState, k: int
    ) -> tuple[TrainState, int, dict[str, float | None]]:
        started = time.perf_counter()
        config = self.config
        phase = phase_at(self.phases, epoch)
        every_step = config.sparsity.update_every == 0 and epoch < phase.at_target
        steps = epoch * self.steps_per_epoch + np.arange(self.steps_per_epoch)
        nnz = np.full(self.steps_per_epoch, k, np.int32)
        if every_step:
            nnz = nnz_at(
                config.sparsity.schedule,
                phase.pruned(steps / self.steps_per_epoch),
                config.model.n_factors,
                config.sparsity.target_nnz,
            )
        rate_scale = np.ones(self.steps_per_epoch, np.float32)
        if config.train.final_decay == "cosine":
            settled = phase.settled(steps / self.steps_per_epoch)
            rate_scale = ((1 + np.cos(np.pi * settled)) / 2).astype(np.float32)
        recipe = dataclasses.replace(self.recipe, rewind=phase.rewind and every_step)
        layout = self._layout(state, k, every_step)
        by_chunk: list[jax.Array] = []
        per_chunk = np.split(np.arange(self.steps_per_epoch), len(self.chunks))
        for (chunk, batches), at in zip(self._on_device(epoch), per_chunk, strict=True):
            state, chunk_losses = train_chunk(
                state,
                chunk,
                batches,
                jnp.asarray(nnz[at]),
                jnp.asarray(rate_scale[at]),
                layout,
                recipe=recipe,
                budget=self.budget,
                prune_every_step=every_step,
            )
            by_chunk.append(chunk_losses)
            # The host does not run further ahead: three chunks are on the device at most.
            jax.block_until_ready(by_chunk[-2:-1])
        losses = np.concatenate(by_chunk)
        loss = float(losses.sum(dtype=np.float64)) / self.split.train.n_users
        spent = time.perf_counter() - started
        self.seconds["training"] += spent
        self._check_finite(epoch, state, losses, rate_scale)
        k = int(nnz[-1])
        if epoch + 1 == self.n_epochs:
            state, k = self._prune_at_end(state, k)
        realised = np.asarray(nnz_per_row(state))
        record: dict[str, float | None] = {
            "step": int(state.step),
            "epoch": epoch + 1,
            "k": k,
            "nnz_per_row": float(realised.mean()),
            "nnz_per_row_min": int(realised.min()),
            "nnz_per_row_max": int(realised.max()),
            "loss": loss,
            "users_per_s": round(self.split.train.n_users / spent, 1),
            "seconds": round(spent, 3),
        }
        if self.mask_kept is not None:
            record["mask_kept"], self.mask_kept = self.mask_kept, None
        if self.val.n_users and self._due(epoch, config.eval.every_epochs):
            with _timed(self.seconds, "validation"):
                embeddings, item_ids = final_embeddings(state), self.split.train.item_ids
                record |= _evaluate(
                    config, embeddings, self.val, item_ids, self.split.val_from, n_folds=1
                ).summary()
        return state, k, record

    def _layout(self, state: TrainState, k: int, every_step: bool) -> compact.Layout | None:
        """Of the mask, where training on the weights under it alone is right and pays."""
        others = every_step or self.recipe.regrow or self.recipe.auxiliary_weight > 0
        if others or not compact.pays(self.config.model.n_factors, k):
            return None
        return jax.device_put(compact.make_layout(np.asarray(state.mask)))

    def _check_finite(
        self, epoch: int, state: TrainState, losses: np.ndarray, rate_scale: np.ndarray
    ) -> None:
        """InputError if a step of the epoch has diverged, before anything of it is saved."""
        finite = np.isfinite(losses)
        if finite.all() and is_finite(state):
            return
        at, what = len(losses) - 1, "the gradient is not finite"
        if not finite.all():
            at = int(np.argmin(finite))
            what = f"the loss is {losses[at]}"
        rate = self.config.train.learning_rate * float(rate_scale[at])
        saved = self.checkpoints.steps()
        last = f"step {saved[-1]} in {self.folder.checkpoints}" if saved else "none"
        raise InputError(
            f"{what} at step {epoch * self.steps_per_epoch + at + 1} (epoch {epoch + 1}, learning "
            f"rate {rate:.3g}); last sound checkpoint: {last}; lower "
            "--config.train.learning_rate and use another --workdir"
        )

    def _due(self, epoch: int, every: int) -> bool:
        return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.n_epochs)

    def _log_line(self, record: dict, seconds_left: float) -> None:
        validation = record.get("ndcg@100")  # None, too, where no user has enough to be judged
        validation = "" if validation is None else f", ndcg@100 {validation:.4f}"
        log.info(
            "epoch %d/%d: k %d, loss %.4f, %.0f users/s, %.0f s left%s",
            record["epoch"],
            self.n_epochs,
            record["k"],
            record["loss"],
            record["users_per_s"],
            seconds_left,
            validation,
        )


class _timed:
    """Adds the seconds spent inside to an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], part: str):
        self.seconds, self.part = seconds, part

    def __enter__(self):
        self.started = time.perf_counter()

    def __exit__(self, *_):
        self.seconds[self.part] += time.perf_counter() - self.started
