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
        self._n_epochs, self._n_steps = n_epochs, steps_per_epoch
        self._first = self._done = first_epoch * steps_per_epoch  # steps of the run
        self._started = self._logged = time.perf_counter()
        self._bar = tqdm.tqdm(
            initial=self._first,
            total=n_epochs * steps_per_epoch,
            unit="step",
            disable=not (show_bar and is_first_process()),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def pieces(self, n_steps: int) -> Iterator[tuple[int, int]]:
        """Cuts the steps of a chunk, so that a long epoch shows how far it is.

        Yields:
          The first step and the one to stop before; the time until the next is asked for is that
          of these steps.
        """
        first, size = 0, 1
        while first < n_steps:
            last, began = min(first + size, n_steps), time.perf_counter()
            yield first, last
            now = time.perf_counter()
            self._bar.update(last - first)
            self._done += last - first
            # As many as take some seconds; the first one compiles, and tells nothing.
            wanted = int(size * _PIECE_SECONDS / (now - began)) if first else size
            size = from_first_process(max(1, min(wanted, 2 * size)))
            first = last
            if now - self._logged > _LOG_SECONDS and first < n_steps:
                epoch, step = divmod(self._done, self._n_steps)
                self._log(epoch + 1, f"step {step} of {self._n_steps}")

    def end_epoch(self, record: dict) -> None:
        """Shows the metrics of an epoch."""
        self._bar.set_postfix(k=record["k"], loss=record["loss"])
        text = f"k {record['k']}, loss {record['loss']:.4f}, {record['users_per_s']:.0f} users/s"
        validation = record.get("ndcg@100")  # None, too, where no user has enough to be judged
        if validation is not None:
            text += f", ndcg@100 {validation:.4f}"
        self._log(record["epoch"], text)

    def _log(self, epoch: int, text: str) -> None:
        """A line where there is no bar, with the time that the rest of the run will take."""
        if not self._bar.disable:
            return
        self._logged = time.perf_counter()
        share = (self._done - self._first) / (self._n_epochs * self._n_steps - self._first)
        left = (self._logged - self._started) * (1 / share - 1)
        log.info("epoch %d/%d: %s, %.0f s left", epoch, self._n_epochs, text, left)
