r"""Your own interactions: a CSV, TSV, parquet or SciPy CSR .npz file.

    python -m experiments.train --config=configs/file.py --workdir=runs/mine \
        --config.data.path=interactions.csv

1024 factors, batches of 256 and 500 users to test: a start for files of some thousand users.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "file"
    config.data.n_val_users = 500
    config.data.n_test_users = 500
    config.model.n_factors = 1024
    config.train.batch_size = 256
    return config
