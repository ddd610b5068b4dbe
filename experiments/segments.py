r"""Divides a catalogue into nested, named segments, and judges them.

    python -m experiments.segments --embeddings=runs/mine/embeddings.npz --metadata=books.csv \
        --id_column=book_id --text_columns=title,authors,genres --output=segments

The metadata may come in several tables: --metadata=books.csv,genres.csv --id_column=id,book_id.
The first text column is what items are called. Columns of lists (genres) are found by their
looks, or named by --list_columns. One of lists judges what the segments have in common, and has no
say in what is together; items that share terms of the others (authors) are drawn to each other.

--output gets `segments.json` (of every level, the coarsest first: name, terms, items, parent),
`segment_vectors.npz` (CSR, segments x factors), `assignments.csv` (each item's segments),
`report.json` and `report.html`; with --homepage_for=FILE (interactions, as for
experiments.recommend) also `homepages.json`, and the report says what these users find on pages.

--rule=factors makes the segments of arXiv 2602.09935 instead: items by their strongest factor and
its sign, named, merged where names mean the same.

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
from absl import flags

from celsa_jax.data.interactions import Interactions
from celsa_jax.data.metadata import Metadata
from celsa_jax.errors import InputError
from celsa_jax.files import write_json
from celsa_jax.segments import (
    Catalogue,
    ItemTerms,
    LanguageModelNamer,
    Row,
    SegmentRecommender,
    SegmentTree,
    SentenceEmbedder,
    TfidfEmbedder,
    find_segments,
    item_terms,
    save_segments,
    segments_of_factors,
)
from celsa_jax.segments.quality import (
    compared_columns,
    kmeans_figures,
    level_figures,
    list_columns,
    metadata_vectors,
)
from celsa_jax.segments.report import write_report
from celsa_jax.sparse import Recommender
from experiments import cli, inputs
from experiments.segment_pages import page_figures

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_metadata()
inputs.define_users()
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
_N_SEGMENTS = flags.DEFINE_list(
    "n_segments", None, "By level; by default those of 30, 300, 1500 that leave three items each."
)
_RULE = flags.DEFINE_enum(
    "rule", "clusters", ["clusters", "factors"], "What makes segments: see above."
)
_LISTS = flags.DEFINE_list("list_columns", None, "Which of these hold lists; by default: detected.")
_COMPARED = flags.DEFINE_list(
    "coherence_columns", None, "Which coherence compares; by default: lists whose terms recur most."
)
_KIN = flags.DEFINE_list(
    "kin_columns", None, "Items that share these (authors) are kin; by default: the other lists."
)
_NAMER = flags.DEFINE_enum("namer", "terms", ["terms", "llm"], "Who names segments.")
_EMBEDDER = flags.DEFINE_string(
    "embedder", "tfidf", "Of --rule=factors: tfidf, or the folder of a sentence-transformers model."
)
_THRESHOLD = flags.DEFINE_float(
    "merge_threshold", None, "Of --rule=factors: merge from this cosine; by default the embedder's."
)
_KMEANS = flags.DEFINE_boolean("kmeans", False, "Compare with k-means, too, which takes minutes.")
_HOMEPAGE = flags.DEFINE_string("homepage_for", None, "Interactions of users who get a homepage.")
_ROWS = flags.DEFINE_integer("rows", 6, "Rows of a homepage.", lower_bound=1)
_ROW_ITEMS = flags.DEFINE_integer("row_items", 10, "Items in a row.", lower_bound=1)
_MEMBERS_ONLY = flags.DEFINE_boolean(
    "members_only", False, "Fill rows with items of the segment alone, not with others like them."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of clusters, baselines and folds.", lower_bound=0)
_N_HOMEPAGES_SHOWN = 5
_N_MEASURED = 300
_log = logging.getLogger("celsa_jax.segments")


def main() -> None:
    started = time.perf_counter()
    output = _output(pathlib.Path(_OUTPUT.value))
    embeddings = inputs.read_sparse(FLAGS.embeddings, FLAGS.items)
    rows, item_ids = embeddings.tocsr(), embeddings.item_ids
    table, shown = _read_metadata(item_ids)
    lists = None if _LISTS.value is None else tuple(_LISTS.value)
    terms = item_terms(table.columns, lists, len(item_ids))
    compared = _chosen(_COMPARED, terms) or compared_columns(terms)
    kin = _chosen(_KIN, terms)
    if kin is None:
        kin = [name for name in list_columns(terms) if name not in compared]
    users, popularity = _read_users(item_ids)

    namer = LanguageModelNamer(output / "names.jsonl") if _NAMER.value == "llm" else None
    tree = _find(Catalogue(rows, item_ids, terms, _shown_items(shown)), kin, namer)
    _log.info("%s", tree)
    vectors = metadata_vectors(terms, compared)
    report = {
        "n_items": len(item_ids),
        "n_items_without_weights": int((tree.levels[-1].of_item < 0).sum()),
        "levels": level_figures(tree, vectors),
        "columns": terms.kinds,
        "coherence_columns": compared,
        "kin_columns": kin if _RULE.value == "clusters" else [],
        **table.counts,
    }
    if _KMEANS.value:
        for level in report["levels"]:
            level["kmeans"] = kmeans_figures(rows, level["segments"], vectors, _SEED.value)
    if namer is not None:
        report["language_model"] = namer.counts
    homepages = []
    if users is not None:
        product = SegmentRecommender(Recommender(embeddings), tree.for_pages)
        given = {"n_rows": _ROWS.value, "n_items": _ROW_ITEMS.value}
        given["members_only"] = _MEMBERS_ONLY.value
        pages = product.homepage(users.onto(item_ids), **given)
        homepages = list(zip(users.user_ids.tolist(), pages, strict=True))
        report["pages"] = page_figures(
            product, _some(users), popularity, vectors, **given, seed=_SEED.value
        )

    save_segments(output, tree, rows)
    if users is not None:
        write_json(output / "homepages.json", _as_json(homepages, item_ids))
    else:  # an earlier run's are of other segments
        (output / "homepages.json").unlink(missing_ok=True)
    report["seconds"] = round(time.perf_counter() - started, 1)
    titles = table.shown(item_ids)
    write_report(
        output / "report.html", tree, report, vectors, titles, homepages[:_N_HOMEPAGES_SHOWN]
    )
    write_json(output / "report.json", report)
    print(json.dumps({"output": str(output), **report}))


def _output(folder: pathlib.Path) -> pathlib.Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output={folder}: {error.strerror}; give a folder") from None
    return folder


def _find(catalogue: Catalogue, kin: list[str], namer: LanguageModelNamer | None) -> SegmentTree:
    if _RULE.value == "clusters":
        return find_segments(
            catalogue, _n_segments(), kin_columns=kin, namer=namer, seed=_SEED.value
        )
    tfidf = _EMBEDDER.value == "tfidf"
    embedder = TfidfEmbedder() if tfidf else SentenceEmbedder(_EMBEDDER.value)
    return segments_of_factors(
        catalogue, embedder=embedder, threshold=_THRESHOLD.value, namer=namer
    )


def _n_segments() -> list[int] | None:
    given = _N_SEGMENTS.value
    if given is None:
        return None
    if not given or not all(text.isdecimal() and int(text) for text in given):
        raise InputError(f"--n_segments={','.join(given)}: give whole numbers, such as 30,300,1500")
    return [int(text) for text in given]


def _read_metadata(item_ids: np.ndarray) -> tuple[Metadata, Metadata]:
    """The metadata of the catalogue; warns of tables that know few of its items."""
    (table, shown), n_items = inputs.read_item_metadata(item_ids), len(item_ids)
    _log.info("read %d items: %s", n_items, table.counts)
    for path, n in table.counts.get("items_by_table", {}).items():
        if n < n_items / 2:
            _log.warning("%s has only %d of %d items; is its --id_column right?", path, n, n_items)
    return table, shown


def _shown_items(table: Metadata) -> list[dict[str, str]] | None:
    """What a language model is shown of each item: all its columns."""
    rows = zip(*table.columns.values(), strict=True)
    return [dict(zip(table.columns, row, strict=True)) for row in rows] or None


def _chosen(flag: flags.FlagHolder, terms: ItemTerms) -> list[str] | None:
    """The columns that a flag names."""
    for name in flag.value or ():
        if name not in terms.kinds:
            raise InputError(f"--{flag.name}: '{name}' is none of --text_columns")
    return flag.value


def _read_users(item_ids: np.ndarray) -> tuple[Interactions | None, np.ndarray | None]:
    """The users of --homepage_for, and of each item how many users of the file have it."""
    path = _HOMEPAGE.value
    if not path:
        return None, None
    everyone, counts = inputs.read_everyone(path)
    users = inputs.take_split(everyone, counts, item_ids, path)
    if n_unknown := users.nnz - users.onto(item_ids).nnz:
        _log.warning("%d interactions are of items outside the catalogue", n_unknown)
    return users, everyone.onto(item_ids).getnnz(axis=0)


def _some(users: Interactions) -> Interactions:
    """300 of them at most."""
    if users.n_users <= _N_MEASURED:
        return users
    chosen = np.random.default_rng(_SEED.value).choice(users.n_users, _N_MEASURED, replace=False)
    return users.take_users(np.sort(chosen))


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
