"""experiments.segments, driven as a user drives it."""

import csv
import html.parser
import json

import numpy as np
import pytest
import scipy.sparse as sp
from launch import WITHOUT_JAX, program, start
from test_cli import assert_fails
from test_language_model import KEY, stub  # noqa: F401  (a fixture)

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
    more = {"homepage_for": catalogue / "users.csv", "row_items": 3, "rows": 3}
    more |= {"n_segments": "10,2", "kmeans": True}
    done = program("segments", *flags(catalogue, output, **more), code=WITHOUT_JAX)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    report = json.loads((output / "report.json").read_text())
    assert printed == {"output": str(output), **report}
    assert report["n_items_without_weights"] == 1
    assert report["items_without_metadata"] == 6
    coarse, fine = report["levels"]
    assert (coarse["segments"], fine["segments"], fine["unnamed"]) == (2, 10, 1)
    assert fine["share_in_three"] == pytest.approx(59 / 60)
    assert fine["coherence"] == pytest.approx(1)
    assert 0 < fine["kmeans"]["coherence"] <= 1
    assert set(report["pages"]["found"]) == {"flat", "rows", "page", "popular", "genres"}
    assert report["columns"] == {"title": "text", "genres": ","}
    assert report["kin_columns"] == []

    segments = json.loads((output / "segments.json").read_text())
    names = [segment["name"] for segment in segments[2:]]
    assert {"Segment 10"} < set(names)
    assert len(set(names)) == 10
    dense = sp.load_npz(catalogue / "E.npz").toarray()[:59]
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    vectors = sp.load_npz(output / "segment_vectors.npz").toarray()
    for segment, vector in zip(segments, vectors, strict=True):
        assert set(segment) == {"level", "parent", "name", "terms", "items"}
        mean = dense[[int(item[1:]) for item in segment["items"]]].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
    assert [segment["level"] for segment in segments] == [1] * 2 + [2] * 10
    for segment in segments[2:]:
        assert set(segment["items"]) <= set(segments[segment["parent"]]["items"])

    with (output / "assignments.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["item_id"] for row in rows] == [f"i{i}" for i in range(60)]
    for row, weights in zip(rows[:59], dense, strict=False):
        at = names.index(row["level_2"])
        assert row["item_id"] in segments[2 + at]["items"]
        assert row["level_1"] == segments[segments[2 + at]["parent"]]["name"]
        assert float(row["cosine"]) == pytest.approx(weights @ vectors[2 + at], abs=1e-5)
    assert list(rows[59].values()) == ["i59", "", "", ""]

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
    assert page.tags.count("details") == len(segments)
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
    """Beside notes of few items, and what an earlier run left."""
    (tmp_path / "few.csv").write_text("id,note\ni0,Zero\ni1,One\n")
    (tmp_path / "homepages.json").write_text("[]")

    def answer(prompt, _):
        return "Both" if "groups" in prompt else f"About {prompt['terms'][0]}"

    stub.answer = answer
    environment = {"OPENAI_BASE_URL": stub.url, "OPENAI_MODEL": "stub", "OPENAI_API_KEY": KEY}
    tables = f"{catalogue / 'items.csv'},{tmp_path / 'few.csv'}"
    changes = {"metadata": tables, "text_columns": "title,genres", "shown_columns": "note"}
    changes |= {"namer": "llm", "n_segments": "10,2"}
    given = flags(catalogue, tmp_path, **changes)
    process = start("segments", *given, code=WITHOUT_JAX, environment=environment)
    output, log = process.communicate()
    assert process.returncode == 0, log
    report = json.loads(output.splitlines()[-1])
    # Nine segments with metadata, and the two that they are parts of.
    assert report["language_model"] == {"cached": 0, "asked": 11, "not_named": 0}
    entries = json.loads((tmp_path / "segments.json").read_text())
    names = [entry["name"] for entry in entries if entry["level"] == 2]
    # Of the group without metadata a model could not know anything.
    assert [name for name in names if not name.startswith("About ")] == ["Segment 10"]
    assert [entry["name"][:4] for entry in entries if entry["level"] == 1] == ["Both"] * 2
    shown = [item for r in stub.requests for item in _prompt(r).get("items", [])]
    assert {"title": TITLE, "genres": "nordic-crime,books", "note": "Zero"} in shown
    assert {"title": "Title 1", "genres": "nordic-crime,books", "note": "One"} in shown
    written = "".join(p.read_text(errors="replace") for p in tmp_path.iterdir())
    assert KEY not in written + output + log
    assert "few.csv has only 2 of 60 items; is its --id_column right?" in log
    assert not (tmp_path / "homepages.json").exists()


def _prompt(request):
    return json.loads(request["messages"][-1]["content"])


def test_segments_of_factors_are_groups_merged_by_their_names(catalogue, tmp_path):
    """The two signs of a factor are of one theme, and never merge."""
    done = program("segments", *flags(catalogue, tmp_path, rule="factors"), code=WITHOUT_JAX)
    assert done.returncode == 0, done.stderr
    levels = json.loads(done.stdout.splitlines()[-1])["levels"]
    assert [level["segments"] for level in levels] == [10, 10]
    vectors = sp.load_npz(tmp_path / "segment_vectors.npz").toarray()
    assert sorted(map(tuple, vectors[:10])) == sorted(map(tuple, vectors[10:]))
    assert (np.abs(vectors).sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"id_column": "title"}, ["no item of the catalogue in column 'title'", "i0, i1, i2"]),
        ({"metadata": "{folder}/semicolons.csv"}, ["'id;title;genres'", "separated by ';'?"]),
        ({"embeddings": None, "output": None}, ["give --embeddings=... and --output=..."]),
        ({"homepage_for": "{folder}/E.npz"}, ["no item of ", "E.npz is in the catalogue"]),
        ({"interactions": "{folder}/users.csv"}, ["flag 'interactions'"]),
        ({"coherence_columns": "tags"}, ["--coherence_columns: 'tags'"]),
        ({"kin_columns": "tags"}, ["--kin_columns: 'tags'"]),
        ({"n_segments": "10,-2"}, ["--n_segments=10,-2: give whole numbers"]),
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
