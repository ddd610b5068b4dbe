"""How options are chosen: by the ranking of validation users."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from celsa_jax.data import Split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import MAIN_METRIC, evaluate
from celsa_jax.sparse.scores import Scorer

Fit = TypeVar("Fit")


def choose(
    fit: Callable[..., Fit], grid: Mapping[str, Iterable], value: Callable[[Fit], float]
) -> tuple[Fit, dict[str, object], list[dict[str, object]]]:
    """The best fit of all combinations of options, of equals the first.

    Args:
      fit: takes one value of each option by keyword.
      grid: by option, the values to choose from; at least one each.
      value: of a fit, the higher the better (`validation_value`).

    Returns:
      The fit, its options, and all combinations, each with its value as MAIN_METRIC.
    """
    best: tuple[Any, dict[str, object]] = None, {}
    highest, tried = -math.inf, []
    for values in itertools.product(*grid.values()):
        options = dict(zip(grid, values, strict=True))
        fitted = fit(**options)
        judged = value(fitted)
        tried.append({**options, MAIN_METRIC: judged})
        if best[0] is None or judged > highest:
            best, highest = (fitted, options), judged
    return *best, tried


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
    ).summary()[MAIN_METRIC]
    if value is None:
        raise InputError(
            "options are chosen on validation users, and none of them has both a history and "
            "something held out; take more of them (n_val_users), or split by time at another "
            "val_from"
        )
    return value
