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
_SECOND, _WORD_SHARE = 0.2, 0.4  # least shares of a second term
_TELLING, _SHARED = 0.5, 0.8  # score, share
_MOST_WORDS = 6
_UNCOMMON = 1e-3
_MORE = " and more"
_WORD = re.compile(rf"[\w{MARKS}]+")


@dataclasses.dataclass(frozen=True)
class Name:
    """What a group of items is called.

    Attributes:
      name: a short title-case name; "" where the items have no metadata at all.
      terms: what the items share, most telling first.
    """

    name: str
    terms: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Name and terms, as an embedder reads them."""
        return f"{self.name}: {', '.join(self.terms)}"


def name_groups(labels: np.ndarray, n_groups: int, terms: ItemTerms) -> list[Name]:
    """Names by what is common in a group and rare elsewhere.

    A term scores p log(p / q), where p is its share of the group's items and q that of all: its
    part of the divergence (Kullback and Leibler) of the group from the catalogue. Terms of one item
    alone count only where there are no others. The name is the best term that half of the items
    have (or the most common one) and, behind a comma, the best other of a fifth of the items (two
    fifths for a word of a text) that repeats none of its words, from another column if possible. It
    ends in "and more" where no term of half of the items scores 0.5 and none is of four fifths.

    Args:
      labels: [n_items] the group of each item, 0 ... n_groups - 1; -1 for none.
      n_groups: number of groups.
      terms: of the items.
    """
    in_group = membership(labels, n_groups)
    has_terms = np.diff(terms.matrix.indptr) > 0
    n_known = in_group @ has_terms.astype(np.float32)
    n_items = np.asarray(terms.matrix.sum(axis=0)).ravel()
    everywhere = n_items / max(has_terms.sum(), 1)
    counts = (in_group @ terms.matrix).tocsr()
    names = []
    for group in range(n_groups):
        row = slice(counts.indptr[group], counts.indptr[group + 1])
        present, count = counts.indices[row], counts.data[row]
        share = count / max(n_known[group], 1)
        # Where all items are in the group no term is more frequent; then the common ones lead.
        score = share * (np.log(share / everywhere[present]) + 1e-3)
        recurs = count >= 2 if n_known[group] > 1 else n_items[present] >= 2
        best = np.lexsort((present, -score * np.where(recurs, 1, _UNCOMMON)))[: 4 * N_TERMS]
        best = best[: recurs[best].sum() or N_TERMS]
        names.append(_name(terms, present[best], share[best], score[best]))
    return names


def _name(terms: ItemTerms, chosen: np.ndarray, share: np.ndarray, score: np.ndarray) -> Name:
    """A name from terms in descending order."""
    labels, columns = terms.labels[chosen].tolist(), terms.columns[chosen].tolist()
    is_text = [kind == "text" for kind in terms.kinds.values()]
    kept = _without_parts(labels, share)
    if not kept:
        return Name("")
    common = [at for at in kept if share[at] >= LEAST_SHARE]
    first = common[0] if common else max(kept, key=lambda at: share[at])
    fits = [
        at
        for at in kept
        if share[at] >= (_WORD_SHARE if is_text[columns[at]] and " " not in labels[at] else _SECOND)
        and not repeats(labels[first], labels[at])
        and len(f"{labels[first]} {labels[at]}".split()) <= _MOST_WORDS
    ]
    second = [at for at in fits if columns[at] != columns[first]] or fits
    name = ", ".join(labels[at] for at in [first, *second[:1]])
    if not any(score[at] >= _TELLING or share[at] >= _SHARED for at in common):
        name += _MORE
    return Name(name, tuple(labels[at] for at in kept[:N_TERMS]))


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
        short = name.name.removesuffix(_MORE)
        end = name.name[len(short) :]
        longer = [f"{short}, {term}{end}" for term in name.terms if not repeats(short, term)]
        numbered = (f"{name.name} ({n})" for n in itertools.count(2))
        choices = itertools.chain([name.name], longer[:3], numbered)
        result.append(
            dataclasses.replace(name, name=next(text for text in choices if text not in taken))
        )
        taken.add(result[-1].name)
    return result
