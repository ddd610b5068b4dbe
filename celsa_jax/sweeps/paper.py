"""The three tables of the paper (arXiv 2602.09935), on its data sets.

`main` has methods by bytes an item, `schedule` schedules by bytes, `initial_width` widths by
bytes. What is trained as in the paper has its row's name there (docs/paper.md).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.errors import InputError
from celsa_jax.sweeps import published
from celsa_jax.sweeps.grid import make_sweep
from celsa_jax.sweeps.rows import DENSE, SEEDS, elsa, method_rows, size_columns

BYTES = (1024, 512, 256, 128, 64)
_PENALTIES = (50.0, 100.0, 200.0, 400.0)
_WIDTHS = (2048, 4096, 6144, 8192)
_SCHEDULES = {"Linear": "linear", "Step-wise": "step-wise", "Exponential": "exponential_half"}


def preset(dataset: str) -> ConfigDict:
    """A run as the paper trains and tests (docs/paper.md), at 128 bytes an item.

    Args:
      dataset: goodbooks, ml20m or netflix.
    """
    config = _as_tested(dataset)
    config.update(as_published())
    return config


def _as_tested(dataset: str) -> ConfigDict:
    if dataset not in published.DATA:
        known = ", ".join(published.DATA)
        raise InputError(f"the paper has no data '{dataset}'; choose one of {known}")
    config, data = default_config(), published.DATA[dataset]
    config.data.name = data.name
    config.data.n_val_users = config.data.n_test_users = data.n_test_users
    config.eval.folds = "independent"
    return config


def as_published(n_factors: int = 4096, **sparsity: object) -> dict:
    """Overrides for training as the paper does: "Exponential with restarting"."""
    return {
        "data": {"n_val_users": 0},  # who validate elsewhere train, too
        "model": {"start": "random", "n_factors": n_factors, "norms": "unit"},
        "sparsity": {"schedule": "exponential_half", "rewind": True, **sparsity},
        "train": {"as_published": True, "learning_rate": 0.1, "b1": 0.9, "batch_size": 1024},
    }


def paper_sweep(dataset: str, table: str) -> ConfigDict:
    """A table of the paper on a whole data set, with the published figures.

    Args:
      dataset: goodbooks, ml20m or netflix.
      table: main, schedule or initial_width.
    """
    base = _as_tested(dataset)
    width = published.DATA[dataset].dense_width
    methods = method_rows(width, _PENALTIES, DENSE) | {"as in the paper": elsa(as_published())}
    schedules = {"Constant": elsa(as_published(schedule="constant", rewind=False))}
    for name, schedule in _SCHEDULES.items():
        changes = [as_published(schedule=schedule, rewind=rewind) for rewind in (False, True)]
        schedules |= {name: elsa(changes[0]), f"{name} with restarting": elsa(changes[1])}
    widths = {f"{d // 128} kB ({d} factors)": elsa(as_published(d)) for d in _WIDTHS}
    tables = {
        "main": (methods, "ours"),
        "schedule": (schedules, "Exponential with restarting"),
        "initial_width": (widths, "32 kB (4096 factors)"),
    }
    if table not in tables:
        raise InputError(f"there is no table '{table}'; choose one of {', '.join(tables)}")
    rows, reference = tables[table]
    return make_sweep(
        base=base,
        rows=rows,
        columns=size_columns(BYTES),
        seeds=SEEDS,
        reference=reference,
        published=f"{dataset}/{table}",
    )
