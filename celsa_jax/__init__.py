"""Compressed ELSA in JAX: wide, row-sparse item embeddings learned from interactions.

`CompressedELSA` is what most callers need. JAX is imported where a model is trained. `sparse`
needs NumPy, SciPy, safetensors and filelock; `data` (but `batches`), `evaluation` and `baselines`
(but `autoencoder`) PyArrow, ml_collections and tqdm, too; `segments` and the estimator scikit-learn
and Jinja2 beside all of these.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celsa_jax.datasets import load_dataset
    from celsa_jax.estimator import CompressedELSA

__version__ = "0.2.0"
__all__ = ["CompressedELSA", "load_dataset"]

_MODULES = {"CompressedELSA": "celsa_jax.estimator", "load_dataset": "celsa_jax.datasets"}


def __getattr__(name: str) -> Any:
    # Imported when they are asked for, so that serving does without scikit-learn and PyArrow.
    if name not in _MODULES:
        raise AttributeError(f"module 'celsa_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)
