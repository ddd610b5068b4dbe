"""Data sets by name, for callers in Python."""

from __future__ import annotations

import os
from typing import Any

from celsa_jax.config import default_config
from celsa_jax.data import Dataset, dataset_of
from celsa_jax.errors import InputError


def load_dataset(name: str, *, seed: int = 0, **fields: Any) -> Dataset:
    """Loads a published data set, or a file of your own.

    Args:
      name: `ml-100k`, `ml-1m`, `ml-20m`, `ml-25m`, `goodbooks`, `netflix`, `synthetic`, or `file`
        with `path`.
      seed: of synthetic data.
      **fields: of the section `data` of the configuration (`celsa_jax.config`): `path`,
        `min_rating`, `min_user_interactions` and others.

    Raises:
      InputError: an unknown name or field, or files that are missing or at fault.

    Example:
      >>> data = load_dataset("synthetic", synthetic={"n_users": 100})
      >>> data.interactions.n_users, len(data.titles) == data.interactions.n_items
      (100, True)
    """
    config = default_config().data
    if unknown := sorted(set(fields) - set(config)):
        raise InputError(f"load_dataset: no field {unknown[0]}; there are {', '.join(config)}")
    try:
        paths = {field: str(v) if isinstance(v, os.PathLike) else v for field, v in fields.items()}
        config.update(name=name, **paths)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"load_dataset: {error}") from None
    try:
        return dataset_of(config, seed)
    except InputError as error:
        raise InputError(str(error).replace("config.data.", "")) from None
