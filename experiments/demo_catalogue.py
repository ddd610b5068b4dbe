"""What the page of `experiments.demo` shows, apart from its layout."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import time
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.segments import Segment, SegmentRecommender, Segments, SegmentTree
from celsa_jax.sparse import FORMATS, Recommender, SparseEmbeddings

_N_READERS = 30
_READER_ITEMS = 5
_ROUNDS = 5
served: Explorer | None = None  # by the page, which Streamlit runs anew for each answer


@dataclasses.dataclass(frozen=True, eq=False)
class Explorer:
    """A model, its segments, and what their items are called.

    Attributes:
      product: embeddings, and the level of the tree that rows are of.
      tree: all segments.
      titles: [n_items] what each item is called.
      details: [n_items] a line about each item, "" for none.
      users: item positions of ready-made histories, by what they are called.
      notes: further texts by column, [n_items] each; those that are addresses of pictures are shown
        as pictures.
    """

    product: SegmentRecommender
    tree: SegmentTree
    titles: list[str]
    details: list[str]
    users: dict[str, np.ndarray]
    notes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def embeddings(self) -> SparseEmbeddings:
        return self.product.recommender.embeddings

    @property
    def segments(self) -> Segments:
        return self.product.segments

    @functools.cached_property
    def labels(self) -> list[str]:
        """[n_items] titles with their details, and with the item's id where two were the same."""
        lines = [
            f"{title}, {detail}" if detail else title
            for title, detail in zip(self.titles, self.details, strict=True)
        ]
        n_same = collections.Counter(lines)
        ids = self.embeddings.item_ids.tolist()
        return [
            line if n_same[line] == 1 else f"{line} ({item})"
            for line, item in zip(lines, ids, strict=True)
        ]

    @functools.cached_property
    def _folded(self) -> list[str]:
        return [folded(label) for label in self.labels]

    def find(self, text: str, n: int, but: Collection[int] = ()) -> list[int]:
        """The first n items whose label has all words of a text; those that begin with it first."""
        text = folded(text).strip()
        words = text.split()
        if not words:
            return []
        begin, contain = [], []
        for item, label in enumerate(self._folded):
            if all(word in label for word in words) and item not in but:
                (begin if label.startswith(text) else contain).append(item)
        return (begin + contain)[:n]

    def history(self, items: Sequence[int]) -> sp.csr_matrix:
        """One history [1, n_items] of these items."""
        row = (np.ones(len(items), np.float32), (np.zeros(len(items), int), items))
        return sp.csr_matrix(row, (1, self.embeddings.n_items))

    @functools.cached_property
    def kept(self) -> list[int]:
        """Non-zeros a row to choose from: the longest row's, and powers of two below."""
        longest = int(np.diff(self.embeddings.tocsr().indptr).max(initial=1))
        return [longest] + [2**p for p in reversed(range(10)) if 2**p < longest]

    @functools.cached_property
    def formats(self) -> list[str]:
        """Formats to choose from: the stored one, and the smaller ones that can hold these."""
        able = []
        for form in FORMATS[FORMATS.index(self.embeddings.format) :]:
            with contextlib.suppress(InputError):
                self.embeddings.to_format(form)
                able.append(form)
        return able

    @functools.cache  # noqa: B019 (lives as long as the program)
    def smaller(self, k: int, form: str) -> Recommender:
        """Over the k largest weights of each item, scaled back to its norm, in a format."""
        cut = self.embeddings if k == self.kept[0] else self.embeddings.cut(k)
        return Recommender(cut.to_format(form))

    def warm_up(self) -> None:
        """Does ahead what the first visitor would wait for."""
        empty = self.history([])
        self.smaller(self.kept[0], self.formats[-1]).recommend(empty, 1)
        self.product.homepage(self.history([0]))
        self.find("a", 1)

    @functools.cached_property
    def factor_names(self) -> list[str]:
        """[n_factors] the title of the item that each factor belongs to, or its number."""
        ids = self.embeddings.factor_ids
        if ids is None:
            return [str(factor) for factor in range(self.embeddings.n_factors)]
        titles = dict(zip(self.embeddings.item_ids.tolist(), self.titles, strict=True))
        return [titles.get(item, item) for item in ids.tolist()]

    def picture(self, item: int) -> str:
        """The address of a picture of an item, or ""."""
        texts = (column[item] for column in self.notes.values())
        return next(filter(is_picture, texts), "")

    def texts(self, item: int) -> dict[str, str]:
        """What else is known of an item, by column."""
        texts = {name: column[item] for name, column in self.notes.items()}
        return {name: text for name, text in texts.items() if text and not is_picture(text)}

    @functools.cached_property
    def all_segments(self) -> list[Segment]:
        """Those of all levels, the coarsest first: a place is a position here, -1 the catalogue."""
        return [segment for level in self.tree.levels for segment in level]

    @functools.cached_property
    def _parents(self) -> list[int]:
        """The place of what each segment is a part of."""
        ends = itertools.accumulate(map(len, self.tree.levels))
        starts = itertools.chain([0, 0], ends)  # of the level above; the first one's parents are -1
        levels = zip(starts, self.tree.levels, strict=False)
        return [start + segment.parent for start, level in levels for segment in level]

    def above(self, place: int) -> list[int]:
        """The segments that one is a part of, the coarsest first."""
        up = self._parents[place]
        return [] if up < 0 else [*self.above(up), up]

    def parts(self, place: int) -> list[int]:
        """The parts of a segment, the largest first."""
        return [part for part, up in enumerate(self._parents) if up == place]


def readers(segments: Segments) -> dict[str, np.ndarray]:
    """Made-up users: each has the strongest items of one of the largest segments."""
    return {
        f"Reader of {segment.name.name}": segment.items[:_READER_ITEMS]
        for segment in segments.segments[:_N_READERS]
    }


def is_picture(text: str) -> bool:
    return text.startswith(("https://", "http://", "data:image/")) and not any(
        c.isspace() for c in text
    )


def folded(text: str) -> str:
    """As typed without shift and accents, so that "miserables" finds "Les Misérables"."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c))


def timed(
    recommenders: list[Recommender], history: sp.csr_matrix, k: int
) -> list[tuple[np.ndarray, float]]:
    """What each recommends to a user, and the median milliseconds it takes; all in turn."""
    seconds = np.zeros((_ROUNDS, len(recommenders)))
    for times in seconds:
        lists = []
        for at, recommender in enumerate(recommenders):
            started = time.perf_counter()
            items, _ = recommender.recommend(history, k)
            times[at] = time.perf_counter() - started
            lists.append(items[0, items[0] >= 0])
    return list(zip(lists, 1000 * np.median(seconds, axis=0), strict=True))
