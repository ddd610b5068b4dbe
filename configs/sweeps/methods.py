r"""Every method at 256, 128 and 64 bytes an item, three seeds, at 1024 factors; ours at 4096, too.

    python -m experiments.sweep --config=configs/sweeps/methods.py --workdir=runs/methods \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating). Popularity, EASE and the
dense models at their own width have no budget of bytes: they run once a seed. The compact formats
fill a column's bytes with more non-zeros. EASE, item k-NN and ALS choose options on validation
users.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper


def get_config() -> ConfigDict:
    wide = {
        "ours, 4096 factors": {"method": "elsa", "config": {"model": {"n_factors": 4096}}},
        "dense ELSA, 4096": {
            "method": "dense_elsa",
            "options": {"width": 4096},
            "config": {"train": paper.SAMPLE_DENSE},
            "once": True,
        },
    }
    return make_sweep(
        base=paper.sample_base(),
        rows=wide | paper.method_rows(1024, paper.SAMPLE_PENALTIES, paper.SAMPLE_DENSE),
        columns=paper.size_columns((256, 128, 64)),
        seeds=paper.SEEDS,
        reference="ours, 4096 factors",
    )
