"""24 tiny runs on synthetic data: does everything work? A minute or two on two cores.

python -m experiments.sweep --config=configs/sweeps/smoke.py --workdir=runs/smoke

Five ways to two sizes with two seeds, and two methods that have no size. Pruned EASE chooses its
penalty on validation users. The figures mean nothing.
"""

from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.sweeps import make_sweep, rows


def get_config() -> ConfigDict:
    base = default_config()
    base.data.name = "synthetic"
    base.data.synthetic.update(n_users=400, n_items=150, n_segments=8)
    base.data.n_val_users = 40
    base.data.n_test_users = 60
    base.train.update(batch_size=64, n_epochs=4, n_final_epochs=3)
    return make_sweep(
        base=base,
        rows={
            "popularity": {"method": "popularity", "once": True},
            "EASE": {"method": "ease", "once": True},
            "pruned EASE": {"method": "pruned_ease", "options": {"l2": (20.0, 80.0, 320.0)}},
            "dense ELSA": {"method": "dense_elsa"},
            "top k of dense ELSA": {
                "method": "top_k",
                "config": {"model": {"start": "random", "n_factors": 64}},
            },
            "ours": rows.elsa(),
            "ours, linear": rows.elsa({"sparsity": {"schedule": "linear"}}),
        },
        columns=rows.size_columns((64, 32)),
        seeds=(0, 1),
        reference="ours",
    )
