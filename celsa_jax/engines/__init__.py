"""Indexes in databases, for what one process does not hold or one machine does not answer.

Nothing here imports the client of a database before an index in it is opened.
"""

from __future__ import annotations

from typing import Any

from celsa_jax.engines.engine import Engine, EngineError
from celsa_jax.errors import InputError

__all__ = ["Engine", "EngineError", "open_index"]


def open_index(uri: str, name: str = "items", **options: Any) -> Engine:
    """The index at a URI; close it, or use it as a context.

    Args:
      uri: `postgresql://user:password@host/database`; `http://host:6333` or `https://...`, a server
        of Qdrant; `qdrant:FOLDER`, Qdrant in this process.
      name: of the index; a database has many.
      options: of `PostgresEngine` or `QdrantEngine`.

    Raises:
      InputError: another URI, or an extra is not installed.
      EngineError: the database is out of reach.
    """
    if uri.startswith(("postgresql://", "postgres://")):
        from celsa_jax.engines.postgres import PostgresEngine

        return PostgresEngine(uri, name, **options)
    if uri.startswith(("http://", "https://", "qdrant:")):
        from celsa_jax.engines.qdrant import QdrantEngine

        return QdrantEngine(uri, name, **options)
    scheme = uri.partition(":")[0]
    raise InputError(
        f"no engine for '{scheme}'; give postgresql://..., http://... (Qdrant) or qdrant:FOLDER"
    )
