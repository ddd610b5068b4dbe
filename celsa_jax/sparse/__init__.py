"""Sparse item embeddings: files, sizes, scores (NumPy and SciPy, no JAX)."""

from celsa_jax.sparse.embeddings import bytes_per_item, load_embeddings, save_embeddings
from celsa_jax.sparse.retrieval import scorer, top_k

__all__ = ["bytes_per_item", "load_embeddings", "save_embeddings", "scorer", "top_k"]
