"""The transformation for engines without negative values, in Milvus, where it is installed."""

import numpy as np
import pytest

from celsa_jax.sparse import Recommender, SparseEmbeddings
from celsa_jax.sparse.rows import positive_items, positive_queries


def test_milvus_scores_as_the_recommender(tmp_path):
    pytest.importorskip("milvus_lite", reason="pip install -e '.[milvus]'")
    import pymilvus

    rng = np.random.default_rng(0)
    dense = rng.normal(size=(400, 50)) * (rng.random((400, 50)) < 0.1)
    embeddings = SparseEmbeddings.from_dense(dense * rng.uniform(0.2, 3, (400, 1)))
    recommender = Recommender(embeddings, engine="scipy")
    stored, largest = positive_items(embeddings.tocsr())

    client = pymilvus.MilvusClient(str(tmp_path / "milvus.db"))
    schema = client.create_schema()
    schema.add_field("id", pymilvus.DataType.INT64, is_primary=True)
    schema.add_field("embedding", pymilvus.DataType.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection("items", schema=schema, index_params=index)
    vectors = [dict(zip(row.indices.tolist(), row.data.tolist(), strict=True)) for row in stored]
    client.insert("items", [{"id": i, "embedding": v} for i, v in enumerate(vectors)])

    histories = (rng.random((20, 400)) < 0.03).astype(np.float32)
    for history in histories:
        history = SparseEmbeddings.from_dense(history[None]).tocsr()
        items, scores = recommender.recommend(history, 30)
        query, shift = positive_queries(recommender.encode(history))
        (found,) = client.search(
            "items",
            [dict(zip(query.indices.tolist(), query.data.tolist(), strict=True))],
            limit=30,
            filter=f"id not in {history.indices.tolist()}",
            anns_field="embedding",
            search_params={"metric_type": "IP"},
        )
        theirs = np.array([hit["distance"] for hit in found]) - shift[0] * largest
        rounding = 4 * np.finfo(np.float32).eps * shift[0] * largest  # of what was added
        np.testing.assert_allclose(theirs, scores[0], atol=rounding)
        near = np.diff(scores[0]) > -rounding  # as good as ties
        firm = ~(np.append(near, True) | np.insert(near, 0, False))
        assert np.array([hit["id"] for hit in found])[firm].tolist() == items[0][firm].tolist()
