r"""Your own interactions: a CSV, TSV, parquet or SciPy CSR .npz file.

    python -m experiments.train --config=configs/file.py --workdir=runs/mine \
        --config.data.path=interactions.csv

500 users validate and 500 test, out of some thousand; ask for fewer of a small file.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "file"
    config.data.n_val_users = 500
    config.data.n_test_users = 500
    return config
