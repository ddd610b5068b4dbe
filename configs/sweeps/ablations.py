r"""One change of the recipe at a time, at 128 and 64 bytes an item, two seeds.

    python -m experiments.sweep --config=configs/sweeps/ablations.py --workdir=runs/ablations \
        --config.base.data.path=ratings.csv.zip

For a sample of Goodbooks-10k's current release (user_id,book_id,rating). Of a field that the recipe
chooses from the data there are values around its own, and maybe that one. Its seeds are not those
of the sweeps that report, as a recipe may be chosen here.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper

_CHANGES = {
    "as it is": {},
    "4096 clusters": {"model": {"start": "clusters", "n_factors": 4096}},
    "random start, 4096 factors": paper.random_start(4096),
    "random start, no rewinding": paper.random_start(4096, rewind=False),
    "32 factors at the start": {"sparsity": {"start_nnz": 32}},
    "128 factors at the start": {"sparsity": {"start_nnz": 128}},
    "unit length": {"model": {"norms": "unit"}},
    "alpha 7/20": {"model": {"alpha": 0.35}},
    "alpha 1/5": {"model": {"alpha": 0.2}},
    "no dropout": {"train": {"input_dropout": 0.0}},
    "dropout 30 %": {"train": {"input_dropout": 0.3}},
    "dropout 50 %": {"train": {"input_dropout": 0.5}},
    "dropout 70 %": {"train": {"input_dropout": 0.7}},
    "5 + 3 epochs": {"train": {"n_epochs": 5, "n_final_epochs": 3}},
    "10 + 5 epochs": {"train": {"n_epochs": 10, "n_final_epochs": 5}},
    "20 + 10 epochs": {"train": {"n_epochs": 20, "n_final_epochs": 10}},
    "batches of 64": {"train": {"batch_size": 64}},
    "batches of 128": {"train": {"batch_size": 128}},
    "batches of 256": {"train": {"batch_size": 256}},
    "learning rate 1/200": {"train": {"learning_rate": 0.005}},
    "learning rate 1/100": {"train": {"learning_rate": 0.01}},
    "learning rate 1/50": {"train": {"learning_rate": 0.02}},
    "b1 9/10": {"train": {"b1": 0.9}},
}


def get_config() -> ConfigDict:
    return make_sweep(
        base=paper.sample_base(),
        rows={name: paper.elsa(change) for name, change in _CHANGES.items()},
        columns=paper.size_columns((128, 64)),
        seeds=(7, 8),
        reference="as it is",
    )
