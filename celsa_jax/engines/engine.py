"""What indexes in databases share."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp
import tqdm

from celsa_jax.engines.items import Condition, Item, Items, check_where, storable
from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommendation, SparseEmbeddings
from celsa_jax.sparse.engines import encode
from celsa_jax.sparse.recommender import as_texts, check_count
from celsa_jax.sparse.rows import unit_rows

_LARGEST_K = 100_000
_ATTEMPTS = 5
T = TypeVar("T")


class EngineError(InputError):
    """The database is out of reach, refuses, or is not what it should be."""


class VersionGone(Exception):
    """The version that a request began with was dropped, or a connection was lost; ask again."""


class Query(NamedTuple):
    """What a snapshot ranks by.

    Attributes:
      latent: the latent vector, CSR [1, n_factors], factors ascending, no zeros.
      k: items wanted.
      seen: keys of the rows to leave out.
      candidates: ids to choose from; None for all.
      where: conditions that fit the columns.
      cosine: divide scores by the lengths of the stored rows.
    """

    latent: sp.csr_matrix
    k: int
    seen: list
    candidates: list[str] | None
    where: list[Condition]
    cosine: bool


@dataclasses.dataclass
class Snapshot(abc.ABC):
    """One version of an index, the same for all that a request asks.

    Attributes:
      kinds: of the metadata columns.
    """

    version: str
    n_factors: int
    kinds: Mapping[str, str]

    @abc.abstractmethod
    def rows(self, ids: list[str]) -> tuple[dict[str, Any], sp.csr_matrix]:
        """Of those of the ids that there are: what the engine knows each by, and the embeddings."""

    @abc.abstractmethod
    def rank(self, query: Query) -> list[tuple[str, float]]:
        """Ids and scores, best first."""


class Engine(contextlib.AbstractContextManager):
    """An index in a database that other processes, and other machines, ask as well.

    Every model is a version of its own. A request asks the one that is current when it begins, all
    the way; `load` makes another current in one step. The version before stays: requests under way
    can end, and `activate` can go back to it.
    """

    def recommend_ids(
        self,
        histories: Iterable[Sequence],
        k: int = 10,
        *,
        filter_seen: bool = True,
        candidates: Sequence | None = None,
        where: Iterable[Condition] = (),
    ) -> list[Recommendation]:
        """The best items for histories, all of one version, as `Recommender.recommend_ids`.

        Args:
          histories: external ids of one user each; they may repeat, which adds weight.
          k: items wanted, at most 100,000.
          filter_seen: leave out what is in the history.
          candidates: ids to choose from; all if None.
          where: conditions (column, operator, value) on the metadata, all to be met; operators are
            =, !=, <, <=, >, >=, in (of a list) and has (for lists of text).

        Raises:
          InputError: an argument that does not fit, conditions on other columns.
          EngineError: the database is out of reach, or has no such index.
        """
        lists = [as_texts(history, "a history") for history in histories]
        if candidates is not None:
            candidates = list(filter(storable, as_texts(candidates, "candidates")))
        return self._ranked(lists, k, where, filter_seen, candidates)

    def similar_ids(
        self, item_ids: Sequence, k: int = 10, *, where: Iterable[Condition] = ()
    ) -> list[Recommendation]:
        """The k nearest items of each by cosine, itself included, as `Recommender.similar_ids`."""
        lists = [[item] for item in as_texts(item_ids, "item_ids")]
        return self._ranked(lists, k, where, filter_seen=False, cosine=True)

    def _ranked(
        self,
        lists: list[list[str]],
        k: int,
        where: Iterable[Condition],
        filter_seen: bool,
        candidates: list[str] | None = None,
        cosine: bool = False,
    ) -> list[Recommendation]:
        check_count("k", k, _LARGEST_K)

        def ask(now: Snapshot) -> list[Recommendation]:
            conditions, found = check_where(where, now.kinds), []
            for ids in lists:
                counts = Counter(ids)
                keys, rows = now.rows(list(filter(storable, counts)))
                seen = list(keys.values()) if filter_seen else []
                latent = _latent(rows, [counts[item] for item in keys])
                query = Query(latent, int(k), seen, candidates, conditions, cosine)
                unknown = [item for item in ids if item not in keys]
                ranked = now.rank(query) if keys and candidates != [] else []
                found.append(_named(ranked, unknown, now.version))
            return found

        return self._answer(ask)

    def load(
        self,
        embeddings: SparseEmbeddings,
        metadata: Mapping[str, Sequence] | None = None,
        *,
        activate: bool = True,
    ) -> str:
        """Loads a model beside the current one, and then makes it the current one.

        A load that was killed goes on where it stopped when it is started again. A version that is
        there already, with the changes made to it since, is not loaded again.

        Args:
          embeddings: the model.
          metadata: columns for conditions, by name, each [n_items] (`Items`).
          activate: whether to make it current.

        Returns:
          The version.

        Raises:
          InputError: embeddings or metadata that the engine cannot hold.
          EngineError: as in `recommend_ids`; the database is read-only.
        """
        items = Items(embeddings, metadata)
        bar = tqdm.tqdm(total=len(items), unit="item", desc="load", mininterval=1, disable=None)
        with bar, self._loading(items) as n_loaded:
            bar.update(n_loaded)
            for first in range(n_loaded, len(items), items.block_size):
                last = min(first + items.block_size, len(items))
                self._add(items, items.block(first, last))
                bar.update(last - first)
        if activate:
            self.activate(items.version)
        return items.version

    def upsert(
        self, embeddings: SparseEmbeddings, metadata: Mapping[str, Sequence] | None = None
    ) -> None:
        """Adds items to the current version, or replaces those of the same ids.

        All or none in PostgreSQL, block by block in Qdrant.

        Args:
          embeddings: of the same factors as the current version's.
          metadata: the columns that the current version has.
        """
        items = Items(embeddings, metadata)

        def check(now: Snapshot) -> None:
            if items.n_factors != now.n_factors:
                raise InputError(
                    f"items of {items.n_factors} factors; those of version {now.version} have "
                    f"{now.n_factors}: another model, which `load` makes a version of its own"
                )
            if items.kinds != now.kinds:
                raise InputError(
                    f"metadata columns {_shown(items.kinds)}; version {now.version} has "
                    f"{_shown(now.kinds)}"
                )

        with _not_replaced():
            self._upsert(items, check)

    def delete(self, item_ids: list[str]) -> int:
        """Removes items of the current version; returns how many there were."""
        known = [item for item in as_texts(item_ids, "item_ids") if storable(item)]
        with _not_replaced():
            return self._delete(known)

    @property
    def version(self) -> str:
        """Of the current model."""
        return self._answer(lambda now: now.version)

    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """What each version is: loading, ready, previous or current."""

    @abc.abstractmethod
    def activate(self, version: str) -> None:
        """Makes a version current, in one step; what was the version before the current is dropped.

        Raises:
          InputError: there is no such version, or it is not loaded to the end.
        """

    @abc.abstractmethod
    def drop(self, version: str) -> None:
        """Removes a version that is not current; InputError where it is, or does not exist."""

    @abc.abstractmethod
    def n_bytes(self) -> int | None:
        """Bytes that the current version takes on disk; None where the engine does not tell."""

    @abc.abstractmethod
    def close(self) -> None:
        """Gives connections and files back."""

    def __exit__(self, *_):
        self.close()

    @abc.abstractmethod
    def _snapshot(self) -> contextlib.AbstractContextManager[Snapshot]: ...

    @abc.abstractmethod
    def _loading(self, items: Items) -> contextlib.AbstractContextManager[int]:
        """Prepares a version and yields how many items it has; what ends well makes it ready."""

    @abc.abstractmethod
    def _add(self, items: Items, block: Iterator[Item]) -> None: ...

    @abc.abstractmethod
    def _upsert(self, items: Items, check: Callable[[Snapshot], None]) -> None: ...

    @abc.abstractmethod
    def _delete(self, ids: list[str]) -> int: ...

    def _answer(self, ask: Callable[[Snapshot], T]) -> T:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(VersionGone), self._snapshot() as now:
                return ask(now)
        raise EngineError("the index changes faster than it answers; is a load repeated?")


@contextlib.contextmanager
def _not_replaced() -> Iterator[None]:
    try:
        yield
    except VersionGone:
        raise EngineError("the version was replaced meanwhile; change the new one") from None


def check_name(name: str) -> str:
    """The name of an index, which becomes part of names of tables and collections."""
    if not (name.isascii() and name.isidentifier() and name.islower() and len(name) <= 40):
        raise InputError(f"'{name}': name an index with at most 40 small letters, digits and _")
    return name


def check_change(version: str, states: Mapping[str, str], what: str, refused: str) -> None:
    """InputError where a version does not exist, or is in a state that a change is refused in."""
    if version not in states:
        known = ", ".join(states) or "none"
        raise InputError(f"no version {version} to {what}; there are: {known}")
    if states[version] == refused:
        raise InputError(f"version {version} is {refused}: nothing to {what}")


def _latent(rows: sp.csr_matrix, counts: list[int]) -> sp.csr_matrix:
    """The latent vector of a history of so many of each row, [1, n_factors]."""
    return encode(sp.csr_matrix([counts], dtype=np.float32), unit_rows(rows))


def _named(ranked: list[tuple[str, float]], unknown: list[str], version: str) -> Recommendation:
    ids = np.array([item for item, _ in ranked], np.str_)
    scores = np.array([score for _, score in ranked], np.float32)
    return Recommendation(ids, scores, unknown, version)


def _shown(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
