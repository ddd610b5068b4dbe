"""The fields of a configuration that the size of the data decides, where the user leaves them open.

TO BE WRITTEN
"""

from __future__ import annotations

import logging

import scipy.sparse as sp
from ml_collections import ConfigDict

log = logging.getLogger(__name__)

_START_NNZ = 64
_RANDOM_EPOCHS, _RANDOM_FINAL = 20, 10


def filled(config: ConfigDict, matrix: sp.csr_matrix) -> ConfigDict:
    """The configuration with every open field chosen.

    Args:
      config: validated; fields that are None are open.
      matrix: users to train on, CSR [n_users, n_items].
    """
    n_users, n_items = matrix.shape
    filled = config.copy_and_resolve_references()
    model, sparsity, train = filled.model, filled.sparsity, filled.train
    if model.start == "neighbours":
        model.n_factors = n_items
    if model.start == "random" and not train.init_from:
        sparsity.start_nnz = model.n_factors
    elif sparsity.start_nnz is None:
        sparsity.start_nnz = max(_START_NNZ, 2 * sparsity.target_nnz)
    sparsity.start_nnz = min(sparsity.start_nnz, model.n_factors)
    chosen = choices(matrix, model.start)
    for field, value in chosen.items():
        section, name = field.split(".")
        if filled[section][name] is None:
            filled[section][name] = value
    return filled


def chosen(config: ConfigDict, filled: ConfigDict) -> dict[str, float]:
    """What `filled` chose: its values of the fields that are open in a configuration, by name."""
    return {
        f"{section}.{name}": filled[section][name]
        for section in ("model", "sparsity", "train")
        for name, value in config[section].items()
        if value is None
    }


def choices(matrix: sp.csr_matrix, start: str) -> dict[str, float]:
    n_users, n_items = matrix.shape
    length = matrix.nnz / n_users
    return {
        "model.alpha": 0.5 if length > 50 else 0.35,
        "train.batch_size": 128 if n_users < 10_000 else 512,
        "train.n_epochs": 10,
        "train.n_final_epochs": 5,
        "train.input_dropout": 0.3 if length > 50 else 0.6,
    }
