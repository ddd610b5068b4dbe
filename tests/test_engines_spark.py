"""What Spark's workers run, against `Recommender`; Spark itself where the extra is installed."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from asking import ask
from launch import ROOT

from celsa_jax.engines import spark
from celsa_jax.sparse import Recommender, SparseEmbeddings


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(60, 16)) * (rng.random((60, 16)) < 0.3)
    return SparseEmbeddings.from_dense(dense, [f"i{i}" for i in range(60)])


@pytest.fixture(scope="module")
def pairs():
    """Users and their items, some of which the catalogue does not have."""
    rng = np.random.default_rng(1)
    users = {f"u{u}": rng.permutation(70)[: 1 + u % 20] for u in range(50)}
    users["stranger"] = [65, 66]
    rows = [(user, f"i{item}") for user, items in users.items() for item in items]
    return pd.DataFrame(rows, columns=["user_id", "item_id"])


def wanted(catalogue, pairs, k, filter_seen=True):
    recommender = Recommender(catalogue, engine="scipy")
    rows = []
    for user, items in pairs.groupby("user_id")["item_id"]:
        found = ask(recommender, items.tolist(), k, filter_seen=filter_seen)
        best = zip(found.item_ids.tolist(), found.scores.tolist(), strict=True)
        rows += [(user, rank, item, score) for rank, (item, score) in enumerate(best, 1)]
    return pd.DataFrame(rows, columns=["user_id", "rank", "item_id", "score"])


def assert_equal(found, expected):
    order = ["user_id", "rank"]
    found = found.sort_values(order).reset_index(drop=True)
    expected = expected.sort_values(order).reset_index(drop=True)
    assert found[[*order, "item_id"]].to_numpy().tolist() == (
        expected[[*order, "item_id"]].to_numpy().tolist()
    )
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_partition_is_what_the_recommender_says(catalogue, pairs, filter_seen):
    histories = pairs.groupby("user_id")["item_id"].agg(list).rename("history").reset_index()
    whole = pa.RecordBatch.from_pandas(histories)
    batches = iter([whole[:20], whole[20:20], whole[20:]])
    recommender = Recommender(catalogue, engine="scipy")
    parts = list(spark.recommend_batches(batches, recommender, 7, filter_seen=filter_seen))
    assert [len(part) > 0 for part in parts] == [True, False, True]
    found = pa.Table.from_batches(parts).to_pandas()
    assert "stranger" not in set(found["user_id"])
    assert_equal(found, wanted(catalogue, pairs, 7, filter_seen))


@pytest.fixture(scope="module")
def session():
    """A Spark on this machine, with its Java."""
    sql = pytest.importorskip("pyspark.sql", reason="pip install -e '.[spark]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=":")  # for the workers
        settings = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "3"}
        builder = sql.SparkSession.builder.master("local[2]").config(map=settings)
        made = builder.getOrCreate()
        yield made
        made.stop()


def test_spark_from_parquet_to_parquet(session, catalogue, pairs, tmp_path):
    pd.concat([pairs, pairs[:30]]).to_parquet(tmp_path / "pairs.parquet")
    interactions = session.read.parquet(str(tmp_path / "pairs.parquet"))
    best = spark.recommend(interactions, catalogue, 7)
    best.write.parquet(str(tmp_path / "best"))
    assert_equal(pd.read_parquet(tmp_path / "best"), wanted(catalogue, pairs, 7))
