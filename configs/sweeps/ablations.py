r"""One change of the recipe at a time, at 128 and 64 bytes an item, two seeds, 1024 factors.

    python -m experiments.sweep --config=configs/sweeps/ablations.py --workdir=runs/ablations \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating). Its seeds are not those of
the sweeps that report, as a recipe may be chosen here.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper

_CHANGES = {
    "as it is": {},
    "no refinement, 10 final epochs": {"refine": {"n_rounds": 0}, "train": {"n_final_epochs": 10}},
    "two rounds of refinement": {"refine": {"n_rounds": 2}},
    "no rewinding": {"sparsity": {"rewind": False}},
    "10 epochs of pruning": {"train": {"n_epochs": 10}},
    "30 epochs of pruning": {"train": {"n_epochs": 30}},
    "an update every 2 epochs": {"sparsity": {"update_every": 2}},
    "an update every 5 epochs": {"sparsity": {"update_every": 5}},
    "an update every step": {"sparsity": {"update_every": 0}},
    "half the learning rate": {"train": {"learning_rate": 0.005}},
    "twice the learning rate": {"train": {"learning_rate": 0.02}},
    "no decay at the target": {"train": {"final_decay": "none"}},
    "batches of 256": {"train": {"batch_size": 256}},
    "Adam, not Nadam": {"train": {"optimizer": "adam"}},
    "b1: 9 tenths": {"train": {"b1": 0.9}},
    "epsilon 1e-5, a loss in thousandths": {"train": {"epsilon": 1e-5}},
    "the optimizer is always reset": {"sparsity": {"reset_optimizer": True}},
    "no relu": {"model": {"relu": False}},
    "no cap of the relu": {"model": {"relu_cap": None}},
    "a cap of 3": {"model": {"relu_cap": 3.0}},
    "regrowth": {"sparsity": {"regrow": True}},
    "an auxiliary loss at 4k, weight 1/8": {"train": {"auxiliary_weight": 0.125}},
}


def get_config() -> ConfigDict:
    rows = {name: {"method": "elsa", "config": change} for name, change in _CHANGES.items()}
    return make_sweep(
        base=paper.sample_base(),
        rows=rows,
        columns=paper.size_columns((128, 64)),
        seeds=(7, 8),
        reference="as it is",
    )
