"""Fold-in evaluation: rank the whole catalogue for what is left of a test user's history."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import scipy.stats

from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.errors import InputError
from celsa_jax.evaluation.folds import N_FOLDS, holdouts
from celsa_jax.evaluation.metrics import DEPTH, METRICS, ranking_metrics
from celsa_jax.sparse.rows import top_k
from celsa_jax.sparse.scores import Scorer

_MOST_USERS = 512
_SCORES_AT_ONCE = 1 << 26


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """Metrics of one scoring function on one set of users.

    Attributes:
      per_user: for each name in METRICS, [n_users] float64: the mean over the user's folds, NaN
        where every fold was skipped.
      user_ids: [n_users] external ids of those rows.
      counts: users and user-folds evaluated and skipped; interactions outside the catalogue,
        added up over the folds.
    """

    per_user: dict[str, np.ndarray]
    user_ids: np.ndarray
    counts: dict[str, int]

    def __repr__(self) -> str:
        found, n_users = self.summary(), self.counts["n_users"]
        means = (f"{name} {found[name]:.4f}" for name in self.per_user if found[name] is not None)
        return f"Evaluation({', '.join([f'{n_users} users', *means])})"

    def summary(self) -> dict[str, float | None]:
        """Means over users and their standard errors, `NAME` and `NAME_stderr`.

        None where it is undefined: a mean of no user, a standard error of fewer than two.
        """
        result: dict[str, float | None] = {}
        for name, values in self.per_user.items():
            values = values[~np.isnan(values)]
            result[name] = float(values.mean()) if len(values) else None
            result[f"{name}_stderr"] = float(scipy.stats.sem(values)) if len(values) > 1 else None
        return result


def evaluate(
    score: Scorer,
    data: Interactions,
    item_ids: np.ndarray,
    *,
    folds: str = "disjoint",
    seed: int = 0,
    n_folds: int = N_FOLDS,
    held_out_from: int | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluates a scoring function on interactions it was not trained on.

    For each fold the history is what is not held out; the whole catalogue is ranked, with the
    history at -inf. Items outside the catalogue are ignored in a history and count as misses
    when held out. A user-fold with nothing held out or no history left is skipped.

    Args:
      score: from histories, CSR [n, n_items] float32, to scores [n, n_items].
      data: the users to test, over any items.
      item_ids: [n_items] the catalogue, in the order of the scores' columns.
      folds: `disjoint` or `independent` (see `holdouts`).
      seed: of the folds.
      n_folds: how many of the five folds to use.
      held_out_from: seconds since 1970; hold out what happened from then on, and no folds.
      batch_size: users scored at once; None for as many as `users_at_once` says.

    Raises:
      InputError: scores that are not finite, or another kind of folds.
      ValueError: `held_out_from`, and the times of `data` are not known.

    Example:
      >>> matrix, ids = sp.identity(3, np.float32, format="csr"), np.array(["a", "b", "c"])
      >>> data = Interactions(matrix + matrix[[1, 2, 0]], ids, ids)
      >>> result = evaluate(lambda history: history @ np.ones((3, 3)), data, ids)
      >>> result.summary()["recall@20"], result.counts["n_user_folds"]
      (1.0, 6)
    """
    batch_size = batch_size or users_at_once(len(item_ids))
    unknown = lookup(item_ids, data.item_ids)[data.matrix.indices] < 0
    sums = {name: np.zeros(data.n_users) for name in METRICS}
    n_evaluated = np.zeros(data.n_users, np.int64)

    if held_out_from is None:
        masks = holdouts(data, folds, seed)[:n_folds]
    else:
        masks = data.since(held_out_from)[None]
    for users, history, targets, n_held_out in user_folds(data, item_ids, masks):
        for start in range(0, len(users), batch_size):
            batch = slice(start, start + batch_size)
            hits = _hits(rank_unseen(score, history[batch]), targets[batch])
            for name, values in ranking_metrics(hits, n_held_out[batch]).items():
                sums[name][users[batch]] += values
        n_evaluated[users] += 1

    with np.errstate(invalid="ignore"):
        per_user = {name: total / n_evaluated for name, total in sums.items()}
    counts = {
        "n_users": int((n_evaluated > 0).sum()),
        "n_users_skipped": int((n_evaluated == 0).sum()),
        "n_user_folds": int(n_evaluated.sum()),
        "n_user_folds_skipped": int(len(masks) * data.n_users - n_evaluated.sum()),
        "n_unknown_in_histories": int((~masks[:, unknown]).sum()),
        "n_unknown_held_out": int(masks[:, unknown].sum()),
    }
    return Evaluation(per_user, data.user_ids, counts)


def user_folds(
    data: Interactions, item_ids: np.ndarray, masks: np.ndarray
) -> Iterator[tuple[np.ndarray, sp.csr_matrix, sp.csr_matrix, np.ndarray]]:
    """For each mask the users who have a history and something held out.

    Args:
      data: interactions, over any items.
      item_ids: [n_items] the catalogue.
      masks: [n_folds, nnz] bool, what is held out (`holdouts`).

    Yields:
      Their rows in `data`; CSR [n, n_items] of their histories and of what is held out, in the
      catalogue; how much is held out in all.
    """
    column = lookup(item_ids, data.item_ids)[data.matrix.indices]
    users = np.repeat(np.arange(data.n_users), np.diff(data.matrix.indptr))
    known = column >= 0
    shape = (data.n_users, len(item_ids))
    for held_out in masks:
        history = _matrix(users, column, known & ~held_out, shape)
        targets = _matrix(users, column, known & held_out, shape)
        n_held_out = np.bincount(users[held_out], minlength=data.n_users)
        usable = np.flatnonzero((n_held_out > 0) & (history.getnnz(axis=1) > 0))
        yield usable, history[usable], targets[usable], n_held_out[usable]


def users_at_once(n_items: int) -> int:
    """Users that are scored together, so that memory is bounded whatever the catalogue."""
    n_users = min(_MOST_USERS, _SCORES_AT_ONCE // n_items)
    return n_users // 8 * 8 or max(1, n_users)


def rank_unseen(score: Scorer, history: sp.csr_matrix, k: int = DEPTH) -> np.ndarray:
    """[n_users, k] item positions, best first; -1 where only the history is left.

    Args:
      score: from histories to scores [n_users, n_items].
      history: CSR [n_users, n_items] float32.
      k: items of a list, of no more than there are.

    Raises:
      InputError: scores that are not finite.
    """
    scores = np.array(score(history))  # a copy: the scores may be read-only
    if not np.isfinite(scores).all():
        raise InputError("there are scores that are not finite; are some embeddings too large?")
    seen = np.repeat(np.arange(len(scores)), np.diff(history.indptr))
    scores[seen, history.indices] = -np.inf
    ranked = top_k(scores, k)
    return np.where(np.isneginf(np.take_along_axis(scores, ranked, axis=1)), -1, ranked)


def _hits(ranked: np.ndarray, targets: sp.csr_matrix) -> np.ndarray:
    """[n_users, k] bool: which of the ranked items, -1 for none, are among a user's targets."""
    first = targets.shape[1] * np.arange(len(ranked), dtype=np.int64)
    held_out = np.repeat(first, np.diff(targets.indptr)) + targets.indices
    return (ranked >= 0) & np.isin(first[:, None] + ranked, held_out)


def _matrix(
    users: np.ndarray, columns: np.ndarray, chosen: np.ndarray, shape: tuple[int, int]
) -> sp.csr_matrix:
    values = np.ones(int(chosen.sum()), np.float32)
    return sp.csr_matrix((values, (users[chosen], columns[chosen])), shape=shape)
