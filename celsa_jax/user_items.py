"""What callers give the estimator, checked: matrices, tables and ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from sklearn.utils.validation import check_non_negative

from celsa_jax.arrays import check_sparse, id_fault
from celsa_jax.data import Interactions
from celsa_jax.data.datasets import filter_ratings
from celsa_jax.data.readers import Columns, ratings_of_frame
from celsa_jax.errors import InputError
from celsa_jax.sparse.npz import check_ids

Matrix: TypeAlias = "sp.spmatrix | sp.sparray | np.ndarray"


def interactions_of_frame(
    frame: Any,
    name: str,
    user: str,
    item: str,
    rating: str | None,
    min_rating: float | None,
    min_user_interactions: int = 1,
) -> tuple[Interactions, bool]:
    """The interactions of a table, and whether its item ids are integers; see `fit_frame`."""
    if len({user, item, rating}) < 3:
        raise InputError("user, item and rating are columns of their own")
    if rating is None and min_rating is not None:
        raise InputError("min_rating: name the column of the ratings, too, as rating")
    ratings, are_integers = ratings_of_frame(frame, Columns(user, item, rating or ""), name)
    return filter_ratings(ratings, min_rating, min_user_interactions, name)[0], are_integers


def positives(user_items: Matrix) -> sp.csr_matrix:
    """Ones where interactions are, CSR float32; ValueError for what is no interactions."""
    if sp.issparse(user_items):
        check_sparse(user_items)
    matrix = sp.csr_matrix(user_items, copy=True)
    if not np.isfinite(matrix.data).all():
        raise ValueError("user_items contains NaN or infinity")
    check_non_negative(matrix, "CompressedELSA")
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return sp.csr_matrix(
        (np.ones(matrix.nnz, np.float32), matrix.indices, matrix.indptr), matrix.shape
    )


def interactions_of(users: sp.csr_matrix, item_ids: np.ndarray) -> Interactions:
    """Those of the users who have any, known by their rows."""
    rows = np.flatnonzero(np.diff(users.indptr))
    return Interactions(users[rows], rows.astype(np.str_), item_ids, fixed_items=True)


def nobody(users: Interactions) -> Interactions:
    return users.take_users(np.arange(0))


def ids_as_text(item_ids: Sequence | np.ndarray, name: str, n: int) -> tuple[np.ndarray, bool]:
    """Ids as texts, and whether they were integers; InputError for what is no id."""
    if isinstance(item_ids, str | bytes) or not hasattr(item_ids, "__len__"):
        raise InputError(f"{name}: give a list of ids")
    ids = np.asarray(item_ids)
    if ids.shape != (n,):
        raise InputError(f"{name}: {len(ids)} ids for {n} items")
    are_integers = ids.dtype.kind in "iu"
    if not are_integers:
        # Not of NumPy's text, which drops what ends in NUL.
        values = item_ids.tolist() if hasattr(item_ids, "tolist") else list(item_ids)
        are_integers = bool(values) and all(_is_integer(value) for value in values)
        for value in () if are_integers else values:
            if not isinstance(value, str):
                raise InputError(f"{name}: {value!r} is no text; ids are all texts or all integers")
            if fault := id_fault(value):
                raise InputError(f"{name}: the id {value!r} {fault}")
    text = ids.astype(np.str_)
    check_ids(text, n, name, "items")
    return text, are_integers


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
