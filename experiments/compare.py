r"""Two runs, user by user: is one better, and by how much?

    python -m experiments.compare RUN_A RUN_B [--data=PATH] [--seed=0]

Both are judged on the same held-out interactions of the same users: those that are test users of
both runs and, split by user, that neither was trained on, itself or through train.init_from. The
table has the means, the mean paired difference (B - A), its 95 % confidence interval (bootstrap
over users) and the p-values of a paired t-test and of Wilcoxon's signed-rank test. Runs may differ
in anything but the data, of which each keeps a digest: --data names another place of them than
RUN_A's configuration does. The last line printed is one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json

import numpy as np
from absl import flags

from celsa_jax.config import seed_of
from celsa_jax.data import Interactions, dataset_of
from celsa_jax.data.interactions import lookup
from celsa_jax.data.splits import read_split, same_data, trained_users
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.evaluation.paired import compare
from celsa_jax.sparse import SparseEmbeddings, scorer
from celsa_jax.workdir import Workdir
from experiments import cli

_DATA = flags.DEFINE_string("data", None, "Where the interactions are now, config.data.path.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the folds and of the bootstrap.", lower_bound=0)


def main(first: str, second: str) -> None:
    runs = [_Run(first), _Run(second)]
    config = runs[0].config
    users, held_out_from = _test_users(runs)
    results = [
        evaluate(
            scorer(run.embeddings.tocsr()),
            users,
            run.embeddings.item_ids,
            folds=config.eval.folds,
            seed=_SEED.value,
            held_out_from=held_out_from,
        )
        for run in runs
    ]
    report = {name: compare(*results, name, _SEED.value) for name in results[0].per_user}
    rows = []
    for name, of in report.items():
        interval = " to ".join(f"{bound:+.4f}" for bound in of["interval"])
        means = [f"{of['a']:.4f}", f"{of['b']:.4f}", f"{of['difference']:+.4f}"]
        rows.append([name, *means, interval, f"{of['p_t']:.2g}", f"{of['p_wilcoxon']:.2g}"])
    header = ["metric", "A", "B", "B - A", "95 % interval", "p, t-test", "p, Wilcoxon"]
    print(cli.markdown(header, rows))
    print(json.dumps({"runs": [first, second], "n_users": report["ndcg@100"]["n_users"], **report}))


class _Run:
    """What a finished run left behind."""

    def __init__(self, path: str):
        self.path = path
        folder = Workdir(path)
        if folder.results() is None:
            raise InputError(f"{path}: no finished run, results.json is missing")
        self.config = folder.stored_config()
        self.embeddings = SparseEmbeddings.load(folder.embeddings)
        self.split = read_split(folder.split)


def _test_users(runs: list[_Run]) -> tuple[Interactions, int | None]:
    """The users to judge, and from when on their interactions are held out (by time)."""
    config = runs[0].config
    data = config.data
    if _DATA.value is not None:
        data.path = _DATA.value
    fields = ("name", "split", "test_from")
    for field in fields:
        if runs[1].config.data[field] != data[field]:
            raise InputError(
                f"{runs[1].path}: config.data.{field} is '{runs[1].config.data[field]}', in "
                f"{runs[0].path} '{data[field]}'; the runs must be on the same data"
            )
    interactions = dataset_of(data, seed_of(config, "split")).interactions
    digest = interactions.digest()
    for run in runs:
        if not same_data(run.split, digest):
            raise InputError(
                f"{run.path}: was trained on other data than those that {runs[0].path} names; "
                "the runs must be on the same data (--data=PATH, if these have changed since)"
            )
    shared = np.intersect1d(*(run.split["test"] for run in runs))
    held_out_from = None
    if data.split == "temporal":
        held_out_from = int(runs[0].split["from"][1])
    else:
        shared = np.setdiff1d(shared, np.concatenate([trained_users(run.split) for run in runs]))
    if not len(shared):
        raise InputError(f"{runs[0].path} and {runs[1].path} have no test user in common")
    rows = lookup(interactions.user_ids, shared)
    if (rows < 0).any():
        raise InputError(
            f"user '{shared[np.argmin(rows)]}' of {runs[0].path} is not in the data; "
            "are they the same? --data=PATH names another file"
        )
    return interactions.take_users(np.sort(rows)), held_out_from


if __name__ == "__main__":
    cli.run(main, arguments=("RUN_A", "RUN_B"))
