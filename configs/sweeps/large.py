r"""Ours at 1,024 bytes an item, beside a dense model and one from a random start.

    python -m experiments.sweep --config=configs/sweeps/large.py --workdir=runs/large \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating): what sparsity costs where
there are bytes enough.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper


def get_config() -> ConfigDict:
    return make_sweep(
        base=paper.sample_base(),
        rows={
            "ours": paper.elsa(),
            "random start, 4096 factors": paper.elsa(paper.random_start(4096)),
            "dense ELSA, 4096": paper.dense_row(4096, paper.SAMPLE_DENSE),
        },
        columns=paper.size_columns((1024,)),
        seeds=paper.SEEDS,
        reference="ours",
    )
