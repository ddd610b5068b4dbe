"""Rows and columns that sweeps are made of: methods with their options, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

from celsa_jax.baselines.neighbours import SIMILARITIES
from celsa_jax.config import default_config

SEEDS = (0, 1, 2)
SAMPLE_PENALTIES = (12.5, 25.0, 50.0, 100.0, 200.0)  # of EASE, to choose from
DENSE = {"n_final_epochs": 10, "learning_rate": 0.01, "input_dropout": 0.0}
# Of a dense model at its own width: more overfits the few users of a sample.
SAMPLE_DENSE = {**DENSE, "n_final_epochs": 5, "learning_rate": 0.003}
_RANDOM = {**DENSE, "n_epochs": 20, "b1": 0.9}


def sample_base() -> ConfigDict:
    """Runs on a sample of about 2,500 users of Goodbooks-10k, in the publisher's format."""
    base = default_config()
    base.data.name = "goodbooks"
    base.data.n_val_users = base.data.n_test_users = 250
    return base


def elsa(config: Mapping[str, object] | None = None) -> dict:
    """A row of sparse models: overrides of the base, which may be none."""
    return {"method": "elsa", "config": dict(config or {})}


def random_start(n_factors: int, batch_size: int = 256, **sparsity: object) -> dict[str, dict]:
    """Overrides for a start like the paper's: dense at random, pruned with rewinding."""
    return {
        "model": {"start": "random", "n_factors": n_factors},
        "sparsity": {"rewind": True, **sparsity},
        "train": {**_RANDOM, "batch_size": batch_size},
    }


def size_columns(sizes: Iterable[int]) -> dict[str, dict]:
    """Columns by bytes an item, 8 a non-zero."""
    return {str(size): {"config": {"sparsity": {"target_nnz": size // 8}}} for size in sizes}


def method_rows(
    dense_width: int, penalties: Iterable[float], dense_train: Mapping[str, float]
) -> dict[str, dict]:
    """Every method.

    Args:
      dense_width: of the dense model that post-hoc methods start from.
      penalties: l2 of EASE, whole and pruned, to choose from.
      dense_train: `config.train` of that dense model.
    """
    from_dense = {"config": {"model": random_start(dense_width)["model"], "train": dense_train}}
    return {
        **baseline_rows(penalties),
        f"dense ELSA, {dense_width}": dense_row(dense_width, dense_train),
        "dense ELSA": {"method": "dense_elsa", "config": {"train": DENSE}},
        "top k of dense ELSA": {"method": "top_k", **from_dense},
        "sparse autoencoder": {"method": "sparse_autoencoder", **from_dense},
        **format_rows(),
    }


def baseline_rows(penalties: Iterable[float]) -> dict[str, dict]:
    """Every baseline; their options are chosen on validation users, l2 of EASE from `penalties`."""
    similarity = {"options": {"similarity": SIMILARITIES}}
    neighbours = {"options": {"n_neighbours": (10, 20, 50, 100), "locality": (1.0, 2.0, 4.0)}}
    weight = {"options": {"alpha": (1.0, 3.0, 10.0)}}  # its l2 hardly matters, on the sample
    return {
        "popularity": {"method": "popularity", "once": True},
        "user k-NN": {"method": "user_knn", "once": True, **neighbours},
        **closed_form_rows(penalties),
        "pruned EASE": {"method": "pruned_ease", "options": {"l2": tuple(penalties)}},
        "item k-NN": {"method": "item_knn", **similarity},
        "ALS": {"method": "als", **weight},
    }


def closed_form_rows(penalties: Iterable[float]) -> dict[str, dict]:
    """EASE and EDLAE, whole and pruned by columns, and EDLAE with a discount of popularity.

    Their options are chosen on validation users; `penalties` are l2 of EASE to choose from. Pruned
    EDLAE has no discount, which was of no use there on a sample of Goodbooks-10k.
    """
    ease = {"l2": tuple(penalties)}
    edlae = {"l2": (25.0, 50.0, 100.0), "dropout": (0.2, 0.4, 0.6)}
    discounted = {"l2": (50.0, 100.0), "dropout": (0.0, 0.3), "discount": (0.1, 0.2, 0.3)}
    return {
        "EASE": {"method": "ease", "once": True, "options": ease},
        "EDLAE": {"method": "ease", "once": True, "options": edlae},
        "discounted EDLAE": {"method": "ease", "once": True, "options": discounted},
        "column-pruned EASE": {"method": "column_pruned_ease", "options": ease},
        "column-pruned EDLAE": {"method": "column_pruned_ease", "options": edlae},
    }


def dense_row(width: int, train: Mapping[str, float]) -> dict:
    """A dense model of one width, whatever the bytes."""
    options = {"options": {"width": width}, "config": {"train": train}, "once": True}
    return {"method": "dense_elsa", **options}


def format_rows() -> dict[str, dict]:
    """Our method, and with the compact formats, which fill a column's bytes with more non-zeros."""
    compact = ("float16", "int8", "int4")  # about 4, 3 and 2 bytes a non-zero
    rows = {f"ours, {form}": elsa() | {"options": {"format": form}} for form in compact}
    return {"ours": elsa(), **rows}
