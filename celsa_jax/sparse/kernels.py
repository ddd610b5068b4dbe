"""Compiled scoring and selection (Numba): by lists of factors, or by rows.

The only file that imports Numba, and one file, as Numba's cache does not notice changes of another
one that is called. All sums run over a row's factors in ascending order, one rounding a product and
one a sum, so an item's score has the same bits whichever path makes it, in whatever company and
with however many threads.

Selection works on keys: 64 bits that order (score, lower position first), the score in the upper
half. A user keeps a buffer of keys above a threshold that only rises.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

LANES = 64  # users scored at once: their latent vectors then fit the second-level cache
TILE = 1 << 14  # items scored between two selections
BLOCK = 1 << 16  # items of a block of posting lists, so that a position takes 16 bits
_GROUP = 16  # scores that a group maximum stands for in `_raise_threshold`
_HALVINGS = 16
_SIGN = np.uint32(1 << 31)


class Lists(NamedTuple):
    """The non-zeros of `formats.Rows` factor after factor, within blocks of `BLOCK` items.

    Attributes:
      starts: [n_blocks, n_factors + 1] int64 into the two arrays.
      positions: [nnz] uint16, items counted from the start of their block, ascending.
      codes: [nnz] as in the rows.
    """

    starts: np.ndarray
    positions: np.ndarray
    codes: np.ndarray


class Histories(NamedTuple):
    """CSR of histories [n_users, n_items], and of the rows not to be recommended (sorted)."""

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    seen_indptr: np.ndarray
    seen: np.ndarray


def _compiled(function):
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder that may be written to
        return njit(nogil=True)(function)


@_compiled
def fill_lists(rows, lists, block):
    """Fills one block of posting lists; blocks can be filled at the same time."""
    n_factors = lists.starts.shape[1] - 1
    first, last = block * BLOCK, min((block + 1) * BLOCK, len(rows.starts) - 1)
    begin = lists.starts[block]
    begin[:] = 0
    for j in range(rows.starts[first], rows.starts[last]):
        begin[rows.factors[j] + 1] += 1
    begin[0] = rows.starts[first]
    for f in range(n_factors):
        begin[f + 1] += begin[f]
    next_free = begin[:-1].copy()
    for i in range(first, last):
        for j in range(rows.starts[i], rows.starts[i + 1]):
            at = next_free[rows.factors[j]]
            next_free[rows.factors[j]] = at + 1
            lists.positions[at] = i - first
            lists.codes[at] = rows.codes[j]


@_compiled
def recommend_by_rows(rows, scored, histories, first, last, n_factors, k, keys):
    """The best of `scored` for users [first, last): all rows against `LANES` users at once.

    Fills keys [last - first, capacity >= 2 k] uint64: the k best of each user first, in no order,
    0 where there are fewer.
    """
    n_items = len(scored.starts) - 1
    lanes = min(LANES, -(-(last - first) // 16) * 16)
    latent = _aligned(n_factors, lanes)
    scores = _aligned(min(TILE, max(n_items, 1)), lanes)
    threshold = np.empty(lanes, np.float32)
    counts = np.empty(lanes, np.int64)
    for begin in range(first, last, lanes):
        n = min(lanes, last - begin)
        latent[:] = 0
        threshold[:] = -np.inf
        threshold[n:] = np.inf
        counts[:] = 0
        for b in range(n):
            _encode(latent[:, b], histories, begin + b, rows)
        for low in range(0, n_items, TILE):
            tile = scores[: min(TILE, n_items - low)]
            _score_rows(tile, latent, scored, low)
            for b in range(n):
                _mask_seen(tile[:, b], histories, begin + b, low)
            if low == 0:
                _raise_threshold(tile, k, threshold)
            _collect_lanes(tile, low, k, keys[begin - first :], counts, threshold)
        for b in range(n):
            _finish(keys[begin - first + b], counts[b], k)


@_compiled
def recommend_by_lists(rows, scored, lists, histories, first, last, k, keys):
    """The best items for users [first, last), one after the other, by their active lists.

    Fills keys as above.
    """
    n_items = len(rows.starts) - 1
    n_factors = lists.starts.shape[1] - 1
    latent = np.zeros((n_factors, 1), np.float32)
    scores = np.empty((min(BLOCK, max(n_items, 1)), 1), np.float32)
    threshold = np.empty(1, np.float32)
    for user in range(first, last):
        user_keys = keys[user - first : user - first + 1]
        latent[:] = 0
        _encode(latent[:, 0], histories, user, rows)
        active = np.flatnonzero(latent)
        threshold[0] = -np.inf
        count = 0
        for block in range(len(lists.starts)):
            low = block * BLOCK
            tile = scores[: min(BLOCK, n_items - low)]
            _score_lists(tile, latent, active, lists, block, scored)
            _mask_seen(tile[:, 0], histories, user, low)
            if block == 0:
                _raise_threshold(tile, k, threshold)
            count = _collect_one(tile, low, k, user_keys, count, threshold)
        _finish(user_keys[0], count, k)


@_compiled
def _aligned(n_rows, n_columns):
    """An array that starts at a cache line, as do its rows for 16 columns or a multiple."""
    size = n_rows * n_columns
    raw = np.empty(size + 16, np.float32)
    skip = (-raw.ctypes.data % 64) // 4
    return raw[skip : skip + size].reshape((n_rows, n_columns))


@_compiled
def _value(codes, j, table):
    if table is None:  # resolved when compiled, as None has a type of its own
        return codes[j]
    return table[codes[j]]


@_compiled
def _row_scale(scale, i):
    if scale is None:
        return np.float32(1)
    return scale[i]


@_compiled
def _encode(latent, histories, user, rows):
    """latent [n_factors] += the weighted rows of one user."""
    for p in range(histories.indptr[user], histories.indptr[user + 1]):
        i = histories.indices[p]
        weight = histories.weights[p] * _row_scale(rows.scale, i)
        for j in range(rows.starts[i], rows.starts[i + 1]):
            latent[rows.factors[j]] += weight * _value(rows.codes, j, rows.table)


@_compiled
def _score_rows(tile, latent, rows, low):
    """tile [n, lanes] = rows low, low + 1, ... times latent [n_factors, lanes]."""
    lanes = latent.shape[1]
    factors, codes, table = rows.factors, rows.codes, rows.table
    for t in range(len(tile)):
        row = tile[t]
        for b in range(lanes):
            row[b] = 0
        j, end = rows.starts[low + t], rows.starts[low + t + 1]
        while j + 8 <= end:  # eight at a time: their sum stays in a register
            v0 = _value(codes, j, table)
            v1 = _value(codes, j + 1, table)
            v2 = _value(codes, j + 2, table)
            v3 = _value(codes, j + 3, table)
            v4 = _value(codes, j + 4, table)
            v5 = _value(codes, j + 5, table)
            v6 = _value(codes, j + 6, table)
            v7 = _value(codes, j + 7, table)
            h0 = latent[factors[j]]
            h1 = latent[factors[j + 1]]
            h2 = latent[factors[j + 2]]
            h3 = latent[factors[j + 3]]
            h4 = latent[factors[j + 4]]
            h5 = latent[factors[j + 5]]
            h6 = latent[factors[j + 6]]
            h7 = latent[factors[j + 7]]
            for b in range(lanes):
                half = (((row[b] + v0 * h0[b]) + v1 * h1[b]) + v2 * h2[b]) + v3 * h3[b]
                row[b] = (((half + v4 * h4[b]) + v5 * h5[b]) + v6 * h6[b]) + v7 * h7[b]
            j += 8
        while j < end:
            v0 = _value(codes, j, table)
            h0 = latent[factors[j]]
            for b in range(lanes):
                row[b] += v0 * h0[b]
            j += 1
        scale = _row_scale(rows.scale, low + t)
        for b in range(lanes):
            row[b] = row[b] * scale + np.float32(0)  # -0 becomes 0


@_compiled
def _score_lists(tile, latent, active, lists, block, rows):
    """tile [n, 1] = the items of a block times latent [n_factors, 1], active factors alone."""
    tile[:] = 0
    begin = lists.starts[block]
    for f in active:
        weight = latent[f, 0]
        for j in range(begin[f], begin[f + 1]):
            tile[lists.positions[j], 0] += weight * _value(lists.codes, j, rows.table)
    for t in range(len(tile)):
        scale = _row_scale(rows.scale, block * BLOCK + t)
        tile[t, 0] = tile[t, 0] * scale + np.float32(0)


@_compiled
def _mask_seen(scores, histories, user, low):
    """Excludes seen items from a tile [n] of items that begins at `low`."""
    for p in range(histories.seen_indptr[user], histories.seen_indptr[user + 1]):
        t = histories.seen[p] - low
        if 0 <= t < len(scores):
            scores[t] = -np.inf


@_compiled
def _raise_threshold(tile, k, threshold):
    """Sets threshold [lanes] below at least k scores of a tile [n, lanes], close to the k-th.

    The k-th largest of the maxima of disjoint groups is such a bound; it is bisected for all
    lanes at once. Without k groups the threshold stays.
    """
    lanes = tile.shape[1]
    n_groups = len(tile) // _GROUP
    if n_groups < k:
        return
    flat = tile.reshape(-1)
    span = n_groups * lanes
    top = flat[:span].copy()
    for g in range(1, _GROUP):
        slab = flat[g * span : (g + 1) * span]
        for x in range(span):
            top[x] = max(top[x], slab[x])
    groups = top.reshape((n_groups, lanes))
    low, high = groups[0].copy(), groups[0].copy()
    for g in range(n_groups):
        for b in range(lanes):
            low[b] = min(low[b], groups[g, b])
            high[b] = max(high[b], groups[g, b])
    for b in range(lanes):
        low[b] -= abs(low[b]) + np.float32(1e-30)
    middle = np.empty(lanes, np.float32)
    above = np.empty(lanes, np.int32)
    for _ in range(_HALVINGS):
        for b in range(lanes):
            middle[b] = low[b] / 2 + high[b] / 2
            above[b] = 0
        if lanes == 1:
            for g in range(n_groups):
                above[0] += top[g] > middle[0]
        else:
            for g in range(n_groups):
                row = groups[g]
                for b in range(lanes):
                    above[b] += row[b] > middle[b]
        for b in range(lanes):
            if above[b] >= k:
                low[b] = middle[b]
            else:
                high[b] = middle[b]
    for b in range(lanes):
        threshold[b] = max(threshold[b], low[b])


@_compiled
def _collect_lanes(tile, low, k, keys, counts, threshold):
    """Adds the scores of a tile [n, lanes] above their threshold to keys [n_users, capacity]."""
    lanes = tile.shape[1]
    bits = tile.view(np.uint32)
    flags = np.zeros(lanes, np.uint8)
    words = flags.view(np.uint64)
    for t in range(len(tile)):
        row = tile[t]
        for b in range(lanes):
            flags[b] = row[b] > threshold[b]
        for word in range(lanes // 8):
            if words[word] == 0:
                continue
            for b in range(8 * word, 8 * word + 8):
                if flags[b]:
                    key = _key(bits[t, b], low + t)
                    counts[b] = _push(keys, b, counts[b], key, k, threshold)


@_compiled
def _collect_one(tile, low, k, keys, count, threshold):
    """The same for a tile [n, 1] and keys [1, capacity]; the new count."""
    bits = tile.view(np.uint32)
    for t in range(len(tile)):
        if tile[t, 0] > threshold[0]:
            count = _push(keys, 0, count, _key(bits[t, 0], low + t), k, threshold)
    return count


@_compiled
def _push(keys, lane, count, key, k, threshold):
    """Appends a key; a full buffer is cut to its k largest, and the threshold rises to them."""
    keys[lane, count] = key
    count += 1
    if count == keys.shape[1]:
        _keep_largest(keys[lane], k)
        count = k
        upper = np.uint32(keys[lane, :k].min() >> np.uint64(32))
        threshold.view(np.uint32)[lane] = upper & ~_SIGN if upper & _SIGN else ~upper
    return count


@_compiled
def _finish(keys, count, k):
    """Leaves the k largest of the first `count` keys in front, 0 behind them."""
    if count > k:
        _keep_largest(keys[:count], k)
        count = k
    keys[count:k] = 0


@_compiled
def _key(bits, position):
    """Orders like (score, lower position first), for a float32 score that is not -0."""
    bits = np.uint32(bits)
    upper = ~bits if bits & _SIGN else bits | _SIGN
    return np.uint64(upper) << np.uint64(32) | np.uint64(~np.uint32(position))


@_compiled
def _keep_largest(keys, k):
    """Moves the k largest keys to the front (quickselect)."""
    left, right = 0, len(keys) - 1
    while left < right:
        pivot = keys[(left + right) // 2]
        i, j = left, right
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            right = j
        elif k - 1 >= i:
            left = i
        else:
            return
