import jax
import numpy as np
import pytest

from celsa_jax.data.batches import make_chunks, nnz_budget, shuffled_batches, take_batch


def rebuilt(batch, n_items):
    dense = np.zeros((batch.n_users, n_items))
    indptr = np.asarray(batch.indptr)
    for user in range(batch.n_users):
        dense[user, np.asarray(batch.items)[indptr[user] : indptr[user + 1]]] += 1
    return dense


@pytest.mark.parametrize("batch_size", [1, 4, 7, 11])
def test_an_epoch_sees_every_user_once(random_matrix, batch_size):
    matrix = random_matrix(11, 9)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    key = jax.random.key(3)
    batches = shuffled_batches(key, chunk.n_rows, batch_size)
    budget = nnz_budget(chunk, batches)
    seen = np.zeros((0, 9))
    for rows in batches:
        batch = take_batch(chunk, rows, budget)
        dense = rebuilt(batch, 9)
        n_real = int((np.asarray(rows) < 11).sum())
        np.testing.assert_array_equal(dense[:n_real], matrix[np.asarray(rows)[:n_real]].toarray())
        assert not dense[n_real:].any()
        seen = np.vstack([seen, dense[:n_real]])
    np.testing.assert_array_equal(np.unique(seen, axis=0), np.unique(matrix.toarray(), axis=0))
    assert seen.sum() == matrix.nnz


def test_unused_places_name_no_user(random_matrix):
    matrix = random_matrix(6, 8)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    batch = take_batch(chunk, np.array([2, 6, 6], np.int32), budget=20)
    n = matrix[2].nnz
    assert np.asarray(batch.rows)[:n].tolist() == [0] * n
    assert set(np.asarray(batch.rows)[n:].tolist()) == {3}
    assert not np.asarray(batch.items)[n:].any()


def test_the_budget_is_that_of_the_largest_batch_not_of_the_longest_user(random_matrix):
    matrix = random_matrix(40, 30, seed=5)
    (chunk,) = make_chunks(matrix, 0, seed=0)
    batches = shuffled_batches(jax.random.key(0), 40, 8)
    lengths = np.append(matrix.getnnz(axis=1), 0)
    assert nnz_budget(chunk, batches) == max(lengths[np.asarray(rows)].sum() for rows in batches)


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
