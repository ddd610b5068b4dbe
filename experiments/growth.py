r"""Judges what a model makes of data that came after training: new items, and new users.

    python -m experiments.growth --config=configs/goodbooks.py --config.data.path=SAMPLE \
        --metadata=books.csv.zip,book_genres.csv.zip --id_column=id,book_id \
        --text_columns=title,authors,genres

A model is trained without some items (`CompressedELSA.fit`), which then get embeddings from their
users or their texts (`add_items`). Only they are ranked for users that nobody trained on:
recall@20, beside chance and the popularity of the known item with the nearest text. Then one is
trained on half of the users, and goes on with the others or with all (`update`): nDCG@100 over the
whole catalogue. Prints one JSON object.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from absl import flags
from ml_collections import ConfigDict
from sklearn.feature_extraction.text import TfidfVectorizer

from celsa_jax.config import seed_of, validate
from celsa_jax.data import Split, dataset_of, make_split
from celsa_jax.errors import InputError
from celsa_jax.estimator import CompressedELSA
from celsa_jax.evaluation.metrics import ranking_metrics
from celsa_jax.sparse import scorer, top_k
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_config()
inputs.define_metadata()
_HIDDEN = flags.DEFINE_integer("n_hidden", 500, "Items hidden from training.", lower_bound=21)
_DEPTH = 20


def main() -> None:
    config = FLAGS.config
    validate(config)
    inputs.check_split(config)
    seed = seed_of(config, "split")
    split = make_split(dataset_of(config.data, seed).interactions, config.data, seed)
    report = {"new_items": of_items(config, split), "new_users": of_users(config, split)}
    print(json.dumps(report))


def of_items(config: ConfigDict, split: Split) -> dict:
    item_ids, train = split.train.item_ids, split.train.matrix
    if _HIDDEN.value > len(item_ids) // 2:
        raise InputError(f"--n_hidden={_HIDDEN.value}: there are {len(item_ids)} items")
    texts = texts_of(item_ids)
    order = np.random.default_rng(seed_of(config, "split")).permutation(len(item_ids))
    hidden, known = np.sort(order[: _HIDDEN.value]), np.sort(order[_HIDDEN.value :])
    first = CompressedELSA.from_config(config)
    ended(first.fit(train[:, known], item_ids=item_ids[known], progress=False))
    n_known = len(known)
    given = {
        "texts": {"texts": texts[hidden], "known_texts": texts[known]},
        "users": {"user_items": train[:, np.concatenate([known, hidden])]},
    }
    scores = {"nearest": nearest(texts, known, hidden, train)}
    for name, arguments in given.items():
        model = copy.deepcopy(first).add_items(item_ids[hidden], **arguments)
        score = scorer(model.embeddings_.tocsr())
        scores[name] = lambda history, score=score: score(widened(history))[:, n_known:]
    report = {"n_known": n_known, "n_hidden": len(hidden), "chance": _DEPTH / len(hidden)}
    for part, users in (("validation", split.val), ("test", split.test)):
        matrix = users.onto(item_ids)
        report[part] = {
            name: recall(score, matrix[:, known], matrix[:, hidden])
            for name, score in scores.items()
        }
    return report


def of_users(config: ConfigDict, split: Split) -> dict:
    item_ids, train = split.train.item_ids, split.train.matrix
    order = np.random.default_rng(seed_of(config, "split")).permutation(train.shape[0])
    half, others = np.array_split(order, 2)
    first = CompressedELSA.from_config(config)
    ended(first.fit(train[np.sort(half)], item_ids=item_ids, progress=False))
    new = {"others": train[np.sort(others)], "100_others": train[others[:100]], "all": train}
    models = {
        f"half, then {name}": ended(copy.deepcopy(first).update(users, progress=False))
        for name, users in new.items()
    }
    whole = CompressedELSA.from_config(config)
    ended(whole.fit(train, item_ids=item_ids, progress=False))
    models = {"half": first, **models, "all": whole}
    return {
        part: {name: model.evaluate(users).summary()["ndcg@100"] for name, model in models.items()}
        for part, users in (("validation", split.val), ("test", split.test))
    }


def ended(model: CompressedELSA) -> CompressedELSA:
    """A model whose training was not stopped; KeyboardInterrupt otherwise."""
    if model.stopped_:
        raise KeyboardInterrupt
    return model


def texts_of(item_ids: np.ndarray) -> np.ndarray:
    """[n_items] text objects: the text columns of each item, one behind another."""
    columns = inputs.read_item_metadata(item_ids)[0].columns.values()
    return np.array([" ".join(cells) for cells in zip(*columns, strict=True)], object)


def widened(history: sp.csr_matrix) -> sp.csr_matrix:
    """With empty columns for the hidden items."""
    empty = sp.csr_matrix((history.shape[0], _HIDDEN.value), dtype=np.float32)
    return sp.hstack([history, empty], format="csr")


def nearest(
    texts: np.ndarray, known: np.ndarray, hidden: np.ndarray, train: sp.csr_matrix
) -> Callable[[sp.csr_matrix], np.ndarray]:
    """The popularity of the known item whose text is nearest, for every history alike."""
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    at = np.asarray((vectors[hidden] @ vectors[known].T).argmax(axis=1)).ravel()
    popularity = train.getnnz(axis=0)[known][at].astype(float)
    return lambda history: np.tile(popularity, (history.shape[0], 1))


def recall(
    score: Callable[[sp.csr_matrix], np.ndarray], history: sp.csr_matrix, held_out: sp.csr_matrix
) -> dict[str, float]:
    """Mean recall@20 of the users who have some of both, and its standard error."""
    usable = (history.getnnz(axis=1) > 0) & (held_out.getnnz(axis=1) > 0)
    history, held_out = history[usable], held_out[usable]
    ranked = top_k(np.asarray(score(history)), _DEPTH)
    hits = np.take_along_axis(held_out.toarray() > 0, ranked, axis=1)
    values = ranking_metrics(hits, held_out.getnnz(axis=1))["recall@20"]
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {"recall@20": float(values.mean()), "stderr": float(error), "n_users": len(values)}


if __name__ == "__main__":
    cli.run(main, required=("config",))
