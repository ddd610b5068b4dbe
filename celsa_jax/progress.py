"""How far a run is: a bar on a terminal, lines in a log elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import tqdm

from celsa_jax.sharding import from_first_process, is_first_process

log = logging.getLogger(__name__)

_PIECE_SECONDS = 2.0  # between two looks at the progress of an epoch
_LOG_SECONDS = 30.0  # between two lines about it


class Progress:
    """Of a run of epochs with equally many steps; a context manager."""

    def __init__(self, first_epoch: int, n_epochs: int, steps_per_epoch: int, show_bar: bool):
        self._first, self._n_epochs, self._n_steps = first_epoch, n_epochs, steps_per_epoch
        self._started = time.perf_counter()
        self._bar = tqdm.tqdm(
            initial=first_epoch * steps_per_epoch,
            total=n_epochs * steps_per_epoch,
            unit="step",
            disable=not (show_bar and is_first_process()),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def pieces(self, epoch: int, n_steps: int, before: int) -> Iterator[tuple[int, int]]:
        """Cuts the steps of a chunk, so that a long epoch shows how far it is.

        Args:
          epoch: from 0.
          n_steps: of the chunk.
          before: steps of the epoch before the chunk.

        Yields:
          The first step and the one to stop before; the time until the next is asked for is that
          of these steps.
        """
        first, size = 0, 1
        started = logged = time.perf_counter()
        while first < n_steps:
            last, began = min(first + size, n_steps), time.perf_counter()
            yield first, last
            now = time.perf_counter()
            self._bar.update(last - first)
            # As many as take some seconds; the first one compiles, and tells nothing.
            wanted = int(size * _PIECE_SECONDS / (now - began)) if first else size
            size = from_first_process(max(1, min(wanted, 2 * size)))
            first = last
            if self._bar.disable and now - logged > _LOG_SECONDS and first < n_steps:
                logged = now
                done, left = before + first, self._n_steps - before - first
                log.info(
                    "epoch %d/%d: step %d of %d, %.0f s left of it",
                    epoch + 1,
                    self._n_epochs,
                    done,
                    self._n_steps,
                    left * (now - started) / first,
                )

    def end_epoch(self, record: dict) -> None:
        """Shows the metrics of an epoch."""
        self._bar.set_postfix(k=record["k"], loss=record["loss"])
        if not self._bar.disable:
            return
        done = (record["epoch"] - self._first) / (self._n_epochs - self._first)
        validation = record.get("ndcg@100")  # None, too, where no user has enough to be judged
        log.info(
            "epoch %d/%d: k %d, loss %.4f, %.0f users/s, %.0f s left%s",
            record["epoch"],
            self._n_epochs,
            record["k"],
            record["loss"],
            record["users_per_s"],
            (time.perf_counter() - self._started) * (1 / done - 1),
            "" if validation is None else f", ndcg@100 {validation:.4f}",
        )
