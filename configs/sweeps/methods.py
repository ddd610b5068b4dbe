r"""Every method at 256, 128 and 64 bytes an item, three seeds, beside models of their own size.

    python -m experiments.sweep --config=configs/sweeps/methods.py --workdir=runs/methods \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating). Popularity, user k-NN,
EASE and EDLAE, the dense models at their own width and ours at 512 and 1,024 bytes have no column:
they run once a seed. The compact formats fill a column's bytes with more non-zeros. EASE, EDLAE,
k-NN and ALS choose options on validation users.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, rows


def get_config() -> ConfigDict:
    methods = rows.method_rows(1024, rows.SAMPLE_PENALTIES, rows.SAMPLE_DENSE)
    methods["dense ELSA, 4096"] = rows.dense_row(4096, rows.SAMPLE_DENSE)
    for size in (512, 1024):
        columns = rows.size_columns((size,))
        methods[f"ours, {size:,} bytes"] = rows.elsa(columns[str(size)]["config"]) | {"once": True}
    methods["random start, 4096 factors"] = rows.elsa(rows.random_start(4096))
    return make_sweep(
        base=rows.sample_base(),
        rows=methods,
        columns=rows.size_columns((256, 128, 64)),
        seeds=rows.SEEDS,
        reference="ours",
    )
