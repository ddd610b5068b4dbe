"""The loop over epochs, with gradual pruning."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx
from ml_collections import ConfigDict

from celsa_jax import stopping, tensorboard
from celsa_jax.checkpoint import Checkpoints
from celsa_jax.config import seed_of
from celsa_jax.data import Split
from celsa_jax.data.batches import Chunk, in_blocks, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.errors import InputError
from celsa_jax.memory import device_bytes
from celsa_jax.plan import Epoch, plan
from celsa_jax.products import (
    Layout,
    capacity,
    dense_pays,
    make_layout,
    operand_dtype,
    users_in_block,
)
from celsa_jax.sampling import n_columns
from celsa_jax.scoring import device_scorer, evaluate_model
from celsa_jax.sharding import (
    DATA,
    ITEM,
    Placement,
    from_first_process,
    in_any_process,
    is_first_process,
    shaped,
    to_host,
)
from celsa_jax.sparse.retrieval import Scorer
from celsa_jax.starts import Start
from celsa_jax.state import (
    Form,
    Numbers,
    TrainState,
    is_finite,
    nnz_per_row,
    prune,
    random_state,
    sparse_state,
    state_shape,
    without_rows_of_no_item,
)
from celsa_jax.step import train_steps
from celsa_jax.workdir import Workdir

log = logging.getLogger(__name__)


LAYOUT = 2  # of checkpoints, told apart by it
_PIECE_SECONDS = 2.0  # between two looks at the progress of an epoch
_LOG_SECONDS = 30.0  # between two lines about it


class TrainingLoop:
    """The epochs of a run: pruning, training, validation, checkpoints, metrics."""

    def __init__(
        self,
        config: ConfigDict,
        split: Split,
        folder: Workdir,
        checkpoints: Checkpoints,
        placement: Placement | None,
    ):
        """Prepares the users of every epoch.

        Args:
          config: of the run, without open fields (`recipe.filled`).
          split: users to train on and to validate with.
          folder, checkpoints: of the run.
          placement: on several devices, or None.
        """
        self.config = config
        self.split = split
        self.folder = folder
        self.checkpoints = checkpoints
        self.placement = placement
        self.plan = plan(config)
        self.n_epochs = len(self.plan)
        train = config.train
        self.seed = seed_of(config, "training")
        self.start_key = nnx.Rngs(params=seed_of(config, "start")).params()
        self.chunks = make_chunks(split.train.matrix, train.chunk_users, self.seed)
        streaming = len(self.chunks) > 1
        self.resident = None if streaming else self._to_device(self.chunks[0])
        self.batch_size = min(train.batch_size, self.chunks[0].n_rows)
        self.batch_size += -self.batch_size % self._share(DATA)
        self.steps_per_epoch = len(self.chunks) * -(-self.chunks[0].n_rows // self.batch_size)
        self.n_rows = split.train.n_items if placement is None else placement.n_rows
        # Every order of users is known before training, and so are the largest batches.
        self.n_sampled = 0
        if train.n_negatives:
            largest_batch = self._largest(lambda batches: batches)
            n_items = self.n_rows // self._share(ITEM)
            negatives = -(-train.n_negatives // self._share(ITEM))
            self.n_sampled = n_columns(n_items, largest_batch, negatives)
            if self.n_sampled == n_items:
                log.info("a batch and train.n_negatives cover the catalogue: nothing is sampled")
                self.n_sampled = 0
        self.budgets: dict[int, int] = {}  # interactions of the largest block, by users in a block
        val = split.val
        if val.n_users > config.eval.max_val_users:
            rng = np.random.default_rng(seed_of(config, "split"))
            val = val.take_users(
                np.sort(rng.choice(val.n_users, config.eval.max_val_users, replace=False))
            )
        self.val = val
        self.layout: Layout | None = None  # of the columns as they are, once it is made
        self.seconds = {"training": 0.0, "mask": 0.0, "validation": 0.0, "checkpoint": 0.0}

    def train(self, start: Start | None) -> tuple[TrainState, float]:
        """The trained state, and the seconds spent before this process resumed the run.

        Args:
          start: where to begin unless the run is resumed; None for dense, at random.
        """
        started = time.perf_counter()
        state, first, before = self._resume() or (self._begin(start), 0, 0.0)
        self.folder.cut_metrics(int(state.step), first)
        # On a terminal a bar shows the epochs; elsewhere the log has one line for each.
        shown = sys.stderr.isatty() and is_first_process()
        self.bar = tqdm.tqdm(
            initial=first * self.steps_per_epoch,
            total=self.n_epochs * self.steps_per_epoch,
            unit="step",
            disable=not shown,
        )
        with self.bar, self._tensorboard(int(state.step)) as log_scalars:
            for epoch in range(first, self.n_epochs):
                state = self._prune_before(epoch, state)
                with self._profile(epoch == min(first + 1, self.n_epochs - 1)):
                    state, record = self._train_epoch(epoch, state)
                self.folder.log_metrics(record)
                log_scalars(record)
                stop = in_any_process(stopping.requested())
                due = self._due(epoch, self.config.checkpoint.every_epochs)
                if due or stop or "ndcg@100" in record:
                    at_target = self.plan[epoch].nnz == self.config.sparsity.target_nnz
                    score = record.get("ndcg@100") if at_target else None
                    elapsed = before + time.perf_counter() - started
                    notes = {
                        "layout": LAYOUT,
                        "epoch": epoch + 1,
                        "seconds": self.seconds,
                        "elapsed": elapsed,
                    }
                    with _timed(self.seconds, "checkpoint"):
                        self.checkpoints.save(int(state.step), state, notes, score)
                self.bar.set_postfix(k=record["k"], loss=record["loss"])
                if self.bar.disable:
                    done = (epoch + 1 - first) / (self.n_epochs - first)
                    left = (time.perf_counter() - started) * (1 / done - 1)
                    self._log_line(record, left)
                if stop:
                    stopping.leave(f"checkpoint at step {int(state.step)}")
        return state, before

    def scorer(self, state: TrainState, kept: int) -> Scorer:
        """Serving scores of a state with so many weights an item."""
        form = self._form(kept)
        return device_scorer(state, form, self._layout_of(state, form))

    def seconds_by_part(self) -> dict[str, float]:
        return {f"{part}_seconds": round(spent, 2) for part, spent in self.seconds.items()}

    def _tensorboard(self, step: int) -> contextlib.AbstractContextManager[tensorboard.Log]:
        """What logs the metrics from a step on for TensorBoard, or nowhere."""
        if self.config.train.tensorboard and is_first_process():
            return tensorboard.scalars(self.folder.tensorboard, step)
        return contextlib.nullcontext(lambda record: None)

    def _begin(self, start: Start | None) -> TrainState:
        widest = self.config.sparsity.start_nnz
        form, places = self._form(widest), self._places(widest)
        if start is None:
            return random_state(self.start_key, self.split.train.n_items, form, places)
        return sparse_state(start, form, places)

    def _resume(self) -> tuple[TrainState, int, float] | None:
        def like(notes: dict) -> TrainState:
            if notes.get("layout") != LAYOUT:
                raise InputError(
                    f"{self.folder.path}: its checkpoints are of another version of celsa_jax, "
                    "with another layout; go on with that version, or use another folder"
                )
            kept = self._kept_after(notes["epoch"])
            return shaped(state_shape(self.n_rows, self._places(kept)), self.placement)

        found = self.checkpoints.restore_latest(like)
        if found is None:
            return None
        step, state, notes = found
        log.info("resumed at step %d", step)
        self.seconds |= notes["seconds"]
        if self.placement is None:
            # Bound to no device, as a new state is: for bound ones all would be compiled again.
            state = jax.device_put(jax.device_get(state))
        else:  # it may have been saved on another number of devices
            state = without_rows_of_no_item(state, self._form(self._kept_after(notes["epoch"])))
        return state, notes["epoch"], notes["elapsed"]

    def _kept_after(self, epoch: int) -> int:
        """Weights of an item after so many epochs."""
        if epoch == self.n_epochs:
            return self.config.sparsity.target_nnz
        return self.plan[epoch - 1].kept

    def _form(self, kept: int, chosen_each_step: bool = False) -> Form:
        """How the step of so many weights an item is compiled."""
        config, n_factors = self.config, self.config.model.n_factors
        dense = None
        if self._dense(kept):
            dense = operand_dtype(config.train.precision)
        block = self._block(dense is not None)
        if block not in self.budgets:
            self.budgets[block] = self._largest(lambda batches: self._blocks(batches, block))
        return Form(
            n_factors,
            dense,
            self.budgets[block],
            self.n_sampled,
            chosen_each_step,
            self.placement,
        )

    def _dense(self, kept: int) -> bool:
        n_items = self.n_sampled or self.n_rows // self._share(ITEM)
        return dense_pays(n_items, self.config.model.n_factors, kept, device_bytes())

    def _places(self, kept: int) -> int:
        return capacity(kept, self.config.model.n_factors, self._dense(kept))

    def _block(self, dense: bool) -> int:
        """Users in a block: as even as it goes, and a multiple of 8 (`products`)."""
        most = users_in_block(self.n_sampled or self.n_rows // self._share(ITEM), dense)
        users = self.batch_size // self._share(DATA)
        block = -(-users // -(-users // most))
        return block + -block % 8

    def _blocks(self, batches: jax.Array, block: int) -> jax.Array:
        return in_blocks(batches, block, self._share(DATA), self.chunks[0].n_rows)

    def _largest(self, cut: Callable[[jax.Array], jax.Array]) -> int:
        """Interactions in the largest of all batches, or of what they are cut into.

        Rounded up by an eighth at most, so that another order of users compiles nothing.
        """
        largest = max(
            nnz_budget(chunk, cut(batches))
            for epoch in range(self.n_epochs)
            for chunk, batches in self._epoch(epoch)
        )
        step = 1 << max(0, largest.bit_length() - 4)
        return -(-largest // step) * step

    def _share(self, axis: str) -> int:
        return 1 if self.placement is None else self.placement.mesh.shape[axis]

    def _epoch(self, epoch: int) -> list[tuple[Chunk, jax.Array]]:
        """The chunks of an epoch in their order, each with its batches."""
        key = jax.random.fold_in(jax.random.key(self.seed), epoch)
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.chunks))
        n_rows = self.chunks[0].n_rows
        return [
            (
                self.chunks[c],
                shuffled_batches(jax.random.fold_in(key, int(c)), n_rows, self.batch_size),
            )
            for c in order
        ]

    def _on_device(self, epoch: int, block: int) -> Iterator[tuple[Chunk, jax.Array]]:
        """An epoch's chunks on the device; the next is on its way while one is trained on."""
        chunks = (
            (self.resident or self._to_device(chunk), self._on_all(self._blocks(batches, block)))
            for chunk, batches in self._epoch(epoch)
        )
        ahead = next(chunks)
        for arriving in chunks:
            yield ahead
            ahead = arriving
        yield ahead

    def _to_device(self, chunk: Chunk) -> Chunk:
        if self.placement is None:
            return jax.device_put(chunk)
        return Chunk(self.placement.put(chunk.indptr), self.placement.put(chunk.indices))

    def _on_all(self, array: jax.Array | np.ndarray) -> jax.Array:
        return jnp.asarray(array) if self.placement is None else self.placement.put(array)

    def _layout_of(self, state: TrainState, form: Form) -> Layout | None:
        """That of the state's columns, where products are gathers over all items."""
        if form.dense or form.n_sampled:
            return None
        if self.layout is None:
            n_shards = self._share(ITEM)
            columns = np.split(to_host(state.columns), n_shards)
            parts = [make_layout(part, form.n_factors) for part in columns]
            whole = Layout(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
            if self.placement is None:
                self.layout = jax.device_put(whole)
            else:
                self.layout = Layout(*map(self.placement.put_rows, whole))
        return self.layout

    def _prune_before(self, epoch: int, state: TrainState) -> TrainState:
        """The mask update that happens before an epoch, if any."""
        now, before = self.plan[epoch], self.config.sparsity.start_nnz
        if epoch:
            before = self.plan[epoch - 1].kept
        return state if now.kept == before else self._prune(state, now.kept, now.rewind)

    def _prune(self, state: TrainState, k: int, rewind: bool = False) -> TrainState:
        with _timed(self.seconds, "mask"):
            return jax.block_until_ready(self._pruned(state, k, rewind))

    def _pruned(self, state: TrainState, k: int, rewind: bool = False) -> TrainState:
        self.layout = None
        form, places = self._form(k), self._places(k)
        return prune(state, k, self.start_key, form=form, places=places, rewind=rewind)

    def _train_epoch(
        self, epoch: int, state: TrainState
    ) -> tuple[TrainState, dict[str, float | None]]:
        started = time.perf_counter()
        config, now = self.config, self.plan[epoch]
        form = self._form(now.kept, now.kept > now.nnz)
        layout = self._layout_of(state, form)
        rates = now.rates(self.steps_per_epoch)
        numbers = Numbers(
            jax.random.fold_in(jax.random.key(self.seed), self.n_epochs),
            config.train.learning_rate,
            config.train.b1,
            config.train.input_dropout,
            now.nnz,
        )
        by_chunk: list[np.ndarray] = []
        per_chunk = np.split(np.arange(self.steps_per_epoch), len(self.chunks))
        on_device = self._on_device(epoch, self._block(form.dense is not None))
        for (chunk, batches), at in zip(on_device, per_chunk, strict=True):
            losses = np.zeros(len(at), np.float32)
            for first, last in self._pieces(epoch, len(at), at[0]):
                state, part = train_steps(
                    state,
                    chunk,
                    batches,
                    self._on_all(rates[at]),
                    self._on_all(np.array([first, last], np.int32)),
                    layout,
                    numbers,
                    form=form,
                )
                losses += np.asarray(part)
            by_chunk.append(losses)
        losses = np.concatenate(by_chunk)
        loss = float(losses.sum(dtype=np.float64)) / self.split.train.n_users
        spent = time.perf_counter() - started
        self.seconds["training"] += spent
        self._check_finite(epoch, state, losses, rates)
        if epoch + 1 == self.n_epochs and now.kept > config.sparsity.target_nnz:
            # Meets the target where no final phase follows, or the mask was chosen every step.
            state = self._prune(state, config.sparsity.target_nnz)
        realised = to_host(nnz_per_row(state))[: self.split.train.n_items]
        record: dict[str, float | None] = {
            "step": int(state.step),
            "epoch": epoch + 1,
            "k": now.nnz,
            "nnz_per_row": float(realised.mean()),
            "nnz_per_row_min": int(realised.min()),
            "nnz_per_row_max": int(realised.max()),
            "loss": loss,
            "users_per_s": round(self.split.train.n_users / spent, 1),
            "seconds": round(spent, 3),
        }
        if self.val.n_users and self._due(epoch, config.eval.every_epochs):
            with _timed(self.seconds, "validation"):
                record |= self._validate(state, now)
        return state, record

    def _validate(self, state: TrainState, now: Epoch) -> dict[str, float | None]:
        ends_here = now.kept > now.nnz  # the mask as it would be then
        if ends_here:
            state = self._pruned(jax.tree.map(jnp.copy, state), now.nnz)
        users, item_ids = self.val, self.split.train.item_ids
        scorer = self.scorer(state, now.nnz)
        held_out_from = self.split.val_from
        judged = evaluate_model(self.config, scorer, users, item_ids, held_out_from, n_folds=1)
        if ends_here:
            self.layout = None  # was that of the copy
        return judged.summary()

    def _pieces(self, epoch: int, n_steps: int, before: int) -> Iterator[tuple[int, int]]:
        """Cuts the steps of a chunk, so that a long epoch shows how far it is."""
        first, size = 0, 1
        started = logged = time.perf_counter()
        while first < n_steps:
            last = min(first + size, n_steps)
            began = time.perf_counter()
            yield first, last
            now = time.perf_counter()
            self.bar.update(last - first)
            # As many as take some seconds; the first one compiles, and tells nothing.
            wanted = int(size * _PIECE_SECONDS / (now - began)) if first else size
            size = from_first_process(max(1, min(wanted, 2 * size)))
            first = last
            if self.bar.disable and now - logged > _LOG_SECONDS and first < n_steps:
                logged = now
                left = (now - started) * (self.steps_per_epoch - before - first) / first
                log.info(
                    "epoch %d/%d: step %d of %d, %.0f s left of it",
                    epoch + 1,
                    self.n_epochs,
                    before + first,
                    self.steps_per_epoch,
                    left,
                )

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
            "config.train.learning_rate and use another folder"
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
