"""From embeddings and metadata to named segments."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.segments.embedders import Embedder, TfidfEmbedder
from celsa_jax.segments.groups import Groups, extract, members, shown_pair
from celsa_jax.segments.language_model import LanguageModelNamer
from celsa_jax.segments.merging import merge_groups
from celsa_jax.segments.naming import Name, distinct, name_groups
from celsa_jax.segments.segments import Segment, Segments
from celsa_jax.segments.terms import ItemTerms


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Segments, and how they came about.

    Attributes:
      segments: the result.
      groups: before merging, one a (factor, sign) that dominates an item.
      labels: [n_groups] the segment of each group.
      tree: the merges (`celsa_jax.segments.merging.merge_groups`).
      threshold: the cosine from which on groups were merged.
      language_model: how many groups it named (`LanguageModelNamer.rename`), if it was asked.
    """

    segments: Segments
    groups: Groups
    labels: np.ndarray
    tree: list[tuple[int, int, float]]
    threshold: float
    language_model: dict[str, int] | None


def find_segments(
    embeddings: sp.spmatrix | sp.sparray,
    item_ids: np.ndarray,
    terms: ItemTerms,
    titles: list[str] | None = None,
    *,
    embedder: Embedder | None = None,
    threshold: float | None = None,
    namer: LanguageModelNamer | None = None,
) -> Segmentation:
    """Extracts groups, names them from metadata and merges those that mean the same.

    Args:
      embeddings: A, items x factors.
      item_ids: [n_items] text ids.
      terms: of the items (`celsa_jax.segments.terms.item_terms`).
      titles: [n_items] what a language model is shown of the items; their ids if None.
      embedder: of names with their terms; `TfidfEmbedder` if None.
      threshold: merge from this cosine on; the embedder's own if None.
      namer: a language model to name the groups that have terms; class-based TF-IDF alone if None.

    Raises:
      InputError: no item has weights; the embedder has no threshold of its own and none is given;
        ids, terms or titles are of another number of items than the embeddings.

    Example:
      >>> from celsa_jax.segments import item_terms
      >>> A = sp.csr_matrix([[1.0, 0, 0], [0, 1, 0], [0, 0, -1]])
      >>> terms = item_terms({"genres": np.array(["Crime, Nordic", "Crime, Nordic", "Poetry"])})
      >>> segmentation = find_segments(A, np.array(["a", "b", "c"]), terms)
      >>> [(segment.name.name, segment.pairs) for segment in segmentation.segments]
      [('Crime, Nordic', ((0, 1), (1, 1))), ('Poetry', ((2, -1),))]
    """
    titles = item_ids.tolist() if titles is None else titles
    given = {"ids": len(item_ids), "terms": terms.matrix.shape[0], "titles": len(titles)}
    for what, n_items in given.items():
        if n_items != embeddings.shape[0]:
            raise InputError(f"{what} of {n_items} items for embeddings of {embeddings.shape[0]}")
    embedder = TfidfEmbedder() if embedder is None else embedder
    threshold = embedder.threshold if threshold is None else threshold
    if threshold is None:
        raise InputError("this embedder has no default merge threshold; give one")
    groups = extract(embeddings)
    n_groups = len(groups.pairs)
    if not n_groups:
        raise InputError("no item of the embeddings has weights; there is nothing to segment")
    names = name_groups(groups.of_item, n_groups, terms)
    counts = None
    if namer is not None:
        items = members(groups.of_item, n_groups, groups.strength)
        names, counts = namer.rename(names, [[titles[i] for i in inside] for inside in items])
    # A group without a name is like no other.
    named = sp.diags_array(np.array([bool(name.name) for name in names], np.float32))
    vectors = named @ embedder.embed([name.text for name in names])
    labels, tree = merge_groups(vectors, groups.factors, threshold)
    sizes = np.bincount(labels, groups.sizes)
    rank = np.argsort(np.argsort(-sizes, kind="stable"))  # the largest segment is the first
    labels = rank[labels]
    of_item = np.append(labels, -1)[groups.of_item]
    segment_names = name_groups(of_item, labels.max() + 1, terms)
    if namer is not None:
        segment_names = _under_largest(segment_names, names, groups.sizes, labels)
    segments = _segments(groups, labels, of_item, segment_names)
    return Segmentation(
        Segments(segments, item_ids, embeddings.shape[1]),
        groups,
        labels,
        tree,
        threshold,
        counts,
    )


def _under_largest(
    segment_names: list[Name], group_names: list[Name], sizes: np.ndarray, labels: np.ndarray
) -> list[Name]:
    """Each segment under the name of its largest group, with its own terms."""
    largest = [inside[np.argmax(sizes[inside])] for inside in members(labels, len(segment_names))]
    return [
        dataclasses.replace(name, name=group_names[group].name)
        for name, group in zip(segment_names, largest, strict=True)
    ]


def _segments(
    groups: Groups, labels: np.ndarray, of_item: np.ndarray, names: list[Name]
) -> tuple[Segment, ...]:
    """Segments of groups and of items; those without a name are called like "Segment 12+"."""
    # A spreadsheet that opens assignments.csv would take what begins like this for a formula.
    names = [dataclasses.replace(name, name=name.name.lstrip("=+-@ ")) for name in names]
    signed = list(zip(groups.factors.tolist(), groups.signs.tolist(), strict=True))
    pairs = [tuple(signed[group] for group in inside) for inside in members(labels, len(names))]
    names = [
        name if name.name else Name(f"Segment {shown_pair(*of_segment[0])}")
        for name, of_segment in zip(names, pairs, strict=True)
    ]
    items = members(of_item, len(names), groups.strength)
    return tuple(map(Segment, distinct(names), pairs, items))
