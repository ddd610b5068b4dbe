r"""Ours with 4096 factors at 1,024 bytes an item, beside the dense model of that width.

    python -m experiments.sweep --config=configs/sweeps/large.py --workdir=runs/large \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating): what sparsity costs where
there are bytes enough.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper


def get_config() -> ConfigDict:
    return make_sweep(
        base=paper.sample_base(4096),
        rows={
            "ours, 4096 factors": {"method": "elsa"},
            "dense ELSA, 4096": {
                "method": "dense_elsa",
                "options": {"width": 4096},
                "config": {"train": paper.SAMPLE_DENSE},
                "once": True,
            },
        },
        columns=paper.size_columns((1024,)),
        seeds=paper.SEEDS,
        reference="ours, 4096 factors",
    )
