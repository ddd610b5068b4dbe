"""What a fitted baseline is, and what several of them share."""

from __future__ import annotations

import dataclasses
import importlib
import types

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.sparse.npz import bytes_per_item
from celsa_jax.sparse.scores import Scorer, scorer


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A fitted method, ready to be judged.

    Attributes:
      score: from histories, CSR [n, n_items] float32, to scores [n, n_items].
      bytes_per_item: the mean of what serving keeps of an item; None where it is not comparable.
    """

    score: Scorer
    bytes_per_item: float | None


def weights_baseline(weights: np.ndarray | sp.csr_matrix) -> Baseline:
    """Scores x B of item-item weights B, [n_items, n_items] dense or CSR."""
    size = bytes_per_item(weights)
    if sp.issparse(weights):
        return Baseline(lambda history: (history @ weights).toarray(), size)
    return Baseline(lambda history: history @ weights, size)


def embeddings_baseline(embeddings: np.ndarray | sp.csr_matrix) -> Baseline:
    """Scores x U A^T (`scorer`) of embeddings A, [n_items, n_factors] dense or CSR."""
    return Baseline(scorer(embeddings), bytes_per_item(embeddings))


def numbers_within(n_bytes: int, each: int) -> int:
    """How many numbers of `each` bytes go into `n_bytes`; InputError where not one does."""
    if n_bytes < each:
        raise InputError(f"{n_bytes} bytes an item hold no number of {each}; allow at least {each}")
    return n_bytes // each


def implicit(module: str) -> types.ModuleType:
    """A module of the optional library implicit; InputError where that is not installed."""
    try:
        return importlib.import_module(f"implicit.{module}")
    except ImportError:
        raise InputError("implicit is not installed: pip install 'celsa_jax[baselines]'") from None
