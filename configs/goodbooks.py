r"""Goodbooks-10k at 128 bytes an item (4096 factors, 16 non-zeros a row).

    python -m experiments.train --config=configs/goodbooks.py --workdir=runs/goodbooks \
        --config.data.path=FOLDER_OR_RATINGS_FILE

On 2 cores: a sample of 2,553 users with batches of 128 takes 3.5 minutes and reaches an nDCG@100 of
0.407; the first release (49,678 users) takes 25 minutes without refinement and reaches 0.242
(README, docs/results.md).
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "goodbooks"
    return config
