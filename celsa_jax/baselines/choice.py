"""Options chosen on validation users: of several fits, the one that ranks them best."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Generic, TypeVar

from celsa_jax.data import Split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.sparse.retrieval import Scorer

CHOSEN_BY = "ndcg@100"

Fitted = TypeVar("Fitted")


@dataclasses.dataclass(eq=False)
class Choice(Generic[Fitted]):
    """The best of the fits that were offered; the others are not kept.

    Attributes:
      options: of the best, of equals the first; empty before an offer.
      fitted: the best itself; there is none before an offer.
      tried: the options of every offer and their validation value, in their order.
    """

    options: dict[str, object] = dataclasses.field(default_factory=dict)
    fitted: Fitted = dataclasses.field(init=False, repr=False)
    tried: list[tuple[dict[str, object], float]] = dataclasses.field(default_factory=list)

    def offer(self, options: dict[str, object], fitted: Fitted, value: float) -> None:
        """Keeps the fit if its value is above those of all before it."""
        if not self.tried or value > max(before for _, before in self.tried):
            self.options, self.fitted = options, fitted
        self.tried.append((options, value))


def several(options: Mapping[str, object]) -> dict[str, list | tuple]:
    """Those options that have a list of values to choose from."""
    return {name: value for name, value in options.items() if isinstance(value, list | tuple)}


def combinations(options: Mapping[str, object]) -> list[dict[str, object]]:
    """Every way to take one value of each list of `several`; the last option changes first."""
    grid = several(options)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def validation_value(score: Scorer, split: Split, *, folds: str, seed: int) -> float:
    """nDCG@100 of the split's validation users, by the protocol that judges test users.

    Args:
      score: from histories, CSR [n, n_items] float32, to scores [n, n_items].
      split: with at least one validation user.
      folds, seed: see `celsa_jax.evaluation.evaluate`.

    Raises:
      InputError: not one of them has both a history and something held out.
    """
    value = evaluate(
        score,
        split.val,
        split.train.item_ids,
        folds=folds,
        seed=seed,
        held_out_from=split.val_from,
    ).summary()[CHOSEN_BY]
    if value is None:
        raise InputError(
            "options are chosen on validation users, and none of them has both a history and "
            "something held out; raise config.data.n_val_users, or for a split by time move "
            "config.data.val_from"
        )
    return value
