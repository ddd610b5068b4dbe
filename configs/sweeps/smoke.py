"""24 tiny runs on synthetic data: does everything work? A minute or two on two cores.

python -m experiments.sweep --config=configs/sweeps/smoke.py --workdir=runs/smoke

Five ways to two sizes with two seeds, and two methods that have no size. Pruned EASE chooses its
penalty on validation users. The figures mean nothing.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.sweeps import make_sweep


def get_config() -> ConfigDict:
    base = default_config()
    base.data.name = "synthetic"
    base.data.synthetic.update(n_users=400, n_items=150, n_segments=8)
    base.data.n_val_users = 40
    base.data.n_test_users = 60
    base.model.n_factors = 64
    base.train.batch_size = 64
    base.train.n_epochs = 4
    base.train.n_final_epochs = 3
    base.refine.n_epochs = base.refine.n_final_epochs = 2
    return make_sweep(
        base=base,
        rows={
            "popularity": {"method": "popularity", "once": True},
            "EASE": {"method": "ease", "once": True},
            "pruned EASE": {"method": "pruned_ease", "options": {"l2": (20.0, 80.0, 320.0)}},
            "dense ELSA": {"method": "dense_elsa"},
            "top k of dense ELSA": {"method": "top_k"},
            "ours": {"method": "elsa"},
            "ours, linear": {"method": "elsa", "config": {"sparsity": {"schedule": "linear"}}},
        },
        columns={
            "64": {"config": {"sparsity": {"target_nnz": 8}}},
            "32": {"config": {"sparsity": {"target_nnz": 4}}},
        },
        seeds=(0, 1),
        reference="ours",
    )
