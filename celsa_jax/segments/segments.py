"""Segments of a catalogue: named sets of (factor, sign)."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.sparse as sp

from celsa_jax.segments.naming import Name


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
      name: what it is called, and the terms behind that.
      pairs: the (factor, sign) merged into it, sign 1 or -1.
      items: [n] positions of the items that it dominates, strongest first.
    """

    name: Name
    pairs: tuple[tuple[int, int], ...]
    items: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """All segments of a catalogue, the largest first.

    Attributes:
      segments: each (factor, sign) in at most one of them, each item with weights in exactly one.
      item_ids: [n_items] text ids.
      n_factors: d.
    """

    segments: tuple[Segment, ...]
    item_ids: np.ndarray
    n_factors: int

    def __repr__(self) -> str:
        return f"Segments({len(self)} of {len(self.item_ids)} items, {self.n_factors} factors)"

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, at: int) -> Segment:
        return self.segments[at]

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
        """[2 n_factors] int64, the segment of (f, +) at 2 f, of (f, -) at 2 f + 1; -1 for none."""
        labels = np.full(2 * self.n_factors, -1)
        for at, segment in enumerate(self.segments):
            for factor, sign in segment.pairs:
                labels[2 * factor + (sign < 0)] = at
        return labels

    @functools.cached_property
    def vectors(self) -> sp.csr_matrix:
        """CSR [n_segments, n_factors] float32: +1 or -1 on the pairs, then of unit length.

        x A V^T scores segments as x A A^T scores items (arXiv 2602.09935).
        """
        lengths = np.array([len(segment.pairs) for segment in self.segments], np.int64)
        pairs = [pair for segment in self.segments for pair in sorted(segment.pairs)]
        factors, signs = np.array(pairs, np.int64).reshape(-1, 2).T
        values = (signs / np.sqrt(np.repeat(lengths, lengths))).astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return sp.csr_matrix((values, factors, starts), (len(self.segments), self.n_factors))
