"""Embeddings of items that came after training, from their first users or from their texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from celsa_jax.errors import InputError
from celsa_jax.sparse.rows import keep_largest

# Chosen on validation users for items hidden from training (`experiments.growth`).
_NEAREST = 20


def rows_from_users(embeddings: sp.csr_matrix, user_items: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """The mean embedding of the 20 known items that most share a new item's users.

    Items are compared, and weighed, by the cosine of their users.

    Args:
      embeddings: of the known items, CSR [n_items, n_factors].
      user_items: users x (known items, then new ones), CSR [n_users, n_items + n_new] of ones.
      k: non-zeros of a new row.

    Returns:
      CSR float32 [n_new, n_factors], rows of the known ones' median length; a new item that shares
      no user with a known one gets zeros, and is never recommended.
    """
    n_items = embeddings.shape[0]
    columns = user_items.tocsc()
    known, new = columns[:, :n_items], columns[:, n_items:]
    weights = 1 / np.sqrt(np.maximum(known.getnnz(axis=0), 1))
    return _means(embeddings, (new.T @ known) @ sp.diags_array(weights), k)


def rows_from_texts(
    embeddings: sp.csr_matrix,
    known_texts: Sequence[str],
    texts: Sequence[str],
    k: int,
) -> sp.csr_matrix:
    """The mean embedding of the 20 known items with the nearest texts.

    Texts are compared, and weighed, by the cosine of their TF-IDF vectors over words.

    Args:
      embeddings: of the known items, CSR [n_items, n_factors].
      known_texts: [n_items] a text of each.
      texts: [n_new] the same of the new items.
      k: non-zeros of a new row.

    Returns:
      CSR float32 [n_new, n_factors], rows of the known ones' median length; a new item that shares
      no word with a known one gets zeros, and is never recommended.

    Raises:
      InputError: no word, or another number of texts.
    """
    if len(known_texts) != embeddings.shape[0]:
        raise InputError(
            f"known_texts: {len(known_texts)} texts for {embeddings.shape[0]} known items"
        )
    for name, given in (("known_texts", known_texts), ("texts", texts)):
        for at, text in enumerate(given):
            if not isinstance(text, str):
                raise InputError(
                    f"{name}: {text!r} at {at} is no text; give '' where nothing is known"
                )
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    try:
        known = vectorizer.fit_transform(known_texts)
    except ValueError:
        raise InputError("known_texts: there is no word in them") from None
    return _means(embeddings, vectorizer.transform(texts) @ known.T, k)


def _means(embeddings: sp.csr_matrix, likeness: sp.spmatrix, k: int) -> sp.csr_matrix:
    """By likeness [n_new, n_items], the k largest factors of the mean of the nearest rows."""
    nearest = keep_largest(likeness.tocsr(), _NEAREST)
    rows = keep_largest((nearest @ embeddings).tocsr(), k)
    lengths = sp.linalg.norm(embeddings, axis=1)
    return normalize(rows) * np.float32(np.median(lengths[lengths > 0]))
