"""MovieLens-100K, small enough for a laptop: what `python -m experiments.quickstart` runs.

python -m experiments.train --config=configs/quickstart.py --workdir=runs/ml-100k
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "ml-100k"
    config.data.n_val_users = 100
    config.data.n_test_users = 200
    return config
