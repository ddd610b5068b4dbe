r"""Training and testing as in the paper (docs/paper.md): DATASET is goodbooks, ml20m or netflix.

    python -m experiments.train --config=configs/paper.py:DATASET --workdir=runs/paper \
        --config.data.path=FOLDER_OR_FILE [--config.sparsity.target_nnz=8]

16 non-zeros of 4,096 factors (128 bytes); epochs follow from the size: 70 + 10 here. For a GPU.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import paper


def get_config(dataset: str = "goodbooks") -> ConfigDict:
    return paper.preset(dataset)
