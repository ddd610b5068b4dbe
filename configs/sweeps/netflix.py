r"""The paper's tables on the Netflix Prize data, the published figures beside ours.

    python -m experiments.sweep --config=configs/sweeps/netflix.py:TABLE \
        --workdir=runs/netflix-TABLE

TABLE is `main` (methods by bytes an item; without a TABLE it is this), `schedule` or
`initial_width`. For a GPU. `--config.base.data.path=archive.zip` as for configs/netflix.py.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import paper


def get_config(table: str = "main") -> ConfigDict:
    return paper.paper_sweep("netflix", table)
