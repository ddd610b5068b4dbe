r"""Seven schedules from either start, at 128 and 64 bytes, three seeds: 84 runs.

    python -m experiments.sweep --config=configs/sweeps/schedules.py --workdir=runs/schedules \
        --config.base.data.path=ratings.csv.zip

From the factors of an item's neighbours, and from 1024 random ones with rewinding, as in the paper
(the constant schedule never rewinds). For a sample of Goodbooks-10k's current release
(user_id,book_id,rating).
"""

from ml_collections import ConfigDict

from celsa_jax.schedules import SCHEDULES
from celsa_jax.sweeps import make_sweep, paper


def get_config() -> ConfigDict:
    sparse = {name: paper.elsa({"sparsity": {"schedule": name}}) for name in SCHEDULES}
    random = {
        f"{name}, random start": paper.elsa(paper.random_start(1024, schedule=name))
        for name in SCHEDULES
    }
    return make_sweep(
        base=paper.sample_base(),
        rows=sparse | random,
        columns=paper.size_columns((128, 64)),
        seeds=paper.SEEDS,
        reference="cubic",
    )
