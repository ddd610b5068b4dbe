r"""Goodbooks-10k at 128 bytes an item (4096 factors, 16 non-zeros a row).

    python -m experiments.train --config=configs/goodbooks.py --workdir=runs/goodbooks \
        --config.data.path=FOLDER_OR_RATINGS_FILE
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "goodbooks"
    return config
