"""Names for groups of items from their metadata, without a network."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np

from celsa_jax.segments.groups import membership
from celsa_jax.segments.terms import MARKS, ItemTerms, squeezed

N_TERMS = 10
LEAST_SHARE = 0.5
_MOST_WORDS = 5
_UNCOMMON = 1e-3
_WORD = re.compile(rf"[\w{MARKS}]+")


@dataclasses.dataclass(frozen=True)
class Name:
    """What a group of items is called.

    Attributes:
      name: a short title-case name; "" where the items have no metadata at all.
      terms: what the items share, most telling first.
      share: of the items with metadata, how many have the first term; None without terms, or
        where read from a file.
    """

    name: str
    terms: tuple[str, ...] = ()
    share: float | None = None

    @property
    def text(self) -> str:
        """Name and terms, as an embedder reads them."""
        return f"{self.name}: {', '.join(self.terms)}"


def name_groups(labels: np.ndarray, n_groups: int, terms: ItemTerms) -> list[Name]:
    """Names by class-based TF-IDF: what is common in a group and rare elsewhere.

    A term scores its share of the group's items, squared, times log(n_items / n_items_with_term).
    (Grootendorst, arXiv 2203.05794, weighs by the frequency over classes instead; in classes of
    a few items that picks what a single item says.) Terms of fewer than half of the items,
    or of one item alone, count only where there are no others. The name is the best term and,
    behind a comma, the best that repeats none of its words, from another column if possible.

    Args:
      labels: [n_items] the group of each item, 0 ... n_groups - 1; -1 for none.
      n_groups: number of groups.
      terms: of the items.
    """
    in_group = membership(labels, n_groups)
    has_terms = np.diff(terms.matrix.indptr) > 0
    n_known = in_group @ has_terms.astype(np.float32)
    n_items = np.asarray(terms.matrix.sum(axis=0)).ravel()
    rarity = np.log((has_terms.sum() + 1) / np.maximum(n_items, 1))
    counts = (in_group @ terms.matrix).tocsr()
    names = []
    for group in range(n_groups):
        row = slice(counts.indptr[group], counts.indptr[group + 1])
        present, count = counts.indices[row], counts.data[row]
        share = count / max(n_known[group], 1)
        recurs = count >= 2 if n_known[group] > 1 else n_items[present] >= 2
        common = recurs & (share >= LEAST_SHARE)
        score = share**2 * rarity[present] * np.where(common, 1, _UNCOMMON)
        best = np.lexsort((present, -score))[: 4 * N_TERMS]
        best = best[: common[best].sum() or N_TERMS]
        chosen = present[best]
        names.append(
            _name(terms.labels[chosen].tolist(), terms.columns[chosen].tolist(), share[best])
        )
    return names


def _name(labels: list[str], columns: list[int], share: np.ndarray) -> Name:
    """A name from terms in descending order."""
    kept = _without_parts(labels, share)
    if not kept:
        return Name("")
    first, *others = kept
    fits = [
        at
        for at in others
        if share[at] >= LEAST_SHARE
        and not repeats(labels[first], labels[at])
        and len(f"{labels[first]} {labels[at]}".split()) <= _MOST_WORDS
    ]
    second = [at for at in fits if columns[at] != columns[first]] or fits
    name = ", ".join(labels[at] for at in [first, *second[:1]])
    return Name(name, tuple(labels[at] for at in kept[:N_TERMS]), float(share[first]))


def _without_parts(labels: list[str], share: np.ndarray) -> list[int]:
    """Positions of the terms, a phrase in the place of its parts that say as much.

    "Anita" gives way to "Anita Blake" where nearly as many items have the whole.
    """
    padded = [f" {label.casefold()} " for label in labels]
    kept: list[int] = []
    for at in range(len(labels)):
        wholes = [
            other
            for other in range(len(labels))
            if len(padded[other]) > len(padded[at])
            and padded[at] in padded[other]
            and share[other] >= 0.8 * share[at]
        ]
        best = max(wholes, key=lambda other: (share[other], len(padded[other])), default=at)
        if best not in kept:
            kept.append(best)
    return kept


def repeats(name: str, term: str) -> bool:
    """Whether a term has a word of a name, or one that begins alike."""
    stems = [{word[:5] for word in _WORD.findall(text.casefold())} for text in (name, term)]
    return bool(stems[0] & stems[1]) or squeezed(name) in squeezed(term)


def distinct(names: list[Name]) -> list[Name]:
    """The same names, each only once: the later of two namesakes says one term more.

    Where no term is left, a number follows: "Fantasy (2)".
    """
    taken: set[str] = set()
    result = []
    for name in names:
        longer = [f"{name.name}, {t}" for t in name.terms if not repeats(name.name, t)]
        numbered = (f"{name.name} ({n})" for n in itertools.count(2))
        choices = itertools.chain([name.name], longer[:3], numbered)
        result.append(
            dataclasses.replace(name, name=next(text for text in choices if text not in taken))
        )
        taken.add(result[-1].name)
    return result
