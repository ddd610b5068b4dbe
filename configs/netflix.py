r"""Netflix Prize, ratings of at least 4, 40,000 test users, 16 non-zeros a row.

    python -m experiments.train --config=configs/netflix.py --workdir=runs/netflix \
        --config.data.path=archive.zip

The archive is that of kaggle.com/datasets/netflix-inc/netflix-prize-data, or the folder unpacked
from it. On a device that cannot hold 57 million interactions (0.25 GB) beside the model,
`--config.train.chunk_users=50000` streams them. Made for a GPU, and not run there yet.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "netflix"
    config.data.n_val_users = 40_000
    config.data.n_test_users = 40_000
    return config
