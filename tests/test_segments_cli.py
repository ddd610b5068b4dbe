"""experiments.segments and experiments.purity, driven as a user drives them."""

import collections
import csv
import html.parser
import json
import os

import numpy as np
import pytest
import scipy.sparse as sp
from launch import WITHOUT_JAX, program
from test_cli import assert_fails
from test_language_model import KEY, stub  # noqa: F401  (a fixture)

from celsa_jax.data.synthetic import synthetic
from celsa_jax.sparse.npz import load_embeddings, save_embeddings

STRANGE_USER = "<u>9</u>&amp;\u202e"
TITLE = '<img src=x onerror="alert(1)"> & <b>Bold</b>'


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """60 items of five themes on ten signed factors; the last has no weights."""
    folder = tmp_path_factory.mktemp("catalogue")
    rng = np.random.default_rng(0)
    pair = np.arange(60) % 10
    rows = rng.normal(0, 0.05, (60, 6)).astype(np.float32)
    rows[np.arange(60), pair // 2] = (1 - 2 * (pair % 2)) * rng.uniform(0.5, 1, 60)
    rows[59] = 0
    sp.save_npz(folder / "E.npz", sp.csc_matrix(rows))
    (folder / "items.txt").write_text("".join(f"i{i}\n" for i in range(60)))
    themes = ("nordic-crime", "love-poetry", "space-opera", "home-baking", "world-history")
    with (folder / "items.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "title", "genres"])
        writer.writerow(["i0", TITLE, "nordic-crime,books"])
        for i in range(1, 60):
            if i % 10 != 9:  # all items of one group have no metadata
                writer.writerow([f"i{i}", f"Title {i}", f"{themes[i % 10 // 2]},books"])
    with (folder / "users.csv").open("w") as stream:
        stream.write("user_id,item_id\n")
        stream.writelines(f"u{u},i{i}\n" for u in range(4) for i in range(u, 60, 10))
        stream.writelines(f"{STRANGE_USER},i{i}\n" for i in (0, 10))
        stream.write("stranger,elsewhere\n")
    return folder


def flags(folder, to, **changes):
    values = {
        "embeddings": folder / "E.npz",
        "items": folder / "items.txt",
        "metadata": folder / "items.csv",
        "id_column": "id",
        "text_columns": "title,genres",
        "output": to,
    } | changes
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for n, v in attributes if n in ("src", "href") and v != "data:,"]

    def handle_data(self, data):
        self.data.append(data)


def test_segments_writes_all_its_files_without_jax(catalogue, tmp_path):
    output = tmp_path / "a" / "segments"
    users = {"homepage_for": catalogue / "users.csv", "row_items": 3, "rows": 3}
    other = {"compare_with": catalogue / "E.npz"}
    done = program("segments", *flags(catalogue, output, **users, **other), code=WITHOUT_JAX)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    report = json.loads((output / "report.json").read_text())
    assert {n: report[n] for n in printed if n != "output"} == {
        n: v for n, v in printed.items() if n != "output"
    }
    assert report["n_groups"] == 10
    assert report["n_items_without_weights"] == 1
    assert report["items_without_metadata"] == 6
    assert report["n_segments_unnamed"] == 1
    assert report["coverage"] == pytest.approx(59 / 60)
    assert report["coherence"] == pytest.approx(1)
    for name in ("coherence_random", "coherence_kmeans", "coherence_unsigned"):
        assert 0 < report[name] <= 1
    assert report["stability"]["adjusted_rand"] == 1
    assert report["columns"] == {"title": "text", "genres": ","}

    segments = json.loads((output / "segments.json").read_text())
    assert len(segments) == report["n_segments"]
    assert {"Segment 4-"} < {segment["name"] for segment in segments}
    vectors = sp.load_npz(output / "segment_vectors.npz").toarray()
    names = [segment["name"] for segment in segments]
    assert len(set(names)) == len(names)
    for segment, vector in zip(segments, vectors, strict=True):
        assert set(segment) == {"name", "terms", "pairs", "items"}
        expected = np.zeros(6)
        for factor, sign in segment["pairs"]:
            expected[factor] = sign / np.sqrt(len(segment["pairs"]))
        np.testing.assert_allclose(vector, expected, rtol=1e-6)

    dense = sp.load_npz(catalogue / "E.npz").toarray()
    with (output / "assignments.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["item_id"] for row in rows] == [f"i{i}" for i in range(60)]
    for row, weights in zip(rows[:59], dense, strict=False):
        factor, sign = int(row["factor"]), int(row["sign"])
        assert factor == np.abs(weights).argmax()
        assert sign * float(row["weight"]) == pytest.approx(weights[factor], rel=1e-6)
        assert row["item_id"] in segments[names.index(row["segment"])]["items"]
    assert list(rows[59].values()) == ["i59", "", "", "", ""]

    pages = json.loads((output / "homepages.json").read_text())
    users = [STRANGE_USER, "stranger", "u0", "u1", "u2", "u3"]
    assert [page["user_id"] for page in pages] == users
    assert pages[1]["rows"] == []
    for page in [pages[0], *pages[2:]]:
        assert page["rows"][0]["title"] == "Recommended for you"
        shown = [item for row in page["rows"] for item in row["items"]]
        assert len(set(shown)) == len(shown)
        assert all(len(row["items"]) == 3 for row in page["rows"])

    html_text = (output / "report.html").read_text()
    page = Page(html_text)
    assert TITLE in page.data
    assert page.tags.count("svg") == 1
    assert page.tags.count("circle") == len(segments)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags  # the title is text
    assert page.sources == []
    assert "u" not in page.tags  # nor is the id of a user
    shown = [text for text in page.data if text.startswith("User ")]
    # Five of them; without the mark that turns the direction of what follows.
    assert shown == [f"User {user}" for user in ["<u>9</u>&amp; ", *users[1:5]]]
    assert "\u202e" not in html_text
    assert page.data.count("This history leads to no recommendation.") == 1
    strips = iter([text for text in page.data if text.strip()])
    assert "User u0" in strips  # and passes over what is before
    for row in pages[2]["rows"]:
        assert next(strips) == row["title"]
        for item in row["items"]:
            title = item if item.endswith("9") else f"Title {item[1:]}"  # 9: without metadata
            assert next(strips) == (TITLE if item == "i0" else title)


def test_segments_without_metadata_are_numbered(catalogue, tmp_path):
    done = program("segments", *flags(catalogue, tmp_path, metadata=None, text_columns=None))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["n_segments"] == report["n_segments_unnamed"] == report["n_groups"] == 10
    assert report["coherence"] is report["coherence_kmeans"] is None
    names = {entry["name"] for entry in json.loads((tmp_path / "segments.json").read_text())}
    assert names == {f"Segment {f}{s}" for f in range(5) for s in "+-"}


def test_a_table_of_few_items_is_warned_of_and_old_homepages_go(catalogue, tmp_path):
    (tmp_path / "few.csv").write_text("id,title\ni0,Zero\ni1,One\n")
    (tmp_path / "homepages.json").write_text("[]")
    changes = {"metadata": tmp_path / "few.csv", "text_columns": "title"}
    done = program("segments", *flags(catalogue, tmp_path, **changes))
    assert done.returncode == 0, done.stderr
    assert "few.csv has only 2 of 60 items; is its --id_column right?" in done.stderr
    assert not (tmp_path / "homepages.json").exists()


def test_a_language_model_names_them_and_the_key_stays_out(catalogue, tmp_path, stub):  # noqa: F811
    stub.answer = lambda prompt, _: f"About {prompt['terms'][0] if prompt['terms'] else 'Nothing'}"
    environment = {"OPENAI_BASE_URL": stub.url, "OPENAI_MODEL": "stub", "OPENAI_API_KEY": KEY}
    os.environ.update(environment)
    try:
        done = program("segments", *flags(catalogue, tmp_path, namer="llm"))
    finally:
        for name in environment:
            del os.environ[name]
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["language_model"] == {"cached": 0, "asked": 9, "not_named": 0}
    names = [entry["name"] for entry in json.loads((tmp_path / "segments.json").read_text())]
    # Of the group without metadata a model could not know anything.
    assert [name for name in names if not name.startswith("About ")] == ["Segment 4-"]
    assert "About Nothing" not in names
    written = "".join(p.read_text(errors="replace") for p in tmp_path.iterdir())
    assert KEY not in written + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"embeddings": "none.npz"}, ["none.npz", "no such file"]),
        ({"metadata": "none.csv"}, ["none.csv", "no such file"]),
        ({"id_column": "book"}, ["no column 'book' of --id_column", "columns: id, title, genres"]),
        ({"id_column": "title"}, ["no item of the catalogue in column 'title'", "i0, i1, i2"]),
        ({"metadata": "{folder}/semicolons.csv"}, ["'id;title;genres'", "separated by ';'?"]),
        ({"embeddings": None, "output": None}, ["give --embeddings=... and --output=..."]),
        ({"interactions": "{folder}/users.csv"}, ["flag 'interactions'"]),
        (
            {"homepage_for": "{folder}/users.csv", "split": "{folder}/split.npz"},
            ["split.npz: none of its test users is in"],
        ),
        ({"homepage_for": "{folder}/split.npz"}, ["split.npz: not a SciPy sparse matrix (scipy"]),
        ({"metadata": None}, ["--text_columns=title,genres: of which table? Give --metadata"]),
        ({"text_columns": "title,author"}, ["no metadata file has the column 'author'"]),
        ({"list_columns": "tags"}, ["list column 'tags' is none of title, genres"]),
        ({"coherence_columns": "tags"}, ["--coherence_columns: 'tags'"]),
        ({"merge_threshold": "1.5"}, ["merge threshold is 1.5"]),
        ({"embedder": "no/model"}, ["no/model: not the folder of a sentence-transformers"]),
        ({"namer": "llm"}, ["OPENAI_BASE_URL"]),
        ({"homepage_for": "none.csv"}, ["none.csv", "no such file"]),
        ({"output": "{folder}/E.npz"}, ["E.npz: File exists; give a folder"]),
        ({"output": "{folder}/E.npz/in"}, ["E.npz/in: Not a directory"]),
        ({"embeddings": "{folder}/zero.npz"}, ["no item of the embeddings has weights"]),
    ],
)
def test_segments_names_what_is_wrong(catalogue, tmp_path, changes, parts):
    sp.save_npz(catalogue / "zero.npz", sp.csc_matrix((60, 6), dtype=np.float32))
    (catalogue / "semicolons.csv").write_text("id;title;genres\ni0;A;b\n")
    np.savez(catalogue / "split.npz", train=["u0"], val=["u1"], test=["u9"])
    changes = {name: value and value.format(folder=catalogue) for name, value in changes.items()}
    flagged = flags(catalogue, tmp_path / "out", **changes)
    assert_fails(program("segments", *flagged, code=WITHOUT_JAX), *parts)
    assert not (tmp_path / "out" / "segments.json").exists()


def test_purity_of_a_run_on_synthetic_data(tmp_path):
    config = tmp_path / "config.json"
    run = ["--config=configs/synthetic.py", f"--workdir={tmp_path}"]
    run += [f"--config.data.synthetic.{n}" for n in ("n_users=400", "n_items=100", "n_segments=4")]
    run += ["--config.data.n_val_users=0", "--config.data.n_test_users=40"]
    run += ["--config.model.start=clusters", "--config.model.n_factors=16"]
    run += ["--config.sparsity.target_nnz=2", "--config.train.batch_size=64"]
    run += ["--config.train.n_epochs=2", "--config.train.n_final_epochs=1"]
    assert program("train", *run).returncode == 0
    done = program("purity", f"--workdir={tmp_path}", code=WITHOUT_JAX)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    _, _, planted = synthetic(400, 100, 4, seed=json.loads(config.read_text())["seed"])
    rows = sp.load_npz(tmp_path / "embeddings.npz").toarray()
    ids = (tmp_path / "items.txt").read_text().split()
    groups = collections.defaultdict(list)
    for item, row in zip(ids, rows, strict=True):
        if row.any():
            factor = np.abs(row).argmax()
            segment = planted.primary[planted.item_ids.tolist().index(item)]
            groups[factor, row[factor] > 0].append(segment)
    large = [group for group in groups.values() if len(group) >= 3]
    n_items = sum(map(len, large))
    n_pure = sum(max(collections.Counter(group).values()) for group in large)
    assert report["n_groups"] == len(groups)
    assert report["n_groups_of_three"] == len(large)
    assert report["items_in_these"] == n_items
    assert report["purity"] == pytest.approx(n_pure / n_items)
    assert report["purity"] > 0.6
    # By chance the largest of four classes of a group of a few.
    assert 0.25 < report["purity_random"] < 0.6
    embeddings, _ = load_embeddings(tmp_path / "embeddings.npz")
    save_embeddings(tmp_path, embeddings, np.array([*ids[:-1], "i999999"]))
    assert_fails(program("purity", f"--workdir={tmp_path}"), "'i999999' is no item of the data of")
    config.unlink()
    assert_fails(program("purity", f"--workdir={tmp_path}"), "config.json")
