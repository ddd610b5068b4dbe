"""Compressed ELSA in JAX: wide, row-sparse item embeddings learned from interactions.

JAX is imported by the modules that train alone. `sparse` needs NumPy, SciPy and safetensors;
`data` (but `batches`), `evaluation` and `baselines` (but `autoencoder`) PyArrow, ml_collections and
tqdm, too; `segments` scikit-learn and Jinja2 beside all of these.
"""

__version__ = "0.1.0"
