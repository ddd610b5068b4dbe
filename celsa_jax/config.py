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
OPTIMIZERS = ("adam", "nadam")
DECAYS = ("cosine", "none")
PRECISIONS = ("auto", "float32", "bfloat16")
_SMALLEST = 1.2e-38  # of the normal float32; XLA may take those below it for 0


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
            "model": {
                "n_factors": 4096,
                "relu": True,  # scores below 0 count as 0 in the loss
                "relu_cap": _optional(6.0),  # None for off
            },
            "sparsity": {
                "schedule": "cubic",
                "target_nnz": 16,
                # Survivors go back to their initial values after an update; not with init_from.
                "rewind": True,
                "regrow": False,  # score all weights, not the survivors alone
                "update_every": 1,  # epochs; 0 = every step
                "reset_optimizer": False,  # after an update without rewinding, too
            },
            "train": {
                "n_epochs": 20,  # of pruning
                "n_final_epochs": 3,  # at the target; without refinement rather 10
                "batch_size": 1024,
                "optimizer": "nadam",
                "learning_rate": 0.01,
                "b1": 0.8,  # of the optimizer's momentum
                # Of the optimizer. A loss that is scaled by c does what epsilon / c does.
                "epsilon": 1e-8,
                "auxiliary_weight": 0.0,  # of the loss of the 4k largest weights, beside that of k
                "final_decay": "cosine",  # of the rate, to 0 over the final phase; or none
                "seed": 0,
                "deterministic": False,  # on GPUs the same bits again; CPUs give them anyway
                "chunk_users": 0,  # users in a chunk, where the device cannot hold all; 0 = all
                # Of the operands of products: float32, bfloat16, or auto, bfloat16 but on a CPU.
                "precision": "auto",
                # The loss is on a batch's own items and at least so many others; 0 = on all items.
                "n_negatives": 0,
                "profile": False,  # a trace of the second epoch, WORKDIR/profile
                "tensorboard": False,  # metrics for TensorBoard, beside metrics.jsonl
                "init_from": "",  # folder of an earlier run, whose items begin as it left them
            },
            # Afterwards: begin at what was learned, let every factor back in, prune once more
            # without rewinding. Not with init_from, which does just that, nor where nothing is
            # pruned for good: dense models, the constant schedule, regrowth.
            "refine": {
                "n_rounds": 1,
                "n_epochs": 8,  # of pruning, in each round
                "n_final_epochs": 8,
            },
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


def _optional(value: float) -> config_dict.FieldReference:
    """A field that takes a number or None, on the command line, too."""
    return config_dict.FieldReference(value, field_type=object)


def validate(config: ConfigDict) -> None:
    """Raises an InputError that names the first field at fault."""
    _choice(config, "data.name", DATASETS)
    _choice(config, "data.split", SPLITS)
    _choice(config, "sparsity.schedule", SCHEDULES)
    _choice(config, "train.optimizer", OPTIMIZERS)
    _choice(config, "train.final_decay", DECAYS)
    _choice(config, "train.precision", PRECISIONS)
    _choice(config, "eval.folds", FOLD_KINDS)
    for field in (
        "model.n_factors",
        "sparsity.target_nnz",
        "train.batch_size",
        "checkpoint.keep",
        "mesh.data",
    ):
        _at_least(config, field, 1)
    for field in (
        "data.min_user_interactions",
        "data.n_val_users",
        "data.n_test_users",
        "sparsity.update_every",
        "train.n_epochs",
        "train.n_final_epochs",
        "refine.n_rounds",
        "refine.n_epochs",
        "refine.n_final_epochs",
        "train.chunk_users",
        "train.n_negatives",
        "train.seed",
        "mesh.item",
        "eval.every_epochs",
        "eval.max_val_users",
    ):
        _at_least(config, field, 0)
    _at_least(config, "checkpoint.every_epochs", 1)
    if config.sparsity.target_nnz > config.model.n_factors:
        raise InputError(
            f"config.sparsity.target_nnz is {config.sparsity.target_nnz}, more than "
            f"config.model.n_factors ({config.model.n_factors})"
        )
    cap = config.model.relu_cap
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int | float) or cap <= 0):
        raise InputError(f"config.model.relu_cap is {cap!r}; use a number above 0, or None")
    for field in ("train.learning_rate", "train.epsilon"):
        if not 0 < _value(config, field) < math.inf:
            raise InputError(f"config.{field} is {_value(config, field)}; use a number above 0")
    if config.train.epsilon < _SMALLEST:
        raise InputError(
            f"config.train.epsilon is {config.train.epsilon}, which is 0 in float32; use at least "
            f"{_SMALLEST:g}"
        )
    if not 0 <= config.train.b1 < 1:
        raise InputError(f"config.train.b1 is {config.train.b1}; it must be from 0 to below 1")
    if not 0 <= config.train.auxiliary_weight < math.inf:
        raise InputError(
            f"config.train.auxiliary_weight is {config.train.auxiliary_weight}; it must be at "
            "least 0, which turns it off"
        )
    if math.isnan(config.data.min_rating):
        raise InputError("config.data.min_rating is nan; give a number")
    for field in ("val_from", "test_from") if config.data.split == "temporal" else ():
        if config.data[field] or field == "test_from":
            seconds(field, config.data[field])
    sparsity = config.sparsity
    if sparsity.regrow and config.train.auxiliary_weight:
        raise InputError(
            "config.train.auxiliary_weight keeps 4k weights of a row, config.sparsity.regrow all; "
            "use one of them"
        )
    if sparsity.regrow and sparsity.rewind and sparsity.update_every == 0:
        raise InputError(
            "config.sparsity.regrow with update_every=0 would rewind at every step; "
            "add --config.sparsity.rewind=false"
        )
    if config.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "config.train.tensorboard needs TensorBoard: pip install 'celsa_jax[tensorboard]', or "
            "leave it off"
        )
    if config.train.n_epochs + config.train.n_final_epochs == 0:
        raise InputError("config.train.n_epochs and n_final_epochs are both 0; nothing to train")


def _value(config: ConfigDict, field: str) -> Any:
    section, name = field.split(".")
    return config[section][name]


def _choice(config: ConfigDict, field: str, known: Collection[str]) -> None:
    if _value(config, field) not in known:
        names = ", ".join(sorted(known))
        raise InputError(f"config.{field} is '{_value(config, field)}'; choose one of {names}")


def _at_least(config: ConfigDict, field: str, least: int) -> None:
    if _value(config, field) < least:
        raise InputError(f"config.{field} is {_value(config, field)}; it must be at least {least}")
