"""Sparse item embeddings: files, sizes, scores (NumPy, SciPy and safetensors, no JAX)."""

from celsa_jax.sparse.embeddings import SparseEmbeddings
from celsa_jax.sparse.formats import FORMATS
from celsa_jax.sparse.npz import bytes_per_item, load_embeddings, save_embeddings
from celsa_jax.sparse.recommender import Explanation, Recommendation, Recommender
from celsa_jax.sparse.rows import top_k
from celsa_jax.sparse.scores import scorer

__all__ = [
    "FORMATS",
    "Explanation",
    "Recommendation",
    "Recommender",
    "SparseEmbeddings",
    "bytes_per_item",
    "load_embeddings",
    "save_embeddings",
    "scorer",
    "top_k",
]
