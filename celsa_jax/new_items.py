"""Embeddings of items that came after training, from their first users or from their texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from celsa_jax.errors import InputError
from celsa_jax.sparse.rows import keep_largest

_NEAREST = 20  # items whose embeddings a new one takes the mean of
_ROWS_AT_ONCE = 1024


def rows_from_users(embeddings: sp.csr_matrix, user_items: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """The mean direction of an item's users' latent vectors, in the median length of all rows.

    Args:
      embeddings: of the known items, CSR [n_items, n_factors].
      user_items: users x (known items, then new ones), CSR [n_users, n_items + n_new] of ones.
      k: non-zeros of a new row.

    Returns:
      CSR float32 [n_new, n_factors]; a new item whose users have no known item gets zeros, and is
      never recommended.
    """
    n_items = embeddings.shape[0]
    latent = normalize(user_items[:, :n_items] @ embeddings)
    lengths = sp.linalg.norm(embeddings, axis=1)
    rows = keep_largest((user_items[:, n_items:].T @ latent).tocsr(), k)
    return normalize(rows) * np.float32(np.median(lengths[lengths > 0]))


def rows_from_texts(
    embeddings: sp.csr_matrix,
    known_texts: Sequence[str],
    texts: Sequence[str],
    k: int,
) -> sp.csr_matrix:
    """The mean embedding of the 20 known items with the nearest texts, weighed by nearness.

    Texts are compared by the cosine of their TF-IDF vectors over words.

    Args:
      embeddings: of the known items, CSR [n_items, n_factors].
      known_texts: [n_items] a text of each.
      texts: [n_new] the same of the new items.
      k: non-zeros of a new row.

    Returns:
      CSR float32 [n_new, n_factors]; a new item that shares no word with a known one gets zeros,
      and is never recommended.

    Raises:
      InputError: no text, or another number of them.
    """
    if len(known_texts) != embeddings.shape[0]:
        raise InputError(
            f"known_texts: {len(known_texts)} texts for {embeddings.shape[0]} known items"
        )
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    try:
        known = vectorizer.fit_transform(known_texts)
    except ValueError:
        raise InputError("known_texts: there is no word in them") from None
    new = vectorizer.transform(texts)
    rows = [sp.csr_matrix((0, embeddings.shape[1]), dtype=np.float32)]
    for first in range(0, new.shape[0], _ROWS_AT_ONCE):
        likeness = (new[first : first + _ROWS_AT_ONCE] @ known.T).tocsr()
        nearest = normalize(keep_largest(likeness, _NEAREST), norm="l1")
        rows.append(keep_largest((nearest @ embeddings).tocsr(), k))
    return sp.vstack(rows, format="csr")
