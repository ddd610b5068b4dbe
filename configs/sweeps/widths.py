r"""1024, 2048 and 4096 factors at 128 bytes an item, three seeds.

    python -m experiments.sweep --config=configs/sweeps/widths.py --workdir=runs/widths \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating).
`--config=configs/sweeps/widths.py:8192` goes on to 6144 and 8192 factors.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper


def get_config(widest: str = "4096") -> ConfigDict:
    widths = [width for width in (1024, *paper.WIDTHS) if width <= int(widest)]
    return make_sweep(
        base=paper.sample_base(),
        rows=paper.width_rows(widths),
        columns=paper.size_columns((128,)),
        seeds=paper.SEEDS,
        reference="1024 factors",
    )
