r"""1024, 2048 and 4096 factors, of clusters or random, against a factor an item; 128 bytes an item.

    python -m experiments.sweep --config=configs/sweeps/widths.py --workdir=runs/widths \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating); three seeds.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper

_WIDTHS = (1024, 2048, 4096)


def get_config() -> ConfigDict:
    clusters = {
        f"{width} clusters": paper.elsa({"model": {"start": "clusters", "n_factors": width}})
        for width in _WIDTHS
    }
    random = {f"{width} random": paper.elsa(paper.random_start(width)) for width in _WIDTHS}
    return make_sweep(
        base=paper.sample_base(),
        rows={"neighbours": paper.elsa(), **clusters, **random},
        columns=paper.size_columns((128,)),
        seeds=paper.SEEDS,
        reference="neighbours",
    )
