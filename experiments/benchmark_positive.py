r"""What engines without negative values lose, against `Recommender`.

    python -m experiments.benchmark_positive --embeddings=runs/mine/embeddings.npz \
        --interactions=ratings.csv --min_rating=4 --n_users=200

Vectors of items and queries without negative values (`positive_items`, `positive_queries` of
celsa_jax.sparse.rows), in float32, and with what stored values become in engines that keep 9
significant bits (Lucene's feature fields: Elasticsearch, OpenSearch). For each: the share of the
--k best unseen items that are Recommender's, too.

The last line printed is one JSON object.
"""

from __future__ import annotations

import json

import numpy as np
import scipy.sparse as sp
from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommender, top_k
from celsa_jax.sparse.rows import positive_items, positive_queries
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_interactions()
_K = flags.DEFINE_integer("k", 100, "Items a user.", lower_bound=1)
_N_USERS = flags.DEFINE_integer("n_users", 200, "Users, at most.", lower_bound=1)


def main() -> None:
    embeddings = inputs.read_sparse(FLAGS.embeddings, FLAGS.items)
    users, _ = inputs.read_users(embeddings.item_ids, FLAGS.interactions)
    histories = users.onto(embeddings.item_ids)
    histories = histories[np.diff(histories.indptr) > 0]
    chosen = np.random.default_rng(0).permutation(histories.shape[0])[: _N_USERS.value]
    histories = histories[chosen]
    if not histories.shape[0]:
        raise InputError(f"{FLAGS.interactions}: no user with a known item")
    recommender = Recommender(embeddings)
    wanted, _ = recommender.recommend(histories, _K.value)
    stored, _ = positive_items(embeddings.tocsr())
    queries, _ = positive_queries(recommender.encode(histories))
    report: dict = {"n_users": histories.shape[0], "k": _K.value}
    for bits, kept in (("float32", stored), ("9 bits", nine_bits(stored))):
        scores = (queries @ kept.T.tocsr()).toarray()
        scores[histories.nonzero()] = -np.inf
        found = top_k(scores, _K.value)
        same = sum(len(np.intersect1d(a, b)) for a, b in zip(found, wanted, strict=True))
        report[bits] = round(same / wanted.size, 4)
    print(json.dumps(report))


def nine_bits(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Positive float32 values with 8 bits of the fraction alone, as Lucene stores them."""
    cut = matrix.astype(np.float32)
    cut.data = (cut.data.view(np.uint32) & np.uint32(0xFFFF8000)).view(np.float32)
    return cut


if __name__ == "__main__":
    cli.run(main, required=("embeddings", "interactions"))
