"""The fields of a configuration that the data decide, where the user leaves them open.

Every rule was chosen on validation users: of Goodbooks-10k (a sample of its current release, and
the first release), of MovieLens-100K, of synthetic data, and of copies of these with fewer training
interactions (`experiments.defaults`; docs/results.md has the figures).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
from ml_collections import ConfigDict

from celsa_jax.errors import InputError
from celsa_jax.sparse.formats import MOST_FACTORS

_START_NNZ = 64
_RATE, _RATE_OF_WEIGHTS = 0.02, 0.01  # about the length of a row's step, and a weight's step
_MANY = 16.0  # interactions of an item in the mean
_LEAST_BATCH, _LARGEST_BATCH = 24, 1024
_SMALL = 150_000  # interactions
_LONG, _SHORT = 50, 15  # interactions of a user in the mean
_ENOUGH = 35  # of these, for lengths of embeddings to be learned of items with few
_ALL_SCORED, _NEGATIVES = 100_000, 2_500  # items; the time of a step decides, not quality
_LARGEST_SAMPLED_BATCH = 64  # whose own items are about as many as the negatives
_GOING_ON = 0.3  # of the rate, where training goes on from learned embeddings


def choices(
    matrix: sp.csr_matrix,
    n_negatives: int | None = None,
    batch_size: int | None = None,
    by_row: bool = True,
) -> dict[str, float | str]:
    """What the rules choose for users to train on, CSR [n_users, n_items], by field.

    `n_negatives` and `batch_size` are those of the configuration, None if they are open; `by_row`
    is whether moments are of rows (`moments_by_row`).

    Items without interactions do not count.

    The rules are in docs/training.md. Their reasons: a batch is to bring every item about one
    interaction, in an epoch of steps enough; where it brings less than half of that, a lower rate
    goes as far for each interaction. What is popular in short histories says little of longer ones.
    Small data overfit. A step that scores a million items would take minutes, and with sampled ones
    each user is scored for the items of all others in the batch.
    """
    n_users, n_items = matrix.shape[0], _n_used_items(matrix)
    length, of_item = matrix.nnz / n_users, matrix.nnz / n_items
    if n_negatives is None:
        n_negatives = _NEGATIVES if n_items > _ALL_SCORED else 0
    largest = _LARGEST_SAMPLED_BATCH if n_negatives else _LARGEST_BATCH
    batch = batch_size
    if batch is None:
        batch = min(n_users / max(of_item, _MANY), largest)
        batch = max(_LEAST_BATCH, round(batch / 8) * 8)
    small = matrix.nnz < _SMALL
    more = small and of_item >= _MANY
    dropout = max(0.6 if more else 0.5, 1 - length / 20)
    if small and _SHORT <= length < _LONG:
        dropout = 0.8 if more else 0.7
    brings = batch * of_item / n_users  # of an item
    rate = _RATE * min(1.0, 2 * brings) if by_row else _RATE_OF_WEIGHTS * min(1.0, brings)
    return {
        "model.norms": "learned" if of_item >= _MANY or length >= _ENOUGH else "unit",
        "train.batch_size": batch,
        "train.learning_rate": float(f"{rate:.2g}"),
        "train.n_epochs": 20 if more else 10,
        "train.n_final_epochs": 10,
        "train.input_dropout": round(dropout, 2),
        "train.n_negatives": n_negatives,
    }


def moments_by_row(config: ConfigDict) -> bool:
    """Whether the optimizer has one second moment for each row, or for each weight.

    Of the random values of a start all weights have to move; the paper's code has one for each.
    """
    return config.model.start != "random" and not config.train.as_published


def _n_used_items(matrix: sp.csr_matrix) -> int:
    return int(np.count_nonzero(matrix.getnnz(axis=0)))


def filled(config: ConfigDict, matrix: sp.csr_matrix, going_on: bool = False) -> ConfigDict:
    """The configuration with every open field chosen.

    Args:
      config: validated; fields that are None are open.
      matrix: users to train on, CSR [n_users, n_items].
      going_on: whether training begins at learned embeddings, which a lower rate keeps.

    Raises:
      InputError: fewer items than the model needs, or more factors than one may have.
    """
    for field, wanted in (
        ("sparsity.target_nnz", config.sparsity.target_nnz),
        ("model.n_factors", config.model.n_factors if config.model.start == "clusters" else 0),
    ):
        if going_on or config.model.start == "random":
            continue
        if wanted > (n_items := _n_used_items(matrix)):
            raise InputError(
                f"config.{field} is {wanted}, and the training users have {n_items} items; lower it"
            )
    filled = config.copy_and_resolve_references()
    model, sparsity = filled.model, filled.sparsity
    if model.start == "neighbours":
        model.n_factors = matrix.shape[1]
    if model.start == "random" and model.norms is None:
        model.norms = "unit"  # as in the paper
    if model.start == "random" and not going_on:
        sparsity.start_nnz = model.n_factors
    elif sparsity.start_nnz is None:
        sparsity.start_nnz = max(_START_NNZ, 2 * sparsity.target_nnz)
    sparsity.start_nnz = min(sparsity.start_nnz, model.n_factors)
    if model.n_factors > MOST_FACTORS:
        raise InputError(
            f"{model.n_factors:,} factors are more than a model may have, {MOST_FACTORS:,}; lower "
            "config.model.n_factors (of neighbours, one an item, take config.model.start=clusters)"
        )
    values = choices(
        matrix, filled.train.n_negatives, filled.train.batch_size, moments_by_row(filled)
    )
    if model.start == "random" and not going_on:
        # As in the paper: ten epochs for each halving from d/2 on.
        n_epochs = max(0, round(10 * math.log2(model.n_factors / sparsity.target_nnz)) - 10)
        values |= {"train.n_epochs": n_epochs, "train.n_final_epochs": 10}
        values["train.input_dropout"] = 0.0
    if going_on:
        values["train.learning_rate"] = _GOING_ON * float(values["train.learning_rate"])
    for field, value in values.items():
        section, name = field.split(".")
        if filled[section][name] is None:
            filled[section][name] = value
    return filled


def chosen(config: ConfigDict, filled: ConfigDict) -> dict[str, float | str]:
    """What `filled` chose: its values of the fields that are open in a configuration, by name."""
    return {
        f"{section}.{name}": filled[section][name]
        for section in ("model", "sparsity", "train")
        for name, value in config[section].items()
        if value is None
    }
