"""export, recommend, evaluate and the inference benchmark, driven as a user drives them."""

import collections
import json

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import scipy.sparse as sp
from conftest import directions
from launch import WITHOUT_JAX, program
from test_cli import assert_fails

from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings
from celsa_jax.sparse.rows import (
    positive_items,
    positive_queries,
    split_signs,
)
from experiments.inputs import check_output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, and interactions of 30 users over its items and others."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(60, 16)) * (rng.random((60, 16)) < 0.3)
    dense[np.arange(60), np.arange(60) % 16] = 1
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    sp.save_npz(folder / "embeddings.npz", sp.csc_matrix(dense.astype(np.float32)))
    (folder / "items.txt").write_text("".join(f"i{i}\n" for i in range(60)))
    (folder / "factors.txt").write_text("".join(f"i{2 * f}\n" for f in range(16)))
    (folder / "config.json").write_text('{"train": {"seed": 5}}')
    (folder / "results.json").write_text('{"step": 17}')
    rows = [
        f"u{u:02d},i{i},{rng.integers(1, 6)}" for u in range(30) for i in rng.permutation(70)[:15]
    ]
    rows.append("stranger,nothing,5")
    (folder / "r.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows))
    return folder


def last_line(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def export(run, form, *flags):
    output = run / f"E.{form}"
    flags = (f"--workdir={run}", f"--format={form}", f"--output={output}", *flags)
    return output, last_line(program("export", *flags, code=WITHOUT_JAX))


@pytest.fixture(scope="module")
def exported(run):
    return export(run, "int8")


def test_exported_files_are_judged_and_served(run, exported):
    output, report = exported
    assert report["format"] == "int8"
    assert report["file_bytes"] == output.stat().st_size
    loaded = SparseEmbeddings.load(output)
    assert loaded.factor_ids.tolist() == [f"i{2 * f}" for f in range(16)]
    assert loaded.metadata == {"config": {"train": {"seed": 5}}, "results": {"step": 17}}
    assert report["stored_bytes_per_item"] == pytest.approx(3 * loaded.nnz / 60)

    flags = (f"--interactions={run / 'r.csv'}", "--min_rating=3")
    judged = last_line(
        program(
            "evaluate",
            f"--embeddings={output}",
            f"--items={run / 'items.txt'}",
            f"--reference={run / 'embeddings.npz'}",
            *flags,
            code=WITHOUT_JAX,
        )
    )
    plain = last_line(program("evaluate", f"--embeddings={run / 'embeddings.npz'}", *flags))
    assert judged["stored_bytes_per_item"] == report["stored_bytes_per_item"]
    lost = plain["ndcg@100"] - judged["ndcg@100"]
    assert judged["loss"]["ndcg@100"]["difference"] == pytest.approx(lost, abs=1e-9)
    assert lost < 0.05 * plain["ndcg@100"]

    flags = (*flags, f"--embeddings={output}", "--k=7", "--block_users=8")
    recs = run / "recs.parquet"
    report = last_line(program("recommend", *flags, f"--output={recs}", code=WITHOUT_JAX))
    assert report["users"] == 30
    assert report["users_without_a_known_item"] == 1
    assert report["rows"] == 210
    table = pyarrow.parquet.read_table(recs).to_pylist()
    matrix = loaded.tocsr().toarray().astype(np.float64)
    rows = [line.split(",") for line in (run / "r.csv").read_text().splitlines()[1:]]
    for user in ("u00", "u29"):
        seen = [int(i[1:]) for u, i, r in rows if u == user and int(r) >= 3 and int(i[1:]) < 60]
        scores = matrix @ directions(matrix)[seen].sum(axis=0)
        scores[seen] = -np.inf
        mine = [row for row in table if row["user_id"] == user]
        assert [row["rank"] for row in mine] == list(range(1, 8))
        assert [row["item_id"] for row in mine] == [f"i{i}" for i in np.argsort(-scores)[:7]]
        np.testing.assert_allclose([row["score"] for row in mine], -np.sort(-scores)[:7], atol=1e-5)
    last_line(program("recommend", *flags, f"--output={run / 'recs.csv'}", code=WITHOUT_JAX))
    written = pyarrow.csv.read_csv(run / "recs.csv").to_pydict()
    assert written["item_id"] == [row["item_id"] for row in table]
    assert list(written) == ["user_id", "rank", "item_id", "score"]


def test_filters_of_a_run_can_be_given(run, tmp_path):
    lines = [line.split(",") for line in (run / "r.csv").read_text().splitlines()[1:]]
    positive = [line for line in lines if int(line[2]) >= 3]
    counts = collections.Counter(item for _, item, _ in positive)
    kept = [",".join(line) for line in positive if counts[line[1]] >= 5]
    (tmp_path / "kept.csv").write_text("\n".join(["user_id,item_id,rating", *kept]))
    users = np.unique([line[0] for line in lines])[:20]
    none = np.empty(0, users.dtype)
    np.savez(tmp_path / "split.npz", train=none, val=none, test=users, digest=np.str_("another"))
    flags = (f"--embeddings={run / 'embeddings.npz'}", "--min_rating=3")
    flags += (f"--split={tmp_path / 'split.npz'}",)
    by_hand = program("evaluate", *flags, f"--interactions={tmp_path / 'kept.csv'}")
    given = (f"--interactions={run / 'r.csv'}", "--min_item_interactions=5")
    by_flag = program("evaluate", *flags, *given)
    assert "split.npz is of other data than" in by_flag.stderr
    one, other = last_line(by_hand), last_line(by_flag)
    assert 0 < one["n_unknown_held_out"] == other["n_unknown_held_out"]
    assert one["ndcg@100"] == other["ndcg@100"]
    assert one["ndcg@100"] != last_line(program("evaluate", *flags, *given[:1]))["ndcg@100"]


@pytest.mark.parametrize("positive", [False, True])
def test_export_of_sparse_vectors(run, positive):
    output, report = export(run, "parquet", f"--positive={positive}", "--nnz=1")
    matrix = sp.load_npz(run / "embeddings.npz").toarray()
    kept = np.abs(matrix) == np.abs(matrix).max(axis=1, keepdims=True)
    matrix = (np.sign(matrix) * kept * np.linalg.norm(matrix, axis=1, keepdims=True)).astype("f4")
    table = pyarrow.parquet.read_table(output).to_pydict()
    assert table["item_id"] == [f"i{i}" for i in range(60)]
    vectors = np.zeros((60, 33))
    for item, (indices, values) in enumerate(zip(table["indices"], table["values"], strict=True)):
        vectors[item, indices] = values
    if positive:
        largest = float(pyarrow.parquet.read_schema(output).metadata[b"largest_sum"])
        assert largest == pytest.approx(np.abs(matrix).sum(axis=1).max())
        np.testing.assert_allclose(vectors.sum(axis=1), largest, rtol=1e-6)
        assert (vectors >= 0).all()
        vectors = vectors[:, :32:2] - vectors[:, 1:32:2]
    np.testing.assert_allclose(vectors[:, :16], matrix, rtol=1e-6)
    assert report["nnz"] == np.count_nonzero(matrix)


def test_split_vectors_score_as_the_signed_ones():
    rng = np.random.default_rng(3)
    items, queries = (sp.random_array((n, 12), density=0.4, rng=rng).tocsr() for n in (9, 5))
    items.data -= 0.5
    queries.data -= 0.5
    split = split_signs(items)
    assert split.nnz == items.nnz
    assert split.data.min() > 0
    both = split[:, ::2] - split[:, 1::2]
    np.testing.assert_allclose(both.toarray(), items.toarray(), atol=1e-12)
    stored, largest = positive_items(items)
    positive, shift = positive_queries(queries)
    assert min(stored.data.min(), positive.data.min()) >= 0
    products = (positive @ stored.T).toarray() - shift[:, None] * largest
    np.testing.assert_allclose(products, (queries @ items.T).toarray(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "flags", "parts"),
    [
        ("export", ["--workdir={run}/no", "--output={run}/x"], ["no such folder"]),
        ("export", ["--workdir={run}", "--output={run}/factors.txt"], ["would overwrite"]),
        (
            "export",
            ["--workdir={run}", "--output={run}/x", "--format=int8", "--positive"],
            ["--positive is for --format=parquet"],
        ),
        ("recommend", ["--output={run}/r.csv"], ["r.csv would overwrite what is read"]),
        ("recommend", ["--output={run}/recs.txt"], ["recs.txt", "end in .parquet or .csv"]),
        ("recommend", ["--output={run}/x.parquet", "--items={run}/r.csv"], ["ids for the 60 rows"]),
        (
            "recommend",
            ["--output={run}/x.parquet", "--item_column=user_id"],
            ["no item of", "same ids?"],
        ),
        ("benchmark_inference", ["--engines=magic"], ["no engine 'magic'"]),
        ("benchmark_inference", ["--interactions="], ["go together"]),
    ],
)
def test_programs_name_what_is_wrong_and_write_nothing(run, name, flags, parts):
    flags = [flag.format(run=run) for flag in flags]
    if name != "export":
        flags = [
            f"--embeddings={run / 'embeddings.npz'}",
            f"--interactions={run / 'r.csv'}",
            *flags,
        ]
    assert_fails(program(name, *flags), *parts)
    assert not {"x", "x.parquet", "recs.txt"} & {path.name for path in run.iterdir()}


def test_outputs_that_must_not_be_written(run):
    read = run / "items.txt", None, run / "nowhere"
    check_output(run / "new", *read)
    for output, problem in (
        (run / "no" / "x", "does not exist"),
        (run, "is a folder"),
        (run / ".." / run.name / "items.txt", "would overwrite what is read"),
    ):
        with pytest.raises(InputError, match=problem):
            check_output(output, *read)


def test_ids_of_another_file_are_refused(run, exported):
    (run / "others.txt").write_text("".join(f"j{i}\n" for i in range(60)))
    flags = (f"--embeddings={exported[0]}", f"--interactions={run / 'r.csv'}")
    done = program("evaluate", *flags, f"--items={run / 'others.txt'}")
    assert_fails(done, "others.txt: not the ids of", "which brings its own")


@pytest.mark.slow
def test_benchmark_on_random_embeddings():
    report = last_line(
        program(
            "benchmark_inference",
            "--n_items=3000",
            "--n_factors=64",
            "--nnz=4",
            "--history=10",
            "--n_users=70",
            "--rounds=1",
            "--format=int4",
            "--engines=exact_scipy,exact_fast,dense_same_d",
            code=WITHOUT_JAX,
        )
    )
    assert (report["n_items"], report["nnz"], report["format"]) == (3000, 12000, "int4")
    assert 5 < report["longest_list_over_mean"] <= 11
    engines = report["engines"]
    for engine in engines.values():
        for name in ("one_user_p50_us", "one_user_p99_us", "batched_us_per_user", "load_s"):
            assert engine[name] > 0
        assert engine["users_per_s_by_threads"]["1"] > 0
        assert engine["overlap_with_exact"] == 1
    assert engines["dense_same_d"]["bytes"] == 3000 * 64 * 4
    # Rows: 3 bytes a non-zero, starts, scale; lists: 3 bytes a non-zero, starts.
    lists = 3 * 12000 + 8 * 65
    assert engines["exact_fast"]["bytes"] == 3 * 12000 + 8 * 3001 + 4 * 3000 + 4 * 16 + lists


@pytest.mark.slow
def test_benchmark_on_a_model(run):
    report = last_line(
        program(
            "benchmark_inference",
            f"--embeddings={run / 'embeddings.npz'}",
            f"--interactions={run / 'r.csv'}",
            "--engines=exact_fast,faiss_flat",
            "--rounds=1",
            code="import sys\nsys.modules['faiss'] = None",
        )
    )
    assert (report["n_users"], report["n_items"]) == (30, 60)
    assert "faiss" in report["engines"]["faiss_flat"]["skipped"]
    assert report["engines"]["exact_fast"]["one_user_p50_us"] > 0
