r"""The baselines at 256, 128 and 64 bytes an item, or at their own size, on the data of a run.

    python -m experiments.sweep --config=configs/sweeps/baselines.py:DATA --workdir=runs/baselines \
        [--config.base.data.path=FILE] [--config.rows.EASE.options.l2="(30.0, 100.0)"]

DATA is a file of configs/: quickstart (MovieLens-100K), goodbooks, file and so on, with the users
that a run with the same data and seed has. Options are chosen on validation users. No JAX.
"""

import pathlib
import re
import runpy

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, rows


def get_config(data: str = "quickstart") -> ConfigDict:
    path = pathlib.Path(__file__).parent.parent / f"{data}.py"
    methods = rows.baseline_rows((25.0, 50.0, 100.0, 200.0, 400.0))
    return make_sweep(
        base=runpy.run_path(str(path))["get_config"](),
        rows={re.sub("[ -]", "_", name): row for name, row in methods.items()},  # names for flags
        columns=rows.size_columns((256, 128, 64)),
        reference="EASE",
    )
