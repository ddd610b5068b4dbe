r"""The formats of ours at 128, 64 and 32 bytes an item, three seeds: which k is best?

    python -m experiments.sweep --config=configs/sweeps/formats.py --workdir=runs/formats \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating). A non-zero takes 8 bytes,
as in the paper, or with a compact format 4, 3 or about 2.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper


def get_config() -> ConfigDict:
    return make_sweep(
        base=paper.sample_base(),
        rows=paper.format_rows(),
        columns=paper.size_columns((128, 64, 32)),
        seeds=paper.SEEDS,
        reference="ours",
    )
