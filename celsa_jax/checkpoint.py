"""Checkpoints of the training state (the only file that imports orbax)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from celsa_jax.errors import InputError, one_line
from celsa_jax.files import (
    TEMPORARY,
    probe_space,
    remove_left_overs,
    sync_folder,
    temporary_beside,
    write_json,
    write_text,
)
from celsa_jax.sharding import from_first_process, is_first_process, wait_for_all

log = logging.getLogger(__name__)

State = Any  # a pytree of arrays
SUMS = "SHA256SUMS"


class Checkpoints:
    """The newest checkpoints of a run; a context manager.

    With several processes all of them call what is here; the first writes the folders, which all
    must see. A state that is restored may have other numbers of rows of zeros at its end.

    A checkpoint is a folder named by its step, renamed to that when it is whole: `state` (orbax),
    `notes.json`, and `SHA256SUMS` of all their files for `sha256sum -c`, compared before orbax,
    which does not notice a flipped bit, reads anything.
    """

    # Not `ocp.CheckpointManager`: one damaged score and it does not start, it removes a checkpoint
    # file by file under its own name, and sums could only follow after its rename.

    def __init__(self, folder: pathlib.Path, keep: int):
        """Takes over a folder, which no other process may write to.

        Args:
          folder: where the checkpoints are; it need not exist.
          keep: how many are kept.
        """
        self.folder = folder.absolute()
        self._keep = keep
        self._writes = is_first_process()
        # For OCDBT tensorstore hands out JSON that it never frees.
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler(use_ocdbt=False))
        if self._writes:
            remove_left_overs(self.folder)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()

    def steps(self) -> list[int]:
        """The steps that were saved, sound or not, ascending."""
        return steps_in(self.folder)

    def save(self, step: int, state: State, notes: dict) -> None:
        """Saves the state and JSON notes.

        Raises:
          InputError: it cannot be written; those before it are still there.
        """
        temporary = self.folder / TEMPORARY.format(step)  # the same in every process
        try:
            if self._writes:
                temporary.mkdir(parents=True)
                # Where writes fail half-way, tensorstore's threads print tracebacks of their own.
                probe_space(temporary, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            wait_for_all("checkpoint begun")
            if jax.process_count() == 1:
                # For arrays of JAX it does so, too, at every save.
                state = jax.device_get(state)
            with _quiet():
                self._orbax.save(temporary / "state", args=ocp.args.StandardSave(state))
            if self._writes:
                write_json(temporary / "notes.json", notes)
                write_text(temporary / SUMS, sums(temporary, flush=True))
                for folder in (path for path in temporary.rglob("*") if path.is_dir()):
                    sync_folder(folder)
                os.replace(temporary, self.folder / str(step))
                sync_folder(self.folder)  # before older ones are removed
            wait_for_all("checkpoint written")
        except Exception as error:  # orbax and tensorstore raise many kinds
            reason = one_line(error) or type(error).__name__
            raise InputError(
                f"{self.folder}: checkpoint {step} cannot be written ({reason}); free space or "
                "mend the folder, and start again with the same command"
            ) from error
        finally:
            if self._writes:
                shutil.rmtree(temporary, ignore_errors=True)
        log.info("checkpoint saved: step %d", step)
        if self._writes:
            for old in self.steps()[: -self._keep]:
                self._remove(old)

    def restore_latest(self, like: Callable[[dict], State]) -> tuple[int, State, dict] | None:
        """Step, state and notes of the newest sound checkpoint; None where there is none at all.

        Args:
          like: from the notes of a checkpoint to the shapes, dtypes and shardings to restore into
            (`jax.eval_shape` or arrays); raises an InputError where it cannot be gone on from.

        Raises:
          InputError: there are checkpoints, but none is sound.
        """
        step = from_first_process(self._newest_sound() if self._writes else -1)
        if step < 0:
            if steps := self.steps():
                raise InputError(
                    f"{self.folder}: no checkpoint is sound (steps {steps}); start again in "
                    "another folder"
                )
            return None
        folder = self.folder / str(step)
        notes = json.loads((folder / "notes.json").read_bytes())
        shapes = ocp.args.StandardRestore(like(notes), strict=False)
        state = self._orbax.restore(folder / "state", args=shapes)
        if self._writes:
            for damaged in (s for s in self.steps() if s > step):
                self._remove(damaged)
        return step, state, notes

    def _newest_sound(self) -> int:
        """The newest step whose files are as their sums say, or -1."""
        for step in reversed(self.steps()):
            try:
                check_sums(self.folder / str(step))
                return step
            except (OSError, ValueError) as error:
                log.warning("checkpoint %d is damaged (%s); trying an older one", step, error)
        return -1

    def _remove(self, step: int) -> None:
        """Under a temporary name, so that a checkpoint is never there in part."""
        temporary = temporary_beside(self.folder / str(step))
        os.replace(self.folder / str(step), temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps that were saved in a folder, ascending."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def sums(folder: pathlib.Path, flush: bool = False) -> str:
    """A line for every file below a folder as `sha256sum` writes it, by name.

    With `flush`, the files are written to disk first.
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
    stored, actual = (folder / SUMS).read_bytes(), sums(folder).encode()
    if stored != actual:
        lines = set(stored.splitlines()) ^ set(actual.splitlines())
        names = sorted({line[66:].decode(errors="replace") for line in lines})
        raise ValueError(f"not as {SUMS} says: {', '.join(names)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's log of a save: warnings without need, tracebacks of what it raises too."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
