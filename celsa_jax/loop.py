"""The loop over epochs, with gradual pruning."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import nnx
from ml_collections import ConfigDict

from celsa_jax.checkpoint import Checkpoints
from celsa_jax.config import seed_of
from celsa_jax.data import Split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.feed import Feed
from celsa_jax.memory import device_bytes
from celsa_jax.plan import Epoch, nested_sizes, plan
from celsa_jax.products import (
    Layout,
    capacity,
    dense_pays,
    make_layout,
    operand_dtype,
    users_in_block,
)
from celsa_jax.progress import Progress
from celsa_jax.recipe import moments_by_row
from celsa_jax.sharding import (
    ITEM,
    Placement,
    in_any_process,
    is_first_process,
    shaped,
    to_host,
)
from celsa_jax.sparse import scorer
from celsa_jax.starts import Start
from celsa_jax.state import (
    Form,
    Numbers,
    TrainState,
    embeddings_of,
    is_finite,
    largest_mask,
    nnz_per_row,
    prune,
    random_state,
    sparse_state,
    state_shape,
    without_rows_of_no_item,
)
from celsa_jax.step import train_steps

log = logging.getLogger(__name__)

_CHECKPOINT_VERSION = 5


class Reached(NamedTuple):
    """How far training is.

    Attributes:
      state: of a new run, a resumed one, or after training.
      epoch: how many are behind it.
      seconds: that were spent on them.
      stopped: whether it ended because it was asked to.
    """

    state: TrainState
    epoch: int
    seconds: float
    stopped: bool = False


class TrainingLoop:
    """The epochs of a run: pruning, training, validation, checkpoints."""

    def __init__(
        self,
        config: ConfigDict,
        split: Split,
        placement: Placement | None,
        checkpoints: Checkpoints | None = None,
        profile: pathlib.Path | None = None,
    ):
        """Prepares the users of every epoch.

        Args:
          config: of the run, without open fields (`recipe.filled`).
          split: users to train on and to validate with.
          placement: on several devices, or None.
          checkpoints: where the state is saved, and gone on from; None to train in memory.
          profile: folder for a trace of the second epoch, or None.
        """
        self.config, self.split = config, split
        self.checkpoints, self.placement, self.profile = checkpoints, placement, profile
        self.plan = plan(config)
        self.n_epochs = len(self.plan)
        seed = seed_of(config, "training")
        self.start_key = nnx.Rngs(params=seed_of(config, "start")).params()
        self.draws_key = jax.random.fold_in(jax.random.key(seed), self.n_epochs)
        self.feed = Feed(split.train.matrix, config.train, self.n_epochs, seed, placement)
        self.n_shards = 1 if placement is None else placement.mesh.shape[ITEM]
        self.n_rows = split.train.n_items if placement is None else placement.n_rows
        self.n_sampled = self._n_sampled()
        self.val = split.val
        if self.val.n_users > config.eval.max_val_users:
            rng = np.random.default_rng(seed_of(config, "split"))
            some = rng.choice(self.val.n_users, config.eval.max_val_users, replace=False)
            self.val = self.val.take_users(np.sort(some))
        self.layout: Layout | None = None  # of the columns as they are, once it is made
        self.seconds = {"training": 0.0, "mask": 0.0, "validation": 0.0, "checkpoint": 0.0}

    def begin(self, start: Start | None) -> Reached:
        """The newest checkpoint, or a new state.

        Args:
          start: where a new one begins; None for dense, at random.
        """
        if (resumed := self._resume()) is not None:
            return resumed
        widest = self.config.sparsity.start_nnz
        form, places = self._form(widest), self._places(widest)
        if start is None:
            state = random_state(self.start_key, self.split.train.n_items, form, places)
        else:
            state = sparse_state(start, form, places)
        return Reached(state, 0, 0.0)

    def train(
        self,
        begun: Reached,
        callbacks: Sequence[Callable[[dict], None]] = (),
        stop: Callable[[], bool] = lambda: False,
        show_bar: bool = False,
    ) -> Reached:
        """Trains from there to the end, or until asked to stop.

        Args:
          begun: what `begin` returned; its arrays are given up.
          callbacks: called after every epoch with its metrics.
          stop: asked after every epoch whether it is to be the last.
          show_bar: a bar on stderr; lines in the log otherwise.
        """
        started = time.perf_counter()
        state, epoch, before, stopped = begun
        self.progress = Progress(epoch, self.n_epochs, self.feed.steps_per_epoch, show_bar)
        with self.progress:
            while epoch < self.n_epochs and not stopped:
                with self._profile(epoch == min(begun.epoch + 1, self.n_epochs - 1)):
                    state, record = self._epoch(epoch, state)
                for callback in callbacks:
                    callback(record)
                stopped = in_any_process(stop())
                if stopped or self._due(epoch, self.config.checkpoint.every_epochs):
                    self._save(state, epoch + 1, before + time.perf_counter() - started)
                self.progress.end_epoch(record)
                epoch += 1
        return Reached(state, epoch, before + time.perf_counter() - started, stopped)

    def embeddings(self, reached: Reached) -> sp.csc_matrix:
        """CSC float32 [n_items, n_factors], at the target wherever training ended.

        Args:
          reached: after an epoch at least; its arrays are given up.
        """
        state = reached.state
        if reached.epoch < self.n_epochs:
            state = self._at_target(state, self.plan[reached.epoch - 1])
        return self._embeddings(state)

    def seconds_by_part(self) -> dict[str, float]:
        return {f"{part}_seconds": round(spent, 2) for part, spent in self.seconds.items()}

    # The checkpoints of a run.

    def _resume(self) -> Reached | None:
        checkpoints = self.checkpoints
        if checkpoints is None:
            return None

        def like(notes: dict) -> TrainState:
            if notes.get("layout") != _CHECKPOINT_VERSION:
                raise InputError(
                    f"{checkpoints.folder}: these checkpoints are of another version of celsa_jax, "
                    "with another layout; go on with that version, or use another folder"
                )
            kept = self._kept_after(notes["epoch"])
            if notes["places"] != self._places(kept):
                raise InputError(
                    f"{checkpoints.folder}: these checkpoints hold {notes['places']} places an "
                    f"item, and here there would be {self._places(kept)}: the kind of device, its "
                    "memory or config.mesh is another; go on with the first, or use another folder"
                )
            state = state_shape(self.n_rows, notes["places"], self._form(kept))
            return shaped(state, self.placement)

        newest = checkpoints.restore_latest(like)
        if newest is None:
            return None
        step, state, notes = newest
        log.info("resumed at step %d", step)
        self.seconds |= notes["seconds"]
        if self.placement is None:
            # Bound to no device, as a new state is: for bound ones all would be compiled again.
            state = jax.device_put(jax.device_get(state))
        else:  # it may have been saved on another number of devices
            state = without_rows_of_no_item(state, self._form(self._kept_after(notes["epoch"])))
        return Reached(state, notes["epoch"], notes["elapsed"])

    def _save(self, state: TrainState, epoch: int, elapsed: float) -> None:
        if self.checkpoints is None:
            return
        notes = {
            "layout": _CHECKPOINT_VERSION,
            "epoch": epoch,
            "places": state.weights.shape[1],
            "seconds": self.seconds,
            "elapsed": elapsed,
        }
        with self._timed("checkpoint"):
            self.checkpoints.save(int(state.step), state, notes)

    def _kept_after(self, epoch: int) -> int:
        """Weights of an item after so many epochs."""
        if not epoch:
            return self.config.sparsity.start_nnz
        if epoch == self.n_epochs:
            return self.config.sparsity.target_nnz
        return self.plan[epoch - 1].kept

    # An epoch.

    def _epoch(self, epoch: int, state: TrainState) -> tuple[TrainState, dict[str, float | None]]:
        """The state after an epoch, with the mask updates before and after it, and its metrics."""
        now = self.plan[epoch]
        if now.kept != self._kept_after(epoch):
            state = self._prune(state, now.kept, now.rewind)
        started = time.perf_counter()
        state, losses = self._train_epoch(epoch, state)
        spent = time.perf_counter() - started
        self.seconds["training"] += spent
        self._check_finite(epoch, state, losses)
        if epoch + 1 == self.n_epochs:
            state = self._at_target(state, now)
        n_users = self.split.train.n_users
        realised = to_host(nnz_per_row(state))[: self.split.train.n_items]
        record: dict[str, float | None] = {
            "step": int(state.step),
            "epoch": epoch + 1,
            "k": now.nnz,
            "nnz_per_row": float(realised.mean()),
            "nnz_per_row_min": int(realised.min()),
            "nnz_per_row_max": int(realised.max()),
            "loss": float(losses.sum(dtype=np.float64)) / n_users,
            "users_per_s": round(n_users / spent, 1),
            "seconds": round(spent, 3),
        }
        if self.val.n_users and self._due(epoch, self.config.eval.every_epochs):
            with self._timed("validation"):
                record |= self._validate(state, now)
        return state, record

    def _train_epoch(self, epoch: int, state: TrainState) -> tuple[TrainState, np.ndarray]:
        """Trains on all users once; the sum of the losses of each batch's users, [n_steps]."""
        train, now = self.config.train, self.plan[epoch]
        form = self._form(now.kept, now.kept > now.nnz)
        layout = self._layout_of(state, form)
        rates = now.rates(self.feed.steps_per_epoch)
        numbers = Numbers(
            self.draws_key, train.learning_rate, train.b1, train.input_dropout, now.nnz
        )
        put = self.feed.put
        by_chunk = []
        for at, chunk, batches in self.feed.on_device(epoch, self._block(form.dense is not None)):
            losses = np.zeros(len(at), np.float32)
            for piece in self.progress.pieces(len(at)):
                steps = put(np.array(piece, np.int32))
                state, trained = train_steps(
                    state, chunk, batches, put(rates[at]), steps, layout, numbers, form=form
                )
                losses += np.asarray(trained)
            by_chunk.append(losses)
        return state, np.concatenate(by_chunk)

    def _prune(
        self, state: TrainState, k: int, rewind: bool = False, chosen_each_step: bool = False
    ) -> TrainState:
        self.layout = None
        form, places = self._form(k, chosen_each_step), self._places(k)
        with self._timed("mask"):
            pruned = prune(state, k, self.start_key, form=form, places=places, rewind=rewind)
            return jax.block_until_ready(pruned)

    def _at_target(self, state: TrainState, now: Epoch) -> TrainState:
        """The state with as many weights as the target has.

        It has more where no final phase follows, or the mask is chosen at every step.
        """
        target = self.config.sparsity.target_nnz
        if now.kept == target:
            return state
        return self._prune(state, target, chosen_each_step=now.kept > now.nnz)

    def _validate(self, state: TrainState, now: Epoch) -> dict[str, float | None]:
        """On the host, in every process, with the scores that are served."""
        if now.kept > now.nnz:  # the mask as it would be, if training ended here
            mask = largest_mask(state, jnp.int32(now.nnz), form=self._form(now.nnz, True))
            state = state._replace(weights=jnp.where(mask, state.weights, 0))
        embeddings = self._embeddings(state)
        return evaluate(
            scorer(embeddings),
            self.val,
            self.split.train.item_ids,
            folds=self.config.eval.folds,
            seed=seed_of(self.config, "folds"),
            n_folds=1,
            held_out_from=self.split.val_from,
        ).summary()

    def _embeddings(self, state: TrainState) -> sp.csc_matrix:
        form = self._form(self.config.sparsity.target_nnz)
        return embeddings_of(state, self.split.train.n_items, form)

    def _check_finite(self, epoch: int, state: TrainState, losses: np.ndarray) -> None:
        """InputError if a step of the epoch has diverged, before anything of it is saved."""
        finite = np.isfinite(losses)
        if finite.all() and is_finite(state):
            return
        at, what = len(losses) - 1, "the gradient is not finite"
        if not finite.all():
            at = int(np.argmin(finite))
            what = f"the loss is {losses[at]}"
        rate = self.config.train.learning_rate * float(self.plan[epoch].rates(len(losses))[at])
        where = f"step {epoch * len(losses) + at + 1} (epoch {epoch + 1}, learning rate {rate:.3g})"
        advice = "lower config.train.learning_rate"
        if self.checkpoints is not None:
            saved, folder = self.checkpoints.steps(), self.checkpoints.folder
            last = f"step {saved[-1]} in {folder}" if saved else "none"
            advice = f"last sound checkpoint: {last}; {advice} and use another folder"
        raise InputError(f"{what} at {where}; {advice}")

    # How the model of an epoch is held and multiplied.

    def _form(self, kept: int, chosen_each_step: bool = False) -> Form:
        """How the step of so many weights an item is compiled."""
        dense = operand_dtype(self.config.train.precision) if self._dense(kept) else None
        return Form(
            self.config.model.n_factors,
            dense,
            self.feed.largest_block(self._block(dense is not None)),
            self.n_sampled,
            chosen_each_step,
            self.config.model.norms == "unit",
            moments_by_row(self.config),
            self.config.train.as_published,
            nested_sizes(self.config.sparsity.nested_nnz, self.config.sparsity.target_nnz),
            self.placement,
        )

    def _dense(self, kept: int) -> bool:
        return dense_pays(self._n_scored(), self.config.model.n_factors, kept, device_bytes())

    def _places(self, kept: int) -> int:
        return capacity(kept, self.config.model.n_factors, self._dense(kept))

    def _block(self, dense: bool) -> int:
        return self.feed.block(users_in_block(self._n_scored(), dense))

    def _n_scored(self) -> int:
        """Items that a step scores on each device."""
        return self.n_sampled or self.n_rows // self.n_shards

    def _n_sampled(self) -> int:
        """Items that each device samples for a step; 0 for all."""
        if not self.config.train.n_negatives:
            return 0
        n_items, negatives = self.n_rows // self.n_shards, self.config.train.n_negatives
        sampled = self.feed.most_items() + -(-negatives // self.n_shards)
        if sampled < n_items:
            return sampled
        log.info("a batch and train.n_negatives cover the catalogue: nothing is sampled")
        return 0

    def _layout_of(self, state: TrainState, form: Form) -> Layout | None:
        """That of the state's columns, where products are gathers over all items."""
        if form.dense or form.n_sampled:
            return None
        if self.layout is None:
            columns = np.split(to_host(state.columns), self.n_shards)
            parts = [make_layout(part, form.n_factors) for part in columns]
            whole = Layout(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
            if self.placement is None:
                self.layout = jax.device_put(whole)
            else:
                self.layout = Layout(*(self.placement.put(leaf, ITEM) for leaf in whole))
        return self.layout

    # What is written beside the state.

    @contextlib.contextmanager
    def _profile(self, wanted: bool) -> Iterator[None]:
        """A trace of what is done inside, for TensorBoard or Perfetto."""
        if not (wanted and self.profile and is_first_process()):
            yield
            return
        with jax.profiler.trace(str(self.profile)):
            yield
        log.info("profile: %s", self.profile)

    def _due(self, epoch: int, every: int) -> bool:
        return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.n_epochs)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started
