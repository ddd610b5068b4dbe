r"""Goodbooks-10k at 128 bytes an item: 16 of 10,000 factors, one of each book.

    python -m experiments.train --config=configs/goodbooks.py --workdir=runs/goodbooks \
        --config.data.path=FOLDER_OR_RATINGS_FILE

Of a sample of some thousand users ask for fewer to judge: --config.data.n_val_users=250
--config.data.n_test_users=250. README and docs/results.md have what it reaches on a sample and on
the first release.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "goodbooks"
    return config
