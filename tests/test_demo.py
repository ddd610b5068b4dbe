"""The demo: what its page shows, its charts, and the page without a browser."""

import csv
import dataclasses
import socket
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.cluster import hierarchy
from streamlit.testing.v1 import AppTest
from test_cli import ROOT, assert_fails, program
from test_segments_cli import TITLE, catalogue, flags  # noqa: F401  (a fixture)

from celsa_jax.data.metadata import read_metadata
from celsa_jax.segments import SegmentRecommender, load_merges, load_segments
from celsa_jax.sparse import Recommender, SparseEmbeddings
from experiments import demo_catalogue, demo_figures
from experiments.demo_page import escaped

# What Streamlit would make links, arrows, an emoji and an icon of.
ODD = "www.example.com -> a@b.cz <- :smile: -- :material/home: http://a.b >= <-> c"
PAGE = ROOT / "experiments" / "demo_page.py"


@pytest.fixture(scope="module")
def segmented(catalogue, tmp_path_factory):  # noqa: F811
    """What experiments.segments wrote, with the table that it read: each theme is of two groups."""
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
    changes = {"metadata": output / "items.csv", "merge_threshold": 0.5}
    done = program("segments", *flags(catalogue, output, **changes))
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def shown(catalogue, segmented):  # noqa: F811
    """What the page shows of it."""
    embeddings = SparseEmbeddings.load(catalogue / "E.npz")
    ids = embeddings.item_ids
    table = read_metadata([str(segmented / "items.csv")], ["id"], ["title", "genres"], ids)
    segments = load_segments(segmented, ids)
    product = SegmentRecommender(Recommender(embeddings), segments)
    merges = load_merges(segmented, segments)
    users = demo_catalogue.readers(segments)
    return demo_catalogue.Catalogue(product, table.shown(ids), table.details(ids), merges, users)


# What the page shows


def test_labels_are_unique_and_lead_back_to_items(shown):
    assert len(set(shown.labels)) == 60
    assert shown.labels[1] == "Title 1, love-poetry,books"
    assert shown.labels[9] == "i9"  # without metadata
    assert shown.titles[5] == ODD  # without what cannot be seen
    same = demo_catalogue.Catalogue(shown.product, ["A"] * 60, ["b"] * 60, shown.merges, {})
    assert same.labels[:2] == ["A, b (i0)", "A, b (i1)"]
    history = same.history([7, 3])
    assert history.shape == (1, 60)
    assert np.flatnonzero(history.toarray()[0]).tolist() == [3, 7]
    assert same.history([]).nnz == 0


def test_titles_are_found_by_their_words_in_any_order_case_and_accents(shown):
    titles = [f"Title {i}" for i in range(60)]
    titles[3:7] = ["Les Misérables", "A Guide to Les Misérables", "STRASSE", "Straße"]
    some = demo_catalogue.Catalogue(shown.product, titles, ["Hugo"] * 60, shown.merges, {})
    assert some.find("les mis", 9) == [3, 4]
    assert some.find("MISÉRABLES", 9) == [3, 4]
    assert some.find("guide hugo", 9) == [4]
    assert some.find("hugo mise", 9) == some.find(" mise ", 9) == [3, 4]
    assert some.find("straße", 9) == [5, 6]
    assert some.find("title 1", 3) == [1, 10, 11]
    assert some.find("title 1", 3, but=[1, 11]) == [10, 12, 13]
    assert some.find("nowhere", 9) == some.find("  ", 9) == []
    some.titles[20] = "Of Les Misérables, the first"
    assert demo_catalogue.Catalogue(
        some.product, some.titles[::-1], [""] * 60, some.merges, {}
    ).find("les", 9) == [56, 39, 55]  # those that begin with it first


def test_readers_have_the_strongest_items_of_a_segment(shown):
    dense = np.abs(shown.embeddings.tocsr().toarray())
    assert list(shown.users) == [f"Reader of {name}" for name in shown.segments.names]
    for items, segment in zip(shown.users.values(), shown.segments, strict=True):
        by_strength = sorted(segment.items, key=lambda item: -dense[item].max())
        assert items.tolist() == by_strength[:5]


def test_smaller_embeddings_keep_the_largest_weights(shown):
    assert shown.kept == [6, 4, 2, 1]
    assert shown.formats == ["float32", "float16", "int8", "int4"]
    rows = shown.embeddings.tocsr().toarray()
    small = shown.smaller(2, "float16").embeddings
    assert small.format == "float16"
    for row, kept in zip(rows, small.tocsr().toarray(), strict=True):
        expected = np.where(np.abs(row) >= np.sort(np.abs(row))[-2], row, 0)
        expected *= np.linalg.norm(row) / max(np.linalg.norm(expected), 1e-12)
        np.testing.assert_allclose(kept, expected, atol=1e-3)
    unit = SparseEmbeddings.from_dense(np.eye(3, 5000, 4999, dtype=np.float32), format="float16")
    wide = demo_catalogue.Catalogue(SegmentRecommenderOf(unit), [], [], [], {})
    assert wide.formats == ["float16", "int8", "int4"]
    assert wide.kept == [1]
    narrow = demo_catalogue.Catalogue(SegmentRecommenderOf(unit.to_format("int4")), [], [], [], {})
    assert narrow.formats == ["int4"]
    assert narrow.kept == [1]


class SegmentRecommenderOf:
    def __init__(self, embeddings):
        self.recommender = Recommender(embeddings)


def test_groups_of_a_segment_are_its_pairs_with_their_items(shown):
    dense = shown.embeddings.tocsr().toarray()
    n_merged = 0
    for at, segment in enumerate(shown.segments):
        groups = shown.groups(at)
        n_merged += len(groups) > 1
        assert sum(n for _, n, _ in groups) == len(segment.items)
        for (factor, sign), (name, n_items, strongest) in zip(segment.pairs, groups, strict=True):
            assert name == f"{factor}{'+' if sign > 0 else '-'}"
            column = np.where(np.abs(dense).argmax(axis=1) == factor, sign * dense[:, factor], 0)
            assert n_items == (column > 0).sum()
            assert strongest == column.argmax()
    assert n_merged


def test_each_list_is_timed(shown):
    history = shown.history([0, 1, 2])
    found = demo_catalogue.timed(
        [shown.product.recommender, shown.smaller(1, "float16")], history, 4
    )
    for (items, milliseconds), recommender in zip(
        found, [shown.product.recommender, shown.smaller(1, "float16")], strict=True
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


def test_activations_are_marked_by_segment():
    factors, values = np.array([7, 2, 9, 4]), np.array([3.0, -2.0, 1.5, 1.0])
    chart = ElementTree.fromstring(
        demo_figures.activations(factors, values, np.array([5, -1, 5, 8]), {5: "<Five>"})
    )
    five, others = chart.find("ul").findall("li")
    assert ("".join(five.itertext()), "".join(others.itertext())) == (
        "<Five>: 7, 9",
        demo_figures.OTHERS,
    )
    bars = chart.findall(".//*[@class='bar']")
    assert [bar.get("title") for bar in bars] == [
        "factor 7, <Five>: +3.00",
        "factor 9, <Five>: +1.50",
        "factor 2, other segments: -2.00",
        "factor 4, other segments: +1.00",
    ]
    colours = [bar.get("style").split("background: ")[1] for bar in bars]
    assert colours == [demo_figures.SEGMENT_COLOURS[0]] * 2 + [demo_figures.NO_SEGMENT] * 2
    # From -2 to 3, zero at 60 % from the top; the bars take 80 % of a quarter each.
    assert places(chart, "bar") == [
        (2.5, 0, 20, 60),
        (52.5, 30, 20, 30),
        (27.5, 60, 20, 40),
        (77.5, 40, 20, 20),
    ]
    assert places(chart, "tick") == [(0, top, 100, 0) for top in (100, 80, 60, 40, 20, 0)]
    assert places(chart, "tick zero") == [(0, 60, 100, 0)]
    words = chart.get("aria-label")
    assert "<Five>: factors 7 (+3.00), 9 (+1.50). other segments: factors 2 (-2.00)" in words
    assert demo_figures.activations(factors[:0], values[:0], factors[:0], {})


def test_the_tree_joins_its_leaves_at_their_cosines():
    points = np.array([[0.0], [0.1], [0.9], [0.5]])
    linkage = hierarchy.linkage(points, "complete")
    chart = ElementTree.fromstring(demo_figures.merges(linkage, list("abcd")))
    order = [list("abcd")[at] for at in hierarchy.leaves_list(linkage)]
    assert [leaf.text for leaf in chart.find("ul")] == order
    lines = places(chart, "line")
    assert len(lines) == 3 * 3  # out, across, and back for each merge
    across = sorted(left for left, _, width, _ in lines if not width)
    assert across == pytest.approx(100 * linkage[:, 2] / 0.9, abs=0.01)
    starts = sorted(top for left, top, width, _ in lines if width and not left)
    assert starts == [12.5, 37.5, 62.5, 87.5]  # the middles of the leaves
    tree = chart.find(".//*[@role='img']")
    words = "Tree of 4 groups, merged at cosines from 0.90 down to 0.10"
    assert tree.get("aria-label") == words


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


def test_the_page_answers_without_a_browser(shown):
    demo_catalogue.serve(shown)
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    assert not page.exception
    items = shown.users[next(iter(shown.users))].tolist()
    assert history(page) == items
    expected = shown.product.homepage(shown.history(items), 6, 6)[0]
    headings = [h.value for h in page.subheader if h.value != "History (5)"]
    assert headings[: len(expected)] == [escaped(row.title) for row in expected]
    cards = [button.key for button in page.button if button.key.startswith("card_")]
    assert cards == [f"card_{row.segment}_{item}" for row in expected for item in row.items]

    page.button(key=cards[0]).click().run()
    assert not page.exception
    why = shown.product.explain(shown.history(items), int(expected[0].items[0]))
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

    page.selectbox(key="user").select(list(shown.users)[-1]).run()
    assert not page.exception
    assert history(page) == shown.users[list(shown.users)[-1]].tolist()


def history(page):
    """Items that can be removed."""
    keys = (button.key for button in page.button)
    return [int(key.removeprefix("remove_")) for key in keys if key.startswith("remove_")]


def test_a_long_history_is_shown_in_part_until_all_is_asked_for(shown):
    users = {"Someone": np.arange(20, dtype=np.int32), **shown.users}
    demo_catalogue.serve(dataclasses.replace(shown, users=users))
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    assert history(page) == list(range(6))
    page.toggle(key="all").set_value(True).run()
    assert history(page) == list(range(20))
    assert not page.exception


def test_segments_can_be_browsed_without_a_browser(shown):
    demo_catalogue.serve(shown)
    page = AppTest.from_file(str(PAGE), default_timeout=120)
    page.session_state["tab"] = "Segments"
    page.run()
    assert not page.exception
    for at, segment in enumerate(shown.segments):
        page.selectbox(key="segment").set_value(at).run()
        assert not page.exception
        merged = "merged from the left" in page.main.markdown[-1].value
        assert merged == (len(segment.pairs) > 1)


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
