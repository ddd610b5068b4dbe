r"""Seven schedules, with rewinding and without, at 128 and 64 bytes: 84 runs at 1024 factors.

    python -m experiments.sweep --config=configs/sweeps/schedules.py --workdir=runs/schedules \
        --config.base.data.path=ratings.csv.zip

Without refinement, which would prune by the schedule once more and never rewinds. For a sample of
Goodbooks-10k's current release (user_id,book_id,rating). Other sizes:
`--config.base.model.n_factors=4096`.
"""

from ml_collections import ConfigDict

from celsa_jax.sweeps import make_sweep, paper


def get_config() -> ConfigDict:
    return make_sweep(
        base=paper.plain(paper.sample_base()),
        rows=paper.schedule_rows(),
        columns=paper.size_columns((128, 64)),
        seeds=paper.SEEDS,
        reference="cubic, rewinding",
    )
