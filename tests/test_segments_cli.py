"""experiments.segments and experiments.purity, driven as a user drives them."""

import collections
import csv
import html.parser
import json

import numpy as np
import pytest
import scipy.sparse as sp
from launch import WITHOUT_JAX, program, start
from test_cli import assert_fails
from test_language_model import KEY, stub  # noqa: F401  (a fixture)

from celsa_jax.data.synthetic import synthetic
from celsa_jax.sparse.npz import save_embeddings

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


def test_a_language_model_names_them_and_the_key_stays_out(catalogue, tmp_path, stub):  # noqa: F811
    """Beside a table of few items, and what an earlier run left."""
    (tmp_path / "few.csv").write_text("id,note\ni0,Zero\ni1,One\n")
    (tmp_path / "homepages.json").write_text("[]")
    stub.answer = lambda prompt, _: f"About {prompt['terms'][0] if prompt['terms'] else 'Nothing'}"
    environment = {"OPENAI_BASE_URL": stub.url, "OPENAI_MODEL": "stub", "OPENAI_API_KEY": KEY}
    tables = f"{catalogue / 'items.csv'},{tmp_path / 'few.csv'}"
    changes = {"metadata": tables, "text_columns": "title,genres,note", "namer": "llm"}
    given = flags(catalogue, tmp_path, **changes)
    process = start("segments", *given, code=WITHOUT_JAX, environment=environment)
    output, log = process.communicate()
    assert process.returncode == 0, log
    report = json.loads(output.splitlines()[-1])
    assert report["language_model"] == {"cached": 0, "asked": 9, "not_named": 0}
    names = [entry["name"] for entry in json.loads((tmp_path / "segments.json").read_text())]
    # Of the group without metadata a model could not know anything.
    assert [name for name in names if not name.startswith("About ")] == ["Segment 4-"]
    assert "About Nothing" not in names
    written = "".join(p.read_text(errors="replace") for p in tmp_path.iterdir())
    assert KEY not in written + output + log
    assert "few.csv has only 2 of 60 items; is its --id_column right?" in log
    assert not (tmp_path / "homepages.json").exists()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"id_column": "title"}, ["no item of the catalogue in column 'title'", "i0, i1, i2"]),
        ({"metadata": "{folder}/semicolons.csv"}, ["'id;title;genres'", "separated by ';'?"]),
        ({"embeddings": None, "output": None}, ["give --embeddings=... and --output=..."]),
        ({"homepage_for": "{folder}/E.npz"}, ["no item of ", "E.npz is in the catalogue"]),
        ({"interactions": "{folder}/users.csv"}, ["flag 'interactions'"]),
        ({"coherence_columns": "tags"}, ["--coherence_columns: 'tags'"]),
        ({"output": "{folder}/E.npz"}, ["E.npz: File exists; give a folder"]),
        ({"output": "{folder}/E.npz/in"}, ["E.npz/in: Not a directory"]),
    ],
)
def test_segments_names_what_is_wrong(catalogue, tmp_path, changes, parts):
    (catalogue / "semicolons.csv").write_text("id;title;genres\ni0;A;b\n")
    changes = {name: value and value.format(folder=catalogue) for name, value in changes.items()}
    flagged = flags(catalogue, tmp_path / "out", **changes)
    assert_fails(program("segments", *flagged, code=WITHOUT_JAX), *parts)
    assert not (tmp_path / "out" / "segments.json").exists()


def test_purity_of_a_run_on_synthetic_data(tmp_path, small_config):
    """Embeddings by hand: an item's factor is that of its segment, but for every fifth item."""
    (tmp_path / "config.json").write_text(json.dumps(small_config.to_dict()))
    _, _, planted = synthetic(300, 120, 6, seed=small_config.seed)
    rng = np.random.default_rng(0)
    factors = np.where(np.arange(120) % 5, planted.primary, rng.integers(0, 6, 120))
    rows = np.zeros((120, 9), np.float32)
    rows[np.arange(120), factors] = 1
    rows[:2] = [[0] * 6 + [1, 0, 0], [0] * 6 + [-1, 0, 0]]  # alone in their groups
    save_embeddings(tmp_path, sp.csc_matrix(rows), planted.item_ids)
    done = program("purity", f"--workdir={tmp_path}", code=WITHOUT_JAX)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    groups = [planted.primary[2:][factors[2:] == factor] for factor in range(6)]
    assert min(map(len, groups)) >= 3
    n_pure = sum(collections.Counter(group.tolist()).most_common(1)[0][1] for group in groups)
    assert report["n_groups"] == 8
    assert report["n_groups_of_three"] == 6
    assert report["items_in_these"] == 118
    assert report["purity"] == pytest.approx(n_pure / 118)
    assert report["purity"] > 0.75
    # By chance the largest of six classes.
    assert 1 / 6 < report["purity_random"] < 0.5
    strange = np.array([*planted.item_ids[:-1], "i999999"])
    save_embeddings(tmp_path, sp.csc_matrix(rows), strange)
    done = program("purity", f"--workdir={tmp_path}", code=WITHOUT_JAX)
    assert_fails(done, "'i999999' is no item of the data of")
    (tmp_path / "config.json").unlink()
    assert_fails(program("purity", f"--workdir={tmp_path}", code=WITHOUT_JAX), "config.json")
