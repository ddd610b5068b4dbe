"""From embeddings and metadata to named segments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.segments.embedders import Embedder, TfidfEmbedder
from celsa_jax.segments.groups import members, membership, strongest_pairs
from celsa_jax.segments.hierarchy import nested_clusters
from celsa_jax.segments.language_model import N_EXAMPLES, LanguageModelNamer
from celsa_jax.segments.merging import merge_groups
from celsa_jax.segments.naming import Name, distinct, name_groups
from celsa_jax.segments.quality import metadata_vectors
from celsa_jax.segments.segments import Segment, Segments, SegmentTree, loadings
from celsa_jax.segments.terms import ItemTerms
from celsa_jax.sparse.rows import unit_rows

_N_SEGMENTS, _LEAST_ITEMS = (30, 300, 1500), 3  # by level, where segments have so many each


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """Items to divide, and what is known of them.

    Attributes:
      embeddings: A, items x factors, sparse.
      item_ids: [n_items] text ids.
      terms: of the items (`celsa_jax.segments.terms.item_terms`).
      shown: [n_items] what a language model is shown of an item: its title, or texts by the name
        of their column; ids if None.

    Raises:
      InputError: ids, terms or texts are of another number of items than the embeddings.
    """

    embeddings: sp.csr_matrix
    item_ids: np.ndarray
    terms: ItemTerms
    shown: Sequence[str | dict[str, str]] | None = None

    def __post_init__(self):
        given = {"ids": len(self.item_ids), "terms": self.terms.matrix.shape[0]}
        if self.shown is not None:
            given["titles"] = len(self.shown)
        for what, n_items in given.items():
            if n_items != self.embeddings.shape[0]:
                raise InputError(
                    f"{what} of {n_items} items for embeddings of {self.embeddings.shape[0]}"
                )


def find_segments(
    catalogue: Catalogue,
    n_segments: Sequence[int] | None = None,
    *,
    kin_columns: Sequence[str] = (),
    namer: LanguageModelNamer | None = None,
    seed: int = 0,
) -> SegmentTree:
    """Nested segments of the items whose embeddings are alike, named from metadata.

    A segment's vector is the mean of its items' rows at unit length, scaled to unit length.

    Args:
      catalogue: the items.
      n_segments: of each level, in any order; None for those of 30, 300 and 1,500 that leave three
        items a segment, at least one level.
      kin_columns: of the terms (authors). Items that share some are drawn to each other; other
        metadata have no say in which items are together.
      namer: a language model to name segments that have terms; terms alone if None.
      seed: of `celsa_jax.segments.hierarchy.nested_clusters`.

    Example:
      >>> from celsa_jax.segments import item_terms
      >>> A = sp.csr_matrix([[1, 0.1, 0], [1, 0.2, 0], [0, 0.2, 1], [0, 0.1, 1]])
      >>> genres = np.array(["Nordic, Crime", "Crime", "Poetry", "Poetry"])
      >>> tree = find_segments(Catalogue(A, np.array(list("abcd")), item_terms({"g": genres})), [2])
      >>> [(segment.name.name, segment.items.tolist()) for segment in tree.levels[0]]
      [('Crime', [0, 1]), ('Poetry', [2, 3])]
    """
    if n_segments is None:
        n_items = int(np.count_nonzero(np.diff(catalogue.embeddings.tocsr().indptr)))
        most = n_items // _LEAST_ITEMS
        least, *others = _N_SEGMENTS
        n_segments = [max(1, min(least, most)), *(n for n in others if n <= most)]
    kin = metadata_vectors(catalogue.terms, kin_columns) if kin_columns else None
    labels = nested_clusters(catalogue.embeddings, n_segments, seed, kin)
    rows = unit_rows(sp.csr_matrix(catalogue.embeddings, dtype=np.float32))
    vectors = [unit_rows((membership(of, of.max() + 1) @ rows).tocsr()) for of in labels]
    return _named_tree(catalogue, labels, vectors, namer)


def segments_of_factors(
    catalogue: Catalogue,
    *,
    embedder: Embedder | None = None,
    threshold: float | None = None,
    namer: LanguageModelNamer | None = None,
) -> SegmentTree:
    """The segments of arXiv 2602.09935: groups of items by their strongest factor and its sign.

    Groups are named from metadata, and those whose names and terms mean the same are merged. The
    vector of a segment is +1 or -1 on the factors merged into it, then scaled to unit length.

    Args:
      catalogue: the items.
      embedder: of names with their terms; `TfidfEmbedder` if None.
      threshold: merge from this cosine on; the embedder's own if None.
      namer: a language model to name groups that have terms, and what several are merged into.

    Returns:
      Two levels: segments, and the groups in them.

    Raises:
      InputError: no item has weights; the embedder has no threshold of its own and none is given.
    """
    embedder = TfidfEmbedder() if embedder is None else embedder
    threshold = embedder.threshold if threshold is None else threshold
    if threshold is None:
        raise InputError("this embedder has no default merge threshold; give one")
    pairs, of_item, strength = strongest_pairs(catalogue.embeddings)
    n_groups = len(pairs)
    if not n_groups:
        raise InputError("no item of the embeddings has weights; there is nothing to segment")
    names = name_groups(of_item, n_groups, catalogue.terms)
    if namer is not None:
        names = namer.rename(names, _examples(catalogue, members(of_item, n_groups, strength)))
    # A group without a name is like no other.
    named = sp.diags_array(np.array([bool(name.name) for name in names], np.float32))
    texts = sp.csr_matrix(named @ embedder.embed([name.text for name in names]))
    of_group = merge_groups(texts, pairs // 2, threshold)
    signs = (1 - 2 * (pairs % 2)).astype(np.float32)
    shape = (n_groups, catalogue.embeddings.shape[1])
    vectors = sp.csr_matrix((signs, pairs // 2, np.arange(n_groups + 1)), shape)
    merged = unit_rows((membership(of_group, of_group.max() + 1) @ vectors).tocsr())
    labels = [np.append(of_group, -1)[of_item], of_item]
    return _named_tree(catalogue, labels, [merged, vectors], namer, names)


def _named_tree(
    catalogue: Catalogue,
    labels: list[np.ndarray],
    vectors: list[sp.csr_matrix],
    namer: LanguageModelNamer | None,
    finest_names: list[Name] | None = None,
) -> SegmentTree:
    """Levels of labels and vectors, the coarsest first, as segments, the largest first.

    Args:
      finest_names: of the last level, if the language model has named it already.
    """
    levels: list[dict[str, Any]] = []
    for of_item, vectors_of_level in zip(labels, vectors, strict=True):
        order = np.argsort(-np.bincount(of_item[of_item >= 0]), kind="stable")
        of_item = np.append(np.argsort(order), -1)[of_item]
        vectors_of_level = vectors_of_level[order].sorted_indices()
        items = members(
            of_item, len(order), loadings(catalogue.embeddings, vectors_of_level, of_item)
        )
        above = levels[-1]["of_item"] if levels else np.full(len(of_item), -1)
        levels.append(
            {
                "of_item": of_item,
                "vectors": vectors_of_level,
                "items": items,
                "parents": np.array([above[inside[0]] for inside in items]),
                "names": name_groups(of_item, len(order), catalogue.terms),
            }
        )
    if finest_names is not None:
        levels[-1]["names"] = [finest_names[at] for at in order]
    elif namer is not None:
        examples = _examples(catalogue, levels[-1]["items"])
        levels[-1]["names"] = namer.rename(levels[-1]["names"], examples)
    if namer is not None:
        _rename_merged(levels, namer)
    return SegmentTree(tuple(_segments(level, catalogue.item_ids) for level in levels))


def _rename_merged(levels: list[dict[str, Any]], namer: LanguageModelNamer) -> None:
    """Names all levels but the finest by the names of their parts."""
    for level, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
        parts = [
            [below["names"][at].name for at in inside]
            for inside in members(below["parents"], len(level["names"]))
        ]
        level["names"] = namer.rename_merged(level["names"], parts)


def _segments(level: dict[str, Any], item_ids: np.ndarray) -> Segments:
    # A spreadsheet that opens assignments.csv would take what begins like this for a formula.
    shown = [dataclasses.replace(n, name=n.name.lstrip("=+-@ ")) for n in level["names"]]
    names = [name if name.name else Name(f"Segment {at}") for at, name in enumerate(shown, 1)]
    parents = level["parents"].tolist()
    segments = tuple(map(Segment, distinct(names), level["items"], parents))
    return Segments(segments, level["vectors"], item_ids)


def _examples(catalogue: Catalogue, items: list[np.ndarray]) -> list[list[str | dict[str, str]]]:
    """What a language model is shown of the first items of each group."""
    shown = catalogue.item_ids.tolist() if catalogue.shown is None else catalogue.shown
    return [[shown[item] for item in inside[:N_EXAMPLES]] for inside in items]
