"""From files to interactions: readers, known data sets, splits (no JAX, except `batches`)."""

from celsa_jax.data.datasets import Dataset, dataset_of
from celsa_jax.data.interactions import Interactions
from celsa_jax.data.splits import Split, make_split, split_users

__all__ = [
    "Dataset",
    "Interactions",
    "Split",
    "dataset_of",
    "make_split",
    "split_users",
]
