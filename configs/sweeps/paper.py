r"""The paper's tables (docs/paper.md), the published figures beside ours.

    python -m experiments.sweep --config=configs/sweeps/paper.py:DATASET/TABLE \
        --workdir=runs/DATASET-TABLE --config.base.data.path=FOLDER_OR_FILE

DATASET is `goodbooks` (the current release), `ml20m` or `netflix`; TABLE is `main` (methods by
bytes an item), `schedule` or `initial_width`. For a GPU.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import paper


def get_config(which: str = "goodbooks/main") -> ConfigDict:
    dataset, _, table = which.partition("/")
    return paper.paper_sweep(dataset, table)
