r"""Sampled outputs against the whole catalogue, at 128 bytes an item, three seeds.

    python -m experiments.sweep --config=configs/sweeps/negatives.py --workdir=runs/negatives \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating), about 9,800 books. Batches
of 32 users, who have some 2,500 books of their own; larger ones would hold most of the catalogue.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper

_NEGATIVES = {"all items": 0, "4,000 others": 4000, "1,000 others": 1000, "250 others": 250}


def get_config() -> ConfigDict:
    base = paper.sample_base()
    base.train.batch_size = 32
    return make_sweep(
        base=base,
        rows={name: paper.elsa({"train": {"n_negatives": n}}) for name, n in _NEGATIVES.items()},
        columns=paper.size_columns((128,)),
        seeds=paper.SEEDS,
        reference="all items",
    )
