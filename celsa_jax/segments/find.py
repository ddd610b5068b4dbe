"""From embeddings and metadata to named segments."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp

from celsa_jax.errors import InputError
from celsa_jax.segments.embedders import Embedder, TfidfEmbedder
from celsa_jax.segments.groups import Groups, by_strength, extract, shown_pair
from celsa_jax.segments.language_model import LanguageModelNamer, Outcome
from celsa_jax.segments.merging import merge_groups
from celsa_jax.segments.naming import Name, distinct, name_groups
from celsa_jax.segments.segments import Segment, Segments
from celsa_jax.segments.terms import ItemTerms


@dataclasses.dataclass(frozen=True)
class Found:
    """What `find_segments` found on its way.

    Attributes:
      segments: the result.
      groups: before merging, one a (factor, sign) that dominates an item.
      group_names: [n_groups] their names.
      labels: [n_groups] the segment of each group.
      tree: the merges (`celsa_jax.segments.merging.Merge`).
      threshold: the cosine from which on groups were merged.
      outcome: of the language model, if one was asked.
    """

    segments: Segments
    groups: Groups
    group_names: list[Name]
    labels: np.ndarray
    tree: list[tuple[int, int, float]]
    threshold: float
    outcome: Outcome | None


def find_segments(
    embeddings: sp.spmatrix | sp.sparray,
    item_ids: np.ndarray,
    terms: ItemTerms,
    titles: list[str] | None = None,
    *,
    embedder: Embedder | None = None,
    threshold: float | None = None,
    namer: LanguageModelNamer | None = None,
) -> Found:
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
    """
    shown = item_ids.tolist() if titles is None else titles
    given = {"ids": len(item_ids), "terms": terms.matrix.shape[0], "titles": len(shown)}
    for what, n_items in given.items():
        if n_items != embeddings.shape[0]:
            raise InputError(f"{what} of {n_items} items for embeddings of {embeddings.shape[0]}")
    embedder = TfidfEmbedder() if embedder is None else embedder
    threshold = embedder.threshold if threshold is None else threshold
    if threshold is None:
        raise InputError("this embedder has no default threshold; give --merge_threshold")
    groups = extract(embeddings)
    if not len(groups.pairs):
        raise InputError("no item of the embeddings has weights; there is nothing to segment")
    n_groups = len(groups.pairs)
    names = name_groups(groups.of_item, n_groups, terms)
    outcome = None
    if namer is not None:
        members = by_strength(groups.of_item, groups.strength, n_groups)
        examples = [[shown[i] for i in items] for items in members]
        names, outcome = _renamed(namer, names, examples)
    named = np.array([bool(name.name) for name in names])
    merged = merge_groups(
        embedder.embed([name.text for name in names]), groups.pairs, threshold, named
    )
    of_item = np.where(groups.of_item < 0, -1, merged.labels[groups.of_item])
    of_segment = name_groups(of_item, merged.n_segments, terms)
    if namer is not None:
        of_segment = _of_largest(names, of_segment, groups.sizes, merged.labels)
    sizes = np.bincount(of_item[of_item >= 0], minlength=merged.n_segments)
    order = np.argsort(-sizes, kind="stable")
    rank = np.argsort(order)
    labels = rank[merged.labels]
    items = by_strength(np.where(of_item < 0, -1, rank[of_item]), groups.strength, len(order))
    pairs = [groups.pairs[labels == at] for at in range(len(order))]
    named_or_numbered = [
        of_segment[old] if of_segment[old].name else Name(_unnamed(pair))
        for old, pair in zip(order, pairs, strict=True)
    ]
    all_names = distinct(named_or_numbered, sizes[order])
    segments = tuple(
        Segment(name, tuple((int(p) // 2, 1 - 2 * (int(p) % 2)) for p in pair), inside)
        for name, pair, inside in zip(all_names, pairs, items, strict=True)
    )
    found = Segments(segments, item_ids, embeddings.shape[1])
    return Found(found, groups, names, labels, merged.tree, threshold, outcome)


def _renamed(
    namer: LanguageModelNamer, names: list[Name], examples: list[list[str]]
) -> tuple[list[Name], Outcome]:
    """A language model's names where metadata gave terms; of bare ids it could say nothing."""
    known = [at for at, name in enumerate(names) if name.terms]
    renamed, outcome = namer.rename([names[at] for at in known], [examples[at] for at in known])
    result = list(names)
    for at, name in zip(known, renamed, strict=True):
        result[at] = name
    return result, outcome


def _of_largest(
    names: list[Name], of_segment: list[Name], sizes: np.ndarray, labels: np.ndarray
) -> list[Name]:
    """Each segment under the name of its largest group, with its own terms."""
    result = list(of_segment)
    for group in np.lexsort((-np.arange(len(sizes)), sizes)).tolist():  # the largest comes last
        result[labels[group]] = dataclasses.replace(
            of_segment[labels[group]], name=names[group].name
        )
    return result


def _unnamed(pairs: np.ndarray) -> str:
    """What a segment without metadata is called: "Segment 12+"."""
    return f"Segment {shown_pair(pairs[0] // 2, 1 - 2 * (pairs[0] % 2))}"
