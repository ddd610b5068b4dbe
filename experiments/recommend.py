r"""Recommends items to every user of a file, from exported embeddings.

    python -m experiments.recommend --embeddings=mine.int8 --interactions=ratings.csv \
        --k=100 --output=recs.parquet [--min_rating=4] [--threads=0]

The output has a row for each user and rank: user_id, rank (from 1), item_id, score. Users come
in blocks, so that memory holds the interactions, the embeddings and one block of results, however
many users there are. A user without a known item gets no row, as does a rank that nothing is left
for. The file appears whole or not at all. The last line printed is one JSON object. JAX is not
needed.
"""

from __future__ import annotations

import json
import pathlib
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import scipy.sparse as sp
import tqdm
from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path
from celsa_jax.sparse import Recommender
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_interactions()
_OUTPUT = flags.DEFINE_string("output", None, "File to write, .parquet or .csv.")
_K = flags.DEFINE_integer("k", 10, "Items a user.", lower_bound=1)
_FILTER_SEEN = flags.DEFINE_boolean("filter_seen", True, "Leave out what is in the history.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads; 0 for all cores.", lower_bound=0)
_BLOCK = flags.DEFINE_integer("block_users", 4096, "Users in a block.", lower_bound=1)
_SCHEMA = pa.schema(
    {"user_id": pa.string(), "rank": pa.int32(), "item_id": pa.string(), "score": pa.float32()}
)
_WRITERS = {".parquet": pa.parquet.ParquetWriter, ".csv": pa.csv.CSVWriter}


def main() -> None:
    output = pathlib.Path(_OUTPUT.value)
    inputs.check_output(output, FLAGS.embeddings, FLAGS.items, FLAGS.interactions, FLAGS.split)
    if output.suffix not in _WRITERS:
        raise InputError(f"--output={output}: let it end in {' or '.join(_WRITERS)}")
    embeddings = inputs.read_sparse(FLAGS.embeddings, FLAGS.items)
    recommender = Recommender(embeddings, n_threads=_THREADS.value)
    users, counts = inputs.read_users(embeddings.item_ids, FLAGS.interactions)
    histories = users.onto(embeddings.item_ids)
    served = np.flatnonzero(np.diff(histories.indptr))
    recommender.warm_up()
    started, n_rows = time.perf_counter(), 0
    with (
        atomic_path(output) as temporary,
        _WRITERS[output.suffix](temporary, _SCHEMA) as writer,
        tqdm.tqdm(total=len(served), unit="user", mininterval=1) as bar,
    ):
        for first in range(0, len(served), _BLOCK.value):
            rows = served[first : first + _BLOCK.value]
            table = recommendations(recommender, users.user_ids[rows], histories[rows])
            writer.write_table(table)
            n_rows += table.num_rows
            bar.update(len(rows))
    seconds = time.perf_counter() - started
    report = {
        "output": str(output),
        "users": len(served),
        "users_without_a_known_item": users.n_users - len(served),
        "rows": n_rows,
        "n_unknown_in_histories": users.nnz - histories.nnz,
        "users_per_s": round(len(served) / seconds, 1) if len(served) else None,
        "seconds": round(seconds, 3),
        "engine": recommender.engine,
        "format": embeddings.format,
        "filters": counts,
    }
    print(json.dumps(report))


def recommendations(
    recommender: Recommender, user_ids: np.ndarray, histories: sp.csr_matrix
) -> pa.Table:
    """A row for each user and rank."""
    items, scores = recommender.recommend(histories, _K.value, filter_seen=_FILTER_SEEN.value)
    user, rank = np.nonzero(items >= 0)
    columns = [
        pa.array(user_ids[user]),
        pa.array(rank + 1, pa.int32()),
        pa.array(recommender.embeddings.item_ids[items[user, rank]]),
        pa.array(scores[user, rank]),
    ]
    return pa.table(columns, schema=_SCHEMA)


if __name__ == "__main__":
    cli.run(main, required=("embeddings", "interactions", "output"))
