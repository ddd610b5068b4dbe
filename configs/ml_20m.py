r"""MovieLens-20M, ratings of at least 4, 10,000 test users, 16 non-zeros a row.

    python -m experiments.train --config=configs/ml_20m.py --workdir=runs/ml-20m \
        [--config.data.path=ml-20m.zip]

Without a path the data are downloaded (199 MB). `--config.data.name=ml-25m` or `ml-1m` reads the
other releases; for ml-1m ask for fewer users to test. Made for a GPU, and not run there yet.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "ml-20m"
    config.data.n_val_users = 10_000
    config.data.n_test_users = 10_000
    return config
