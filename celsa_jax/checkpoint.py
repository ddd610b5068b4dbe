"""Checkpoints of the training state (the only file that imports orbax)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore

from celsa_jax.errors import InputError, one_line
from celsa_jax.files import check_space, remove_left_overs, temporary_beside, write_json, write_text
from celsa_jax.sharding import agreed, is_first_process, wait_for_all

log = logging.getLogger(__name__)

State = Any  # a pytree of arrays
SUMS = "SHA256SUMS"


class Checkpoints:
    """The newest checkpoints of a run, and the best; a context manager.

    With several processes all of them call what is here; the first writes the folders, which all
    must see. A state may have other numbers of rows of zeros at the end of its matrices than the
    one that was saved, as other numbers of devices bring with them.

    A checkpoint is a folder named by its step: `state` (orbax), `notes.json`, and `SHA256SUMS` of
    all their files, as `sha256sum -c` reads it. It is written under a temporary name and renamed
    when it is whole. Orbax does not notice a flipped bit, so the sums are compared before it reads
    anything.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        """Takes over a folder, which no other process may write to.

        Args:
          folder: where the checkpoints are; it need not exist.
          keep: how many of the newest are kept, beside the best.
        """
        self._folder = folder.absolute()
        self._keep = keep
        self._writes = is_first_process()
        # For OCDBT orbax takes JSON of every array from tensorstore, never freed (`_quiet`).
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler(use_ocdbt=False))
        if self._writes:
            remove_left_overs(self._folder)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()

    def steps(self) -> list[int]:
        """The steps that were saved, sound or not, ascending."""
        return steps_in(self._folder)

    def save(self, step: int, state: State, notes: dict, score: float | None = None) -> None:
        """Saves the state, JSON notes, and the score by which the best is kept.

        Raises:
          InputError: it cannot be written; those before it are still there.
        """
        temporary = self._folder / f".{step}.{agreed(secrets.randbits(31)):x}.tmp"
        try:
            if self._writes:
                temporary.mkdir(parents=True)
                # Where writes fail half-way, tensorstore's threads print tracebacks of their own.
                check_space(temporary, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            wait_for_all("checkpoint begun")
            with _quiet():
                self._orbax.save(temporary / "state", args=ocp.args.StandardSave(state))
            if self._writes:
                write_json(temporary / "notes.json", {"notes": notes, "score": score})
                write_text(temporary / SUMS, sums(temporary, flush=True))
                os.replace(temporary, self._folder / str(step))
            wait_for_all("checkpoint written")
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise InputError(
                f"{self._folder}: checkpoint {step} cannot be written ({_what(error)}); free "
                "space or mend the folder, and start again with the same command"
            ) from error
        finally:
            if self._writes:
                shutil.rmtree(temporary, ignore_errors=True)
        log.info("checkpoint saved: step %d", step)
        if self._writes:
            self._remove_old()

    def _remove_old(self) -> None:
        kept = self.steps()[-self._keep :]
        scores = {s: score for s in self.steps() if (score := self._score(s)) is not None}
        # Steps without a score (dense ones, say) are not kept for being the best.
        kept += sorted(scores, key=scores.__getitem__)[-1:]
        for old in set(self.steps()) - set(kept):
            self._remove(old)

    def restore_latest(self, like: Callable[[dict], State]) -> tuple[int, State, dict] | None:
        """Step, state and notes of the newest sound checkpoint; None where there is none at all.

        Args:
          like: from the notes of a checkpoint to the shapes, dtypes and shardings to restore into
            (`jax.eval_shape` or arrays); raises an InputError where it cannot be gone on from.

        Raises:
          InputError: there are checkpoints, but none is sound.
        """
        steps = self.steps()
        waiting = list(steps)
        while (step := agreed(self._take_sound(waiting))) >= 0:
            folder = self._folder / str(step)
            try:
                notes = json.loads((folder / "notes.json").read_bytes())["notes"]
                with _quiet():
                    restored = ocp.args.StandardRestore(like(notes), strict=False)
                    state = self._orbax.restore(folder / "state", args=restored)
            except InputError:
                raise
            except Exception as error:  # orbax and tensorstore raise many kinds
                _warn_of(step, error)
                continue
            if self._writes:
                for damaged in (s for s in steps if s > step):
                    self._remove(damaged)
            return step, state, notes
        if agreed(len(steps)):
            raise InputError(
                f"{self._folder}: no checkpoint is sound (steps {steps}); "
                "start again with another --workdir"
            )
        return None

    def _take_sound(self, steps: list[int]) -> int:
        """The newest step whose files are sound, taken off a list with those after it, or -1."""
        while steps and self._writes:  # the first process decides
            step = steps.pop()
            try:
                check_sums(self._folder / str(step))
            except (OSError, ValueError) as error:
                _warn_of(step, error)
            else:
                return step
        return -1

    def _score(self, step: int) -> float | None:
        try:
            return json.loads((self._folder / str(step) / "notes.json").read_bytes())["score"]
        except (OSError, ValueError, KeyError, TypeError):  # damaged
            return None

    def _remove(self, step: int) -> None:
        """Under a temporary name, so that a checkpoint is never there in part."""
        temporary = temporary_beside(self._folder / str(step))
        os.replace(self._folder / str(step), temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps that were saved in a folder, ascending."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def sums(folder: pathlib.Path, flush: bool = False) -> str:
    """A line for every file below a folder as `sha256sum` writes it, by name.

    Args:
      folder: any.
      flush: write the files to disk first.
    """
    lines = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / SUMS):
        with path.open("rb") as stream:
            if flush:
                os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    return "".join(lines)


def check_sums(folder: pathlib.Path) -> None:
    """ValueError unless the files below a folder are exactly those of its SHA256SUMS."""
    if not (folder / SUMS).is_file():
        raise ValueError(f"it has no {SUMS}")
    stored, found = (folder / SUMS).read_bytes(), sums(folder).encode()
    if stored != found:
        lines = set(stored.splitlines()) ^ set(found.splitlines())
        names = sorted({line[66:].decode(errors="replace") for line in lines})
        raise ValueError(f"not as {SUMS} says: {', '.join(names)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's own log, which has the traceback of an error that it raises, too.

    For that log orbax reads tensorstore's metrics at every save, some 15 kB. Tensorstore (up to
    0.1.86) never frees JSON that it hands out, and many runs in one process would fill the memory.
    """
    logger = logging.getLogger("absl")
    level, metrics = logger.level, tensorstore.experimental_collect_matching_metrics
    logger.setLevel(logging.CRITICAL)
    tensorstore.experimental_collect_matching_metrics = lambda *_, **__: []
    try:
        yield
    finally:
        logger.setLevel(level)
        tensorstore.experimental_collect_matching_metrics = metrics


def _warn_of(step: int, error: Exception) -> None:
    log.warning("checkpoint %d is damaged (%s); trying an older one", step, _what(error))


def _what(error: Exception) -> str:
    return one_line(error) or type(error).__name__
