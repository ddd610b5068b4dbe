"""The epochs of a run: it is pruned and trained at the target, and once more to refine it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Phase:
    """From a dense model to the target, and training there.

    Attributes:
      first: the epoch at which it begins, from 0.
      n_pruning: epochs in which the mask shrinks.
      n_final: epochs at the target after them.
      rewind: survivors of a mask update go back to their initial values.
    """

    first: int
    n_pruning: int
    n_final: int
    rewind: bool

    @property
    def at_target(self) -> int:
        """The first epoch at the target."""
        return self.first + self.n_pruning

    @property
    def end(self) -> int:
        """The first epoch after the phase."""
        return self.at_target + self.n_final

    def pruned(self, epochs: float | np.ndarray) -> np.ndarray:
        """How much of the pruning is behind us after so many epochs of the run, in [0, 1]."""
        return _share(epochs - self.first, self.n_pruning)

    def settled(self, epochs: float | np.ndarray) -> np.ndarray:
        """How much of the training at the target is behind us, in [0, 1]."""
        return _share(epochs - self.at_target, self.n_final)


def _share(part: float | np.ndarray, whole: int) -> np.ndarray:
    return np.clip(part / whole, 0.0, 1.0) if whole else np.asarray(part >= 0, float)


def phases_of(config: ConfigDict) -> list[Phase]:
    """The first phase, and one more for each round of refinement.

    A model without zeros, a constant schedule and weights that may regrow leave nothing to refine,
    and a warm start is a refinement itself: what was learned before is not to be forgotten, so it
    does not rewind either.
    """
    train, refine, sparsity = config.train, config.refine, config.sparsity
    rewind = sparsity.rewind and not train.init_from
    phases = [Phase(0, train.n_epochs, train.n_final_epochs, rewind)]
    prunes = sparsity.target_nnz < config.model.n_factors and sparsity.schedule != "constant"
    if prunes and not sparsity.regrow and not train.init_from:
        for _ in range(refine.n_rounds):
            phases.append(Phase(phases[-1].end, refine.n_epochs, refine.n_final_epochs, False))
    return [phase for phase in phases if phase.end > phase.first]


def phase_at(phases: Sequence[Phase], epoch: int) -> Phase:
    """The phase that an epoch belongs to."""
    return next(phase for phase in phases if epoch < phase.end)
