"""What happens in each epoch of a run, decided before the first one begins."""

from __future__ import annotations

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.schedules import nnz_at


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch.

    Attributes:
      nnz: non-zeros of an item that the model has.
      kept: weights of an item that training keeps, `nnz` or more. Where it is more, as with the
        constant schedule, the mask is chosen afresh among them at every step.
      rewind: the survivors of the mask update before this epoch go back to their initial values;
        never those of a warm start, which has learned them.
      settled: how much of the final phase is behind us at its begin and at its end, in [0, 1];
        0 where the rate stays.
    """

    nnz: int
    kept: int
    rewind: bool
    settled: tuple[float, float]

    def rates(self, n_steps: int) -> np.ndarray:
        """[n_steps] float32 share of the learning rate: 1, and a half cosine to 0 in the end."""
        first, last = self.settled
        settled = first + (last - first) * np.arange(n_steps) / n_steps
        return ((1 + np.cos(np.pi * settled)) / 2).astype(np.float32)


def nested_sizes(least: int, target: int) -> tuple[int, ...]:
    """The numbers of non-zeros below the target that are trained for: the least, doubled."""
    return tuple(least << i for i in range(32) if 0 < least << i < target)


def plan(config: ConfigDict) -> list[Epoch]:
    """The epochs of a configuration without open fields (`recipe.filled`).

    The mask is updated before every epoch in which its k is another one, and always before the
    final phase, which trains at the target. Without a final phase the target is met by an update
    at the end of the run, which the plan does not list.
    """
    train, sparsity = config.train, config.sparsity
    widest, target = sparsity.start_nnz, sparsity.target_nnz
    constant = sparsity.schedule == "constant"
    falling = not train.as_published
    epochs, before = [], widest
    for epoch in range(train.n_epochs + train.n_final_epochs):
        progress = min(epoch / train.n_epochs, 1.0) if train.n_epochs else 1.0
        nnz = int(nnz_at(sparsity.schedule, progress, widest, target))
        settled = [
            falling * min(max(e - train.n_epochs, 0) / max(train.n_final_epochs, 1), 1.0)
            for e in (epoch, epoch + 1)
        ]
        rewind = sparsity.rewind and nnz != before and not constant and not train.init_from
        epochs.append(Epoch(nnz, widest if constant else nnz, rewind, (settled[0], settled[1])))
        before = nnz
    return epochs
