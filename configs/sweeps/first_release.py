r"""Ours beside its strongest opponents on 44,678 users; three seeds.

    python -m experiments.sweep --config=configs/sweeps/first_release.py \
        --workdir=runs/first_release --config.base.data.path=goodbooks

For the first release of Goodbooks-10k: is anything better, of any size? 33 runs, an hour on two
cores. `first_release.py:dense`, with --config.seeds="(0,)" and a folder of its own, has dense
models and the random start, for what is lost against them at which size; hours.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.errors import InputError
from celsa_jax.sweeps import make_sweep, rows

_FLOAT16 = rows.elsa() | {"options": {"format": "float16"}}
_DENSE = {"n_final_epochs": 10, "learning_rate": 0.003}


def get_config(which: str = "closed_forms") -> ConfigDict:
    kinds = {"closed_forms": _closed_forms, "dense": _dense}
    if which not in kinds:
        raise InputError(f"first_release.py:{which}: choose one of {', '.join(kinds)}")
    base = default_config()
    base.data.name = "goodbooks"
    sizes = (128, 64, 32, 16, 8) if which == "dense" else (128, 64)
    return make_sweep(
        base=base,
        rows=kinds[which](),
        columns=rows.size_columns(sizes),
        seeds=rows.SEEDS,
        reference="ours, float16",
    )


def _closed_forms() -> dict[str, dict]:
    ease, edlae = {"l2": (100.0,)}, {"l2": (100.0, 200.0), "dropout": (0.2, 0.4)}
    methods = rows.closed_form_rows(ease["l2"])
    for name, options in (
        ("EDLAE", edlae),
        ("column-pruned EDLAE", edlae),
        ("discounted EDLAE", edlae | {"discount": (0.1, 0.2, 0.3)}),
    ):
        methods[name]["options"] = options
    return methods | {"ours": rows.elsa(), "ours, float16": _FLOAT16}


def _dense() -> dict[str, dict]:
    methods = {
        f"dense ELSA, {width}, dropout {rate:.0%}": rows.dense_row(
            width, _DENSE | {"input_dropout": rate}
        )
        for width, rate in ((1024, 0.0), (1024, 0.5), (2048, 0.5), (4096, 0.5))
    }
    at_random = rows.elsa(rows.random_start(1024, batch_size=1024)) | {"once": True}
    return methods | {"random start, 1024 factors, 128 bytes": at_random, "ours, float16": _FLOAT16}
