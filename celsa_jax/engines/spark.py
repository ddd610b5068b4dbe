"""All users of a large platform at once, on a cluster of Spark.

Spark itself is not imported here: what comes in are its data frames, and `recommend_batches`, which
its workers run, is a function of Arrow batches alone (`mapInArrow`: pandas frames would cost a copy
and a dependency).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from celsa_jax.sparse import Recommender, SparseEmbeddings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SCHEMA = "user_id string, rank int, item_id string, score float"
_recommenders: dict[str, Recommender] = {}  # of this worker: the newest alone, by version


def recommend(
    interactions: DataFrame,
    embeddings: SparseEmbeddings,
    k: int = 10,
    *,
    filter_seen: bool = True,
) -> DataFrame:
    """The best items of every user; the embeddings are broadcast, and users stay where they are.

    Args:
      interactions: columns user_id and item_id, a row for each item that a user has; what stands
        there twice counts once, and nulls are left out. Users without a known item get no row.
      embeddings: of the catalogue.
      k, filter_seen: as in `Recommender.recommend`.

    Returns:
      Rows (user_id string, rank int from 1, item_id string, score float), in no order.

    Example:
      >>> interactions = spark.read.parquet("interactions")  # doctest: +SKIP
      >>> best = recommend(interactions, SparseEmbeddings.load("mine.int8"))  # doctest: +SKIP
      >>> best.write.parquet("recommendations")  # doctest: +SKIP
    """
    shared = interactions.sparkSession.sparkContext.broadcast(embeddings)
    version = embeddings.version

    def partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        recommender = _recommender(version, shared)
        return recommend_batches(batches, recommender, k, filter_seen=filter_seen)

    texts = (f"cast({column} as string) as {column}" for column in ("user_id", "item_id"))
    pairs = interactions.selectExpr(*texts).dropna()
    users = pairs.groupBy("user_id").agg({"item_id": "collect_set"})
    return users.toDF("user_id", "history").mapInArrow(partition, SCHEMA)


def recommend_batches(
    batches: Iterator[pa.RecordBatch],
    recommender: Recommender,
    k: int,
    *,
    filter_seen: bool = True,
) -> Iterator[pa.RecordBatch]:
    """What `mapInArrow` calls for a partition.

    Args:
      batches: columns user_id and history (a list of item ids, all text).
      recommender: of the catalogue.
      k, filter_seen: as in `Recommender.recommend`.

    Yields:
      For each batch one of the columns of `SCHEMA`.
    """
    item_ids = recommender.embeddings.item_ids
    for batch in batches:
        history = batch["history"]
        positions = recommender.positions(history.flatten().to_pylist())
        users = np.repeat(np.arange(len(batch)), history.value_lengths().to_numpy())
        known = positions >= 0
        entries = np.ones(known.sum(), np.float32), (users[known], positions[known])
        matrix = sp.csr_matrix(entries, shape=(len(batch), len(item_ids)))
        items, scores = recommender.recommend(matrix, k, filter_seen=filter_seen)
        user, rank = np.nonzero(items >= 0)
        columns = {
            "user_id": batch["user_id"].take(pa.array(user)),
            "rank": pa.array(rank + 1, pa.int32()),
            "item_id": pa.array(item_ids[items[user, rank]]),
            "score": pa.array(scores[user, rank]),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _recommender(version: str, shared: Any) -> Recommender:
    """Made once a worker, which serves many partitions, each on one core."""
    if version not in _recommenders:
        _recommenders.clear()
        _recommenders[version] = Recommender(dataclasses.replace(shared.value), n_threads=1)
    return _recommenders[version]
