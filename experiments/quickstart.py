"""Trains dense and sparse models on MovieLens-100K, compares them, recommends films.

    python -m experiments.quickstart [--workdir=runs/quickstart] [--config.a.b=value ...]

Without a network: --config.data.name=synthetic.
"""

from __future__ import annotations

import pathlib
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.csv
from absl import flags

from celsa_jax.config import seed_of
from celsa_jax.data import Dataset, dataset_of
from celsa_jax.data.metadata import printable
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import METRICS
from celsa_jax.evaluation.protocol import rank_unseen
from celsa_jax.files import atomic_path
from celsa_jax.sparse import load_embeddings, scorer
from celsa_jax.sparse.formats import BYTES_PER_FACTOR, BYTES_PER_NONZERO
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_run()

DENSE = {
    "model": {"start": "random", "n_factors": 256},
    "sparsity": {"target_nnz": 256},
    "train": {
        "n_epochs": 0,
        "n_final_epochs": 3,  # more overfit
        "batch_size": 32,
        "learning_rate": 0.01,
        "input_dropout": 0.3,
    },
}
SPARSE_NNZ = (32, 16, 8)
SHOWN_NNZ = 16
N_USERS = 3
N_TITLES = 5


def main() -> None:
    from celsa_jax.train import train_and_evaluate

    config = FLAGS.config
    if config.data.n_test_users < 2:
        raise InputError("config.data.n_test_users must be at least 2 for a comparison")
    inputs.check_split(config)
    folder = pathlib.Path(FLAGS.workdir or "runs/quickstart")
    changes = {"dense": DENSE}
    changes |= {f"nnz_{nnz}": {"sparsity": {"target_nnz": nnz}} for nnz in SPARSE_NNZ}
    results = []
    for name, change in changes.items():
        run = config.copy_and_resolve_references()  # a copy of the sections, too
        run.update(change)
        results.append(train_and_evaluate(run, folder / name))
    print()
    print_table(results)
    dataset = dataset_of(config.data, seed_of(config, "split"))
    print_recommendations(dataset, folder / f"nnz_{SHOWN_NNZ}")
    print_what_next(dataset.metadata, folder)


def print_table(results: list[dict]) -> None:
    """A Markdown table of sizes and test metrics, of the contents of results.json files."""
    rows = []
    for result in results:
        nnz, width = result["nnz_per_row"], result["n_factors"]
        name, size = f"{nnz} of {width:,}", BYTES_PER_NONZERO * nnz
        if nnz == width:  # which needs no indices
            name, size = f"dense, {width}", BYTES_PER_FACTOR * width
        pairs = ((result["test"][m], result["test"][f"{m}_stderr"]) for m in METRICS)
        cells = (" ± ".join("-" if v is None else f"{v:.3f}" for v in pair) for pair in pairs)
        rows.append([name, f"{size:,}", *cells])
    print(cli.markdown(["model", "bytes per item", *METRICS], rows))


def print_recommendations(dataset: Dataset, folder: pathlib.Path) -> None:
    """What some test users liked, and what the exported model recommends, by title."""
    embeddings, item_ids, _ = load_embeddings(folder / "embeddings.npz")
    users = load_split(folder / "split.npz", dataset.interactions).test
    history = users.onto(item_ids)[:N_USERS]
    ranked = rank_unseen(scorer(embeddings), history, N_TITLES)
    titles = titles_of(dataset)
    for row, user in enumerate(users.user_ids[:N_USERS]):
        liked = history[row].indices
        print(f"\nUser {printable(user)} liked {len(liked)}, among them:")
        for item in item_ids[liked[:: max(1, len(liked) // N_TITLES)][:N_TITLES]]:
            print(f"  {titles[item]}")
        print(f"the model with {SHOWN_NNZ} non-zeros a row recommends:")
        for item in item_ids[ranked[row][ranked[row] >= 0]]:
            print(f"  {titles[item]}")


def print_what_next(metadata: dict[str, np.ndarray], folder: pathlib.Path) -> None:
    """A command that goes on with what was trained, and the table of items that it wants."""
    print(f"\nThe models are in {folder}.")
    columns = ",".join(name for name in metadata if name != "item_id")
    if not columns:
        return
    items, model = folder / "items.csv", folder / f"nnz_{SHOWN_NNZ}" / "embeddings.npz"
    with atomic_path(items) as temporary:
        pyarrow.csv.write_csv(pa.table({k: v.tolist() for k, v in metadata.items()}), temporary)
    given = {"embeddings": model, "metadata": items, "text_columns": columns}
    given["output"] = folder / "segments"
    flags_given = " ".join(f"--{name}={shlex.quote(str(value))}" for name, value in given.items())
    print("Segments of their items, and a page to look at them:\n")
    print(f"  python -m experiments.segments {flags_given}")


def titles_of(dataset: Dataset) -> dict[str, str]:
    """Titles by item id, without what a terminal would obey."""
    titles = [printable(title) for title in dataset.titles]
    return dict(zip(dataset.interactions.item_ids, titles, strict=True))


if __name__ == "__main__":
    cli.run(main, default_config=str(cli.CONFIGS / "quickstart.py"), resumable=True)
