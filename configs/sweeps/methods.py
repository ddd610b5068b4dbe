r"""Every method at 256, 128 and 64 bytes an item, three seeds, beside models of their own size.

    python -m experiments.sweep --config=configs/sweeps/methods.py --workdir=runs/methods \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating). Popularity, user k-NN,
EASE and EDLAE, the dense models at their own width and ours at 512 and 1,024 bytes, and as float16
at 8 to 32, have no column: they run once a seed. The compact formats fill a column's bytes with
more non-zeros. EASE, EDLAE, k-NN and ALS choose options on validation users.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, rows


def get_config() -> ConfigDict:
    methods = rows.method_rows(1024, rows.SAMPLE_PENALTIES, rows.SAMPLE_DENSE)
    methods["dense ELSA, 4096"] = rows.dense_row(4096, rows.SAMPLE_DENSE)
    float16 = {"options": {"format": "float16"}}
    for size, name, options in (
        *((size, "ours", {}) for size in (512, 1024)),
        *((size, "ours, float16", float16) for size in (8, 16, 32)),
    ):
        config = {"sparsity": {"target_nnz": size // 8}}
        methods[f"{name}, {size:,} bytes"] = rows.elsa(config) | options | {"once": True}
    methods["random start, 4096 factors"] = rows.elsa(rows.random_start(4096))
    return make_sweep(
        base=rows.sample_base(),
        rows=methods,
        columns=rows.size_columns((256, 128, 64)),
        seeds=rows.SEEDS,
        reference="ours",
    )
