r"""Turns embeddings into named segments, and judges them.

    python -m experiments.segments --embeddings=runs/mine/embeddings.npz --metadata=books.csv \
        --id_column=book_id --text_columns=title,authors,genres --output=segments

The metadata may come in several tables: --metadata=books.csv,genres.csv --id_column=id,book_id.
The first text column is what items are called. Columns of lists (genres) are found by their
looks, or named by --list_columns.

--output gets `segments.json` (name, terms, pairs, items; the largest first), `assignments.csv`
(each item's strongest factor, the sign and size of its weight there, and its segment),
`segment_vectors.npz` (CSR, segments x factors), `merges.csv`, `report.json` and `report.html`;
with --homepage_for=FILE (interactions, as for experiments.recommend) also `homepages.json`.

--namer=llm asks a language model for names: OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY in
the environment. Answers are kept in --output/names.jsonl, so a run that breaks off goes on.

The last line printed is one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json
import logging
import pathlib
import time

import numpy as np
import scipy.sparse as sp
from absl import flags

from celsa_jax.data.interactions import lookup
from celsa_jax.data.metadata import Metadata
from celsa_jax.errors import InputError
from celsa_jax.files import write_json
from celsa_jax.segments import (
    LanguageModelNamer,
    Row,
    SegmentRecommender,
    SentenceEmbedder,
    TfidfEmbedder,
    find_segments,
    item_terms,
    save_segments,
)
from celsa_jax.segments.coherence import (
    compared_columns,
    evaluate_segments,
    metadata_vectors,
    stability,
)
from celsa_jax.segments.report import write_report
from celsa_jax.segments.terms import EXCLUDED
from celsa_jax.sparse import Recommender
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_metadata()
inputs.define_users()
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
_LISTS = flags.DEFINE_list("list_columns", None, "Which of these hold lists; by default: detected.")
_COMPARED = flags.DEFINE_list(
    "coherence_columns", None, "Which of them coherence compares; by default: those of lists."
)
_EXCLUDED = flags.DEFINE_list("exclude_terms", list(EXCLUDED), "Terms with these are left out.")
_NAMER = flags.DEFINE_enum("namer", "terms", ["terms", "llm"], "Who names groups.")
_EMBEDDER = flags.DEFINE_string(
    "embedder", "tfidf", "tfidf, or the folder of a sentence-transformers model."
)
_THRESHOLD = flags.DEFINE_float(
    "merge_threshold", None, "Cosine from which on groups merge; by default the embedder's."
)
_COMPARE = flags.DEFINE_string(
    "compare_with", None, "Embeddings of another run on the same items: how stable groups are."
)
_HOMEPAGE = flags.DEFINE_string("homepage_for", None, "Interactions of users who get a homepage.")
_ROWS = flags.DEFINE_integer("rows", 6, "Rows of a homepage.", lower_bound=1)
_ROW_ITEMS = flags.DEFINE_integer("row_items", 10, "Items in a row.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of baselines, samples and the map.", lower_bound=0)
_N_HOMEPAGES_SHOWN = 5
_log = logging.getLogger("celsa_jax.segments")


def main() -> None:
    started = time.perf_counter()
    output = _output(pathlib.Path(_OUTPUT.value))
    embeddings = inputs.read_sparse(FLAGS.embeddings, FLAGS.items)
    rows, item_ids = embeddings.tocsr(), embeddings.item_ids
    table = _read_metadata(item_ids)
    lists = None if _LISTS.value is None else tuple(_LISTS.value)
    terms = item_terms(table.columns, lists, tuple(_EXCLUDED.value), len(item_ids))
    compared = _compared(terms)
    namer = LanguageModelNamer(output / "names.jsonl") if _NAMER.value == "llm" else None
    tfidf = _EMBEDDER.value == "tfidf"
    embedder = TfidfEmbedder() if tfidf else SentenceEmbedder(_EMBEDDER.value)
    users = _read_users(item_ids)
    other = _read_other(item_ids)

    titles = table.shown(item_ids)
    found = find_segments(
        rows,
        item_ids,
        terms,
        titles,
        embedder=embedder,
        threshold=_THRESHOLD.value,
        namer=namer,
    )
    segments = found.segments
    _log.info("%d groups, %d segments", len(found.groups.pairs), len(segments))
    recommender = SegmentRecommender(Recommender(embeddings), segments)
    report = evaluate_segments(
        found, rows, metadata_vectors(terms, compared), recommender.candidates, _SEED.value
    )
    report |= table.counts
    report |= {"columns": terms.kinds, "coherence_columns": compared}
    if found.language_model is not None:
        report["language_model"] = found.language_model
    if other is not None:
        report["stability"] = stability(rows, other)
    homepages = _homepages(recommender, users)

    save_segments(output, found)
    if users is not None:
        write_json(output / "homepages.json", _as_json(homepages, segments.item_ids))
    else:  # an earlier run's are of other segments
        (output / "homepages.json").unlink(missing_ok=True)
    report["seconds"] = round(time.perf_counter() - started, 1)
    shown = homepages[:_N_HOMEPAGES_SHOWN]
    write_report(output / "report.html", segments, report, rows, titles, shown, _SEED.value)
    write_json(output / "report.json", report)
    summary = {name: value for name, value in report.items() if name != "segments"}
    print(json.dumps({"output": str(output), **summary}))


def _output(folder: pathlib.Path) -> pathlib.Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output={folder}: {error.strerror}; give a folder") from None
    return folder


def _read_metadata(item_ids: np.ndarray) -> Metadata:
    """The metadata of the catalogue; warns of tables that know few of its items."""
    table, n_items = inputs.read_item_metadata(item_ids), len(item_ids)
    _log.info("read %d items: %s", n_items, table.counts)
    for path, n in table.counts.get("items_by_table", {}).items():
        if n < n_items / 2:
            _log.warning("%s has only %d of %d items; is its --id_column right?", path, n, n_items)
    return table


def _compared(terms) -> list[str]:
    """The columns that coherence compares."""
    names = _COMPARED.value
    for name in names or ():
        if name not in terms.kinds:
            raise InputError(f"--coherence_columns: '{name}' is none of --text_columns")
    return names or compared_columns(terms)


def _read_users(item_ids: np.ndarray) -> tuple[np.ndarray, sp.csr_matrix] | None:
    """User ids and histories of --homepage_for."""
    if not _HOMEPAGE.value:
        return None
    users, _ = inputs.read_users(item_ids, _HOMEPAGE.value)
    histories = users.onto(item_ids)
    if n_unknown := users.nnz - histories.nnz:
        _log.warning("%d interactions are of items outside the catalogue", n_unknown)
    return users.user_ids, histories


def _read_other(item_ids: np.ndarray) -> sp.csr_matrix | None:
    """The embeddings of --compare_with, rows in the order of ours."""
    if not _COMPARE.value:
        return None
    other = inputs.read_sparse(_COMPARE.value, None)
    at = lookup(other.item_ids, item_ids)
    n_shared = int((at >= 0).sum())
    if not n_shared:
        raise InputError(f"--compare_with={_COMPARE.value}: no item in common; the same ids?")
    _log.info("%d of %d items are in --compare_with", n_shared, len(item_ids))
    rows = other.tocsr()
    empty = sp.csr_matrix((1, rows.shape[1]), dtype=np.float32)
    return sp.vstack([rows, empty], format="csr")[at]  # -1 is the empty row


def _homepages(recommender: SegmentRecommender, users) -> list[tuple[str, list[Row]]]:
    if users is None:
        return []
    user_ids, histories = users
    pages = recommender.homepage(histories, _ROWS.value, _ROW_ITEMS.value)
    return list(zip(user_ids.tolist(), pages, strict=True))


def _as_json(homepages: list[tuple[str, list[Row]]], item_ids: np.ndarray) -> list:
    return [
        {
            "user_id": user,
            "rows": [
                {
                    "title": row.title,
                    "items": item_ids[row.items].tolist(),
                    "scores": [round(float(score), 6) for score in row.scores],
                }
                for row in page
            ],
        }
        for user, page in homepages
    ]


if __name__ == "__main__":
    cli.run(main, required=("embeddings", "output"))
