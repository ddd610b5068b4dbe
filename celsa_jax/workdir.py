"""The files of a run: configuration, metrics, results."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.config import by_name, default_config, outcome
from celsa_jax.errors import InputError
from celsa_jax.files import (
    locked,
    naming,
    read_json,
    read_json_lines,
    remove_left_overs,
    write_json,
    write_text,
)
from celsa_jax.sparse.npz import read_item_ids, write_ids

log = logging.getLogger(__name__)


class Workdir:
    """A folder that holds one run.

    Args:
      path: of the folder; nothing is made yet.
      writes: whether this process is the one that writes there, of several at one run; in the
        others all that would write does nothing.
    """

    def __init__(self, path: str | pathlib.Path, writes: bool = True):
        self.path = pathlib.Path(path)
        self._writes = writes
        self.config = self.path / "config.json"
        self.split = self.path / "split.npz"
        self.embeddings = self.path / "embeddings.npz"
        self.checkpoints = self.path / "checkpoints"
        self._metrics = self.path / "metrics.jsonl"
        self._results = self.path / "results.json"
        self._factors = self.path / "factors.txt"

    def check(self, config: ConfigDict) -> None:
        """InputError if the folder holds a run of another configuration, or files of others."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; give a folder")
        if not self.config.exists():
            # Of a run it is the first file; others of these names would be lost.
            ours = [self.split, self.embeddings, self.path / "items.txt"]
            ours += [self._factors, self._metrics, self._results]
            if strange := [path.name for path in ours if path.exists()]:
                raise InputError(
                    f"{self.path}: has {strange[0]}, but no config.json, so this is no run's "
                    "folder; use another one"
                )
            return
        both = (self.stored_config(), config)
        stored, wanted = (by_name(json.loads(json.dumps(outcome(c)))) for c in both)
        differing = [f for f in {**stored, **wanted} if stored.get(f) != wanted.get(f)]
        if differing:
            field = differing[0]
            raise InputError(
                f"{self.path}: holds a run with config.{field}={stored.get(field)!r}, not "
                f"{wanted.get(field)!r} ({len(differing)} fields differ); use another folder"
            )

    def stored_config(self) -> ConfigDict:
        """The configuration of the run; a field that it does not have is at its default."""
        config, stored = default_config(), _read_object(self.config)
        try:
            config.update(stored)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(self.config, error) from None
        return config

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps other processes out; with nothing in it, it goes again.

        Raises:
          InputError: another process is at the run, or the folder cannot be written to.
        """
        if not self._writes:
            yield
            return
        new = not self.path.exists()
        with locked(self.path / ".lock", wait=False) as held:
            if not held:
                raise InputError(
                    f"{self.path}: another process is at this run; wait for it, or use another "
                    "folder"
                )
            try:
                yield
            finally:
                if new and {path.name for path in self.path.iterdir()} == {".lock"}:
                    shutil.rmtree(self.path)  # bad input: nothing has begun

    def start(self, config: ConfigDict) -> None:
        """Writes the configuration."""
        if not self._writes:
            return
        remove_left_overs(self.path)
        if not self.config.exists():
            write_text(self.config, config.to_json(indent=2) + "\n")

    def keep_factors(self, item_ids: np.ndarray) -> None:
        """Writes the items of the factors, which a resumed run cannot find out any more."""
        if self._writes:
            write_ids(self._factors, item_ids)

    def kept_factors(self) -> np.ndarray:
        """What `keep_factors` wrote, [n_factors]; InputError where it is gone or damaged."""
        return read_item_ids(self._factors)

    def results(self) -> dict | None:
        """The results of a finished run."""
        return _read_object(self._results) if self._results.exists() else None

    def finish(self, results: dict) -> None:
        if self._writes:
            write_json(self._results, results)

    def log_metrics(self, record: dict) -> None:
        """Appends one line to metrics.jsonl."""
        if self._writes:
            with naming(self._metrics), self._metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict]:
        """What was logged, sound lines alone."""
        return [r for r in read_json_lines(self._metrics) if {"step", "epoch"} <= set(r)]

    def cut_metrics(self, step: int, epoch: int) -> None:
        """Drops what was logged after a checkpoint, a half-written line included.

        The log is no part of the training state: a run whose log misses epochs goes on, and says
        so.

        Args:
          step: of the checkpoint.
          epoch: how many epochs it has behind it.
        """
        if not self._writes:
            return
        kept = [record for record in self.metrics() if record["step"] <= step]
        epochs = {record["epoch"] for record in kept}
        if missing := sorted(set(range(1, epoch + 1)) - epochs):
            log.warning("%s: damaged: epochs %s are missing; going on", self._metrics, missing)
        write_text(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))


def _read_object(path: pathlib.Path) -> dict:
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except ValueError as error:
        raise _damaged(path, error) from None


def _damaged(path: pathlib.Path, error: Exception) -> InputError:
    return InputError(f"{path}: damaged: {error}; use another folder")
