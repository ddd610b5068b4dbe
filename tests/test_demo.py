"""The demo: what its page shows, its charts, and the page itself in headless Chromium."""

import csv
import shutil
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright
from scipy.cluster import hierarchy
from streamlit.testing.v1 import AppTest
from test_cli import ROOT, WITHOUT_JAX, assert_fails, program
from test_segments_cli import TITLE, catalogue, flags  # noqa: F401  (a fixture)

from celsa_jax.data.metadata import read_metadata
from celsa_jax.segments import SegmentRecommender, load_merges, load_segments
from celsa_jax.sparse import Recommender, SparseEmbeddings
from experiments import demo_catalogue, demo_figures
from experiments.demo_page import escaped

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
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
                writer.writerow([f"i{i}", f"Title {i}", f"{themes[i % 5]},books"])
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
    same = demo_catalogue.Catalogue(shown.product, ["A"] * 60, ["b"] * 60, shown.merges, {})
    assert same.labels[:2] == ["A, b (i0)", "A, b (i1)"]
    history = same.history([same.labels[7], same.labels[3]])
    assert history.shape == (1, 60)
    assert np.flatnonzero(history.toarray()[0]).tolist() == [3, 7]
    assert same.history([]).nnz == 0


def test_readers_have_the_strongest_items_of_a_segment(shown):
    dense = np.abs(shown.embeddings.tocsr().toarray())
    assert list(shown.users) == [f"Reader of {name}" for name in shown.segments.names]
    for items, segment in zip(shown.users.values(), shown.segments, strict=True):
        by_strength = sorted(segment.items, key=lambda item: -dense[item].max())
        assert items.tolist() == by_strength[:5]


def test_smaller_embeddings_keep_the_largest_weights(shown):
    assert shown.kept == [6, 4, 2, 1]
    assert shown.formats == ["float32", "float16"]  # rows are not of unit length
    rows = shown.embeddings.tocsr().toarray()
    small = shown.smaller(2, "float16").embeddings
    assert small.format == "float16"
    for row, kept in zip(rows, small.tocsr().toarray(), strict=True):
        expected = np.where(np.abs(row) >= np.sort(np.abs(row))[-2], row, 0)
        expected /= max(np.linalg.norm(expected), 1e-12)
        np.testing.assert_allclose(kept, expected, atol=1e-3)
    unit = SparseEmbeddings.from_dense(np.eye(3, 5000, dtype=np.float32))
    wide = demo_catalogue.Catalogue(SegmentRecommenderOf(unit), [], [], [], {})
    assert wide.formats == ["float32", "float16", "int8"]  # too wide for int4
    assert wide.kept == [1]


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
    history = shown.history(shown.labels[:3])
    found = demo_catalogue.timed(
        [shown.product.recommender, shown.smaller(1, "float16")], history, 4
    )
    for (items, milliseconds), recommender in zip(
        found, [shown.product.recommender, shown.smaller(1, "float16")], strict=True
    ):
        assert items.tolist() == recommender.recommend(history, 4)[0][0].tolist()
        assert milliseconds > 0


# Charts


def test_parts_are_bars_in_order_with_signs_in_words():
    figure, words = demo_figures.parts([("A <b>", 0.5), ("B", -0.25)])
    (bars,) = figure.data
    assert list(bars.x) == [0.5, -0.25]
    assert list(bars.marker.color) == [demo_figures.FOR, demo_figures.AGAINST]
    names = [note.text for note in figure.layout.annotations]
    assert names == ["A &lt;b&gt; <b>+0.500</b>", "B <b>-0.250</b>"]
    low, high = figure.layout.yaxis.range[::-1]
    assert low < 0 < 1 < high  # the first is on top
    assert words == "Bars: A <b> +0.500; B -0.250"


def test_activations_are_marked_by_segment():
    factors, values = np.array([7, 2, 9, 4]), np.array([3.0, -2.0, 1.5, 1.0])
    figure, words = demo_figures.activations(factors, values, np.array([5, -1, 5, 8]), {5: "Five"})
    five, others = figure.data
    assert (list(five.x), list(five.y)) == ([0, 2], [3.0, 1.5])
    assert (list(others.x), list(others.y)) == ([1, 3], [-2.0, 1.0])
    assert five.name == "Five: 7, 9"
    assert five.marker.color != others.marker.color == demo_figures.NO_SEGMENT
    assert list(figure.layout.xaxis.ticktext) == ["7", "2", "9", "4"]
    assert "Five: factors 7 (+3.00), 9 (+1.50). other segments: factors 2 (-2.00)" in words


def test_the_tree_joins_its_leaves_at_their_cosines():
    points = np.array([[0.0], [0.1], [0.9], [0.5]])
    linkage = hierarchy.linkage(points, "complete")
    figure, words = demo_figures.merges(linkage, list("abcd"))
    lines = figure.data[0]
    pieces = [list(lines.x[at : at + 4]) for at in range(0, len(lines.x), 5)]
    assert sorted(max(1 - x for x in piece) for piece in pieces) == pytest.approx(linkage[:, 2])
    order = [list("abcd")[at] for at in hierarchy.leaves_list(linkage)]
    assert list(figure.layout.yaxis.ticktext) == order
    ends = {y for x, y in zip(lines.x, lines.y, strict=True) if x == 1}
    assert ends == {0, 1, 2, 3}
    assert words.startswith("Tree of 4 groups, merged at cosines from 0.90 down to 0.10: ")


# The page


def test_the_page_answers_without_a_browser(shown):
    demo_catalogue.serve(shown)
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    assert not page.exception
    first = shown.users[next(iter(shown.users))]
    assert page.multiselect(key="history").value == [shown.labels[at] for at in first]
    expected = shown.product.homepage(shown.history([shown.labels[at] for at in first]), 6, 8)[0]
    assert [escaped(row.title) for row in expected] == [
        h.value for h in page.subheader[: len(expected)]
    ]
    cards = [button.key for button in page.button]
    assert cards == [f"card_{row.segment}_{item}" for row in expected for item in row.items]

    page.button(key=cards[0]).click().run()
    assert not page.exception
    why = shown.product.explain(
        shown.history(page.multiselect(key="history").value), int(expected[0].items[0])
    )
    assert any(f"the score {why.score:.3f}" in text.value for text in page.markdown)

    page.multiselect(key="history").set_value([]).run()
    assert not page.exception
    assert not page.button
    assert "Add a title" in page.info[0].value

    page.selectbox(key="user").select(list(shown.users)[-1]).run()
    assert not page.exception
    last = shown.users[list(shown.users)[-1]]
    assert page.multiselect(key="history").value == [shown.labels[at] for at in last]


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


@pytest.fixture(scope="module")
def address(catalogue, segmented, tmp_path_factory):  # noqa: F811
    """Where the program serves its page, in an environment without JAX."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    given = {"segments": segmented, "interactions": catalogue / "users.csv", "port": port}
    given["metadata"] = segmented / "items.csv"
    code = f"{WITHOUT_JAX}\nrunpy.run_module('experiments.demo', run_name='__main__')"
    command = [sys.executable, "-c", code, *flags(catalogue, None, **given), "--nobrowser"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)
    try:
        ready = threading.Event()
        while not ready.wait(0.2) and "URL: http" not in log.read_text():
            assert server.poll() is None, log.read_text()
        yield f"http://localhost:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    assert "Traceback" not in log.read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser_by_keyboard_alone(address, width):
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(60_000)
        page.on("console", lambda m: m.type in ("error", "warning") and problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: local(r.url, address) or problems.append(r.url))
        page.goto(address)
        rows = page.locator("[class*=st-key-card_]")
        expect(rows.first).to_be_visible(timeout=60_000)

        def choose(label, text):
            before = rows.all_inner_texts()
            box = page.get_by_role("combobox", name=label)
            box.focus()
            box.press_sequentially(text)
            expect(page.get_by_role("option").first).to_contain_text(text)
            page.keyboard.press("Enter")
            page.keyboard.press("Escape")
            expect(page.get_by_role("option")).to_have_count(0)
            page.wait_for_function(
                "before => { const now = [...document.querySelectorAll('[class*=st-key-card_]')]"
                ".map(e => e.innerText); return now.length && now.join() != before.join() }",
                arg=before,
            )

        choose("Start from", "u2")
        choose("History", "Title 17")
        assert page.evaluate("document.documentElement.scrollWidth") <= width

        # With Tab from the history to the first card; why it is there, and added.
        for _ in range(40):
            page.keyboard.press("Tab")
            card = page.evaluate(
                "document.activeElement.closest('[class*=st-key-card_]')?.innerText"
            )
            if card:
                break
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("heading", name="By segment")).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        page.keyboard.press("Enter")
        add = dialog.get_by_role("button", name="Add to the history")
        expect(add).to_be_visible()
        add.press("Enter")
        expect(dialog).to_have_count(0)
        expect(rows.filter(has_text=card.splitlines()[0])).to_have_count(0)

        page.get_by_role("tab").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="How it came about")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert not problems


def local(url, address):
    return url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))
