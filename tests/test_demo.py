"""The demo: what its page shows, its charts, and the page without a browser."""

import csv
import dataclasses
import socket
from xml.etree import ElementTree

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from test_cli import ROOT, assert_fails, program
from test_segments_cli import TITLE, catalogue, flags  # noqa: F401  (a fixture)

from celsa_jax.data.metadata import read_metadata
from celsa_jax.segments import SegmentRecommender, load_segments
from celsa_jax.sparse import Recommender, SparseEmbeddings
from experiments import demo_catalogue, demo_figures
from experiments.demo_page import escaped

# What Streamlit would make links, arrows, an emoji and an icon of.
ODD = "www.example.com -> a@b.cz <- :smile: -- :material/home: http://a.b >= <-> c"
PAGE = ROOT / "experiments" / "demo_page.py"


@pytest.fixture(scope="module")
def segmented(catalogue, tmp_path_factory):  # noqa: F811
    """What experiments.segments wrote, with the table that it read."""
    output = tmp_path_factory.mktemp("segmented")
    themes = ("nordic-crime", "love-poetry", "space-opera", "home-baking", "world-history")
    with (output / "items.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "title", "genres"])
        writer.writerow(["i0", TITLE, "nordic-crime,books"])
        for i in range(1, 60):
            if i % 10 != 9:  # all items of one group have no metadata
                title = ODD.replace(" c", " \u202ec\x1b") if i == 5 else f"Title {i}"
                writer.writerow([f"i{i}", title, f"{themes[i % 5]},books"])
    changes = {"metadata": output / "items.csv", "n_segments": "10,3"}
    done = program("segments", *flags(catalogue, output, **changes))
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def explorer(catalogue, segmented):  # noqa: F811
    """What the page shows of it."""
    embeddings = SparseEmbeddings.load(catalogue / "E.npz")
    ids = embeddings.item_ids
    table = read_metadata([str(segmented / "items.csv")], ["id"], ["title", "genres"], ids)
    tree = load_segments(segmented, ids)
    product = SegmentRecommender(Recommender(embeddings), tree.for_pages)
    users = demo_catalogue.readers(tree.for_pages)
    return demo_catalogue.Explorer(product, tree, table.shown(ids), table.details(ids), users)


# What the page shows


def test_labels_are_unique_and_lead_back_to_items(explorer):
    assert len(set(explorer.labels)) == 60
    assert explorer.labels[1] == "Title 1, love-poetry,books"
    assert explorer.labels[9] == "i9"  # without metadata
    assert explorer.titles[5] == ODD  # without what cannot be seen
    same = demo_catalogue.Explorer(explorer.product, explorer.tree, ["A"] * 60, ["b"] * 60, {})
    assert same.labels[:2] == ["A, b (i0)", "A, b (i1)"]
    history = same.history([7, 3])
    assert history.shape == (1, 60)
    assert np.flatnonzero(history.toarray()[0]).tolist() == [3, 7]
    assert same.history([]).nnz == 0


def test_titles_are_found_by_their_words_in_any_order_case_and_accents(explorer):
    titles = [f"Title {i}" for i in range(60)]
    titles[3:7] = ["Les Misérables", "A Guide to Les Misérables", "STRASSE", "Straße"]
    some = demo_catalogue.Explorer(explorer.product, explorer.tree, titles, ["Hugo"] * 60, {})
    assert some.find("les mis", 9) == [3, 4]
    assert some.find("MISÉRABLES", 9) == [3, 4]
    assert some.find("guide hugo", 9) == [4]
    assert some.find("hugo mise", 9) == some.find(" mise ", 9) == [3, 4]
    assert some.find("straße", 9) == [5, 6]
    assert some.find("title 1", 3) == [1, 10, 11]
    assert some.find("title 1", 3, but=[1, 11]) == [10, 12, 13]
    assert some.find("nowhere", 9) == some.find("  ", 9) == []
    some.titles[20] = "Of Les Misérables, the first"
    assert demo_catalogue.Explorer(some.product, some.tree, some.titles[::-1], [""] * 60, {}).find(
        "les", 9
    ) == [56, 39, 55]  # those that begin with it first


def test_readers_have_the_most_typical_items_of_a_segment(explorer):
    dense = explorer.embeddings.tocsr().toarray()
    dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-9)
    assert list(explorer.users) == [f"Reader of {name}" for name in explorer.segments.names]
    vectors = explorer.segments.vectors.toarray()
    for items, segment, vector in zip(
        explorer.users.values(), explorer.segments, vectors, strict=True
    ):
        nearest = sorted(segment.items, key=lambda item: -dense[item] @ vector)
        assert items.tolist() == nearest[:5]


def test_smaller_embeddings_keep_the_largest_weights(explorer):
    assert explorer.kept == [6, 4, 2, 1]
    assert explorer.formats == ["float32", "float16", "int8", "int4"]
    rows = explorer.embeddings.tocsr().toarray()
    small = explorer.smaller(2, "float16").embeddings
    assert small.format == "float16"
    for row, kept in zip(rows, small.tocsr().toarray(), strict=True):
        expected = np.where(np.abs(row) >= np.sort(np.abs(row))[-2], row, 0)
        expected *= np.linalg.norm(row) / max(np.linalg.norm(expected), 1e-12)
        np.testing.assert_allclose(kept, expected, atol=1e-3)
    unit = SparseEmbeddings.from_dense(np.eye(3, 5000, 4999, dtype=np.float32), format="float16")
    wide = demo_catalogue.Explorer(SegmentRecommenderOf(unit), explorer.tree, [], [], {})
    assert wide.formats == ["float16", "int8", "int4"]
    assert wide.kept == [1]
    narrow = SegmentRecommenderOf(unit.to_format("int4"))
    narrow = demo_catalogue.Explorer(narrow, explorer.tree, [], [], {})
    assert narrow.formats == ["int4"]
    assert narrow.kept == [1]


class SegmentRecommenderOf:
    def __init__(self, embeddings):
        self.recommender = Recommender(embeddings)


def test_the_tree_leads_to_parts_and_back(explorer):
    assert explorer.parts(-1) == [0, 1, 2]
    assert [explorer.all_segments[place].name.name for place in range(3)] == explorer.tree.levels[
        0
    ].names
    for place in range(3):
        assert explorer.above(place) == []
        below = explorer.parts(place)
        items = np.concatenate([explorer.all_segments[part].items for part in below])
        assert sorted(items) == sorted(explorer.all_segments[place].items)
        assert all(explorer.above(part) == [place] for part in below)
    assert sorted(np.concatenate([explorer.parts(at) for at in range(3)])) == list(range(3, 13))
    assert explorer.parts(12) == []


def test_notes_are_pictures_or_texts(explorer):
    cells = [["https://a/b.png", "x y"], ["", "javascript:alert(1)"], ["http://a b", ""]]
    notes = {f"n{at}": np.array(column, object) for at, column in enumerate(cells)}
    some = dataclasses.replace(explorer, notes=notes)
    assert (some.picture(0), some.picture(1)) == ("https://a/b.png", "")
    assert some.texts(0) == {"n2": "http://a b"}
    assert some.texts(1) == {"n0": "x y", "n1": "javascript:alert(1)"}


def test_factors_are_called_after_their_items(explorer):
    assert explorer.factor_names == ["0", "1", "2", "3", "4", "5"]
    unit = SparseEmbeddings.from_dense(np.eye(2), ["a", "b"], factor_ids=["b", "z"])
    named = demo_catalogue.Explorer(SegmentRecommenderOf(unit), explorer.tree, ["A", "B"], [], {})
    assert named.factor_names == ["B", "z"]


def test_each_list_is_timed(explorer):
    history = explorer.history([0, 1, 2])
    found = demo_catalogue.timed(
        [explorer.product.recommender, explorer.smaller(1, "float16")], history, 4
    )
    for (items, milliseconds), recommender in zip(
        found, [explorer.product.recommender, explorer.smaller(1, "float16")], strict=True
    ):
        assert items.tolist() == recommender.recommend(history, 4)[0][0].tolist()
        assert milliseconds > 0


# Charts


def places(chart, kind):
    """Left, top, width, height of the boxes of a kind, in percent; 0 where they are not given."""
    found = []
    for box in chart.iter():
        if box.get("class") == kind:
            style = dict(part.split(": ") for part in box.get("style").split("; ") if ": " in part)
            sides = (style.get(side, "0%") for side in ("left", "top", "width", "height"))
            found.append(tuple(float(side.rstrip("%")) for side in sides))
    return found


def test_parts_are_bars_in_order_with_signs_in_words():
    chart = ElementTree.fromstring(demo_figures.parts([("A <b>", 0.5), ("B", -0.25)]))
    first, second = chart.findall("li")
    assert ("".join(first.itertext()), "".join(second.itertext())) == ("A <b> +0.500", "B -0.250")
    third = pytest.approx(100 / 3, abs=0.01)
    assert places(chart, "bar") == [
        (third, 0, pytest.approx(200 / 3, abs=0.01), 100),
        (0, 0, third, 100),
    ]
    assert demo_figures.FOR in first.find(".//*[@class='bar']").get("style")
    assert demo_figures.AGAINST in second.find(".//*[@class='bar']").get("style")
    nothing = ElementTree.fromstring(demo_figures.parts([("None", 0.0)]))
    assert places(nothing, "bar") == [(0, 0, 0, 100)]


def test_a_user_stands_beside_a_segment():
    values, beside = np.array([3.0, -2.0]), np.array([1.5, 0.0])
    html = demo_figures.latent(values, beside, ["<Seven>", "Two"], "the user", "Five & six")
    chart = ElementTree.fromstring(html)
    assert ["".join(entry.itertext()) for entry in chart.find("ul")] == ["the user", "Five & six"]
    bars = chart.findall(".//*[@class='bar']")
    assert [bar.get("title") for bar in bars] == [
        "<Seven>, the user: +3.000",
        "Two, the user: -2.000",
        "<Seven>, Five & six: +1.500",
        "Two, Five & six: +0.000",
    ]
    colours = [bar.get("style").split("background: ")[1] for bar in bars]
    assert colours == [demo_figures.FOR] * 2 + [demo_figures.BESIDE] * 2
    # From -2 to 3, zero at 60 % from the top; each bar takes 40 % of a half.
    assert places(chart, "bar") == [
        (5, 0, 20, 60),
        (55, 60, 20, 40),
        (25, 30, 20, 30),
        (75, 60, 20, 0),
    ]
    assert places(chart, "tick") == [(0, top, 100, 0) for top in (100, 80, 60, 40, 20, 0)]
    assert places(chart, "tick zero") == [(0, 60, 100, 0)]
    words = "Weights of the user and of Five & six. <Seven>: +3.00 and +1.50; Two: -2.00 and +0.00"
    assert chart.get("aria-label") == words


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-5.2, 2.6, [-4, -2, 0, 2]),
        (0.95, 1, [0.95, 0.96, 0.97, 0.98, 0.99, 1]),
        (0, 3000, [0, 1000, 2000, 3000]),
        (-0.004, 0, [-0.004, -0.003, -0.002, -0.001, 0]),
    ],
)
def test_ticks_are_few_and_round(low, high, expected):
    assert demo_figures.ticks(low, high) == pytest.approx(expected)


# The page


def test_the_page_answers_without_a_browser(explorer):
    demo_catalogue.served = explorer
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    assert not page.exception
    items = explorer.users[next(iter(explorer.users))].tolist()
    assert history(page) == items
    expected = explorer.product.homepage(explorer.history(items), 6, 6)[0]
    headings = [h.value for h in page.subheader if h.value != "History (5)"]
    assert headings[: len(expected)] == [escaped(row.title) for row in expected]
    cards = [button.key for button in page.button if button.key.startswith("card_")]
    assert cards == [f"card_{row.segment}_{item}" for row in expected for item in row.items]

    page.button(key=cards[0]).click().run()
    assert not page.exception
    why, _ = explorer.product.explain(explorer.history(items), int(expected[0].items[0]))
    assert any(f"the score {why.score:.3f}" in text.value for text in page.markdown)

    page.text_input(key="search").set_value("title 17").run()
    page.button(key="add_17").click().run()
    assert not page.exception
    assert history(page) == [17, *items]
    page.button(key=f"remove_{items[0]}").click().run()
    assert history(page) == [17, *items[1:]]
    assert f"add_{items[0]}" not in [button.key for button in page.button]
    page.text_input(key="search").set_value("title nowhere").run()
    assert page.caption[0].value == "No other title has these words."

    for item in history(page):
        page.button(key=f"remove_{item}").click().run()
        assert not page.exception
    assert not page.button
    assert "Add a title" in page.info[0].value

    page.selectbox(key="user").select(list(explorer.users)[-1]).run()
    assert not page.exception
    assert history(page) == explorer.users[list(explorer.users)[-1]].tolist()


def history(page):
    """Items that can be removed."""
    keys = (button.key for button in page.button)
    return [int(key.removeprefix("remove_")) for key in keys if key.startswith("remove_")]


def test_a_long_history_is_shown_in_part_until_all_is_asked_for(explorer):
    users = {"Someone": np.arange(20, dtype=np.int32), **explorer.users}
    demo_catalogue.served = dataclasses.replace(explorer, users=users)
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    assert history(page) == list(range(6))
    page.toggle(key="all").set_value(True).run()
    assert history(page) == list(range(20))
    assert not page.exception


def test_rows_and_what_cards_say_are_chosen(explorer):
    pictures = np.array([f"https://example.org/{i}.png" for i in range(60)], object)
    years = np.array([f"19{i}" for i in range(60)], object)
    noted = dataclasses.replace(explorer, notes={"image": pictures, "year": years})
    demo_catalogue.served = noted
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    page.button_group(key="Items a row").set_value(4).run()
    page.toggle(key="scores").set_value(True).run()
    assert not page.exception
    history = explorer.history(explorer.users[next(iter(explorer.users))].tolist())
    expected = explorer.product.homepage(history, 6, 4)[0]
    cards = [button for button in page.button if button.key.startswith("card_")]
    assert len(cards) == sum(len(row.items) for row in expected)
    item, score = expected[0].items[0], expected[0].scores[0]
    assert cards[0].label.endswith(f"({score:.3f}, id i{item})")
    cards[0].click().run()
    assert not page.exception
    assert any(f"year: 19{item}" in text.value for text in page.markdown)

    page.toggle(key="shared").set_value(True).run()
    page.selectbox(key="beside").set_value(1).run()
    assert not page.exception
    assert any("that both have" in text.value for text in page.markdown)


def test_the_tree_can_be_browsed_without_a_browser(explorer):
    demo_catalogue.served = explorer
    page = AppTest.from_file(str(PAGE), default_timeout=120)
    page.session_state["tab"] = "Segments"
    page.run()
    assert not page.exception

    def keys():
        return [b.key for b in page.button if b.key.startswith("tree_")]

    assert keys() == ["tree_0", "tree_1", "tree_2"]
    page.button(key="tree_1").click().run()
    assert page.selectbox(key="segment").value == 1
    assert keys() == ["tree_-1", *(f"tree_{part}" for part in explorer.parts(1))]
    leaf = explorer.parts(1)[0]
    page.button(key=f"tree_{leaf}").click().run()
    assert not page.exception
    assert keys() == ["tree_-1", "tree_1"]
    for place in range(-1, 13):
        page.selectbox(key="segment").set_value(place).run()
        assert not page.exception


def test_the_demo_names_a_port_that_is_taken(catalogue, segmented):  # noqa: F811
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        port = other.getsockname()[1]
        given = {"metadata": segmented / "items.csv", "segments": segmented, "port": port}
        done = program("demo", *flags(catalogue, None, **given))
    assert_fails(done, f"--port={port}", "give another one")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"segments": None}, ["give --segments=..."]),
        ({"segments": "nowhere"}, ["nowhere/segments.json: No such file", "experiments.segments"]),
    ],
)
def test_the_demo_names_what_is_wrong(catalogue, segmented, changes, parts):  # noqa: F811
    given = {"metadata": segmented / "items.csv", "segments": segmented} | changes
    done = program("demo", *flags(catalogue, None, **given))
    assert_fails(done, *parts)
