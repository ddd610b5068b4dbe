"""What `QdrantEngine` asks of Qdrant: of a server, and of its engine in this process."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import threading
import urllib.parse
from types import SimpleNamespace
from typing import Any, NamedTuple

from celsa_jax.engines.engine import EngineError, VersionGone
from celsa_jax.engines.items import Condition
from celsa_jax.errors import InputError
from celsa_jax.files import locked, read_json, write_json

VECTORS = ("embedding", "unit")
_RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_INDEXES = {
    "text": "KEYWORD",
    "texts": "KEYWORD",
    "integer": "INTEGER",
    "real": "FLOAT",
    "boolean": "BOOL",
}
# Below so many items Qdrant compares vector by vector, which takes 40 us each for long queries.
_FULL_SCAN = 100
Points = list[tuple[str, dict[str, tuple[list, list]], dict[str, Any]]]


class Info(NamedTuple):
    """What is kept with a version; states as of `Engine.versions`."""

    state: str
    n_factors: int
    kinds: dict[str, str]


def make_filter(m: Any, where: list[Condition], seen: list, among: list | None) -> Any:
    """A filter of the classes in m, which the client and the engine have under other names."""
    must = [] if among is None else [m.has_id(among)]
    must_not = [m.has_id(seen)] if seen else []
    for column, operator, value in where:
        if operator == "!=":
            must_not += [_equal(m, column, value), m.is_empty(column)]
        elif operator in _RANGES:
            must.append(m.field(column, range=m.range(**{_RANGES[operator]: value})))
        elif operator == "in":
            must.append(
                m.Filter(should=[_equal(m, column, one) for one in value] or [m.has_id([])])
            )
        else:
            must.append(_equal(m, column, value))
    return m.Filter(must=must, must_not=must_not) if must or must_not else None


def _equal(m: Any, column: str, value: Any) -> Any:
    if isinstance(value, float):
        return m.field(column, range=m.range(gte=value, lte=value))
    return m.field(column, match=m.match(value))


class Server:
    """Collections, and aliases for the current version and the one before."""

    def __init__(
        self, url: str, name: str, api_key: str | None, shards: int, replicas: int, timeout: float
    ):
        try:
            from qdrant_client import QdrantClient, models
        except ImportError as error:
            raise InputError(f"Qdrant: pip install 'celsa_jax[qdrant]' ({error})") from None
        self.name, self._shards, self._replicas = name, shards, replicas
        self._models = models
        self.shown = f"Qdrant at {urllib.parse.urlsplit(url).hostname}"
        self._client: Any = QdrantClient(
            url=url, api_key=api_key, timeout=round(timeout), check_compatibility=False
        )
        self._infos: dict[str, Info] = {}
        self.models = SimpleNamespace(
            Filter=models.Filter,
            has_id=lambda keys: models.HasIdCondition(has_id=keys),
            is_empty=lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
            field=lambda key, **kind: models.FieldCondition(key=key, **kind),
            range=models.Range,
            match=lambda value: models.MatchValue(value=value),
        )
        self._aliases()

    def versions(self) -> dict[str, Info]:
        aliases = self._aliases()
        shown = {
            aliases.get(self.name): "current",
            aliases.get(f"{self.name}_previous"): "previous",
        }
        versions = {}
        for collection in self._client.get_collections().collections:
            if re.fullmatch(rf"{self.name}_[0-9a-f]{{12}}", collection.name):
                version = collection.name.removeprefix(f"{self.name}_")
                info = self._info(collection.name)
                versions[version] = info._replace(state=shown.get(collection.name, info.state))
        return versions

    def current(self) -> tuple[str, Info] | None:
        collection = self._aliases().get(self.name)
        if collection is None:
            return None
        if collection not in self._infos:
            self._infos[collection] = self._info(collection)
        return collection.removeprefix(f"{self.name}_"), self._infos[collection]

    def create(self, version: str, info: Info) -> None:
        models, collection = self._models, self._collection(version)
        index = models.SparseIndexParams(full_scan_threshold=_FULL_SCAN)
        lists = models.SparseVectorParams(index=index)
        self._client.create_collection(
            collection,
            vectors_config={},
            sparse_vectors_config=dict.fromkeys(VECTORS, lists),
            shard_number=self._shards,
            replication_factor=self._replicas,
            write_consistency_factor=self._replicas,
            metadata=info._asdict(),
        )
        for column, kind in info.kinds.items():
            schema = models.PayloadSchemaType[_INDEXES[kind]]
            self._client.create_payload_index(collection, column, schema)

    def finish(self, version: str) -> None:
        info = self._info(self._collection(version))._replace(state="ready")
        self._client.update_collection(self._collection(version), metadata=info._asdict())

    def activate(self, version: str) -> None:
        models, before = self._models, self._aliases()
        current, previous = before.get(self.name), before.get(f"{self.name}_previous")
        changes: list = []
        for alias, collection in (
            (self.name, self._collection(version)),
            (f"{self.name}_previous", current),
        ):
            if alias in before:
                gone = models.DeleteAlias(alias_name=alias)
                changes.append(models.DeleteAliasOperation(delete_alias=gone))
            if collection is not None:
                made = models.CreateAlias(collection_name=collection, alias_name=alias)
                changes.append(models.CreateAliasOperation(create_alias=made))
        self._client.update_collection_aliases(changes)  # all at once
        if previous not in (None, self._collection(version)):
            self._client.delete_collection(previous)

    def drop(self, version: str) -> None:
        self._client.delete_collection(self._collection(version))

    def count(self, version: str) -> int:
        return self._client.count(self._collection(version), exact=True).count

    def upsert(self, version: str, points: Points) -> None:
        models = self._models
        made = [
            models.PointStruct(
                id=key,
                vector={
                    name: models.SparseVector(indices=factors, values=values)
                    for name, (factors, values) in vectors.items()
                },
                payload=payload,
            )
            for key, vectors, payload in points
        ]
        self._client.upsert(self._collection(version), made, wait=True)

    def delete(self, version: str, keys: list) -> None:
        self._client.delete(self._collection(version), keys, wait=True)

    def rows(self, version: str, keys: list) -> list[tuple[str, list, list]]:
        found: Any = self._client.retrieve(
            self._collection(version), keys, with_payload=["id"], with_vectors=["embedding"]
        )
        vectors = [(point.payload["id"], point.vector["embedding"]) for point in found]
        return [(item, vector.indices, vector.values) for item, vector in vectors]

    def query(
        self, version: str, using: str, factors: list, values: list, k: int, chosen: Any
    ) -> list[tuple[str, float]]:
        found: Any = self._client.query_points(
            self._collection(version),
            query=self._models.SparseVector(indices=factors, values=values),
            using=using,
            query_filter=chosen,
            limit=k,
            with_payload=["id"],
        )
        return [(point.payload["id"], point.score) for point in found.points]

    def n_bytes(self, version: str) -> None:
        """Servers do not tell."""

    def close(self) -> None:
        self._client.close()

    def _aliases(self) -> dict[str, str]:
        found = self._client.get_aliases().aliases
        return {alias.alias_name: alias.collection_name for alias in found}

    def _info(self, collection: str) -> Info:
        found = self._client.get_collection(collection).config.metadata or {}
        try:
            return Info(*(found[field] for field in Info._fields))
        except KeyError:
            problem = f"collection '{collection}' is none of celsa_jax"
            raise EngineError(f"{self.shown}: {problem}; choose another name") from None

    def _collection(self, version: str) -> str:
        return f"{self.name}_{version}"


class Folder:
    """Qdrant's engine in this process: a shard a version, and a file that names the current one."""

    def __init__(self, path: str, name: str):
        try:
            import qdrant_edge as edge
        except ImportError as error:
            raise InputError(f"Qdrant: pip install 'celsa_jax[qdrant]' ({error})") from None
        self.name, self.shown = name, f"Qdrant in {path}"
        self._edge, self._folder = edge, pathlib.Path(path) / name
        self._file = self._folder / "versions.json"
        self._held = contextlib.ExitStack()
        if not self._held.enter_context(locked(self._folder / "lock", wait=False)):
            raise EngineError(f"{self.shown}: another process has it; a server is shared")
        self._shards: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._versions = self._read()
        self.models = SimpleNamespace(
            Filter=edge.Filter,
            has_id=lambda keys: edge.HasIdCondition(set(keys)),
            is_empty=edge.IsEmptyCondition,
            field=edge.FieldCondition,
            range=edge.RangeFloat,
            match=edge.MatchValue,
        )
        for version in self._versions:
            self._shard(version)

    def versions(self) -> dict[str, Info]:
        return dict(self._versions)

    def current(self) -> tuple[str, Info] | None:
        versions = self._versions.items()
        return next((found for found in versions if found[1].state == "current"), None)

    def create(self, version: str, info: Info) -> None:
        edge, path = self._edge, self._folder / version
        shutil.rmtree(path, ignore_errors=True)  # of a process killed right here
        lists = edge.EdgeSparseVectorParams(full_scan_threshold=_FULL_SCAN)
        config = edge.EdgeConfig(
            sparse_vectors=dict.fromkeys(VECTORS, lists),
            payload_memory=edge.Memory.Cached,
            wal_enabled=False,  # every change is flushed
        )
        shard = edge.EdgeShard.create(str(path), config)
        for column, kind in info.kinds.items():
            index = _INDEXES["integer" if kind == "boolean" else kind].capitalize()
            schema = getattr(edge.PayloadSchemaType, index)
            shard.update(edge.UpdateOperation.create_field_index(column, schema))
        shard.flush()
        self._shards[version] = shard
        self._write({version: info})

    def finish(self, version: str) -> None:
        # Not optimised: what it compresses then takes twice as long to be read.
        self._write({version: self._versions[version]._replace(state="ready")})

    def activate(self, version: str) -> None:
        with self._lock:
            changed, gone = {version: "current"}, []
            for other, info in self._versions.items():
                if other != version and info.state == "current":
                    changed[other] = "previous"
                elif other != version and info.state == "previous":
                    gone.append(other)
            infos = self._versions
            self._write({v: infos[v]._replace(state=state) for v, state in changed.items()})
            for other in gone:
                self.drop(other)

    def drop(self, version: str) -> None:
        with self._lock:
            self._write({version: None})
            self._shards.pop(version).close()
            shutil.rmtree(self._folder / version, ignore_errors=True)

    def count(self, version: str) -> int:
        return self._shard(version).count(self._edge.CountRequest(exact=True))

    def upsert(self, version: str, points: Points) -> None:
        edge = self._edge
        made = []
        for key, vectors, payload in points:
            sparse = {name: edge.SparseVector(*vector) for name, vector in vectors.items()}
            # It takes a boolean that is asked for to be a whole number.
            cells = {name: int(c) if isinstance(c, bool) else c for name, c in payload.items()}
            made.append(edge.Point(key, sparse, cells))
        self._shard(version).update(edge.UpdateOperation.upsert_points(made))
        self._shard(version).flush()

    def delete(self, version: str, keys: list) -> None:
        self._shard(version).update(self._edge.UpdateOperation.delete_points(keys))
        self._shard(version).flush()

    def rows(self, version: str, keys: list) -> list[tuple[str, list, list]]:
        found = self._shard(version).retrieve(keys, ["id"], ["embedding"])
        vectors = [(point.payload["id"], point.vector["embedding"]) for point in found]
        return [(item, vector.indices, vector.values) for item, vector in vectors]

    def query(
        self, version: str, using: str, factors: list, values: list, k: int, chosen: Any
    ) -> list[tuple[str, float]]:
        edge = self._edge
        nearest = edge.Query.Nearest(edge.SparseVector(factors, values), using=using)
        request = edge.QueryRequest(limit=k, query=nearest, filter=chosen, with_payload=["id"])
        found = self._shard(version).query(request)
        return [(point.payload["id"], point.score) for point in found]

    def n_bytes(self, version: str) -> int:
        files = (self._folder / version).rglob("*")
        return sum(512 * file.stat().st_blocks for file in files if file.is_file())

    def close(self) -> None:
        with self._lock:
            while self._shards:
                self._shards.popitem()[1].close()
            self._held.close()

    def _shard(self, version: str) -> Any:
        with self._lock:
            if version not in self._versions:
                raise VersionGone
            if version not in self._shards:
                self._shards[version] = self._edge.EdgeShard.load(str(self._folder / version))
            return self._shards[version]

    def _read(self) -> dict[str, Info]:
        if not self._file.exists():
            return {}
        try:
            return {version: Info(**info) for version, info in read_json(self._file).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise EngineError(f"{self._file}: damaged ({error})") from None

    def _write(self, changes: dict[str, Info | None]) -> None:
        with self._lock:
            merged = {**self._versions, **changes}
            kept = {version: info for version, info in merged.items() if info is not None}
            write_json(self._file, {version: info._asdict() for version, info in kept.items()})
            self._versions = kept
