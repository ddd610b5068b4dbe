"""Synthetic interactions from planted segments, and metadata that name them."""

from __future__ import annotations

import numpy as np

from celsa_jax.data.interactions import Interactions
from celsa_jax.errors import InputError

_PLACES = ("Nordic", "Desert", "Harbour", "Mountain", "Midnight", "Island", "Orchard", "Winter")
_KINDS = ("Crime", "Romance", "Space Opera", "Cooking", "History", "Poetry", "Chess", "Gardening")
_SEGMENTS_OF_USER, _HISTORY = 3, 40.0
_POPULAR, _SHARED = 0.2, 0.2  # of a history by popularity alone; of the items in two segments


def synthetic(
    n_users: int = 6_000,
    n_items: int = 2_000,
    n_segments: int = 40,
    *,
    seed: int = 0,
) -> tuple[Interactions, dict[str, np.ndarray]]:
    """Draws users who pick items from a few segments each, and some by popularity alone.

    A user likes three segments; of a history of at least five items (log-normal lengths, 40 in the
    mean), a fifth follow popularity (Zipf with exponent 1 over all items) and the others are
    uniform over the items of the user's segments. A fifth of the items belong to a second segment
    as well.

    Returns:
      Interactions, and item metadata: a title names an item's first segment, genres name all.
    """
    for name, value in (("n_users", n_users), ("n_items", n_items), ("n_segments", n_segments)):
        if value < 1:
            raise InputError(f"config.data.synthetic.{name} is {value}; it must be at least 1")
    if n_segments > min(n_items, len(_PLACES) * len(_KINDS)):
        raise InputError(
            f"config.data.synthetic.n_segments is {n_segments}; "
            f"it can be at most {min(n_items, len(_PLACES) * len(_KINDS))}"
        )
    rng = np.random.default_rng(seed)
    all_names = [f"{place} {kind}" for kind in _KINDS for place in _PLACES]
    names = np.array([all_names[i] for i in rng.permutation(len(all_names))[:n_segments]])

    primary = rng.permutation(np.arange(n_items) % n_segments)
    membership = np.zeros((n_items, n_segments), bool)
    membership[np.arange(n_items), primary] = True
    shared = rng.permutation(n_items)[: round(_SHARED * n_items)]
    if n_segments > 1:
        second = (primary[shared] + rng.integers(1, n_segments, len(shared))) % n_segments
        membership[shared, second] = True
    members = [np.flatnonzero(membership[:, s]) for s in range(n_segments)]

    popularity = 1.0 / (1 + rng.permutation(n_items))
    cumulative = np.cumsum(popularity / popularity.sum())
    lengths = np.maximum(5, rng.lognormal(np.log(_HISTORY) - 0.125, 0.5, n_users)).astype(int)
    users = np.repeat(np.arange(n_users), lengths)
    items = np.empty(len(users), np.int64)
    end = 0
    for length in lengths:
        start, end = end, end + length
        liked = rng.choice(n_segments, min(_SEGMENTS_OF_USER, n_segments), replace=False)
        pool = np.concatenate([members[s] for s in liked])
        by_popularity = rng.random(length) < _POPULAR
        drawn = np.searchsorted(cumulative, rng.random(length)).clip(max=n_items - 1)
        items[start:end] = np.where(by_popularity, drawn, rng.choice(pool, length))

    user_ids = np.array([f"u{i:06d}" for i in range(n_users)])
    item_ids = np.array([f"i{i:06d}" for i in range(n_items)])
    interactions, _ = Interactions.from_pairs(users, items, user_ids, item_ids)
    metadata = {
        "item_id": item_ids,
        "title": np.array([f"{names[s]} No. {i}" for i, s in enumerate(primary)]),
        "genres": np.array([",".join(names[row]) for row in membership]),
    }
    return interactions, metadata
