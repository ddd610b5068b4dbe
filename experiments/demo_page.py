"""The page of `experiments.demo`: layout alone. Streamlit runs it from the top for each answer."""

from __future__ import annotations

import re
import time

import streamlit as st

from experiments import demo_figures as figures
from experiments.demo_catalogue import Catalogue, served, timed

N_ROWS = 6
N_ITEMS = 8  # in a row
N_TITLES = 10
N_FACTORS = 30
N_PARTS = 8
N_LISTED = 50
USER, SEGMENTS = "A user's page", "Segments"
# A segment's cards are one line that scrolls; the column of controls stays above on phones.
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
button:focus-visible, input:focus-visible { outline: 3px solid #0072B2 !important;
  outline-offset: 1px; }
</style>"""


def show(catalogue: Catalogue) -> None:
    started = time.perf_counter()
    st.set_page_config("Compressed ELSA", layout="wide")
    st.html(STYLE)
    embeddings = catalogue.embeddings
    st.title("Explore a model and its segments", anchor=False)
    st.markdown(
        f"{embeddings.n_items:,} items, {catalogue.kept[0]} of {embeddings.n_factors:,} factors "
        f"each, {len(catalogue.segments):,} segments"
    )
    user, segments = st.tabs([USER, SEGMENTS], on_change="rerun", key="tab")
    if user.open:
        with user:
            show_user(catalogue)
    if segments.open:
        with segments:
            show_segments(catalogue)
    st.caption(f"Answered in {1000 * (time.perf_counter() - started):.0f} ms.")


# A user


def show_user(catalogue: Catalogue) -> None:
    controls, rows = st.columns([1, 2.6], gap="large")
    with controls:
        labels = choose_user(catalogue)
    history = catalogue.history(labels)
    page = catalogue.product.homepage(history, N_ROWS, N_ITEMS)[0]
    with rows:
        if not page:
            st.info("Add a title to the history, or start from a reader: there is nothing to show.")
        for row in page:
            show_row(catalogue, labels, row)
    if page:
        show_activations(catalogue, history, page)
        show_smaller(catalogue, history)


def choose_user(catalogue: Catalogue) -> list[str]:
    """The controls of the history; returns its labels."""
    st.header("User", anchor=False)
    names = list(catalogue.users)
    if "history" not in st.session_state:
        start_from(catalogue, names[0] if names else None)
    st.selectbox(
        "Start from",
        names,
        key="user",
        on_change=lambda: start_from(catalogue, st.session_state.user),
        filter_mode="contains",
    )
    return st.multiselect(
        "History: type to add a title",
        catalogue.labels,
        key="history",
        placeholder=f"Search {len(catalogue.labels):,} titles",
        filter_mode="contains",
        select_all=False,
        wrap=True,
    )


def start_from(catalogue: Catalogue, name: str | None) -> None:
    items = catalogue.users[name] if name else []
    st.session_state.history = [catalogue.labels[at] for at in items]


def show_row(catalogue: Catalogue, labels: list[str], row) -> None:
    """A row of cards; one that is pressed says why it is there."""
    st.subheader(escaped(row.title), anchor=False)
    with st.container(horizontal=True, wrap=False, gap="small", key=f"row_{row.segment}"):
        for item in row.items.tolist():
            label = f"**{escaped(catalogue.titles[item])}**"
            if catalogue.details[item]:
                label += f" {escaped(catalogue.details[item])}"
            if st.button(label, key=f"card_{row.segment}_{item}", width=168, wrap=True):
                show_why(catalogue, labels, item)


@st.dialog("Why is it there?", width="large")
def show_why(catalogue: Catalogue, labels: list[str], item: int) -> None:
    why = catalogue.product.explain(catalogue.history(labels), item)
    st.markdown(
        f"**{escaped(catalogue.labels[item])}** has the score {why.score:.3f}, "
        "which is the sum of these parts, and of those too."
    )
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("By segment", anchor=False)
        chart(figures.parts(largest(why.segments)))
    with right:
        st.subheader("By title of the history", anchor=False)
        by_title = [(catalogue.titles[at], part) for at, part in why.history]
        chart(figures.parts(largest(by_title)))
    if st.button("Add to the history", type="primary", on_click=add, args=(catalogue, item)):
        st.rerun()


def add(catalogue: Catalogue, item: int) -> None:
    st.session_state.history = [*st.session_state.history, catalogue.labels[item]]


def largest(shares: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The first parts, and what the others add up to."""
    if len(shares) <= N_PARTS:
        return shares
    rest = sum(part for _, part in shares[N_PARTS - 1 :])
    return [*shares[: N_PARTS - 1], (f"{len(shares) - N_PARTS + 1} others", rest)]


def show_activations(catalogue: Catalogue, history, page) -> None:
    st.header("Latent activations", anchor=False)
    found = catalogue.product.activations(history)
    marked = {row.segment: row.title for row in page if row.segment >= 0}
    st.markdown(
        f"The user's strongest factors, {min(N_FACTORS, len(found.factors))} of the "
        f"{len(found.factors)} active ones; those of the segments above are marked."
    )
    shown = slice(N_FACTORS)
    chart(
        figures.activations(
            found.factors[shown], found.values[shown], found.segments[shown], marked
        )
    )


@st.fragment
def show_smaller(catalogue: Catalogue, history) -> None:
    st.header("Smaller embeddings", anchor=False)
    st.markdown("What the list loses if items keep fewer factors, or in a compact format.")
    left, right = st.columns(2, gap="large")
    with left:
        kept = st.segmented_control(
            "Factors an item keeps (k)", catalogue.kept, default=catalogue.kept[0], required=True
        )
    with right:
        form = st.segmented_control(
            "Format", catalogue.formats, default=catalogue.formats[-1], required=True
        )
    full, small = catalogue.product.recommender, catalogue.smaller(kept, form)
    (before, slow), (after, fast) = timed([full, small], history, N_TITLES)
    n_same = len(set(before.tolist()) & set(after.tolist()))
    size = full.embeddings.bytes_per_item
    with st.container(horizontal=True, gap="large"):
        st.metric("Titles kept", f"{n_same} of {len(before)}", width="content")
        small_size = small.embeddings.bytes_per_item
        st.metric(f"Bytes an item (of {size:.0f})", f"{small_size:.0f}", width="content")
        st.metric(f"ms a list (of {slow:.2f})", f"{fast:.2f}", width="content")
    left, right = st.columns(2, gap="large")
    with left:
        listed(catalogue, f"{catalogue.kept[0]} of {catalogue.formats[0]}", before, set(after))
    with right:
        listed(catalogue, f"{kept} of {form}", after, set(before))


def listed(catalogue: Catalogue, title: str, items, others: set) -> None:
    """A numbered list; titles that the other list lacks are marked."""
    st.subheader(title, anchor=False)
    lines = [
        f"{rank}. {escaped(catalogue.labels[item])}"
        + ("" if item in others else " :orange-badge[not in the other]")
        for rank, item in enumerate(items, 1)
    ]
    st.markdown("\n".join(lines))


# Segments


def show_segments(catalogue: Catalogue) -> None:
    segments = catalogue.segments
    st.header("Segment", anchor=False)
    at = st.selectbox(
        "Type to search by name",
        range(len(segments)),
        format_func=lambda at: f"{segments.names[at]} ({len(segments[at].items):,} items)",
        key="segment",
        filter_mode="contains",
    )
    segment = segments[at]
    groups = catalogue.groups(at)
    if segment.name.terms:
        st.markdown("Terms: " + escaped(", ".join(segment.name.terms)))
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(f"Items, the strongest of {len(segment.items):,}", anchor=False)
        lines = [
            f"{rank}. {escaped(catalogue.labels[item])}"
            for rank, item in enumerate(segment.items[:N_LISTED].tolist(), 1)
        ]
        st.markdown("\n".join(lines))
    with right:
        st.subheader("How it came about", anchor=False)
        if len(groups) == 1:
            pair, n_items, _ = groups[0]
            st.markdown(f"One group, {pair}, of {n_items:,} items; it was not merged.")
            return
        st.markdown(
            f"{len(groups)} groups, each of a factor and its sign, merged from the left. "
            "Beside each stands its strongest item."
        )
        leaves = [f"{pair} {catalogue.titles[item]}" for pair, _, item in groups]
        chart(figures.merges(catalogue.merges[at], leaves))


def chart(drawn) -> None:
    figure, words = drawn
    st.plotly_chart(figure, theme=None, config={"displayModeBar": False}, alt=words)


def escaped(text: str) -> str:
    """Text as it is, in Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:<>&])", r"\\\1", text)


if __name__ == "__main__":  # as Streamlit runs it
    show(served())
