"""The index in a file, which is read again when the file is replaced."""

from __future__ import annotations

import logging
import pathlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from celsa_jax.engines.items import Condition, check_where
from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommendation, Recommender, SparseEmbeddings

log = logging.getLogger(__name__)


class FileIndex:
    """`Recommender` over a file; a new one answers as soon as it is read, the old one until then.

    Replace the file by moving another onto it, as all programs here do. One that cannot be read
    changes nothing, and is logged.

    Args:
      path: embeddings, as `SparseEmbeddings.load` reads them.
      every: seconds between looks at the file.
      options: of `Recommender`.
    """

    def __init__(self, path: str | pathlib.Path, *, every: float = 1.0, **options: Any):
        self._path, self._every, self._options = pathlib.Path(path), every, options
        self._mark = self._state()
        self._recommender = self._read()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def version(self) -> str:
        return self._recommender.embeddings.version

    def recommend_ids(
        self,
        histories: Iterable[Sequence],
        k: int = 10,
        *,
        filter_seen: bool = True,
        candidates: Sequence | None = None,
        where: Iterable[Condition] = (),
    ) -> list[Recommendation]:
        check_where(where, {})
        return self._recommender.recommend_ids(
            histories, k, filter_seen=filter_seen, candidates=candidates
        )

    def similar_ids(
        self, item_ids: Sequence, k: int = 10, *, where: Iterable[Condition] = ()
    ) -> list[Recommendation]:
        check_where(where, {})
        return self._recommender.similar_ids(item_ids, k)

    def close(self) -> None:
        self._over.set()
        self._watcher.join()

    def _read(self) -> Recommender:
        recommender = Recommender(SparseEmbeddings.load(self._path), **self._options)
        recommender.warm_up()
        recommender.similar_items(np.arange(1)[: recommender.embeddings.n_items], 1)
        return recommender

    def _state(self) -> tuple | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            mark = self._state()
            if mark in (None, self._mark):
                continue
            started = time.perf_counter()
            try:
                self._recommender = self._read()
                seconds = time.perf_counter() - started
                log.info("%s: version %s, in %.1f s", self._path, self.version, seconds)
            except (InputError, OSError) as error:
                log.error("%s; version %s goes on", error, self.version)
            self._mark = mark
