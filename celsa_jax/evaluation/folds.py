"""Which interactions of a test user are held out, fold by fold.

The folds depend on the seed and on the (user id, item id) pairs alone: not on the order of
rows, not on the other users, and never on the catalogue.
"""

from __future__ import annotations

import hashlib

import numpy as np

from celsa_jax.data.interactions import Interactions
from celsa_jax.errors import InputError

FOLD_KINDS = ("disjoint", "independent")
N_FOLDS = 5
HELD_OUT_SHARE = 0.2


def holdouts(data: Interactions, kind: str, seed: int) -> np.ndarray:
    """Which interactions each fold holds out.

    Args:
      data: the users to test.
      kind: `disjoint`, five parts of each user's interactions, their sizes equal to within one,
        so that every interaction is held out exactly once; or `independent`, the reference
        implementation's five draws of ceil(0.2 n) with replacement, repeats dropped.
      seed: of the folds.

    Returns:
      [5, nnz] bool over the stored entries of `data.matrix`.

    Raises:
      InputError: another kind.
    """
    if kind not in FOLD_KINDS:
        raise InputError(f"folds are '{kind}'; choose one of {', '.join(FOLD_KINDS)}")
    matrix = data.matrix
    lengths = np.diff(matrix.indptr)
    users = np.repeat(np.arange(data.n_users), lengths)
    user_keys, item_keys = _hash_ids(data.user_ids), _hash_ids(data.item_ids)
    salt = np.array(seed % 2**64, np.uint64)

    # A pseudo-random order of each user's items that any other set of users would give, too.
    pair_keys = _mix(_mix(user_keys ^ _mix(salt))[users] ^ item_keys[matrix.indices])
    order = np.lexsort((pair_keys, users))
    rank = np.empty(matrix.nnz, np.int64)
    rank[order] = np.arange(matrix.nnz) - matrix.indptr[users]

    held_out = np.zeros((N_FOLDS, matrix.nnz), bool)
    if kind == "disjoint":
        # The offset spreads the larger parts over the folds.
        offset = (_mix(user_keys + salt) % np.uint64(N_FOLDS)).astype(np.int64)
        held_out[(rank + offset[users]) % N_FOLDS, np.arange(matrix.nnz)] = True
        return held_out
    entry = np.empty(matrix.nnz, np.int64)  # the stored entry at each user's rank
    entry[matrix.indptr[users] + rank] = np.arange(matrix.nnz)
    n_draws = np.ceil(HELD_OUT_SHARE * lengths).astype(np.int64)
    drawers = np.repeat(np.arange(data.n_users), n_draws)
    draw = np.arange(len(drawers)) - np.repeat(np.cumsum(n_draws) - n_draws, n_draws)
    for fold in range(N_FOLDS):
        counter = (np.uint64(fold) << np.uint64(40)) + draw.astype(np.uint64)
        bits = _mix(_mix(user_keys ^ _mix(salt))[drawers] ^ _mix(counter))
        drawn_rank = (bits % lengths[drawers].astype(np.uint64)).astype(np.int64)
        held_out[fold, entry[matrix.indptr[drawers] + drawn_rank]] = True
    return held_out


def _hash_ids(ids: np.ndarray) -> np.ndarray:
    digests = (hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on uint64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
