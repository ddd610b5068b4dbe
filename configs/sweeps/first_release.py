r"""Ours in every format beside its opponents and dense models, on 44,678 users; three seeds.

    python -m experiments.sweep --config=configs/sweeps/first_release.py \
        --workdir=runs/first_release --config.base.data.path=goodbooks --config.seeds="(0,)"

For the first release of Goodbooks-10k: what is lost against the best dense model at which size, and
is anything better, of any size? Hours a seed on two cores; without --config.seeds it goes on with
the others.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.sweeps import make_sweep, rows

_PENALTIES = (50.0, 100.0, 200.0)


def get_config() -> ConfigDict:
    base = default_config()
    base.data.name = "goodbooks"
    dense = {
        f"dense ELSA, {width}, dropout {rate:.0%}": rows.dense_row(
            width, {"n_final_epochs": 10, "learning_rate": 0.003, "input_dropout": rate}
        )
        for width in (1024, 2048, 4096)
        for rate in (0.0, 0.5)
    }
    at_random = rows.elsa(rows.random_start(4096, batch_size=1024)) | {"once": True}
    return make_sweep(
        base=base,
        rows={
            **rows.format_rows(),
            **rows.closed_form_rows(_PENALTIES),
            **dense,
            "random start, 128 bytes": at_random,
        },
        columns=rows.size_columns((128, 64, 32)),
        seeds=rows.SEEDS,
        reference="ours",
    )
