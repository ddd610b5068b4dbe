r"""The paper's tables on Goodbooks-10k, the published figures beside ours.

    python -m experiments.sweep --config=configs/sweeps/goodbooks.py:TABLE \
        --workdir=runs/goodbooks-TABLE

TABLE is `main` (methods by bytes an item; without a TABLE it is this), `schedule` or
`initial_width`. For a GPU. The full current release, whose figures are published: downloaded, or
`--config.base.data.path=FOLDER`.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import paper


def get_config(table: str = "main") -> ConfigDict:
    return paper.paper_sweep("goodbooks", table)
