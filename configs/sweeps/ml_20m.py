r"""The paper's tables on MovieLens-20M, the published figures beside ours.

    python -m experiments.sweep --config=configs/sweeps/ml_20m.py:TABLE \
        --workdir=runs/ml_20m-TABLE

TABLE is `main` (methods by bytes an item; without a TABLE it is this), `schedule` or
`initial_width`. For a GPU. Downloaded (199 MB), or `--config.base.data.path=ml-20m.zip`.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import paper


def get_config(table: str = "main") -> ConfigDict:
    return paper.paper_sweep("ml20m", table)
