"""From the configuration of a sweep to its runs, checked before the first of them starts."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

from celsa_jax.config import FIELDS, default_config
from celsa_jax.errors import InputError
from celsa_jax.sweeps import published
from celsa_jax.sweeps.methods import Run, check

ANY_SIZE = "any size"
_APART = 1_000_003  # seeds of one training and of the next
_FIELDS = {"base", "rows", "columns", "seeds", "trainings", "reference", "published"}
_ROW = {"method": "", "options": {}, "config": {}, "once": False}
_COLUMN: dict[str, dict] = {"config": {}}


def make_sweep(
    *,
    base: ConfigDict,
    rows: Mapping[str, dict],
    columns: Mapping[str, dict],
    reference: str,
    seeds: Iterable[int] = (0,),
    trainings: int = 1,
    published: str = "",
) -> ConfigDict:
    """The configuration of a sweep: its rows in each of its columns, with every seed.

    Args:
      base: a run's configuration (`celsa_jax.config.default_config`).
      rows: by name `method` (`celsa_jax.sweeps.methods`), and where wanted `options` of it (of a
        baseline, a list of values is chosen from on validation users), `config` (overrides of
        base), `once` (True: no columns but `any size`, for what has no budget of bytes).
      columns: by name `config`, overrides of base.
      reference: the row that others are tested against, by nDCG@100.
      seeds: `config.seed` of the runs.
      trainings: of every model with each seed, on the same split and folds, from another start and
        in another order: what is chance in training, and what in the split.
      published: `DATASET/TABLE` to print beside ours (`celsa_jax.sweeps.published`), or empty.

    Raises:
      InputError: a row or a column has an unknown field, or one of the wrong type.

    Example:
      >>> from celsa_jax.config import default_config
      >>> from celsa_jax.sweeps import expand, make_sweep
      >>> from celsa_jax.sweeps.rows import size_columns
      >>> rows = {"ours": {"method": "elsa"}, "EASE": {"method": "ease", "once": True}}
      >>> columns = size_columns([128, 64])
      >>> sweep = make_sweep(base=default_config(), rows=rows, columns=columns, reference="ours")
      >>> [(run.row, run.column) for run in expand(sweep)]
      [('ours', '128'), ('ours', '64'), ('EASE', 'any size')]
    """
    return ConfigDict(
        {
            "base": base,
            "rows": _filled(_ROW, rows, "config.rows"),
            "columns": _filled(_COLUMN, columns, "config.columns"),
            "seeds": tuple(seeds),
            "trainings": trainings,
            "reference": reference,
            "published": published,
        }
    )


def expand(sweep: ConfigDict) -> list[Run]:
    """All runs in the order of the grid: rows, then columns, then seeds.

    Raises:
      InputError: a field, a row or a column is at fault, or two runs are the same.
    """
    _check_fields(sweep)
    base = default_config().copy_and_resolve_references()
    _override(base, sweep.base.to_dict(), "config.base")
    runs: dict[str, Run] = {}  # by the digest of all that decides the outcome
    for row, settings in sweep.rows.items():
        for column in [ANY_SIZE] if settings.once else sweep.columns:
            config = _config_of(sweep, base, row, column)
            for seed, training in itertools.product(sweep.seeds, range(sweep.trainings)):
                own = ConfigDict(config.to_dict())
                own.seed = seed
                if training:
                    own.seeds.start = own.seeds.training = _APART * training + seed
                options = settings.options.to_dict()
                run = Run(row, column, seed, training, settings.method, options, own)
                try:
                    check(run)
                except InputError as error:
                    raise InputError(f"row '{row}', column '{column}': {error}") from None
                if training and run.model_config is None:
                    continue  # nothing is trained
                same = runs.setdefault(run.id.rsplit("-", 1)[1], run)
                if same is not run:
                    raise InputError(
                        f"row '{row}', column '{column}' is the same run as row '{same.row}', "
                        f"column '{same.column}'; leave one out"
                    )
    return list(runs.values())


def _config_of(sweep: ConfigDict, base: ConfigDict, row: str, column: str) -> ConfigDict:
    config = base.copy_and_resolve_references()
    changes = sweep.rows[row].config.to_dict()
    of_row = _override(config, changes, f"config.rows.{row}.config")
    of_column = set()
    if column != ANY_SIZE:
        changes = sweep.columns[column].config.to_dict()
        of_column = _override(config, changes, f"config.columns.{column}.config")
    if both := of_row & of_column:
        raise InputError(f"row '{row}' and column '{column}' both set {min(both)}")
    if any(field.startswith("seed") for field in of_row | of_column):
        raise InputError(f"row '{row}', column '{column}': the seeds are those of config.seeds")
    return config


def _check_fields(sweep: ConfigDict) -> None:
    if set(sweep) != _FIELDS:
        raise InputError("the configuration is none of a sweep, as make_sweep gives it")
    for part in ("rows", "columns"):
        if not len(sweep[part]):
            raise InputError(f"config.{part} is empty; name at least one")
        for name in sweep[part]:
            if "|" in name or name == ANY_SIZE:
                raise InputError(f"config.{part}.{name}: a name without '|', and not '{ANY_SIZE}'")
    seeds = sweep.seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"config.seeds is {seeds}; give one or more, each once")
    if problem := next(filter(None, map(FIELDS["seed"].problem, seeds)), None):
        raise InputError(f"config.seeds is {seeds}; {problem}")
    if problem := FIELDS["train"]["batch_size"].problem(sweep.trainings):
        raise InputError(f"config.trainings is {sweep.trainings}; {problem}")
    if sweep.reference not in sweep.rows:
        raise InputError(f"config.reference is '{sweep.reference}', which is not a row")
    published.check(sweep.published)


def _filled(fields: dict, parts: Mapping[str, dict], where: str) -> ConfigDict:
    """Rows or columns with all of their fields, in the order given."""
    filled = ConfigDict(sort_keys=False)
    for name, part in parts.items():
        filled[name] = ConfigDict(fields)
        _override(filled[name], part, f"{where}.{name}")
    return filled


def _override(config: ConfigDict, changes: object, where: str) -> set[str]:
    """Replaces values by others of their types, in place; returns the fields that changed."""
    if not isinstance(changes, Mapping):
        raise InputError(f"{where} is {changes!r}; give its fields")
    fields = set()
    for name, value in changes.items():
        if name not in config:
            near = difflib.get_close_matches(str(name), config, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(config)}"
            raise InputError(f"{where}.{name}: no such field; {hint}")
        if isinstance(config[name], ConfigDict) and len(config[name]):
            below = _override(config[name], value, f"{where}.{name}")
            fields |= {f"{name}.{field}" for field in below}
            continue
        try:
            config[name] = value
        except (TypeError, ValueError):
            like = config.to_dict()[name]
            raise InputError(
                f"{where}.{name} is {value!r}; it takes a value like {like!r}"
            ) from None
        fields.add(name)
    return fields
