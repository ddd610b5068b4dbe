"""Compressed ELSA in JAX: wide, row-sparse item embeddings learned from interactions.

Importing this package, and its subpackages `data` (except `data.batches`), `evaluation` and
`sparse`, needs NumPy, SciPy and PyArrow only; JAX is imported by the training modules alone.
"""

__version__ = "0.1.0"
