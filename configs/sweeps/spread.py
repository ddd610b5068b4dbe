r"""What is chance: three trainings on each of three splits, at 128 and 64 bytes an item: 18 runs.

    python -m experiments.sweep --config=configs/sweeps/spread.py --workdir=runs/spread \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating).
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, rows


def get_config() -> ConfigDict:
    return make_sweep(
        base=rows.sample_base(),
        rows={"ours": rows.elsa()},
        columns=rows.size_columns((128, 64)),
        seeds=rows.SEEDS,
        trainings=3,
        reference="ours",
    )
