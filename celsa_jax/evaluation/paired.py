"""Two methods on the same users: paired differences and their tests."""

from __future__ import annotations

import numpy as np
import scipy.stats

from celsa_jax.errors import InputError
from celsa_jax.evaluation.protocol import Evaluation

_N_RESAMPLES = 9999


def compare(a: Evaluation, b: Evaluation, metric: str, seed: int) -> dict[str, object]:
    """Paired statistics of B - A over the users that both can be judged on.

    Args:
      a, b: of the same users, in the same order.
      metric: a name of METRICS.
      seed: of the bootstrap.

    Returns:
      The means `a` and `b`, what `paired_tests` returns, and `interval`, the 95 % bootstrap
      interval of the difference.

    Raises:
      InputError: there are fewer than two such users.

    Example:
      >>> users = np.array(["u1", "u2", "u3"])
      >>> a = Evaluation({"recall@20": np.array([0.25, 0.5, 0.5])}, users, {})
      >>> b = Evaluation({"recall@20": np.array([0.5, 0.75, 0.5])}, users, {})
      >>> result = compare(a, b, "recall@20", seed=0)
      >>> round(result["difference"], 3), result["better"], result["worse"]
      (0.167, 2, 0)
    """
    both = np.stack([a.per_user[metric], b.per_user[metric]])
    both = both[:, ~np.isnan(both).any(axis=0)]
    if both.shape[1] < 2:
        raise InputError("fewer than two users can be judged in both runs")
    difference = both[1] - both[0]
    interval = (difference[0], difference[0])
    if np.ptp(difference):
        interval = scipy.stats.bootstrap(
            (difference,),
            np.mean,
            n_resamples=_N_RESAMPLES,
            batch=500,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return {
        "a": float(both[0].mean()),
        "b": float(both[1].mean()),
        "interval": [float(bound) for bound in interval],
        **paired_tests(difference),
    }


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values, [n], corrected for their number (Holm 1979), dependent or not; SciPy has none.

    Example:
      >>> holm(np.array([0.02, 0.01, 0.5])).tolist()
      [0.04, 0.03, 0.5]
    """
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def paired_tests(difference: np.ndarray) -> dict[str, float]:
    """Whether paired differences are about zero.

    Args:
      difference: [n_users] B - A, at least two, none of them NaN.

    Returns:
      The mean `difference` and its standard error `stderr`, two-sided p-values of the paired
      t-test (`p_t`) and of Wilcoxon's signed-rank test (`p_wilcoxon`), and the numbers of users:
      `better`, `worse`, `n_users`.
    """
    p_t = float(difference[0] == 0)  # of equal differences, whose variance is 0
    if np.ptp(difference):
        p_t = scipy.stats.ttest_1samp(difference, 0).pvalue
    p_wilcoxon = scipy.stats.wilcoxon(difference).pvalue if difference.any() else 1.0
    return {
        "difference": float(difference.mean()),
        "stderr": float(scipy.stats.sem(difference)),
        "p_t": float(p_t),
        "p_wilcoxon": float(p_wilcoxon),
        "better": int((difference > 0).sum()),
        "worse": int((difference < 0).sum()),
        "n_users": len(difference),
    }
