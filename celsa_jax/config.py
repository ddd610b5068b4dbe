"""The configuration of a run: defaults, and the checks that name the field at fault."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict, config_dict

from celsa_jax.data.datasets import DATASETS
from celsa_jax.data.splits import seconds
from celsa_jax.errors import InputError
from celsa_jax.evaluation import FOLD_KINDS
from celsa_jax.schedules import SCHEDULES

SPLITS = ("users", "temporal")
STARTS = ("neighbours", "clusters", "random")
SEEDS = ("split", "folds", "start", "training")
PRECISIONS = ("auto", "float32", "bfloat16")


def default_config() -> ConfigDict:
    """Every field of a run, at the recipe of `configs/goodbooks.py`."""
    return ConfigDict(
        {
            "data": {
                "name": "file",  # goodbooks, ml-100k, -1m, -20m, -25m, netflix, synthetic
                "path": "",  # the ratings file, or the publisher's folder or archive
                "data_dir": "",  # of downloads and prepared forms; the user's cache by default
                "items_path": "",  # item metadata
                "user_column": "user_id",  # columns of name = file
                "item_column": "item_id",
                "rating_column": "rating",
                "title_column": "title",
                "time_column": "timestamp",
                "min_rating": 4.0,
                "min_user_interactions": 5,  # temporal: those after test_from count, too
                "split": "users",  # or temporal: the users' future is predicted
                "val_from": "",  # temporal: dates, 2015-03-31
                "test_from": "",
                "n_val_users": 2_500,  # temporal: at most
                "n_test_users": 2_500,
                "synthetic": {"n_users": 6_000, "n_items": 2_000, "n_segments": 40},
            },
            # Fields that are None are chosen from the size of the data (`recipe`).
            "model": {
                # Where training begins (`starts`): "neighbours", a factor for every item, or
                # "clusters", n_factors clusters of items, both with few factors an item from the
                # data; "random", n_factors random ones, as in the paper.
                "start": "neighbours",
                "n_factors": 0,  # 0 with neighbours, whose factors are the items
                "alpha": 0.5,  # exponent of the counts in the similarity of items
            },
            "sparsity": {
                "schedule": "cubic",
                "target_nnz": 16,  # non-zeros of an item at the end
                # And at a start from data; None: 64, or twice the target if that is more.
                "start_nnz": _optional(None),
                # After a mask update survivors go back to their initial values, random ones.
                "rewind": False,
            },
            "train": {
                "n_epochs": _optional(None),  # in which items lose factors
                "n_final_epochs": _optional(None),  # at the target, with the rate falling to 0
                "batch_size": _optional(None),
                "input_dropout": _optional(None),  # chance that the input lacks an interaction
                "learning_rate": _optional(None),
                "b1": 0.8,  # of the optimizer's momentum
                "deterministic": False,  # on GPUs the same bits again; CPUs give them anyway
                "chunk_users": 0,  # users in a chunk, where the device cannot hold all; 0 = all
                # Of the operands of dense products: float32, bfloat16, or auto, which is bfloat16
                # but on a CPU.
                "precision": "auto",
                # The loss is on a batch's own items and at least so many others; 0 = on all items.
                "n_negatives": 0,
                "profile": False,  # a trace of the second epoch, WORKDIR/profile
                "tensorboard": False,  # metrics for TensorBoard, beside metrics.jsonl
                "init_from": "",  # folder of an earlier run, whose items begin as it left them
            },
            "seed": 0,
            # What has a seed of its own where this is not None: who is in which part of the data,
            # what is held out of the users judged, the start, and the order and draws of training.
            "seeds": {name: _optional(None) for name in SEEDS},
            # Devices that share the users of a batch, and the items; 0 = all that are left.
            "mesh": {"data": 1, "item": 0},
            "checkpoint": {
                "every_epochs": 5,
                "keep": 2,  # the newest, beside the best
            },
            "eval": {
                "folds": "disjoint",
                "every_epochs": 5,  # validation; 0 = never
                "max_val_users": 1_000,
            },
        }
    )


def outcome(config: ConfigDict) -> dict[str, Any]:
    """The fields that decide what comes of a run: all but where it runs, what it keeps and logs.

    Those of `eval` decide what stands in metrics.jsonl and results.json.
    """
    fields = config.to_dict()
    del fields["mesh"], fields["checkpoint"], fields["data"]["data_dir"]
    del fields["train"]["tensorboard"], fields["train"]["profile"]
    return fields


def seed_of(config: ConfigDict, what: str) -> int:
    """The seed of one of `SEEDS`."""
    own = config.seeds[what]
    return config.seed if own is None else own


def _optional(value: float | None) -> config_dict.FieldReference:
    """A field that takes a number or None, on the command line, too."""
    return config_dict.FieldReference(value, field_type=object)


def validate(config: ConfigDict) -> None:
    """Raises an InputError that names the first field at fault."""
    _choice(config, "data.name", DATASETS)
    _choice(config, "data.split", SPLITS)
    _choice(config, "model.start", STARTS)
    _choice(config, "sparsity.schedule", SCHEDULES)
    _choice(config, "train.precision", PRECISIONS)
    _choice(config, "eval.folds", FOLD_KINDS)
    for field in (
        "sparsity.target_nnz",
        "sparsity.start_nnz",
        "train.batch_size",
        "checkpoint.keep",
        "mesh.data",
    ):
        _at_least(config, field, 1)
    for field in (
        "data.min_user_interactions",
        "data.n_val_users",
        "data.n_test_users",
        "model.n_factors",
        "train.n_epochs",
        "train.n_final_epochs",
        "train.chunk_users",
        "train.n_negatives",
        "seed",
        *(f"seeds.{name}" for name in SEEDS),
        "mesh.item",
        "eval.every_epochs",
        "eval.max_val_users",
    ):
        _at_least(config, field, 0)
    _at_least(config, "checkpoint.every_epochs", 1)
    _check_widths(config)
    train = config.train
    rate = train.learning_rate
    if rate is not None and not (_is_number(rate) and 0 < rate < math.inf):
        raise InputError(f"config.train.learning_rate is {rate!r}; use a number above 0")
    for field in ("train.b1", "train.input_dropout"):
        value = _value(config, field)
        if value is not None and not (_is_number(value) and 0 <= value < 1):
            raise InputError(f"config.{field} is {value}; it must be from 0 to below 1")
    if not 0 <= config.model.alpha < math.inf:
        raise InputError(f"config.model.alpha is {config.model.alpha}; give a number from 0 on")
    if math.isnan(config.data.min_rating):
        raise InputError("config.data.min_rating is nan; give a number")
    for field in ("val_from", "test_from") if config.data.split == "temporal" else ():
        if config.data[field] or field == "test_from":
            seconds(field, config.data[field])
    if train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "config.train.tensorboard needs TensorBoard: pip install 'celsa_jax[tensorboard]', or "
            "leave it off"
        )
    if train.n_epochs == 0 and train.n_final_epochs == 0:
        raise InputError("config.train.n_epochs and n_final_epochs are both 0; nothing to train")


def _check_widths(config: ConfigDict) -> None:
    """Whether start, width and numbers of non-zeros go together."""
    model, sparsity = config.model, config.sparsity
    width = model.n_factors
    if model.start == "neighbours" and width:
        raise InputError(
            f"config.model.n_factors is {width}, but with config.model.start=neighbours every item "
            "has a factor of its own; leave it at 0, or choose clusters or random"
        )
    if model.start != "neighbours" and not width:
        raise InputError(f"config.model.start={model.start} needs config.model.n_factors")
    if width and sparsity.target_nnz > width:
        raise InputError(
            f"config.sparsity.target_nnz is {sparsity.target_nnz}, more than "
            f"config.model.n_factors ({width})"
        )
    if model.start == "random":
        if sparsity.start_nnz is not None:
            raise InputError(
                "config.sparsity.start_nnz is of starts from data; a random one has all of "
                "config.model.n_factors"
            )
        return
    if sparsity.start_nnz is not None and sparsity.start_nnz < sparsity.target_nnz:
        raise InputError(
            f"config.sparsity.start_nnz is {sparsity.start_nnz}, less than "
            f"config.sparsity.target_nnz ({sparsity.target_nnz}); raise it, or leave it at None"
        )
    if sparsity.rewind:
        raise InputError(
            "config.sparsity.rewind is of config.model.start=random; values from data are not "
            "rewound"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        config = config[name]
    return config


def _choice(config: ConfigDict, field: str, known: Collection[str]) -> None:
    if _value(config, field) not in known:
        names = ", ".join(sorted(known))
        raise InputError(f"config.{field} is '{_value(config, field)}'; choose one of {names}")


def _at_least(config: ConfigDict, field: str, least: int) -> None:
    value = _value(config, field)
    if value is not None and (not _is_number(value) or value != int(value) or value < least):
        raise InputError(f"config.{field} is {value!r}; it must be a whole number from {least} on")
