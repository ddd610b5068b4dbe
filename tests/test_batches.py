"""Batches on the device: whole histories, in blocks, and what input dropout leaves of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from celsa_jax.data import batches as batches_module
from celsa_jax.data.batches import (
    Batch,
    by_items,
    check_chunk,
    in_blocks,
    make_chunks,
    most_items,
    nnz_budget,
    shuffled_batches,
    take_batch,
)
from celsa_jax.errors import InputError

KEY = jax.random.key(0)
take = jax.jit(take_batch, static_argnames="budget")


def chunk_of(matrix):
    (chunk,) = make_chunks(matrix, 0, seed=0)
    return jax.device_put(chunk)


def rebuilt(batch, n_items):
    """[n_users, n_items] how often an interaction is there, and whether it is seen."""
    there, seen = np.zeros((2, batch.n_users, n_items))
    for item, row, kept in zip(*(np.asarray(leaf) for leaf in batch[:3]), strict=True):
        if row < batch.n_users:
            there[row, item] += 1
            seen[row, item] = kept
    return there, seen


@pytest.mark.parametrize("batch_size", [4, 11])
def test_an_epoch_sees_every_user_once(random_matrix, batch_size):
    matrix = random_matrix(11, 9)
    chunk = chunk_of(matrix)
    batches = shuffled_batches(jax.random.key(3), chunk.n_rows, batch_size)
    budget = nnz_budget(chunk, batches)
    seen = np.zeros((0, 9))
    for rows in batches:
        batch = take(chunk, rows, budget, KEY)
        dense, _ = rebuilt(batch, 9)
        n_real = int((np.asarray(rows) < 11).sum())
        np.testing.assert_array_equal(dense[:n_real], matrix[np.asarray(rows)[:n_real]].toarray())
        np.testing.assert_array_equal(batch.lengths, dense.sum(axis=1))
        assert not dense[n_real:].any()
        seen = np.vstack([seen, dense[:n_real]])
    np.testing.assert_array_equal(np.unique(seen, axis=0), np.unique(matrix.toarray(), axis=0))
    assert seen.sum() == matrix.nnz


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(1, 60))
def test_batches_are_of_like_sizes(n_rows, batch_size):
    batches = np.asarray(shuffled_batches(jax.random.key(0), n_rows, batch_size))
    assert batches.shape == (-(-n_rows // batch_size), batch_size)
    sizes = (batches < n_rows).sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    assert sorted(batches[batches < n_rows].tolist()) == list(range(n_rows))


def test_unused_places_name_no_user(random_matrix):
    matrix = random_matrix(6, 8)
    batch = take(chunk_of(matrix), np.array([2, 6, 6], np.int32), 20, KEY)
    n = matrix[2].nnz
    assert np.asarray(batch.rows)[:n].tolist() == [0] * n
    assert set(np.asarray(batch.rows)[n:].tolist()) == {3}
    assert not np.asarray(batch.items)[n:].any()


def test_targets_are_whole_histories_and_inputs_what_is_seen():
    """Items of another device, out of range here, do not count."""
    batch = Batch(*map(jnp.asarray, ([0, 2, 1, 9, 0], [0, 0, 1, 1, 2], [1.0, 0, 1, 1, 1], [2, 2])))
    assert batch.targets(3).tolist() == [[1, 0], [0, 1], [1, 0]]
    assert batch.inputs(3).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_the_budget_is_that_of_the_largest_batch_not_of_the_longest_user(random_matrix):
    matrix = random_matrix(40, 30, seed=5)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    batches = shuffled_batches(KEY, 40, 8)
    lengths = np.append(matrix.getnnz(axis=1), 0)
    assert nnz_budget(chunk, batches) == max(lengths[np.asarray(rows)].sum() for rows in batches)
    blocks = np.asarray(in_blocks(batches, 4, 1, 40)).reshape(-1, 4)
    expected = max(lengths[rows].sum() for rows in blocks)
    assert nnz_budget(chunk, in_blocks(batches, 4, 1, 40)) == expected


def test_the_most_different_items_of_a_batch(random_matrix):
    matrix = random_matrix(40, 30, seed=5)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    batches = np.append(np.random.default_rng(0).permutation(40), [40, 40]).reshape(6, 7)
    users = [set(row.indices) for row in matrix] + [set()]
    assert most_items(chunk, batches) == max(
        len(set().union(*(users[u] for u in b))) for b in batches
    )


def test_chunks_have_one_shape_and_share_out_the_users(random_matrix):
    matrix = random_matrix(23, 10)
    chunks = make_chunks(matrix, 8, seed=1)
    assert len(chunks) == 3
    assert len({(c.indptr.shape, c.indices.shape) for c in chunks}) == 1
    rows = [
        tuple(c.indices[c.indptr[r] : c.indptr[r + 1]])
        for c in chunks
        for r in range(c.n_rows)
        if c.indptr[r + 1] > c.indptr[r]
    ]
    assert sorted(rows) == sorted(tuple(row.indices) for row in matrix)


def test_orders_differ_between_keys_and_repeat_for_one():
    first, again, other = (shuffled_batches(jax.random.key(s), 50, 10) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_blocks_are_cut_from_the_parts_of_a_batch():
    batches = np.arange(24).reshape(2, 12)
    # Two parts of six, each in blocks of four, the second of which is filled up.
    assert np.asarray(in_blocks(batches, 4, 2, 99)).tolist() == [
        [[0, 1, 2, 3], [4, 5, 99, 99], [6, 7, 8, 9], [10, 11, 99, 99]],
        [[12, 13, 14, 15], [16, 17, 99, 99], [18, 19, 20, 21], [22, 23, 99, 99]],
    ]
    assert np.asarray(in_blocks(batches, 12, 1, 99)).tolist() == batches[:, None].tolist()


def test_what_is_left_out_depends_on_key_user_and_item_alone(random_matrix):
    """Not on the block that a user is in, nor on its place there or on what else is in it."""
    matrix = random_matrix(30, 40)
    chunk = chunk_of(matrix)
    budget = matrix.nnz + 9

    def seen(order, key=KEY):
        order = np.asarray(order, np.int32)
        there, seen = rebuilt(take(chunk, order, budget, key, 0.5), 40)
        rows, real = np.zeros((2, 30, 40)), order < 30
        rows[0, order[real]], rows[1, order[real]] = there[real], seen[real]
        np.testing.assert_array_equal(
            rows[0], matrix.toarray() * np.isin(np.arange(30), order)[:, None]
        )
        return rows[1]

    whole = seen(range(30))
    np.testing.assert_array_equal(seen(range(29, -1, -1)), whole)
    evens, odds = [*range(0, 30, 2)] + [30] * 15, [30] * 15 + [*range(29, 0, -2)]
    np.testing.assert_array_equal(seen(evens) + seen(odds), whole)
    assert (seen(range(30), jax.random.key(1)) != whole).any()
    # Users and items draw for themselves.
    everyone = chunk_of(sp.csr_matrix(np.ones((30, 40), np.float32)))
    _, all_seen = rebuilt(take(everyone, np.arange(30, dtype=np.int32), 1200, KEY, 0.5), 40)
    assert len(np.unique(all_seen, axis=0)) == 30
    assert len(np.unique(all_seen, axis=1).T) == 40
    np.testing.assert_array_equal(all_seen * matrix.toarray(), whole)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.9])
def test_dropout_leaves_out_its_share(random_matrix, dropout):
    matrix = random_matrix(30, 40)
    chunk, rows = chunk_of(matrix), np.arange(30, dtype=np.int32)
    shares = []
    for seed in range(20):
        batch = take(chunk, rows, matrix.nnz + 9, jax.random.key(seed), dropout)
        there, seen = rebuilt(batch, 40)
        np.testing.assert_array_equal(there, matrix.toarray())  # the targets stay whole
        np.testing.assert_array_equal(batch.lengths, matrix.getnnz(axis=1))
        shares.append(seen.sum() / matrix.nnz)
    n = 20 * matrix.nnz
    assert abs(np.mean(shares) - (1 - dropout)) <= 5 * np.sqrt(dropout * (1 - dropout) / n)


def test_more_interactions_than_int32_counts_are_no_chunk(monkeypatch, random_matrix):
    """They would wrap around without a word."""
    check_chunk(10**6, 2**31 - 1)
    with pytest.raises(InputError, match=r"2,147,483,648 interactions .* lower chunk_users, to 8"):
        check_chunk(10**6, 2**31)
    with pytest.raises(InputError, match="lower chunk_users, to 1 say"):
        check_chunk(1, 2**40)
    matrix = random_matrix(40, 30, density=0.5)
    monkeypatch.setattr(batches_module, "MOST_RESIDENT", matrix.nnz // 2)
    with pytest.raises(InputError, match=f"40 users with {matrix.nnz} interactions are a chunk"):
        make_chunks(matrix, 0, seed=0)
    assert len(make_chunks(matrix, 10, seed=0)) == 4


@pytest.mark.parametrize("n_shares", [1, 3])
def test_shares_have_all_users_and_their_own_items(random_matrix, n_shares):
    chunks, n_items = make_chunks(random_matrix(9, 10, seed=2), 5, seed=0), -(-10 // n_shares)
    shares = by_items(chunks, n_items, n_shares)
    assert [len(parts) for parts in shares] == [n_shares] * 2
    assert len({(s.indptr.shape, s.indices.shape) for parts in shares for s in parts}) == 1
    for chunk, parts in zip(chunks, shares, strict=True):
        for number, share in enumerate(parts):
            assert share.indptr.dtype == share.indices.dtype == np.int32
            for row in range(chunk.n_rows + 1):
                whole, own = (
                    c.indices[c.indptr[row] : c.indptr[row + 1]].tolist() for c in (chunk, share)
                )
                assert own == [i for i in whole if i // n_items == number]
