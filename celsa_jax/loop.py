"""The loop over epochs, with gradual pruning."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict

from celsa_jax import compact, stopping, tensorboard
from celsa_jax.checkpoint import Checkpoints
from celsa_jax.data import Split
from celsa_jax.data.batches import Chunk, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.errors import InputError
from celsa_jax.phases import phase_at, phases_of
from celsa_jax.sampling import n_columns
from celsa_jax.schedules import nnz_at
from celsa_jax.scoring import evaluate_embeddings
from celsa_jax.sharding import Placement, in_any_process, is_first_process, shaped, to_host
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
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)


class TrainingLoop:
    """The epochs of a run: pruning, training, validation, checkpoints, metrics."""

    def __init__(
        self,
        config: ConfigDict,
        split: Split,
        folder: Workdir,
        checkpoints: Checkpoints,
        warm: np.ndarray | None,
        placement: Placement | None,
    ):
        """Prepares the users of every epoch.

        Args:
          config: of the run.
          split: users to train on and to validate with.
          folder, checkpoints: of the run.
          warm: weights to begin at, float32 [n_items, n_factors] (`warm_start`), or None.
          placement: on several devices, or None.
        """
        self.config = config
        self.warm = warm if warm is None or placement is None else placement.put_rows(warm)
        self.split = split
        self.folder = folder
        self.checkpoints = checkpoints
        train = config.train
        self.recipe = Recipe.from_config(config, placement)
        self.phases = phases_of(config)
        self.n_epochs = self.phases[-1].end
        self.chunks = make_chunks(split.train.matrix, train.chunk_users, train.seed)
        streaming = len(self.chunks) > 1
        self.resident = None if streaming else self._to_device(self.chunks[0])
        self.batch_size = min(train.batch_size, self.chunks[0].n_rows)
        self.steps_per_epoch = len(self.chunks) * -(-self.chunks[0].n_rows // self.batch_size)
        # Every order of users is known before training, and so is the largest batch.
        self.budget = max(
            nnz_budget(chunk, batches)
            for epoch in range(self.n_epochs)
            for chunk, batches in self._epoch(epoch)
        )
        n_items = split.train.n_items
        if train.n_negatives and n_columns(n_items, self.budget, train.n_negatives) == n_items:
            log.info("a batch and config.train.n_negatives cover the catalogue: nothing is sampled")
            self.recipe = dataclasses.replace(self.recipe, n_negatives=0)
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
        k = int(to_host(state.mask[0]).sum())
        # On a terminal a bar shows the epochs; elsewhere the log has one line for each.
        shown = sys.stderr.isatty() and is_first_process()
        bar = tqdm.tqdm(initial=first, total=self.n_epochs, unit="epoch", disable=not shown)
        with bar, self._tensorboard(int(state.step)) as log_scalars:
            for epoch in range(first, self.n_epochs):
                state, k = self._prune_before(epoch, state, k)
                with self._profile(epoch == min(first + 1, self.n_epochs - 1)):
                    state, k, record = self._train_epoch(epoch, state, k)
                self.folder.log_metrics(record)
                log_scalars(record)
                stop = in_any_process(stopping.requested())
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

    def _tensorboard(self, step: int) -> contextlib.AbstractContextManager[tensorboard.Log]:
        """What logs the metrics from a step on for TensorBoard, or nowhere."""
        if self.config.train.tensorboard and is_first_process():
            return tensorboard.scalars(self.folder.tensorboard, step)
        return contextlib.nullcontext(lambda record: None)

    def _resume(self) -> tuple[TrainState, int, float]:
        n_items, n_factors = self.split.train.n_items, self.config.model.n_factors
        like = jax.eval_shape(lambda: create_state(self.recipe, n_items, n_factors))
        found = self.checkpoints.restore_latest(shaped(like, self.recipe.placement))
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
            (self.resident or self._to_device(chunk), self._on_all(batches))
            for chunk, batches in self._epoch(epoch)
        )
        ahead = next(chunks)
        for arriving in chunks:
            yield ahead
            ahead = arriving
        yield ahead

    def _to_device(self, chunk: Chunk) -> Chunk:
        placement = self.recipe.placement
        if placement is None:
            return jax.device_put(chunk)
        return Chunk(placement.put(chunk.indptr), placement.put_shares(np.asarray(chunk.indices)))

    def _on_all(self, array: jax.Array | np.ndarray) -> jax.Array:
        placement = self.recipe.placement
        return jnp.asarray(array) if placement is None else placement.put(array)

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
            kept = to_host(entries_kept(before, state.mask)).astype(np.int64)
            n_before = to_host(entries_kept(before, before)).astype(np.int64)
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
                self._on_all(nnz[at]),
                self._on_all(rate_scale[at]),
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
        realised = to_host(nnz_per_row(state))[: self.split.train.n_items]
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
                record |= evaluate_embeddings(
                    config, embeddings, self.val, item_ids, self.split.val_from, n_folds=1
                ).summary()
        return state, k, record

    def _layout(self, state: TrainState, k: int, every_step: bool) -> compact.Layout | None:
        """Of the mask, where training on the weights under it alone is right and pays."""
        recipe = self.recipe
        others = every_step or recipe.regrow or recipe.auxiliary_weight > 0
        others = others or recipe.n_negatives > 0 or recipe.placement is not None
        others = others or recipe.precision == "bfloat16"
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

    @contextlib.contextmanager
    def _profile(self, wanted: bool) -> Iterator[None]:
        """A trace of what is done inside, for TensorBoard or Perfetto."""
        if not (wanted and self.config.train.profile and is_first_process()):
            yield
            return
        folder = self.folder.path / "profile"
        with jax.profiler.trace(str(folder)):
            yield
        log.info("profile: %s", folder)

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
