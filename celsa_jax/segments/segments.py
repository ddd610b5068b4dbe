"""Segments of a catalogue: named groups of items, each with a vector over the factors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from celsa_jax.segments.groups import members
from celsa_jax.segments.naming import Name
from celsa_jax.sparse.rows import split_signs, unit_rows

_ITEMS_A_SEGMENT = 20


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
      name: what it is called, and the terms behind that.
      items: [n] positions of its items, the nearest to its vector (by cosine) first.
      parent: the segment of the level above that it is in; -1 at the top.
    """

    name: Name
    items: np.ndarray
    parent: int


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """One level of the segments of a catalogue, the largest first.

    Attributes:
      segments: each item with weights is in exactly one of them.
      vectors: CSR [n_segments, n_factors] float32, rows of unit length: x U V^T scores segments as
        x U A^T scores items (arXiv 2602.09935).
      item_ids: [n_items] text ids.
    """

    segments: tuple[Segment, ...]
    vectors: sp.csr_matrix
    item_ids: np.ndarray

    def __repr__(self) -> str:
        return f"Segments({len(self)} of {len(self.item_ids)} items, {self.n_factors} factors)"

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, at: int) -> Segment:
        return self.segments[at]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    @property
    def n_factors(self) -> int:
        return self.vectors.shape[1]

    @functools.cached_property
    def names(self) -> list[str]:
        return [segment.name.name for segment in self.segments]

    @functools.cached_property
    def of_item(self) -> np.ndarray:
        """[n_items] int64, the segment of each item; -1 for items without weights."""
        labels = np.full(len(self.item_ids), -1)
        for at, segment in enumerate(self.segments):
            labels[segment.items] = at
        return labels

    @functools.cached_property
    def of_pair(self) -> np.ndarray:
        """[2 n_factors] int64, whose vector is largest at (f, +), 2 f, or (f, -), 2 f + 1; or -1.

        Ties go to the lower number.
        """
        pairs = split_signs(self.vectors).tocoo()
        order = np.lexsort((-pairs.row, pairs.data))  # the last of a pair is written last
        labels = np.full(2 * self.n_factors, -1)
        labels[pairs.col[order]] = pairs.row[order]
        return labels


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentTree:
    """Nested segments.

    Attributes:
      levels: the coarsest first.
    """

    levels: tuple[Segments, ...]

    def __repr__(self) -> str:
        return f"SegmentTree({', '.join(str(len(level)) for level in self.levels)} segments)"

    @property
    def for_pages(self) -> Segments:
        """The finest level of 20 items a segment on average, or the coarsest: rows need as many.

        Groups of one factor each (`segments_of_factors`) are but parts of what rows are of.
        """
        able = [
            level
            for level in self.levels
            if len(level.item_ids) >= _ITEMS_A_SEGMENT * len(level)
            and level.vectors.nnz > len(level)
        ]
        return able[-1] if able else self.levels[0]

    @functools.cached_property
    def children(self) -> list[list[np.ndarray]]:
        """For each level but the last: of each segment, its parts, numbers in the next level."""
        parents = [np.array([s.parent for s in level.segments]) for level in self.levels[1:]]
        return [
            members(of, len(level)) for level, of in zip(self.levels[:-1], parents, strict=True)
        ]


def loadings(embeddings: sp.spmatrix, vectors: sp.csr_matrix, of_item: np.ndarray) -> np.ndarray:
    """[n_items] float32, the cosine of each item with its segment's vector; 0 without one."""
    rows = unit_rows(sp.csr_matrix(embeddings)).tocoo()
    towards = np.asarray(vectors[of_item[rows.row], rows.col]).ravel()
    products = np.bincount(rows.row, rows.data * towards, minlength=rows.shape[0])
    return products.astype(np.float32)
