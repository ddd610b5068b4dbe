r"""Loads embeddings into a database, and compares its answers with `Recommender`'s.

    pip install -e ".[postgres]"
    python -m experiments.index --uri=postgresql://user@host/shop --embeddings=mine.int8 \
        --metadata=items.csv --text_columns=language,year,genres --list_columns=genres

--uri is `postgresql://...`, `http://host:6333` or `https://...` (a server of Qdrant; its key is
that of the environment, QDRANT_API_KEY), or `qdrant:FOLDER` (Qdrant in this process). What is there
already is not loaded again, and what was killed goes on. --metadata becomes columns for conditions:
numbers where all cells are, lists of text for --list_columns (commas, semicolons or bars between).

The check asks for the best --k of --n_users users one after the other: those of --interactions, or
random histories of --history items; Recommender answers the same in turn. Without --embeddings,
random ones of --n_items are loaded.

The last line printed is one JSON object: agreement (the share of items that are among the best for
Recommender, too, ties by score with them), largest_score_error, p50_ms and p99_ms of both, bytes,
load_s. An agreement below 1 ends with exit status 1.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse

import numpy as np
import tqdm
from absl import flags

from celsa_jax.engines import Engine, open_index
from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommendation, Recommender, SparseEmbeddings
from experiments import cli, inputs
from experiments.random_data import random_embeddings, random_histories

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_interactions()
inputs.define_metadata()
_URI = flags.DEFINE_string("uri", None, "Of the database.")
_NAME = flags.DEFINE_string("name", "items", "Of the index in it.")
_LISTS = flags.DEFINE_list("list_columns", [], "Of the text columns, those that hold lists.")
_K = flags.DEFINE_integer("k", 100, "Items a user.", lower_bound=1)
_N_USERS = flags.DEFINE_integer("n_users", 200, "Users to compare; 0: load only.", lower_bound=0)
_N_ITEMS = flags.DEFINE_integer("n_items", 100_000, "Random: items.", lower_bound=1)
_HISTORY = flags.DEFINE_integer("history", 77, "Random: items of a history.", lower_bound=1)
_N_FACTORS, _NNZ = 4096, 16  # of random embeddings
_TIE = 1e-5  # of the score: what rounding may do to it


def main() -> None:
    embeddings = (
        inputs.read_sparse(FLAGS.embeddings, FLAGS.items)
        if FLAGS.embeddings
        else random_embeddings(_N_ITEMS.value, _N_FACTORS, _NNZ)
    )
    columns = read_columns(embeddings.item_ids)
    histories = read_histories(embeddings)
    with open_index(_URI.value, _NAME.value) as index:
        started = time.perf_counter()
        version = index.load(embeddings, columns)
        report = {
            "engine": urllib.parse.urlsplit(_URI.value).scheme,
            "version": version,
            "n_items": embeddings.n_items,
            "nnz": embeddings.nnz,
            "load_s": round(time.perf_counter() - started, 2),
            "bytes": index.n_bytes(),
        }
        if histories:
            report |= compare(index, Recommender(embeddings), histories)
    print(json.dumps(report))
    if report.get("agreement", 1) < 1:
        print("the answers differ from those of Recommender", file=sys.stderr)
        sys.exit(1)


def compare(index: Engine, recommender: Recommender, histories: list[list[str]]) -> dict:
    """Agreement and times, one user after the other, each asked of both."""
    recommender.warm_up()
    index.recommend_ids(histories[:1], _K.value)
    times: dict[str, list[float]] = {"index": [], "recommender": []}
    n_same, n_wanted, errors = 0, 0, [0.0]
    for history in tqdm.tqdm(histories, unit="user", desc="check", mininterval=1, disable=None):
        answers = {}
        for name, asked in (("recommender", recommender), ("index", index)):
            started = time.perf_counter()
            [answers[name]] = asked.recommend_ids([history], _K.value)
            times[name].append(time.perf_counter() - started)
        same, error = agreement(recommender, history, answers["index"], answers["recommender"])
        n_same, n_wanted = n_same + same, n_wanted + len(answers["recommender"].item_ids)
        errors.append(error)
    report: dict = {
        "n_users": len(histories),
        "history_mean": round(float(np.mean([len(history) for history in histories])), 1),
        "k": _K.value,
        "agreement": n_same / max(n_wanted, 1),
        "largest_score_error": float(f"{max(errors):.2g}"),
    }
    for name, prefix in (("index", ""), ("recommender", "recommender_")):
        p50, p99 = 1e3 * np.quantile(times[name], [0.5, 0.99])
        report |= {f"{prefix}p50_ms": round(p50, 2), f"{prefix}p99_ms": round(p99, 2)}
    return report


def agreement(
    recommender: Recommender, history: list[str], found: Recommendation, wanted: Recommendation
) -> tuple[int, float]:
    """How many of the items found are among the best, and the largest error of a score."""
    items = found.item_ids.tolist()
    if not len(wanted.item_ids) or not items:
        return 0, 0.0
    [own] = recommender.recommend_ids([history], len(items), candidates=items)
    score_of = dict(zip(own.item_ids.tolist(), own.scores.tolist(), strict=True))
    scores = np.array([score_of.get(item, -np.inf) for item in items])  # -inf: it was seen
    least = float(wanted.scores[-1])
    same = int((scores >= least - _TIE * max(1, abs(least))).sum())
    return same, float(np.abs(scores - found.scores).max())


def read_columns(item_ids: np.ndarray) -> dict[str, list]:
    """The metadata of the flags as columns of numbers, of text, or of lists of text."""
    strange = set(_LISTS.value) - set(FLAGS.text_columns)
    if strange:
        raise InputError(f"--list_columns: '{min(strange)}' is none of --text_columns")
    metadata, _ = inputs.read_item_metadata(item_ids)
    return {
        name: [_split(cell) for cell in cells] if name in _LISTS.value else _typed(cells.tolist())
        for name, cells in metadata.columns.items()
    }


def _typed(cells: list[str]) -> list:
    """Whole numbers or numbers where all cells are, else text; None for cells without any."""
    for kind in (int, float):
        try:
            return [kind(cell) if cell else None for cell in cells]
        except ValueError:
            continue
    return [cell or None for cell in cells]


def _split(cell: str) -> list[str]:
    return [part for part in map(str.strip, re.split("[,;|]", cell)) if part]


def read_histories(embeddings: SparseEmbeddings) -> list[list[str]]:
    """External ids of users of the interactions, or of random ones."""
    ids, n_users = embeddings.item_ids, _N_USERS.value
    if not n_users:
        return []
    if FLAGS.interactions:
        histories = inputs.draw_histories(ids, n_users)
    else:
        histories = random_histories(n_users, len(ids), _HISTORY.value)
    return [ids[row.indices].tolist() for row in histories]


if __name__ == "__main__":
    cli.run(main, required=("uri",))
