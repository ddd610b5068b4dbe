"""Names for groups of items from their metadata, without a network."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import scipy.sparse as sp

from celsa_jax.segments.groups import members, membership
from celsa_jax.segments.terms import MARKS, ItemTerms, squeezed

N_TERMS = 10
_N_CANDIDATES = 30
# Least shares of the items: of a name, its second term, two terms together, each of these two.
_COVERS, _SECOND, _BOTH_COVER, _EACH = 0.65, 0.5, 0.8, 0.3
_TELLS = 0.2  # least divergence: of a name that tells something, and of what a second term adds
_PAIR_TELLS = 1.5  # what two terms together must tell, as a multiple of the best alone
_ALL, _SAYS = 0.9, 1.25  # a name that is true of fewer and says less: the items are mixed
_SAME = 0.4  # of the items that have either of two terms: terms that share more say the same
_MOST_WORDS = 6
_MIXED = "Mixed "
_WORD = re.compile(rf"[\w{MARKS}]+")
_ON_SHELVES = frozenset("a an the and of for read book own my i ve other".split())


@dataclasses.dataclass(frozen=True)
class Name:
    """What a group of items is called.

    Attributes:
      name: a short title-case name; "" where the items have no metadata at all.
      terms: what at least three tenths of the items share, if anything; most telling first.
    """

    name: str
    terms: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The name without "Mixed", with which it begins where it tells little."""
        return self.name.removeprefix(_MIXED)

    @property
    def text(self) -> str:
        """Name and terms, as an embedder reads them."""
        return f"{self.words}: {', '.join(self.terms)}"


def name_groups(labels: np.ndarray, n_groups: int, terms: ItemTerms) -> list[Name]:
    """Names by what most of a group has and few others have (docs/segments.md).

    A term of a share p of the group's items and q of all tells p log(p / q), its part of the
    divergence (Kullback and Leibler) of the group from the catalogue. Terms of one item alone count
    only where there are no others.

    Args:
      labels: [n_items] the group of each item, 0 ... n_groups - 1; -1 for none.
      n_groups: number of groups.
      terms: of the items.
    """
    terms = _merged(terms)
    known = np.diff(terms.matrix.indptr) > 0
    labels = np.where(known, labels, -1)
    n_known = max(int(known.sum()), 1)
    n_items = np.asarray(terms.matrix.sum(axis=0)).ravel()
    counts = (membership(labels, n_groups) @ terms.matrix).tocsr()
    inside = members(labels, n_groups)
    chosen = []
    for group, row in enumerate(counts):
        n = len(inside[group])
        # Where all items are in the group no term is more frequent; then the common ones lead.
        tells = row.data / n * (np.log(row.data * n_known / (n * n_items[row.indices])) + 1e-3)
        recurs = row.data >= 2 if n > 1 else n_items[row.indices] >= 2
        best = np.lexsort((row.indices, -tells, ~recurs))[:_N_CANDIDATES]
        chosen.append(row.indices[best[: recurs[best].sum() or N_TERMS]])
    candidates = np.unique(np.concatenate([np.empty(0, int), *chosen]))
    columns = terms.matrix[:, candidates]
    together = (columns.T @ columns).tocsr()
    names = []
    for items, own in zip(inside, chosen, strict=True):
        at = np.searchsorted(candidates, own)
        here = columns[items][:, at].toarray()
        shares = here.T @ here / max(len(items), 1), together[at][:, at].toarray() / n_known
        names.append(_name(terms.labels[own].tolist(), *shares))
    return names


def _name(labels: list[str], here: np.ndarray, everywhere: np.ndarray) -> Name:
    """A name from terms in descending order of what they tell.

    Args:
      here: [n_terms, n_terms] the share of the group's items that have both of two terms.
      everywhere: [n_terms, n_terms] the same of all items.
    """
    kept = _without_parts(labels, here.diagonal())
    if not kept:
        return Name("")
    labels = [labels[at] for at in kept]
    here, everywhere = here[np.ix_(kept, kept)], everywhere[np.ix_(kept, kept)]
    share, usual = here.diagonal(), everywhere.diagonal()
    tells = share * np.log(share / usual)
    either, usually = (m.diagonal() + m.diagonal()[:, None] - m for m in (here, everywhere))
    apart = ~np.array([[repeats(one, other) for other in labels] for one in labels])
    n_words = np.array([len(label.split()) for label in labels])
    apart &= (everywhere < _SAME * usually) & (np.add.outer(n_words, n_words) <= _MOST_WORDS)

    alone = np.where(share >= _COVERS, tells + 1e-3 * share, -np.inf)
    first = int(np.argmax(alone if (share >= _COVERS).any() else share))
    able = apart & apart.T & (either >= _BOTH_COVER) & (np.minimum(share, share[:, None]) >= _EACH)
    pairs = np.where(able, either * np.log(either / usually), -np.inf)
    shared = [label for label, of in zip(labels, share, strict=True) if of >= _EACH]
    terms = tuple((shared or labels)[:N_TERMS])
    if pairs.max() >= max(_PAIR_TELLS * tells[first], _TELLS) or (
        share[first] < _COVERS and able.any()
    ):
        pair = np.array(np.unravel_index(np.argmax(pairs), pairs.shape))
        words = " and ".join(labels[at] for at in pair[np.argsort(-share[pair])])
        return _named(words, either[*pair], usually[*pair], terms)

    half = np.where(share >= _SECOND, tells, -np.inf)
    most = int(np.argmax(half))
    if share[first] < _COVERS or tells[first] < _TELLS:
        if half[most] < _TELLS:
            return Name(labels[first], terms)
        return _named(labels[most], share[most], usual[most], terms, "Mostly ")
    # What a second term adds: of the items that have the first, how many more have it than usual.
    ratio = np.maximum(here[first], 1e-9) / np.maximum(everywhere[first], 1e-9)
    adds = here[first] * np.log(ratio * usual[first] / share[first])
    adds = np.where(apart[first] & (share >= _SECOND), adds, -np.inf)
    second = int(np.argmax(adds)) if adds.max() >= _TELLS else first
    words = ", ".join(labels[at] for at in dict.fromkeys([first, second]))
    return _named(words, here[first, second], everywhere[first, second], terms)


def _named(
    words: str, share: float, usual: float, terms: tuple[str, ...], otherwise: str = ""
) -> Name:
    """Words that are true of these shares of the items, here and everywhere, and what they are."""
    mixed = share < _ALL and share * np.log(share / usual) < _SAYS
    return Name((_MIXED if mixed else otherwise) + words, terms)


def _merged(terms: ItemTerms) -> ItemTerms:
    """Terms of lists as one that have the same words, written as most items have them."""
    is_text = [kind == "text" for kind in terms.kinds.values()]
    n_items = np.asarray(terms.matrix.sum(axis=0)).ravel()
    order = np.argsort(-n_items, kind="stable")
    numbers: dict[tuple, int] = {}
    of_term = np.zeros(len(order), int)
    written: list[int] = []
    for at in order.tolist():
        label, column = terms.labels[at], int(terms.columns[at])
        words = () if is_text[column] else map(_singular, _WORD.findall(label.casefold()))
        key = (column, frozenset(words) - _ON_SHELVES or label)
        of_term[at] = numbers.setdefault(key, len(numbers))
        if of_term[at] == len(written):
            written.append(at)
    matrix = sp.csr_matrix(terms.matrix @ membership(of_term, len(written)).T)
    matrix.data[:] = 1
    return ItemTerms(matrix, terms.labels[written], terms.columns[written], terms.kinds)


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


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
        longer = [f"{name.name}, {t}" for t in name.terms if not repeats(name.words, t)]
        numbered = (f"{name.name} ({n})" for n in itertools.count(2))
        choices = itertools.chain([name.name], longer[:3], numbered)
        result.append(
            dataclasses.replace(name, name=next(text for text in choices if text not in taken))
        )
        taken.add(result[-1].name)
    return result
