"""The configuration of a run: every field with its default, meaning and range."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from celsa_jax.data.datasets import DATASETS
from celsa_jax.data.splits import seconds
from celsa_jax.errors import InputError
from celsa_jax.evaluation import FOLD_KINDS
from celsa_jax.schedules import SCHEDULES

# What XLA is told for `train.deterministic`.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class Field(NamedTuple):
    """A field of the configuration.

    Attributes:
      default: None for fields that the data decide (`recipe`), or that follow from another.
      problem: what is wrong with a value, as the end of a sentence, or None; not asked about None
        where that is the default.
    """

    default: Any
    problem: Callable[[Any], str | None] = lambda value: None


def _one_of(known: Collection[str]) -> Callable[[Any], str | None]:
    return lambda value: None if value in known else f"choose one of {', '.join(sorted(known))}"


def _number(fits: Callable[[Any], bool], problem: str) -> Callable[[Any], str | None]:
    def of(value: Any) -> str | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number and fits(value) else problem

    return of


def _whole(least: int) -> Callable[[Any], str | None]:
    problem = f"it must be a whole number from {least} on"
    return _number(lambda value: isinstance(value, int) and value >= least, problem)


_SEED = _number(
    lambda value: isinstance(value, int) and 0 <= value < 1 << 32,
    "choose a whole number from 0 to 2^32 - 1",
)
_SHARE = _number(lambda value: 0 <= value < 1, "it must be from 0 to below 1")
_POSITIVE = _number(lambda value: 0 < value < math.inf, "use a number above 0")
_EXPONENT = _number(lambda value: 0 <= value < math.inf, "give a number from 0 on")
_THRESHOLD = _number(lambda value: not math.isnan(value), "give a number")


FIELDS: dict[str, Any] = {
    "data": {
        # The data set: "file" for a file of your own, or the name of a published one.
        "name": Field("file", _one_of(DATASETS)),
        # The file of ratings, or the publisher's folder or archive.
        "path": Field(""),
        # Where downloads and prepared data are kept; empty for the user's cache folder.
        "data_dir": Field(""),
        # A file with titles of the items.
        "items_path": Field(""),
        # The names of the columns of a file of your own; an empty rating_column for none.
        "user_column": Field("user_id"),
        "item_column": Field("item_id"),
        "rating_column": Field("rating"),
        "title_column": Field("title"),
        "time_column": Field("timestamp"),
        # Ratings below this are dropped, all others become 1. Where it is open it is 4, but the
        # values of a matrix are counts, which are all positives.
        "min_rating": Field(None, _THRESHOLD),
        # Users, and items, with fewer interactions are dropped, until all have as many.
        "min_user_interactions": Field(5, _whole(0)),
        "min_item_interactions": Field(0, _whole(0)),
        # "users": some users are held back from training. "temporal": the future of users is.
        "split": Field("users", _one_of(("users", "temporal"))),
        # The dates, such as 2015-03-31, from which a temporal split validates and tests.
        "val_from": Field(""),
        "test_from": Field(""),
        # Users to validate and to test with; a temporal split has at most so many.
        "n_val_users": Field(2_500, _whole(0)),
        "n_test_users": Field(2_500, _whole(0)),
        # A file of ids, one a line, of the users to test with, who are drawn otherwise.
        "test_users": Field(""),
        # The size of the data set "synthetic".
        "synthetic": {
            "n_users": Field(6_000),
            "n_items": Field(2_000),
            "n_segments": Field(40),
        },
    },
    "model": {
        # Where training begins. "neighbours": every item is a factor, and begins with those of the
        # items most similar to it. "clusters": the same with clusters of items. "random": all
        # factors at random values, as in the paper.
        "start": Field("neighbours", _one_of(("neighbours", "clusters", "random"))),
        # The number of factors; 0 with neighbours, where it is the number of items.
        "n_factors": Field(0, _whole(0)),
        # The exponent of the item counts in the similarity of items: less favours popular
        # neighbours, 0.7 would compare items of many interactions by cosines.
        "alpha": Field(0.5, _EXPONENT),
        # The length of an item's embedding, which says how readily the item is recommended:
        # "learned", or "unit", the same for all, as in the paper.
        "norms": Field(None, _one_of(("learned", "unit"))),
    },
    "sparsity": {
        # How the non-zeros of an item fall from the start to the target.
        "schedule": Field("cubic", _one_of(SCHEDULES)),
        # Non-zeros of an item in the trained model.
        "target_nnz": Field(16, _whole(1)),
        # Non-zeros of an item at a start from the data.
        "start_nnz": Field(None, _whole(1)),
        # The fewest non-zeros that the model can be cut to when it is trained: it trains for these
        # and their doublings, too, which takes as much time again for each. 0 for the target alone.
        "nested_nnz": Field(0, _whole(0)),
        # Whether the weights that survive a mask update return to their (random) initial values.
        "rewind": Field(False),
    },
    "train": {
        # Epochs in which the non-zeros fall from the start to the target.
        "n_epochs": Field(None, _whole(0)),
        # Epochs at the target, in which the learning rate falls to 0.
        "n_final_epochs": Field(None, _whole(0)),
        # Users in a batch.
        "batch_size": Field(None, _whole(1)),
        # The chance of an interaction to be left out of the input. The target is always all.
        "input_dropout": Field(None, _SHARE),
        # Whether steps are those of the paper's code: its Nadam at one rate until the end, scores
        # of at most 6, items outside of a batch that count several times (docs/paper.md).
        "as_published": Field(False),
        # About the length of an item's step, at a random start or as published that of a weight's.
        "learning_rate": Field(None, _POSITIVE),
        # The decay of its momentum.
        "b1": Field(0.8, _SHARE),
        # Whether GPUs give the same bits again; CPUs always do.
        "deterministic": Field(False),
        # Users on the device at a time, where it cannot hold all; 0 for all.
        "chunk_users": Field(0, _whole(0)),
        # The precision of dense products: float32, bfloat16, or "auto", float32 on a CPU and
        # bfloat16 elsewhere.
        "precision": Field("auto", _one_of(("auto", "float32", "bfloat16"))),
        # The loss covers the items of a batch and about so many others; 0 for all items.
        "n_negatives": Field(None, _whole(0)),
        # Whether to write a trace of the second epoch into the folder of the run.
        "profile": Field(False),
        # The folder of an earlier run whose embeddings this one begins at.
        "init_from": Field(""),
    },
    # The seed of everything random.
    "seed": Field(0, _SEED),
    # Seeds of single parts that are to differ from it: the split of the users, what is held out of
    # the users who are judged, the start, and the order and the draws of training.
    "seeds": {name: Field(None, _SEED) for name in ("split", "folds", "start", "training")},
    # Devices along which the users of a batch and the items are shared; 0 for all that are left.
    "mesh": {"data": Field(1, _whole(1)), "item": Field(0, _whole(0))},
    "checkpoint": {
        "every_epochs": Field(5, _whole(1)),
        # How many of the newest are kept.
        "keep": Field(2, _whole(1)),
    },
    "eval": {
        # How the interactions of a user are held out (`evaluation.folds`).
        "folds": Field("disjoint", _one_of(FOLD_KINDS)),
        # Epochs between two validations; 0 for none.
        "every_epochs": Field(5, _whole(0)),
        "max_val_users": Field(1_000, _whole(0)),
    },
}


def default_config() -> ConfigDict:
    """Every field of a run at its default.

    Example:
      >>> config = default_config()
      >>> config.sparsity.target_nnz = 32
    """
    return ConfigDict(_default(FIELDS))


def _default(field: Field | dict[str, Any]) -> Any:
    if isinstance(field, dict):
        return {name: _default(inner) for name, inner in field.items()}
    if field.default is None:  # takes any value or None, on the command line, too
        return config_dict.FieldReference(None, field_type=object)
    return field.default


def outcome(config: ConfigDict) -> dict[str, Any]:
    """The fields that decide what comes of a run: all but where it runs, what it keeps and logs.

    Those of `eval` decide what stands in metrics.jsonl and results.json. A path is the same however
    it is spelt.
    """
    fields = config.to_dict()
    del fields["mesh"], fields["checkpoint"], fields["data"]["data_dir"], fields["train"]["profile"]
    paths = ("data", "path"), ("data", "items_path"), ("data", "test_users"), ("train", "init_from")
    for section, name in paths:
        if path := fields[section][name]:
            fields[section][name] = _spelt_out(path)
    return fields


def by_name(config: ConfigDict | dict[str, Any]) -> dict[str, Any]:
    """The fields of all sections under names with dots, `train.batch_size`."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | dict):
            fields |= {f"{name}.{field}": inner for field, inner in by_name(value).items()}
        else:
            fields[name] = value
    return fields


def _spelt_out(path: str) -> str:
    """Inside of the working directory relative to it, as it is elsewhere on another machine."""
    absolute = pathlib.Path(os.path.abspath(path))
    here = pathlib.Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def seed_of(config: ConfigDict, what: str) -> int:
    """The seed of a part of the run, named in `seeds`."""
    own = config.seeds[what]
    return config.seed if own is None else own


def validate(config: ConfigDict) -> None:
    """Raises an InputError that names the first field at fault."""
    values = by_name(config)
    for name, field in by_name(FIELDS).items():
        value = values[name]
        if not (value is None and field.default is None) and (problem := field.problem(value)):
            raise InputError(f"config.{name} is {value!r}; {problem}")
    _check_widths(config)
    for name in ("val_from", "test_from") if config.data.split == "temporal" else ():
        if config.data[name] or name == "test_from":
            seconds(name, config.data[name])
    train = config.train
    if train.n_epochs == 0 and train.n_final_epochs == 0:
        raise InputError("config.train.n_epochs and n_final_epochs are both 0; nothing to train")


def _check_widths(config: ConfigDict) -> None:
    """Whether start, width and numbers of non-zeros go together."""
    start, width = config.model.start, config.model.n_factors
    target, widest = config.sparsity.target_nnz, config.sparsity.start_nnz
    if config.sparsity.nested_nnz >= target:
        raise InputError(
            f"config.sparsity.nested_nnz is {config.sparsity.nested_nnz}, not less than "
            f"config.sparsity.target_nnz ({target}); lower it, or leave it at 0"
        )
    if start == "neighbours" and width:
        raise InputError(
            f"config.model.n_factors is {width}, but with config.model.start=neighbours every item "
            "has a factor of its own; leave it at 0, or choose clusters or random"
        )
    if start != "neighbours" and not width:
        raise InputError(f"config.model.start={start} needs config.model.n_factors")
    if width and target > width:
        raise InputError(
            f"config.sparsity.target_nnz is {target}, more than config.model.n_factors ({width})"
        )
    if start == "random" and widest is not None:
        raise InputError(
            "config.sparsity.start_nnz is of starts from data; a random one has all of "
            "config.model.n_factors"
        )
    if widest is not None and widest < target:
        raise InputError(
            f"config.sparsity.start_nnz is {widest}, less than config.sparsity.target_nnz "
            f"({target}); raise it, or leave it at None"
        )
    if start != "random" and config.sparsity.rewind:
        raise InputError(
            "config.sparsity.rewind is of config.model.start=random; values from data are not "
            "rewound"
        )
