"""Interactions from planted segments: no data and no network needed.

python -m experiments.train --config=configs/synthetic.py --workdir=runs/planted
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "synthetic"
    config.data.n_val_users = 500
    config.data.n_test_users = 500
    return config
