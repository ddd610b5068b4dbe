"""The fold-in protocol and its metrics (needs what `celsa_jax.data` does, no JAX)."""

from celsa_jax.evaluation.folds import FOLD_KINDS, holdouts
from celsa_jax.evaluation.metrics import MAIN_METRIC, METRICS, ranking_metrics
from celsa_jax.evaluation.protocol import Evaluation, evaluate

__all__ = [
    "FOLD_KINDS",
    "MAIN_METRIC",
    "METRICS",
    "Evaluation",
    "evaluate",
    "holdouts",
    "ranking_metrics",
]
