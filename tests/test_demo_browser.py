"""The page of the demo in headless Chromium."""

import html
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright
from test_cli import ROOT, WITHOUT_JAX
from test_demo import ODD, segmented  # noqa: F401  (a fixture)
from test_segments_cli import TITLE, catalogue, flags  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def outside():
    """A proxy in the place of all other hosts, which counts as asked by whoever connects to it."""
    with socket.create_server(("localhost", 0)) as proxy:
        proxy.setblocking(False)
        yield proxy


@pytest.fixture(scope="module")
def address(catalogue, segmented, outside, tmp_path_factory):  # noqa: F811
    """Where the program serves its page, in an environment without JAX."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    proxy = f"http://localhost:{outside.getsockname()[1]}"
    given = {"segments": segmented, "interactions": catalogue / "users.csv", "port": port}
    given["metadata"] = segmented / "items.csv"
    code = f"{WITHOUT_JAX}\nrunpy.run_module('experiments.demo', run_name='__main__')"
    command = [sys.executable, "-c", code, *flags(catalogue, None, **given), "--nobrowser"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": ""},
        )
    try:
        ready = threading.Event()
        while not ready.wait(0.2) and "URL: http" not in log.read_text():
            assert server.poll() is None, log.read_text()
        yield f"http://localhost:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(chromium, address):
    """Opens the page; whatever is wrong with it by the end of the module fails its last test."""
    problems = []

    def visit(width, colours="light"):
        page = chromium.new_page(
            viewport={"width": width, "height": 900},
            color_scheme=colours,
            reduced_motion="reduce",
        )
        page.set_default_timeout(60_000)
        page.on("console", lambda m: m.type in ("error", "warning") and problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        for event in ("request", "websocket"):
            page.on(event, lambda r: local(r.url, address) or problems.append(r.url))
        page.goto(address)
        expect(page.locator(CARDS).first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("Answered in")).to_be_visible()
        expect(page.locator(".bars")).to_be_visible()
        return page

    yield visit
    assert not problems


@pytest.fixture(scope="module")
def wide(visit):
    """On a wide screen that prefers dark colours; the page's are light."""
    return visit(WIDE, "dark")


def local(url, address):
    return url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))


CARDS = "[class*=st-key-card_]"
NARROW, WIDE = 390, 1280  # pixels
FULL_WIDTH = "document.documentElement.scrollWidth"
# The focused element: what a screen reader calls it, and the ring around it or around the control
# that it is a part of.
FOCUSED = """() => {
  const focused = document.activeElement;
  focused.dataset.visited = true;
  document.getAnimations().filter(a => a instanceof CSSTransition).forEach(a => a.finish());
  const read = focused.cloneNode(true);
  read.querySelectorAll("[aria-hidden=true]").forEach(e => e.remove());
  let ringed = focused;
  const rings = e => parseFloat(getComputedStyle(e).outlineWidth) >= 2
    && getComputedStyle(e).outlineStyle == "solid";
  for (let up = 0; up < 4 && !rings(ringed) && ringed.parentElement; up++)
    ringed = ringed.parentElement;
  const box = focused.getBoundingClientRect();
  return {
    name: focused.ariaLabel || read.textContent.trim(),
    role: focused.getAttribute("role") || focused.tagName.toLowerCase(),
    card: Boolean(focused.closest("[class*=st-key-card_]")),
    group: focused.closest("[role=radiogroup]")?.ariaLabel || "",
    ring: rings(ringed) ? getComputedStyle(ringed).outlineColor : null,
    seen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
}"""
# Controls that Tab did not come to; of tabs and of radio buttons, arrows reach the others.
UNVISITED = """() => {
  const group = e => e.closest("[role=tablist], [role=radiogroup]") || e;
  const visited = e => group(e).matches("[data-visited]")
    || group(e).querySelector("[data-visited]");
  return [...document.querySelectorAll("button, input, a[href], [role=tab]")]
    .filter(e => e.checkVisibility() && !visited(e) && (group(e) != e || e.tabIndex >= 0))
    .map(e => e.outerHTML.slice(0, 200));
}"""


def tab_to(page, wanted, key="Tab"):
    """Presses Tab until a control is wanted; the focus is seen wherever it goes."""
    settle(page)
    names = []
    for _ in range(100):
        page.keyboard.press(key)
        focused = page.evaluate(FOCUSED)
        names.append(focused["name"])
        if focused["role"] != "body":
            assert all(focused[what] for what in ("name", "seen", "ring")), focused
            assert contrast(focused["ring"], "rgb(255, 255, 255)") >= 3, focused
        if wanted(focused):
            return focused["name"]
    raise AssertionError(f"Tab came to {names}")


def settle(page):
    """Waits until all is shown: a row that has no buttons yet takes the focus itself."""
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
    expect(page.locator("[class*=st-key-row_]:not(:has(button))")).to_have_count(0)
    expect(page.locator("[data-testid=stSkeleton]")).to_have_count(0)


def named(name):
    return lambda focused: focused["name"].startswith(name)


def changed(page, before):
    """Waits for other cards than before."""
    page.wait_for_function(
        "([cards, before]) => { const now = [...document.querySelectorAll(cards)]"
        ".map(e => e.innerText); return now.length && now.join() != before.join() }",
        arg=[CARDS, before],
    )


def test_the_page_in_a_browser_by_keyboard_alone(visit):
    """On a narrow screen; a wide one shows the same controls in the same order."""
    page = visit(NARROW)
    cards = page.locator(CARDS)
    dialog = page.get_by_role("dialog")
    press, write = page.keyboard.press, page.keyboard.type

    tab_to(page, named("A user's page"))
    tab_to(page, lambda focused: focused["role"] == "body")
    assert page.evaluate(UNVISITED) == []

    # Another user.
    before = cards.all_inner_texts()
    tab_to(page, named("Start from"))
    write("u2")
    expect(page.get_by_role("option").first).to_contain_text("u2")
    press("Enter")
    changed(page, before)

    # A title is added and removed; the focus goes on from there.
    before = cards.all_inner_texts()
    tab_to(page, named("Add a title"))
    write("title 17")
    expect(page.get_by_role("button", name="Add Title 17")).to_be_visible()
    tab_to(page, named("Add Title 17"))
    press("Enter")
    changed(page, before)
    before = cards.all_inner_texts()
    tab_to(page, named("Remove Title 17"))
    press("Enter")
    changed(page, before)
    expect(page.get_by_role("button", name="Remove Title 17")).to_have_count(0)
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)["name"].startswith("Remove ")
    assert page.evaluate(FULL_WIDTH) <= NARROW

    # Why a title is there; it is added.
    title = tab_to(page, lambda focused: focused["card"])
    press("Space")
    expect(dialog.get_by_role("heading", name="By segment")).to_be_visible()
    settle(page)
    press("Escape")
    expect(dialog).to_have_count(0)
    page.wait_for_function(
        "document.activeElement != document.body"
    )  # it comes back a moment later
    assert page.evaluate(FOCUSED)["name"] == title
    tab_to(page, lambda focused: focused["card"])
    press("Shift+Tab")
    press("Enter")
    expect(dialog.get_by_role("heading", name="By title of the history")).to_be_visible()
    tab_to(page, named("Add to the history"))
    press("Enter")
    expect(dialog).to_have_count(0)
    added = re.match(r"Title \d+|i\d+", title)[0]
    expect(page.get_by_role("button", name=re.compile(f"^Remove {added}\\b"))).to_be_visible()
    expect(cards.filter(has_text=re.compile(f"^{added}\\b"))).to_have_count(0)

    # The user beside another segment, at the factors that both have.
    tab_to(page, named("Compare with"))
    press("ArrowDown")
    press("ArrowDown")
    press("Enter")
    tab_to(page, named("Only factors that both have"))
    press("Space")
    expect(page.get_by_text("factors that both have.")).to_be_visible()

    # Fewer factors, another format.
    tab_to(page, lambda focused: focused["group"].startswith("Factors an item keeps"))
    press("ArrowRight")
    press("Space")
    expect(page.get_by_role("heading", name="4 of int4")).to_be_visible()
    tab_to(page, named("float32"))
    press("Space")
    expect(page.get_by_role("heading", name="4 of float32")).to_be_visible()

    # Segments, one of them.
    tab_to(page, named("A user's page"))
    press("ArrowRight")
    press("Enter")
    expect(page.get_by_role("heading", name="Parts (3)")).to_be_visible()
    tab_to(page, named("Type to search by name"))
    write("segment 10")
    expect(page.get_by_role("option")).to_have_count(1)
    press("Enter")
    expect(page.get_by_role("heading", name="Items, the most typical of 5")).to_be_visible()
    tab_to(page, named("The whole catalogue"))
    page.keyboard.press("Tab")
    press("Enter")
    expect(page.get_by_text("Terms: ")).to_be_visible()
    expect(page.get_by_role("combobox", name="Type to search by name")).not_to_have_value(
        re.compile("Segment 10")
    )
    assert page.evaluate(FULL_WIDTH) <= NARROW

    # What was chosen is still there.
    tab_to(page, named("Segments"), key="Shift+Tab")
    press("ArrowLeft")
    press("Enter")
    expect(cards.first).to_be_visible()
    expect(page.get_by_role("combobox", name="Start from")).to_have_value("User u2")
    expect(page.get_by_role("heading", name="4 of float32")).to_be_visible()


def test_titles_are_shown_as_they_are(wide):
    page = wide
    page.get_by_role("searchbox").press_sequentially("www")
    found = page.locator("[class*=st-key-add_]")
    expect(found).to_contain_text("smile")
    shown = found.get_by_role("button").evaluate("e => e.querySelector('p').innerHTML")
    text = html.unescape(re.sub("<strong>Add</strong>", "Add", shown)).replace("\u2060", "")
    assert text == f"Add {ODD}, nordic-crime,books"
    page.get_by_role("searchbox").fill("")
    expect(found).to_have_count(0)


# Colours in the page as [what, in front, behind, least ratio]. A canvas lays translucent colours
# upon each other, and knows all notations.
COLOURS = """part => {
  document.getAnimations().filter(a => a instanceof CSSTransition).forEach(a => a.finish());
  const pen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const painted = (e, front) => {
    const behind = [];
    for (let up = e; up; up = up.parentElement)
      behind.unshift(getComputedStyle(up).backgroundColor);
    for (const colour of ["white", ...behind, ...front]) {
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
    }
    return `rgb(${[...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).join(", ")})`;
  };
  const found = [];
  const note = (what, e, colour, least) =>
    found.push([what, painted(e, [colour]), painted(e, []), least]);
  for (const e of document.querySelector(part).querySelectorAll("*")) {
    if (!e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const text = [...e.childNodes].filter(n => n.nodeType == 3).map(n => n.data.trim()).join("");
    const large = parseFloat(style.fontSize) >= (style.fontWeight >= 700 ? 18.66 : 24);
    const icon = e.matches("[data-testid=stIconMaterial]");
    if (text) note(text, e, style.color, large || icon ? 3 : 4.5);
    if (e.placeholder) note(e.placeholder, e, getComputedStyle(e, "::placeholder").color, 4.5);
    if (e.matches(".bar, .key i")) {
      const edged = parseFloat(style.borderTopWidth) > 0;
      note(e.className || "key", e.parentElement,
        edged ? style.borderTopColor : style.backgroundColor, 3);
    }
  }
  return found;
}"""


def painted(page, part):
    """The colours of a part of the page on systems that prefer dark and light ones."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += [[scheme, *colours] for colours in page.evaluate(COLOURS, part)]
    return found


def test_texts_and_charts_stand_out_from_their_backgrounds(wide):
    page = wide
    assert page.evaluate(FULL_WIDTH) <= WIDE
    page.get_by_role("searchbox").press_sequentially("title")
    expect(page.get_by_role("button", name="Add ").first).to_be_visible()
    page.get_by_role("radio", name="1", exact=True).press("Space")
    expect(page.get_by_text("not in the other").first).to_be_visible()
    shown = painted(page, "[data-testid=stMain]")
    page.locator(CARDS).first.get_by_role("button").press("Enter")
    expect(page.get_by_role("button", name="Add to the history")).to_be_visible()
    shown += painted(page, "[role=dialog]")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Segments").press("Enter")
    page.get_by_role("button", name=re.compile("items")).first.press("Enter")
    expect(page.get_by_role("heading", name="Part of")).to_be_visible()
    shown += painted(page, "[data-testid=stMain]")
    whats = {(scheme, what) for scheme, what, *_ in shown}
    texts = ("Start from", "not in the other", "bar", "key", "float16")
    assert whats >= set(itertools.product(("light", "dark"), texts))
    faint = [
        (scheme, what, front, behind, round(contrast(front, behind), 2))
        for scheme, what, front, behind, least in shown
        if contrast(front, behind) < least
    ]
    assert not faint


def contrast(*colours):
    """The ratio of WCAG 2 between two colours, from 1 to 21."""
    luminances = []
    for colour in colours:
        values = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        luminances.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(luminances) / min(luminances)


def test_contrast_of_known_colours():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(255, 255, 255)", "rgb(118, 118, 118)") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:{}", "http://localhost:{}", 101),
        ("127.0.0.1:{}", "http://127.0.0.1:{}", 101),
        ("evil.example:{}", "http://evil.example:{}", 403),
        ("localhost:{}", "http://evil.example", 403),
    ],
)
def test_foreign_pages_are_refused_and_no_other_host_is_asked(
    address, outside, host, origin, status
):
    port = int(address.rpartition(":")[2])
    lines = ["GET /_stcore/stream HTTP/1.1", f"Host: {host}", f"Origin: {origin}"]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
    with socket.create_connection(("localhost", port)) as browser:
        browser.sendall("\r\n".join(lines).format(port, port).encode())
        assert browser.recv(12).decode() == f"HTTP/1.1 {status}"
    with pytest.raises(BlockingIOError):
        outside.accept()
