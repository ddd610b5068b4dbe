"""How options are chosen: by the ranking of validation users."""

from __future__ import annotations

from celsa_jax.data import Split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.sparse.scores import Scorer

CHOSEN_BY = "ndcg@100"


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
            "something held out; take more of them (n_val_users), or split by time at another "
            "val_from"
        )
    return value
