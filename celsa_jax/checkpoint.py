"""Checkpoints of the training state (the only file that imports orbax)."""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from celsa_jax.errors import InputError

log = logging.getLogger(__name__)

State = Any  # a pytree of arrays


class Checkpoints:
    """The newest checkpoints of a run, and the best; a context manager.

    Orbax writes a step into a temporary folder and renames it when it is whole. It does not
    notice a flipped bit, so a digest of every leaf is stored beside the state and checked when
    the state is restored.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        policies = [
            checkpoint_managers.LatestN(keep),
            # Steps without a score (dense ones, say) are not kept for being the best.
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics["score"],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=False,
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, step: int, state: State, notes: dict, score: float | None = None) -> None:
        """Saves the state, JSON notes, and the score by which the best is kept."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                notes=ocp.args.JsonSave({**notes, "digests": digests(state, notes)}),
            ),
            metrics=None if score is None else {"score": score},
        )
        self._manager.wait_until_finished()

    def restore_latest(self, like: State) -> tuple[int, State, dict] | None:
        """Step, state and notes of the newest sound checkpoint; None where there is none at all.

        Args:
          like: shapes, dtypes and shardings to restore into (`jax.eval_shape` or arrays).

        Raises:
          InputError: there are checkpoints, but none is sound.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(like), notes=ocp.args.JsonRestore()
                    ),
                )
                state, notes = restored["state"], restored["notes"]
                if notes.pop("digests") != digests(state, notes):
                    raise ValueError("its contents do not match their digests")
            except Exception as error:  # orbax and tensorstore raise many kinds
                log.warning(
                    "checkpoint %d is damaged (%s); trying an older one",
                    step,
                    " ".join(str(error).split())[:200],
                )
                continue
            for damaged in (s for s in steps if s > step):
                self._manager.delete(damaged)
            return step, state, notes
        if steps:
            raise InputError(
                f"{self._manager.directory}: no checkpoint is sound (steps {steps}); "
                "start again with another --workdir"
            )
        return None


def digests(state: State, notes: dict) -> dict[str, str]:
    """SHA-256 of the bytes of every leaf, by its path in the tree, and of the notes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    of_notes = hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()
    return {"notes": of_notes} | {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest()
        for path, leaf in leaves
    }
