"""An index in PostgreSQL with pgvector."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from celsa_jax.engines.engine import (
    Engine,
    EngineError,
    Query,
    Rows,
    Snapshot,
    VersionGone,
    check_change,
    check_name,
)
from celsa_jax.engines.items import Condition, Item, Items
from celsa_jax.errors import InputError, one_line

try:
    import psycopg
    import psycopg_pool
    from psycopg import errors, sql
except ImportError as error:
    raise InputError(f"PostgreSQL: pip install 'celsa_jax[postgres]' ({error})") from None

_TYPES = {
    "text": "text",
    "integer": "bigint",
    "real": "double precision",
    "boolean": "boolean",
    "texts": "text[]",
}
_MOST_NONZEROS = 16_000  # of a pgvector sparsevec
_MOST_FACTORS = 1_000_000_000
_MOST_IN_HNSW = 1_000
_FIELDS = ("version", "state", "n_factors", "kinds")


class PostgresEngine(Engine):
    """Exact retrieval in PostgreSQL: one statement ranks, leaves out what was seen, and filters.

    Every version is a table `NAME_VERSION` (position, id, embedding, metadata columns), and
    `NAME_versions` says which is current. A request is one REPEATABLE READ transaction.

    Args:
      uri: `postgresql://user:password@host/database`; the user needs CREATE in its schema to load.
      name: of the index.
      ef_search: approximate: versions loaded so get an HNSW index, which looks at so many items, 1
        to 1,000, at a time; rows may have 1,000 non-zeros. None is exact.
      max_connections: of the pool that threads share.
      timeout: seconds to wait for a connection.

    Raises:
      EngineError: the database is out of reach.

    Example:
      >>> from celsa_jax.engines import open_index
      >>> index = open_index("postgresql://localhost/shop")  # doctest: +SKIP
      >>> index.load(embeddings, {"year": [1997, 2003]})  # doctest: +SKIP
      >>> index.recommend_ids(["17"], where=[("year", ">=", 2000)])  # doctest: +SKIP
    """

    def __init__(
        self,
        uri: str,
        name: str = "items",
        *,
        ef_search: int | None = None,
        max_connections: int = 8,
        timeout: float = 5.0,
    ):
        if not uri.startswith(("postgresql://", "postgres://")):
            raise InputError("a PostgreSQL URI begins with postgresql://")
        try:
            psycopg.conninfo.conninfo_to_dict(uri)
        except psycopg.Error:  # whose text may show the password
            problem = "is none; %-encode what is special in it (a space is %20)"
            raise InputError(f"the PostgreSQL URI {problem}") from None
        if ef_search is not None and not 1 <= ef_search <= 1_000:
            raise InputError(f"ef_search is {ef_search}; give 1 to 1,000, or None for exact")
        self._name, self._ef_search = check_name(name), ef_search
        self._registry = sql.Identifier(f"{name}_versions")
        self._shown = "PostgreSQL"
        if max_connections < 2:
            raise InputError(f"max_connections is {max_connections}; a load takes two")
        settings: dict[str, Any] = {
            "connect_timeout": max(2, round(timeout)),
            "prepare_threshold": None,
        }
        with self._clear():
            with psycopg.connect(uri, **settings) as first:  # its errors say more than a pool's
                self._shown = f"PostgreSQL at {first.info.host}, database {first.info.dbname}"
            self._pool = psycopg_pool.ConnectionPool(
                uri,
                min_size=1,
                max_size=max_connections,
                timeout=timeout,
                kwargs=settings,
                open=True,
            )

    def versions(self) -> dict[str, str]:
        with self._transaction() as connection:
            return self._states(connection)

    def activate(self, version: str) -> None:
        registry = self._registry
        with self._transaction() as connection:
            states = self._states(connection, lock=True)
            check_change(version, states, "activate", "loading")
            if states[version] != "current":
                change = sql.SQL("UPDATE {} SET state = %s WHERE state = %s").format(registry)
                connection.execute(change, ("dropped", "previous"))
                connection.execute(change, ("previous", "current"))
                chosen = sql.SQL("UPDATE {} SET state = 'current' WHERE version = %s")
                connection.execute(chosen.format(registry), (version,))
        for gone in [v for v, state in self.versions().items() if state == "dropped"]:
            self.drop(gone)

    def drop(self, version: str) -> None:
        with self._transaction() as connection:
            check_change(version, self._states(connection, lock=True), "drop", "current")
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._table(version)))
            gone = sql.SQL("DELETE FROM {} WHERE version = %s").format(self._registry)
            connection.execute(gone, (version,))

    def n_bytes(self) -> int:
        table = f"{self._name}_{self.version}"
        with self._transaction() as connection:
            return _one(connection, "SELECT pg_total_relation_size(%s::regclass)", (table,))

    def close(self) -> None:
        self._pool.close()

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Snapshot]:
        with self._transaction(psycopg.IsolationLevel.REPEATABLE_READ) as connection:
            try:
                yield self._current(connection)
            except (errors.UndefinedTable, psycopg.OperationalError) as error:
                if connection.broken:
                    self._pool.check()  # others may have been lost with it: a restart
                elif not isinstance(error, errors.UndefinedTable):
                    raise
                raise VersionGone from None

    def _current(self, connection: psycopg.Connection, lock: str = "") -> _PostgresSnapshot:
        wanted = sql.SQL("SELECT version, n_factors, kinds FROM {} WHERE state = 'current'" + lock)
        try:
            found = connection.execute(wanted.format(self._registry)).fetchone()
        except errors.UndefinedTable:
            found = None
        if found is None:
            raise EngineError(f"{self._shown}: no index '{self._name}' yet; load one")
        return _PostgresSnapshot(connection, self._table(found[0]), self._ef_search, *found)

    @contextlib.contextmanager
    def _loading(self, items: Items) -> Iterator[int]:
        self._check_fits(items)
        version, table = items.version, self._table(items.version)
        with self._clear(), self._pool.connection() as guard:
            guard.autocommit = True
            lock = (f"celsa_jax {self._name}",)
            until = time.monotonic() + self._pool.timeout
            while not _one(guard, "SELECT pg_try_advisory_lock(hashtext(%s))", lock):
                if time.monotonic() > until:  # the server may still think that one lives
                    raise EngineError(f"{self._shown}: another process loads '{self._name}'; wait")
                time.sleep(0.1)
            try:
                n_loaded = self._prepare(guard, items)
                with self._clear():
                    yield n_loaded
                following = (
                    "SELECT setval(pg_get_serial_sequence(%s, 'position'), "
                    "(SELECT coalesce(max(position), 0) + 1 FROM {}), false)"
                )
                guard.execute(sql.SQL(following).format(table), (f"{self._name}_{version}",))
                if self._ef_search is not None:
                    guard.execute(
                        sql.SQL(
                            "CREATE INDEX IF NOT EXISTS {} ON {} "
                            "USING hnsw (embedding sparsevec_ip_ops)"
                        ).format(sql.Identifier(f"{self._name}_{version}_hnsw"), table)
                    )
                guard.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))
                ready = "UPDATE {} SET state = 'ready' WHERE version = %s AND state = 'loading'"
                guard.execute(sql.SQL(ready).format(self._registry), (version,))
            finally:
                if not guard.closed:
                    guard.execute("SELECT pg_advisory_unlock(hashtext(%s))", lock)
                    guard.autocommit = False

    def _prepare(self, connection: psycopg.Connection, items: Items) -> int:
        """The version's table, made if need be; returns how many items it has."""
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (version text PRIMARY KEY, state text NOT NULL, "
                "n_factors bigint NOT NULL, kinds jsonb NOT NULL)"
            ).format(self._registry)
        )
        state = self._states(connection).get(items.version)
        if state is None:
            row = (items.version, "loading", items.n_factors, json.dumps(items.kinds))
            columns = [
                sql.SQL(", {} {}").format(sql.Identifier(name), sql.SQL(_TYPES[kind]))
                for name, kind in items.kinds.items()
            ]
            made = sql.SQL(
                "CREATE TABLE {} (position bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "
                'id text COLLATE "C" NOT NULL UNIQUE, embedding sparsevec({}) NOT NULL{})'
            ).format(self._table(items.version), items.n_factors, sql.Composed(columns))
            with connection.transaction():
                connection.execute(made)
                said = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(self._registry)
                connection.execute(said, row)
        elif state != "loading":
            return len(items)
        last = sql.SQL("SELECT coalesce(max(position) + 1, 0) FROM {}")
        return _one(connection, last.format(self._table(items.version)))

    def _add(self, items: Items, block: Iterator[Item]) -> None:
        names = ("position", "id", "embedding", *items.kinds)
        into = sql.SQL("COPY {} ({}) FROM STDIN").format(
            self._table(items.version), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with (
            self._transaction() as connection,
            connection.cursor() as cursor,
            cursor.copy(into) as copy,
        ):
            for item in block:
                vector = _text(item.factors, item.values, items.n_factors)
                copy.write_row((item.position, item.id, vector, *item.cells))

    def _upsert(self, items: Items, check: Callable[[Snapshot], None]) -> None:
        self._check_fits(items)
        names = ("id", "embedding", *items.kinds)
        with self._transaction() as connection:
            now = self._current(connection, " FOR SHARE")  # not replaced meanwhile
            check(now)
            columns = [sql.Identifier(name) for name in names]
            taken = [sql.SQL("{0} = EXCLUDED.{0}").format(column) for column in columns[1:]]
            change = sql.SQL(
                "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}"
            ).format(
                now.table,
                sql.SQL(", ").join(columns),
                sql.SQL(", ").join([sql.Placeholder()] * len(names)),
                sql.SQL(", ").join(taken),
            )
            rows = (
                (item.id, _text(item.factors, item.values, items.n_factors), *item.cells)
                for item in items.block(0, len(items))
            )
            with connection.cursor() as cursor:
                cursor.executemany(change, rows)

    def _delete(self, ids: list[str]) -> int:
        with self._transaction() as connection:
            now = self._current(connection, " FOR SHARE")
            gone = sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(now.table)
            return connection.execute(gone, (ids,)).rowcount

    def _table(self, version: str) -> sql.Identifier:
        return sql.Identifier(f"{self._name}_{version}")

    def _states(self, connection: psycopg.Connection, lock: bool = False) -> dict[str, str]:
        asked = "SELECT version, state FROM {}" + (" FOR UPDATE" if lock else "")
        return dict(connection.execute(sql.SQL(asked).format(self._registry)).fetchall())

    def _check_fits(self, items: Items) -> None:
        most = _MOST_NONZEROS if self._ef_search is None else _MOST_IN_HNSW
        if items.longest > most or not 1 <= items.n_factors <= _MOST_FACTORS:
            raise InputError(
                f"rows of up to {items.longest} non-zeros of {items.n_factors} factors; pgvector "
                f"{'' if self._ef_search is None else 'with HNSW '}holds {most} of {_MOST_FACTORS}"
            )

    @contextlib.contextmanager
    def _transaction(self, isolation: psycopg.IsolationLevel | None = None) -> Iterator:
        with self._clear(), self._pool.connection() as connection:
            connection.isolation_level = isolation
            yield connection

    @contextlib.contextmanager
    def _clear(self) -> Iterator[None]:
        """EngineError, in one line, for what the database says."""
        try:
            yield
        except errors.ReadOnlySqlTransaction:
            raise EngineError(f"{self._shown} is read-only; change the primary server") from None
        except errors.FeatureNotSupported as error:
            if "vector" not in str(error):
                raise EngineError(f"{self._shown}: {one_line(error)}") from None
            raise EngineError(f"{self._shown} has no pgvector: install it there") from None
        except (errors.UndefinedObject, errors.UndefinedFunction) as error:
            problem = f"pgvector of 0.7 or newer is needed ({one_line(error)})"
            raise EngineError(f"{self._shown}: {problem}") from None
        except (errors.UndefinedColumn, errors.UndefinedTable) as error:
            problem = f"'{self._name}_versions' is no index of celsa_jax, or damaged"
            raise EngineError(f"{self._shown}: {problem} ({one_line(error)})") from None
        except psycopg.Error as error:
            raise EngineError(f"{self._shown}: {one_line(error)}") from None


class _PostgresSnapshot:
    def __init__(
        self,
        connection: psycopg.Connection,
        table: sql.Identifier,
        ef_search: int | None,
        version: str,
        n_factors: int,
        kinds: dict[str, str],
    ):
        self.kinds: Mapping[str, str] = kinds
        self.table, self.version, self.n_factors = table, version, n_factors
        self._connection, self._ef_search = connection, ef_search

    def rows(self, ids: list[str]) -> Rows:
        wanted = sql.SQL("SELECT id, position, embedding::text FROM {} WHERE id = ANY(%s)")
        found = self._connection.execute(wanted.format(self.table), (ids,)).fetchall()
        texts = [text[1 : text.index("}")] for _, _, text in found]
        entries = re.findall("([0-9]+):([^,]+)", ",".join(texts))
        factors = np.array([factor for factor, _ in entries], np.int64) - 1
        values = np.array([value for _, value in entries], np.float32)
        lengths = [text.count(":") for text in texts]
        return Rows({item: position for item, position, _ in found}, lengths, factors, values)

    def rank(self, query: Query) -> list[tuple[str, float]]:
        """Candidates and conditions go through an HNSW index, too, where there is one."""
        parts = [
            _text(query.factors[part].tolist(), query.values[part].tolist(), self.n_factors)
            for at in range(0, max(len(query.factors), 1), _MOST_NONZEROS)
            for part in [slice(at, at + _MOST_NONZEROS)]
        ]
        conditions: list[sql.Composable] = [sql.SQL("position <> ALL(%s)")]
        bound: list = [query.seen]
        if query.candidates is not None:
            conditions.append(sql.SQL("id = ANY(%s)"))
            bound.append(query.candidates)
        for condition in query.where:
            conditions.append(_condition(condition))
            bound.append(condition[2])
        where = sql.SQL(" AND ").join(conditions)
        approximate = self._ef_search is not None and not query.cosine and len(parts) == 1
        if approximate:
            self._connection.execute(
                "SELECT set_config('hnsw.ef_search', %s, true), "
                "set_config('hnsw.iterative_scan', 'strict_order', true)",
                (str(self._ef_search),),
            )
            ask = (
                "SELECT id, -(embedding <#> %s::sparsevec) FROM {} WHERE {} "
                "ORDER BY embedding <#> %s::sparsevec LIMIT %s"
            )
            bound = [*parts, *bound, *parts, query.k]
        else:
            # An expression that no index has, so that one does not make this approximate.
            score = "-(embedding <#> %s::sparsevec)"
            if query.cosine:
                score = "coalesce(nullif(1 - (embedding <=> %s::sparsevec), 'NaN'), 0)"
            ask = (
                f"SELECT id, score FROM (SELECT id, position, {' + '.join([score] * len(parts))} "
                "AS score FROM {} WHERE {}) AS scored ORDER BY score DESC, position LIMIT %s"
            )
            bound = [*parts, *bound, query.k]
        return self._connection.execute(sql.SQL(ask).format(self.table, where), bound).fetchall()


def _one(connection: psycopg.Connection, statement: Any, bound: tuple = ()) -> Any:
    """The only value of the only row."""
    found: Any = connection.execute(statement, bound).fetchone()
    return found[0]


def _condition(condition: Condition) -> sql.Composable:
    column, operator, _ = condition
    templates = {"in": "{} = ANY(%s)", "has": "%s = ANY({})", "!=": "{} <> %s"}
    template = templates.get(operator, "{} " + operator + " %s")
    return sql.SQL(template).format(sql.Identifier(column))


def _text(factors: list[int], values: list[float], n_factors: int) -> str:
    """A sparsevec; its indices begin at 1."""
    entries = ",".join(f"{f + 1}:{v}" for f, v in zip(factors, values, strict=True))
    return f"{{{entries}}}/{n_factors}"
