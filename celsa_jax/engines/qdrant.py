"""An index in Qdrant: a server or cluster by URL, or its engine in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.engines.engine import (
    Engine,
    EngineError,
    Query,
    Snapshot,
    VersionGone,
    check_change,
    check_name,
)
from celsa_jax.engines.items import Item, Items
from celsa_jax.engines.qdrant_stores import Folder, Info, Server, make_filter
from celsa_jax.errors import InputError, one_line

_MOST_FACTORS = (1 << 32) - 2
# Qdrant returns only what shares a dimension with the query, and 0 can be among the best: all items
# have one dimension more, at 1, and where too few are found, the query has it at next to nothing.
_NOTHING = 1e-30
_GONE = r"^Collection .* not found|Shard is not initialized"


class QdrantEngine(Engine):
    """Exact retrieval by Qdrant's sparse index, which leaves out what was seen, and filters.

    A version is a collection `NAME_VERSION`; the alias `NAME` is the current one. An item is the
    point of a UUID made of its id, with two sparse vectors, `embedding` and, for cosines, `unit`.

    Args:
      location: `http://host:6333` or `https://...`, a server of Qdrant 1.16 or newer;
        `qdrant:FOLDER` for the engine in this process, which no other can share.
      name: of the index.
      api_key: of the server; that of the environment, QDRANT_API_KEY, if None.
      shards, replicas: of the collections that are loaded into a server.
      timeout: seconds to wait for the server.

    Raises:
      EngineError: the server is out of reach, or another process has the folder.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from celsa_jax.engines import open_index
      >>> from celsa_jax.sparse import SparseEmbeddings
      >>> embeddings = SparseEmbeddings.from_dense(np.eye(3) + 0.5, ["a", "b", "c"])
      >>> with open_index(f"qdrant:{tempfile.mkdtemp()}") as index:
      ...     version = index.load(embeddings, {"year": [1997, 2003, 2011]})
      ...     [best] = index.recommend_ids([["a"]], where=[("year", ">", 2003)])
      >>> best.item_ids.tolist()
      ['c']
    """

    def __init__(
        self,
        location: str,
        name: str = "items",
        *,
        api_key: str | None = None,
        shards: int = 1,
        replicas: int = 1,
        timeout: float = 5.0,
    ):
        check_name(name)
        self._store: Server | Folder
        with _clear(re.sub("//[^/]*@", "//", location)):  # without a password
            if location.startswith("qdrant:"):
                self._store = Folder(location.removeprefix("qdrant:"), name)
            else:
                key = api_key or os.environ.get("QDRANT_API_KEY")
                self._store = Server(location, name, key, shards, replicas, timeout)
        self._shown = self._store.shown

    def versions(self) -> dict[str, str]:
        with _clear(self._shown):
            return {version: info.state for version, info in self._store.versions().items()}

    def activate(self, version: str) -> None:
        states = self.versions()
        check_change(version, states, "activate", "loading")
        if states[version] != "current":
            with _clear(self._shown):
                self._store.activate(version)

    def drop(self, version: str) -> None:
        check_change(version, self.versions(), "drop", "current")
        with _clear(self._shown):
            self._store.drop(version)

    def n_bytes(self) -> int | None:
        return self._store.n_bytes(self.version)

    def close(self) -> None:
        self._store.close()

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Snapshot]:
        with _clear(self._shown):
            current = self._store.current()
            if current is None:
                raise EngineError(f"{self._shown}: no index '{self._store.name}' yet; load one")
            version, info = current
            yield _QdrantSnapshot(version, info.n_factors, info.kinds, self._store)

    @contextlib.contextmanager
    def _loading(self, items: Items) -> Iterator[int]:
        _check_fits(items)
        with _clear(self._shown):
            info = self._store.versions().get(items.version)
            if info is not None and info.state != "loading":
                yield len(items)
                return
            if info is None:
                made = Info("loading", items.n_factors, items.kinds)
                self._store.create(items.version, made)
            # Blocks follow each other: only the last one that came may not be whole.
            yield max(0, self._store.count(items.version) - items.block_size)
            if (n := self._store.count(items.version)) != len(items):
                raise EngineError(f"{self._shown}: holds {n} of {len(items)} items; load again")
            self._store.finish(items.version)

    def _add(self, items: Items, block: Iterator[Item]) -> None:
        self._store.upsert(items.version, [_point(item, items) for item in block])

    def _upsert(self, items: Items, check: Callable[[Snapshot], None]) -> None:
        _check_fits(items)
        with self._snapshot() as now:
            check(now)
            for first in range(0, len(items), items.block_size):
                block = items.block(first, first + items.block_size)
                self._store.upsert(now.version, [_point(item, items) for item in block])

    def _delete(self, ids: list[str]) -> int:
        with self._snapshot() as now:
            keys = list(now.rows(ids)[0].values())
            self._store.delete(now.version, keys)
            return len(keys)


@dataclasses.dataclass
class _QdrantSnapshot(Snapshot):
    store: Server | Folder

    def rows(self, ids: list[str]) -> tuple[dict[str, str], sp.csr_matrix]:
        keys = {item: _key(item) for item in ids}
        found = self.store.rows(self.version, list(keys.values()))
        factors = np.array([f for _, row, _ in found for f in row], np.int64)
        values = np.array([v for _, _, row in found for v in row], np.float32)
        starts = np.cumsum([0, *(len(row) for _, row, _ in found)])
        rows = sp.csr_matrix((values, factors, starts), (len(found), self.n_factors + 1))
        rows = rows[:, : self.n_factors]  # without the dimension that all have
        return {item: keys[item] for item, _, _ in found}, rows

    def rank(self, query: Query) -> list[tuple[str, float]]:
        among = None if query.candidates is None else [_key(item) for item in query.candidates]
        chosen = make_filter(self.store.models, query.where, query.seen, among)
        using = "unit" if query.cosine else "embedding"
        factors, values = query.latent.indices.tolist(), query.latent.data.tolist()
        found: list[tuple[str, float]] = []
        if factors:
            found = self.store.query(self.version, using, factors, values, query.k, chosen)
        if sum(score > 0 for _, score in found) < query.k:
            factors, values = [*factors, self.n_factors], [*values, _NOTHING]
            found = self.store.query(self.version, using, factors, values, query.k, chosen)
        return [(item, 0.0 if abs(score) < 2 * _NOTHING else score) for item, score in found]


def _key(item: str) -> str:
    """The id of its point, as the digits of a UUID."""
    return hashlib.sha256(item.encode()).hexdigest()[:32]


def _point(item: Item, items: Items) -> tuple[str, dict[str, tuple[list, list]], dict[str, Any]]:
    """Key, vectors and payload."""
    norm = float(np.linalg.norm(item.values)) or 1.0
    factors = [*item.factors, items.n_factors]
    unit = [value / norm for value in item.values]
    vectors = {"embedding": (factors, [*item.values, 1.0]), "unit": (factors, [*unit, 1.0])}
    cells = zip(items.kinds, item.cells, strict=True)
    payload = {name: cell for name, cell in cells if cell is not None}
    return _key(item.id), vectors, {"id": item.id, **payload}


def _check_fits(items: Items) -> None:
    if not 1 <= items.n_factors <= _MOST_FACTORS:
        raise InputError(f"{items.n_factors} factors; Qdrant holds 1 to {_MOST_FACTORS}")


@contextlib.contextmanager
def _clear(shown: str) -> Iterator[None]:
    """EngineError, in one line, for what Qdrant says; its engine in process has no types of it."""
    try:
        yield
    except (InputError, VersionGone):
        raise
    except Exception as error:
        if getattr(error, "status_code", None) == 404 or re.search(_GONE, str(error)):
            raise VersionGone from None
        raise EngineError(f"{shown}: {one_line(error)}") from None
