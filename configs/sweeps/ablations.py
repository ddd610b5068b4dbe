r"""One change at a time: starts, widths, schedules, recipe; 128 bytes an item, three seeds.

    python -m experiments.sweep --config=configs/sweeps/ablations.py --workdir=runs/ablations \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating); 102 runs, an hour or two
on two cores. Of a field that the recipe chooses from the data there are values around its own. The
random start rewinds, as in the paper (the constant schedule never does). The seeds are not those of
the sweeps that report, as a recipe may be chosen here.
"""

from ml_collections import ConfigDict

from celsa_jax.schedules import SCHEDULES
from celsa_jax.sweeps import make_sweep, rows

_CHANGES = {
    **{
        f"{d} clusters": {"model": {"start": "clusters", "n_factors": d}}
        for d in (1024, 2048, 4096)
    },
    **{name: {"sparsity": {"schedule": name}} for name in SCHEDULES if name != "cubic"},
    **{f"random start, {name}": rows.random_start(1024, schedule=name) for name in SCHEDULES},
    "random start, no rewinding": rows.random_start(1024, rewind=False),
    "32 factors at the start": {"sparsity": {"start_nnz": 32}},
    "128 factors at the start": {"sparsity": {"start_nnz": 128}},
    "unit length": {"model": {"norms": "unit"}},
    "alpha 7/20": {"model": {"alpha": 0.35}},
    "alpha 1/5": {"model": {"alpha": 0.2}},
    "no dropout": {"train": {"input_dropout": 0.0}},
    "dropout 30 %": {"train": {"input_dropout": 0.3}},
    "dropout 70 %": {"train": {"input_dropout": 0.7}},
    "5 + 5 epochs": {"train": {"n_epochs": 5, "n_final_epochs": 5}},
    "10 + 5 epochs": {"train": {"n_epochs": 10, "n_final_epochs": 5}},
    "20 + 10 epochs": {"train": {"n_epochs": 20, "n_final_epochs": 10}},
    "batches of 64": {"train": {"batch_size": 64, "learning_rate": 0.02}},
    "batches of 256": {"train": {"batch_size": 256, "learning_rate": 0.02}},
    "learning rate 1/100": {"train": {"learning_rate": 0.01}},
    "learning rate 1/25": {"train": {"learning_rate": 0.04}},
    "b1 9/10": {"train": {"b1": 0.9}},
}


def get_config() -> ConfigDict:
    return make_sweep(
        base=rows.sample_base(),
        rows={"as it is": rows.elsa()} | {name: rows.elsa(v) for name, v in _CHANGES.items()},
        columns=rows.size_columns((128,)),
        seeds=(7, 8, 9),
        reference="as it is",
    )
