"""The page of `experiments.demo`: layout alone. Streamlit runs it from the top for each answer."""

from __future__ import annotations

import functools
import html
import re
import time
from collections.abc import Iterable

import numpy as np
import streamlit as st

from experiments import demo_catalogue
from experiments import demo_figures as figures
from experiments.demo_catalogue import Explorer, timed

ROWS = (4, 6, 10)  # to choose from; the second by default
ROW_ITEMS = (4, 6, 10, 20)
N_FOUND = 6
N_HISTORY = 6  # until all are asked for
N_TITLES = 10
N_FACTORS = 30
N_PARTS = 8
N_LISTED = 50
N_PARTS_SHOWN = 60
# What was chosen is still there when the other tab was open.
search = functools.partial(st.selectbox, filter_mode="contains", persist_state="page")
choose = functools.partial(st.segmented_control, required=True, persist_state="page")
toggle = functools.partial(st.toggle, persist_state="page")
USER, SEGMENTS = "A user's page", "Segments"
ALL = "The whole catalogue"
# A segment's cards are one line that scrolls. The verbs of buttons with icons are for those who do
# not see the icons.
STYLE = """<style>
.block-container { padding: 2.2rem 1.25rem 4rem; max-width: 1240px; }
h1 { font-size: 1.9rem !important; padding-bottom: 0 !important; }
h2 { font-size: 1.35rem !important; } h3 { font-size: 1.05rem !important; }
[class*="st-key-row_"] { overflow-x: auto; padding: 3px 3px 10px; align-items: stretch; }
[class*="st-key-row_"] button { height: 100%; min-height: 92px; padding: 8px 12px;
  align-items: flex-start; justify-content: flex-start; text-align: left; }
[class*="st-key-row_"] button > div { width: 100%; justify-content: flex-start; }
[class*="st-key-row_"] button p { white-space: normal; line-height: 1.25; font-size: 0.875rem;
  display: -webkit-box; -webkit-line-clamp: 5; -webkit-box-orient: vertical; overflow: hidden; }
[class*="st-key-row_"] button p strong { display: block; font-weight: 600; margin-bottom: 2px; }
[class*="st-key-add_"] button, [class*="st-key-remove_"] button { min-height: 2rem; padding: 0; }
[class*="st-key-row_"] img { width: 168px; height: 120px; object-fit: contain; }
[class*="st-key-tree_"] button { min-height: 2rem; padding: 0 0.6rem; }
[class*="st-key-add_"] strong, [class*="st-key-remove_"] strong { position: absolute;
  clip-path: inset(50%); }
ol > li { margin-bottom: 0.3rem; }
.mark { color: #a33c00; white-space: nowrap; }
a:focus-visible, button:focus-visible, [role="tab"]:focus-visible, label:has(input:focus-visible),
[data-testid="stTextInputRootElement"]:focus-within, .react-aria-ComboBox:focus-within {
  outline: 3px solid #0072B2 !important; outline-offset: 1px; border-radius: 0.5rem; }
main:focus-visible, [role="tabpanel"]:focus-visible {
  outline: 3px solid #0072B2 !important; outline-offset: -3px; }
[role="radio"][aria-checked="true"] { color: #004c78 !important; }
</style>"""


def show(explorer: Explorer) -> None:
    started = time.perf_counter()
    st.set_page_config("Compressed ELSA", layout="wide")
    st.html(STYLE + figures.STYLE)
    embeddings = explorer.embeddings
    st.title("Explore a model and its segments", anchor=False)
    st.markdown(
        f"{embeddings.n_items:,} items, {explorer.kept[0]} of {embeddings.n_factors:,} factors "
        f"each, {' / '.join(f'{len(level):,}' for level in explorer.tree.levels)} segments"
    )
    user, segments = st.tabs([USER, SEGMENTS], on_change="rerun", key="tab")
    if user.open:
        with user:
            show_user(explorer)
    if segments.open:
        with segments:
            show_segments(explorer)
    st.caption(f"Answered in {1000 * (time.perf_counter() - started):.0f} ms.")


# A user


def show_user(explorer: Explorer) -> None:
    controls, rows = st.columns([1, 2.6], gap="medium")
    with controls:
        items = choose_user(explorer)
        n_rows, n_items = choose_page()
    history = explorer.history(items)
    page = explorer.product.homepage(history, n_rows, n_items)[0]
    with rows:
        if not page:
            st.info("Add a title to the history, or start from a reader: there is nothing to show.")
        else:
            st.markdown("Press a title to see why it is there.")
        for row in page:
            show_row(explorer, history, row)
    if page:
        show_latent(explorer, history, page)
        show_smaller(explorer, history)


def choose_user(explorer: Explorer) -> list[int]:
    """The controls of the history; returns its items."""
    st.header("User", anchor=False)
    names = list(explorer.users)
    if "history" not in st.session_state:
        start_from(explorer, names[0] if names else None)
    search(
        "Start from",
        names,
        key="user",
        on_change=lambda: start_from(explorer, st.session_state.user),
    )
    history = st.session_state.history
    find_titles(explorer, history)
    st.subheader(f"History ({len(history)})", anchor=False)
    everything = len(history) <= N_HISTORY or st.session_state.get("all", False)
    with st.container(gap=None):
        for item in history if everything else history[:N_HISTORY]:
            title(explorer, item, "Remove", "close", remove)
    if len(history) > N_HISTORY:
        toggle(f"Show all {len(history)}", key="all")
    return history


def choose_page() -> tuple[int, int]:
    """The controls of the page: its rows, and their items."""
    n_rows = choose("Rows", ROWS, default=ROWS[1], key="Rows")
    n_items = choose("Items a row", ROW_ITEMS, default=ROW_ITEMS[1], key="Items a row")
    toggle("Scores and ids", key="scores")
    return n_rows, n_items


@st.fragment
def find_titles(explorer: Explorer, history: list[int]) -> None:
    """Searches here, since the browser would take long to receive and filter all titles."""
    text = st.text_input(
        "Add a title",
        key="search",
        type="search",
        placeholder=f"Search {len(explorer.labels):,} titles",
        live="100ms",
        persist_state="page",
    )
    items = explorer.find(text, N_FOUND, but=history)
    with st.container(gap=None):
        for item in items:
            if title(explorer, item, "Add", "add", add):
                st.rerun()  # all of the page
    if text and not items:
        st.caption("No other title has these words.")


def title(explorer: Explorer, item: int, verb: str, icon: str, act) -> bool:
    """A button that adds or removes a title."""
    return st.button(
        f"**{verb}** {escaped(explorer.labels[item])}",
        key=f"{verb.lower()}_{item}",
        icon=f":material/{icon}:",
        type="tertiary",
        on_click=lambda: act(item),
        wrap=False,
    )


def start_from(explorer: Explorer, name: str | None) -> None:
    st.session_state.history = explorer.users[name].tolist() if name else []


def add(item: int) -> None:
    st.session_state.history = [item, *st.session_state.history]


def remove(item: int) -> None:
    st.session_state.history = [other for other in st.session_state.history if other != item]


def show_row(explorer: Explorer, history, row) -> None:
    """A row of cards; one that is pressed says why it is there."""
    st.subheader(escaped(row.title), anchor=False)
    with st.container(horizontal=True, wrap=False, gap="small", key=f"row_{row.segment}"):
        for item, score in zip(row.items.tolist(), row.scores.tolist(), strict=True):
            label = f"**{escaped(explorer.titles[item])}**"
            if explorer.details[item]:
                label += f" {escaped(explorer.details[item])}"
            if st.session_state.get("scores"):
                label += f" ({score:.3f}, id {escaped(explorer.embeddings.item_ids[item])})"
            key = f"{row.segment}_{item}"
            if picture := explorer.picture(item):
                with st.container(width=168, gap=None):
                    st.html(f'<img src="{html.escape(picture)}" alt="" loading="lazy">')
                    pressed = st.button(label, key=f"card_{key}", width=168, wrap=True)
            else:
                pressed = st.button(label, key=f"card_{key}", width=168, wrap=True)
            if pressed:
                show_why(explorer, history, item)


@st.dialog("Why is it there?", width="large")
def show_why(explorer: Explorer, history, item: int) -> None:
    why, by_segment = explorer.product.explain(history, item)
    st.markdown(
        f"**{escaped(explorer.labels[item])}** has the score {why.score:.3f}, "
        "the sum of its parts by segment, and of those by title as well."
    )
    for name, text in explorer.texts(item).items():
        st.markdown(f"{escaped(name)}: {escaped(text)}")
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("By segment", anchor=False)
        st.html(figures.parts(largest(by_segment)))
    with right:
        st.subheader("By title of the history", anchor=False)
        by_title = [(explorer.titles[at], part) for at, part in why.history]
        st.html(figures.parts(largest(by_title)))
    if st.button("Add to the history", type="primary", on_click=add, args=(item,)):
        st.rerun()


def largest(shares: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The first parts, and what the others add up to."""
    if len(shares) <= N_PARTS:
        return shares
    rest = sum(part for _, part in shares[N_PARTS - 1 :])
    return [*shares[: N_PARTS - 1], (f"{len(shares) - N_PARTS + 1} others", rest)]


@st.fragment
def show_latent(explorer: Explorer, history, page) -> None:
    st.header("The user beside a segment", anchor=False)
    latent = explorer.product.recommender.encode(history).toarray()[0]
    latent /= np.linalg.norm(latent)
    first = [row.segment for row in page if row.segment >= 0]
    options = first + [at for at in range(len(explorer.segments)) if at not in first]
    at = search(
        "Compare with", options, key="beside", format_func=lambda at: explorer.segments.names[at]
    )
    shared = toggle("Only factors that both have", key="shared")
    vector = explorer.segments.vectors[[at]].toarray()[0]
    factors = np.argsort(-np.abs(latent), kind="stable")[: np.count_nonzero(latent)]
    if shared:
        factors = factors[vector[factors] != 0]
    st.markdown(
        f"Both vectors at unit length; their product is {latent @ vector:.3f}. "
        f"The strongest {min(N_FACTORS, len(factors))} of the {len(factors)} factors "
        f"{'that both have' if shared else 'of the user'}."
    )
    factors = factors[:N_FACTORS]
    if len(factors):
        names = [explorer.factor_names[factor] for factor in factors]
        texts = ("the user", explorer.segments.names[at])
        st.html(figures.latent(latent[factors], vector[factors], names, *texts))


@st.fragment
def show_smaller(explorer: Explorer, history) -> None:
    st.header("Smaller embeddings", anchor=False)
    st.markdown("What the list loses if items keep fewer factors, or in a compact format.")
    left, right = st.columns(2, gap="medium")
    with left:
        kept = choose(
            "Factors an item keeps (k)", explorer.kept, default=explorer.kept[0], key="kept"
        )
    with right:
        form = choose("Format", explorer.formats, default=explorer.formats[-1], key="format")
    full, small = explorer.product.recommender, explorer.smaller(kept, form)
    (before, slow), (after, fast) = timed([full, small], history, N_TITLES)
    n_same = len(set(before.tolist()) & set(after.tolist()))
    size = full.embeddings.stored_bytes_per_item
    with st.container(horizontal=True, gap="medium"):
        st.metric("Titles kept", f"{n_same} of {len(before)}", width="content")
        small_size = small.embeddings.stored_bytes_per_item
        st.metric(f"Bytes an item (of {size:.0f})", f"{small_size:.0f}", width="content")
        st.metric(f"ms a list (of {slow:.2f})", f"{fast:.2f}", width="content")
    left, right = st.columns(2, gap="medium")
    with left:
        listed(explorer, f"{explorer.kept[0]} of {explorer.formats[0]}", before, set(after))
    with right:
        listed(explorer, f"{kept} of {form}", after, set(before))


def listed(explorer: Explorer, title: str, items, others: set) -> None:
    """A numbered list; titles that the other list lacks are marked."""
    st.subheader(title, anchor=False)
    mark = '<em class="mark">not in the other</em>'
    numbered(
        f"{html.escape(explorer.labels[item])} {'' if item in others else mark}" for item in items
    )


def numbered(lines: Iterable[str]) -> None:
    """A numbered list of HTML; Markdown would take the browser several times as long."""
    st.html("<ol>" + "".join(f"<li>{line}</li>" for line in lines) + "</ol>")


# Segments


def show_segments(explorer: Explorer) -> None:
    st.header("Segment", anchor=False)
    place = search(
        "Type to search by name",
        range(-1, len(explorer.all_segments)),
        key="segment",
        format_func=lambda place: named(explorer, place),
    )
    left, right = st.columns(2, gap="medium")
    with left:
        show_tree(explorer, place)
    if place < 0:
        return
    segment = explorer.all_segments[place]
    with right:
        st.subheader(f"Items, the most typical of {len(segment.items):,}", anchor=False)
        if segment.name.terms:
            st.markdown("Terms: " + escaped(", ".join(segment.name.terms)))
        typical = segment.items[:N_LISTED].tolist()
        numbered(html.escape(explorer.labels[item]) for item in typical)


def named(explorer: Explorer, place: int) -> str:
    if place < 0:
        return ALL
    segment = explorer.all_segments[place]
    return f"{segment.name.name} ({len(segment.items):,} items)"


def show_tree(explorer: Explorer, place: int) -> None:
    """Buttons that lead to what a segment is a part of, and to its parts."""
    if place >= 0:
        st.subheader("Part of", anchor=False)
        with st.container(gap=None):
            for up in [-1, *explorer.above(place)]:
                tree_button(named(explorer, up), up)
    parts = explorer.parts(place)
    st.subheader(f"Parts ({len(parts)})", anchor=False)
    with st.container(gap=None):
        for part in parts[:N_PARTS_SHOWN]:
            tree_button(named(explorer, part), part)
    if len(parts) > N_PARTS_SHOWN:
        st.caption("Search by name for the smaller ones.")


def tree_button(label: str, place: int) -> None:
    st.button(
        escaped(label),
        key=f"tree_{place}",
        type="tertiary",
        on_click=lambda: st.session_state.update(segment=place),
        wrap=False,
    )


def escaped(text: str) -> str:
    """Text as it is, in Markdown.

    Addresses, arrows, emoji and icons are looked for behind its escapes, hence the word joiners.
    """
    apart = re.sub(r"[:@](?=\S)|www(?=\.)|[-<>~](?=[->=])", "\\g<0>\u2060", text, flags=re.I)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:<>&])", r"\\\1", apart)


if __name__ == "__main__":  # as Streamlit runs it
    show(demo_catalogue.served)
