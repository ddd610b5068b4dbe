"""What the metadata of an item says, as a bag of terms."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import unicodedata

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from celsa_jax.errors import InputError

# What readers' own shelves are called, not what is on them.
_SHELVES = re.compile(r"(^| )(to read|currently reading|favorites?|favourites|owned)( |$)", re.I)
_NUMBERING = {"vol", "volume", "volumes", "book", "books", "part", "no", "edition", "series", "set"}
_STOP_WORDS = ENGLISH_STOP_WORDS | _NUMBERING
# Combining marks, for classes of characters: to `re` the vowel signs of Hindi are of no word.
MARKS = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c)[0] == "M")
_WORD = re.compile(rf"\w[\w{MARKS}]*(?:['\u2019.]\w[\w{MARKS}]*)*\.?")  # of texts without _
_PIECES = re.compile(rf"[^\w\s'\u2019.&{MARKS}-]+")
_NOT_COMPARED = re.compile(rf"[^\w+#{MARKS}]+|_+")
_ABBREVIATIONS = set("ya sf uk us usa tv ii iii iv ww1 ww2 lgbt diy".split())
_DELIMITERS = ("|", ";", ",")
_LONGEST_PHRASE = 3
_SAMPLE = 20_000


@dataclasses.dataclass(frozen=True)
class ItemTerms:
    """The terms of each item.

    Attributes:
      matrix: CSR [n_items, n_terms] float32, 1 where the item has the term.
      labels: [n_terms] how to print a term.
      columns: [n_terms] index into `kinds` of the column that a term comes from.
      kinds: by column, "text" or the delimiter of a column of lists.
    """

    matrix: sp.csr_matrix
    labels: np.ndarray
    columns: np.ndarray
    kinds: dict[str, str]

    def of_columns(self, names: list[str]) -> ItemTerms:
        """The terms of some of the columns."""
        keep = np.isin(self.columns, [list(self.kinds).index(name) for name in names])
        return ItemTerms(
            self.matrix[:, keep], self.labels[keep], self.columns[keep], dict(self.kinds)
        )


def item_terms(
    columns: dict[str, np.ndarray],
    list_columns: tuple[str, ...] | None = None,
    n_items: int | None = None,
) -> ItemTerms:
    """Terms from metadata columns.

    A cell of a list column (genres, authors) is a list of terms. A cell of a text column (titles)
    gives its words and phrases of up to three words that neither begin nor end with a stop word.
    Case makes no difference between terms, nor do blanks and punctuation in lists. Readers' own
    shelves ("to read", "favorites") are left out.

    Args:
      columns: [n_items] text each; "" where there is nothing.
      list_columns: names of the columns of lists, delimited by |, ; or a comma, or written like
        ["a, b", "c"]. None finds them: short elements, many of which recur.
      n_items: needed only where there are no columns.

    Raises:
      InputError: `list_columns` names a column that is not there.

    Example:
      >>> terms = item_terms({"genres": np.array(["crime|sci-fi", "SciFi"])}, ("genres",))
      >>> terms.labels.tolist(), terms.matrix.toarray().tolist()
      (['Crime', 'Sci Fi'], [[1.0, 1.0], [0.0, 1.0]])
    """
    for name in list_columns or ():
        if name not in columns:
            raise InputError(f"list column '{name}' is none of {', '.join(columns)}")
    n_items = len(next(iter(columns.values()))) if columns else n_items or 0
    matrices, labels, sources, kinds = [sp.csr_matrix((n_items, 0))], [], [], {}
    for at, (name, cells) in enumerate(columns.items()):
        if list_columns is None:
            delimiter = _list_delimiter(cells)
        else:
            delimiter = _most_common_delimiter(cells) if name in list_columns else None
        kinds[name] = delimiter or "text"
        matrix, of_column = _column_terms(cells, delimiter)
        matrices.append(matrix)
        labels += of_column
        sources += [at] * len(of_column)
    keep = np.array([not _SHELVES.search(label) for label in labels], bool)
    return ItemTerms(
        sp.hstack(matrices, format="csr", dtype=np.float32)[:, keep],
        np.array(labels, object)[keep],
        np.array(sources, np.int64)[keep],
        kinds,
    )


def _list_delimiter(cells: np.ndarray) -> str | None:
    """The delimiter of a column of lists, or None for a column of text.

    A column is one of lists if a delimiter is in at least a tenth of its cells, and splitting by it
    leaves elements of at most four words on average of which at least 40 % are repetitions.
    """
    sample = [cell for cell in cells[: 5 * _SAMPLE].tolist() if cell][:_SAMPLE]
    for delimiter in _DELIMITERS:
        if sum(delimiter in cell for cell in sample) < 0.1 * max(len(sample), 1):
            continue
        elements = [pair for cell in sample for pair in _elements(cell, delimiter).items()]
        n_words = sum(len(element.split()) for _, element in elements)
        n_different = len({key for key, _ in elements})
        if n_words <= 4 * len(elements) and n_different <= 0.6 * len(elements):
            return delimiter
    return None


def _most_common_delimiter(cells: np.ndarray) -> str:
    counts = {d: sum(d in cell for cell in cells[:_SAMPLE].tolist()) for d in (",", "|", ";")}
    return max(counts, key=counts.__getitem__)  # the comma where there is none


def _column_terms(cells: np.ndarray, delimiter: str | None) -> tuple[sp.csr_matrix, list[str]]:
    """Of a column: CSR [n_items, n_terms] float32, and how to print each of its terms.

    Args:
      delimiter: of a column of lists; None for text.
    """
    written: dict[str, str] = {}

    def list_terms(cell: str) -> list[str]:
        elements = _elements(cell, delimiter)
        for key, element in elements.items():
            written.setdefault(key, element)
        return list(elements)

    analyze = list_terms if delimiter else _phrases
    vectorizer = CountVectorizer(analyzer=analyze, binary=True, dtype=np.float32)
    try:
        matrix = vectorizer.fit_transform(cells)
    except ValueError:  # scikit-learn's word for an empty vocabulary
        return sp.csr_matrix((len(cells), 0), dtype=np.float32), []
    keys = vectorizer.get_feature_names_out().tolist()
    return matrix, [_label(written.get(key, key)) for key in keys]


def _elements(cell: str, delimiter: str | None) -> dict[str, str]:
    """The elements of a cell: how a term is compared, to how it is written."""
    elements = _quoted_elements(cell)
    if elements is None:
        if cell.startswith("[") and cell.endswith("]"):
            cell = cell[1:-1]
        elements = [part.strip().strip("'\"") for part in cell.split(delimiter)]
    keyed = {squeezed(element): element for element in elements}
    keyed.pop("", None)
    return keyed


def _quoted_elements(cell: str) -> list[str] | None:
    """The elements of a list in JSON or Python with quoted texts; None for any other cell."""
    if not cell.startswith("[") or not cell.endswith("]") or not ("'" in cell or '"' in cell):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return [str(element).strip() for element in parse(cell) if element is not None]
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def squeezed(text: str) -> str:
    """Its letters and digits alone: sci-fi and scifi, children's and children-s are one."""
    return _NOT_COMPARED.sub("", text.casefold())


def _phrases(text: str) -> list[str]:
    """Words, and runs of words within one piece of punctuation-free text."""
    phrases = []
    for piece in _PIECES.split(text.casefold().replace("-", " ").replace("_", " ")):
        words = _WORD.findall(piece)
        for first, word in enumerate(words):
            if not _can_end(word):
                continue
            for last in range(first, min(first + _LONGEST_PHRASE, len(words))):
                if _can_end(words[last]):
                    phrases.append(" ".join(words[first : last + 1]))
    return phrases


def _can_end(word: str) -> bool:
    bare = word.rstrip(".")
    return len(bare) > 1 and bare not in _STOP_WORDS and not bare.isdigit()


def _label(text: str) -> str:
    """Title case, unless the text brings capitals of its own."""
    text = " ".join(text.replace("-", " ").replace("_", " ").split())
    if text != text.lower():
        return text
    words = re.sub(r" s\b", "'s", text).split(" ")
    return " ".join(_capitalized(word, first=not at) for at, word in enumerate(words))


def _capitalized(word: str, first: bool) -> str:
    if word in _ABBREVIATIONS:
        return word.upper()
    if not first and len(word) < 5 and word in ENGLISH_STOP_WORDS:
        return word
    return word[:1].upper() + word[1:]
