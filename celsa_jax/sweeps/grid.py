"""From the configuration of a sweep to its runs, checked before the first of them starts.

A sweep is a ConfigDict of

  base: a run's configuration (`celsa_jax.config.default_config`).
  rows: by name `method`, and where wanted `options` of the method (of a baseline, a list of values
    is chosen from on validation users), `config` (overrides of base), `once` (True: one run a seed
    under the column `any size`, for what has no budget of bytes).
  columns: by name `config`, overrides of base.
  seeds: `config.seed` of the runs.
  reference: the row that others are tested against.
  metric: the one that is tested.
  published: empty, or where figures to print beside ours are (`celsa_jax.sweeps.published`).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.errors import InputError
from celsa_jax.evaluation import METRICS
from celsa_jax.sweeps import published
from celsa_jax.sweeps.methods import Run, check

ANY_SIZE = "any size"
_FIELDS = ("base", "rows", "columns", "seeds", "reference", "metric", "published")
_ROW_FIELDS = ("method", "options", "config", "once")
_DEFAULTS = default_config().to_dict()


def make_sweep(
    *,
    base: ConfigDict,
    rows: Mapping[str, dict],
    columns: Mapping[str, dict],
    reference: str,
    seeds: Iterable[int] = (0,),
    metric: str = "ndcg@100",
    published: Mapping[str, object] | None = None,
) -> ConfigDict:
    """The configuration of a sweep whose rows and columns keep their order."""
    return ConfigDict(
        {
            "base": base,
            "rows": ConfigDict(rows, sort_keys=False),
            "columns": ConfigDict(columns, sort_keys=False),
            "seeds": tuple(seeds),
            "reference": reference,
            "metric": metric,
            "published": dict(published or {}),
        }
    )


def expand(sweep: ConfigDict) -> list[Run]:
    """All runs in the order of the grid: rows, then columns, then seeds.

    Raises:
      InputError: a field, a row or a column is at fault, or two runs are the same.
    """
    _check_fields(sweep)
    base = _override(_DEFAULTS, sweep.base, "config.base")
    runs = [
        _make_run(sweep, base, row, column, seed)
        for row, settings in sweep.rows.items()
        for column, seed in itertools.product(_columns_of(settings, sweep), sweep.seeds)
    ]
    _check_different(runs)
    return runs


def column_names(sweep: ConfigDict) -> list[str]:
    """The columns of the tables: `any size` first, where a row has it."""
    once = any(row.get("once", False) for row in sweep.rows.values())
    return [ANY_SIZE] * once + list(sweep.columns)


def _columns_of(row: ConfigDict, sweep: ConfigDict) -> list[str]:
    return [ANY_SIZE] if row.get("once", False) else list(sweep.columns)


def _make_run(sweep: ConfigDict, base: dict, row: str, column: str, seed: int) -> Run:
    settings = sweep.rows[row]
    overrides = [(f"rows.{row}.config", _plain(settings.get("config", {})))]
    if column != ANY_SIZE:
        overrides.append((f"columns.{column}.config", _plain(sweep.columns[column])["config"]))
        _check_disjoint(*overrides)
    config = base
    for where, changes in overrides:
        for name in ("seed", "seeds"):
            if name in changes:
                raise InputError(f"config.{where}.{name}: the seeds are those of config.seeds")
        config = _override(config, changes, f"config.{where}")
    config = _override(config, {"seed": seed}, "config.seeds")
    options = _plain(settings.get("options", {}))
    run = Run(row, column, seed, settings.method, options, ConfigDict(config))
    try:
        check(run)
    except InputError as error:
        raise InputError(f"row '{row}', column '{column}': {error}") from None
    return run


def _check_fields(sweep: ConfigDict) -> None:
    _known("config", sweep, _FIELDS, _FIELDS[:-1])
    for part in ("rows", "columns"):
        if not isinstance(sweep[part], ConfigDict) or not len(sweep[part]):
            raise InputError(f"config.{part} is empty; name at least one")
        for name, settings in sweep[part].items():
            if "|" in name:
                raise InputError(f"config.{part}.{name}: a name without '|', which tables use")
            if not isinstance(settings, ConfigDict):
                raise InputError(f"config.{part}.{name} is {settings!r}; give its fields")
    for name, row in sweep.rows.items():
        where = f"config.rows.{name}"
        _known(where, row, _ROW_FIELDS, ("method",))
        for field, kind in (("options", Mapping), ("config", Mapping), ("once", bool)):
            if field in row and not isinstance(_plain(row[field]), kind):
                raise InputError(f"{where}.{field} is {row[field]!r}, of the wrong type")
        if not isinstance(row.method, str):
            raise InputError(f"{where}.method is {row.method!r}; give a name")
    for name, column in sweep.columns.items():
        _known(f"config.columns.{name}", column, ("config",), ("config",))
    if ANY_SIZE in sweep.columns:
        raise InputError(f"config.columns.{ANY_SIZE}: the name is taken")
    _check_seeds(sweep.seeds)
    if sweep.reference not in sweep.rows:
        raise InputError(f"config.reference is '{sweep.reference}', which is not a row")
    if sweep.metric not in METRICS:
        names = ", ".join(METRICS)
        raise InputError(f"config.metric is '{sweep.metric}'; choose one of {names}")
    published.check(_plain(sweep.get("published", {})), list(sweep.rows))


def _check_seeds(seeds: object) -> None:
    if not isinstance(seeds, list | tuple) or not seeds:
        raise InputError(f"config.seeds is {seeds!r}; give a list of whole numbers")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"config.seeds: {seed!r} is not a whole number of at least 0")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"config.seeds: {tuple(seeds)} has a seed twice")


def _check_different(runs: list[Run]) -> None:
    first: dict[str, Run] = {}
    for run in runs:
        same = first.setdefault(run.id.rsplit("-", 1)[1], run)
        if same is not run:
            raise InputError(
                f"row '{run.row}', column '{run.column}' is the same run as row '{same.row}', "
                f"column '{same.column}'; leave one out"
            )


def _check_disjoint(row: tuple[str, dict], column: tuple[str, dict]) -> None:
    for section in row[1]:
        for field in _section(row[1], section):
            if field in _section(column[1], section):
                raise InputError(f"config.{row[0]} and .{column[0]} both set {section}.{field}")


def _override(config: dict, changes: object, where: str, defaults: dict = _DEFAULTS) -> dict:
    """A copy with some values replaced by others of the same type as the default."""
    changes = _plain(changes)
    if not isinstance(changes, dict):
        raise InputError(f"{where} is {changes!r}; give its fields")
    _known(where, changes, config, ())
    result = dict(config)
    for name, value in changes.items():
        at = f"{where}.{name}"
        if isinstance(config[name], dict):
            result[name] = _override(config[name], value, at, defaults[name])
        else:
            result[name] = _of_type(value, defaults[name], at)
    return result


def _of_type(value: object, default: object, where: str) -> object:
    kind = type(default)
    if default is None:  # an open field, which the check of a run's configuration knows
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where} is {value!r}; it takes a value like {default!r}")
    return value


def _known(where: str, given: Iterable[str], known: Iterable[str], needed: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{where}.{name}: no such field; {hint}")
    for name in needed:
        if name not in given:
            raise InputError(f"{where}.{name} is missing")


def _section(changes: dict, name: str) -> dict:
    fields = changes.get(name, {})
    return fields if isinstance(fields, dict) else {}


def _plain(value: object) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value
