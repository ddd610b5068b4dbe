"""Training steps against a loop in NumPy over batches, with the plain dense formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import compilations
from test_model import plain_loss_and_grad
from test_products import at_places, dense_of

from celsa_jax.data.batches import in_blocks, make_chunks, nnz_budget, take_batch
from celsa_jax.products import make_layout
from celsa_jax.sampling import draw_items
from celsa_jax.starts import Start
from celsa_jax.state import Form, Numbers, embeddings_of, is_finite, prune, sparse_state
from celsa_jax.step import train_steps

N_ITEMS, N_FACTORS, K, CAPACITY = 60, 1200, 6, 8
N_USERS, BATCH, BUDGET = 40, 16, 100
RATES = np.array([1, 0.7, 0.2], np.float32)


@pytest.fixture(scope="module")
def problem():
    """A start with places not in use and an item of no factor, histories, and batches.

    Item 2 has no user; two users have one item, one has many. The last batch is half padding.
    Factors are few and shared: Nadam would make much of the rounding errors of a gradient that is
    0, as along the only factor of an item.
    """
    rng = np.random.default_rng(0)
    columns = np.full((N_ITEMS, K), N_FACTORS, np.int32)
    for row in range(N_ITEMS):
        chosen = rng.permutation(12)[: rng.integers(3, K + 1) if row != 1 else 0]
        columns[row, : len(chosen)] = np.sort(chosen) * 100
    values = rng.normal(size=columns.shape).astype(np.float32) * (columns < N_FACTORS)
    dense = (rng.random((N_USERS, N_ITEMS)) < 0.05).astype(np.float32)
    dense[np.arange(N_USERS), rng.integers(3, N_ITEMS, N_USERS)] = 1
    dense[:, 2] = 0
    dense[:2] = np.eye(N_ITEMS, dtype=np.float32)[5]
    dense[2, 5:20] = 1
    order = np.append(rng.permutation(N_USERS), [N_USERS] * 8).reshape(3, BATCH).astype(np.int32)
    (chunk,) = make_chunks(sp.csr_matrix(dense), 0, seed=0)
    assert nnz_budget(chunk, order) <= BUDGET
    return Start(columns, values, N_FACTORS), dense, jax.device_put(chunk), order


# The rate is low: Nadam makes much of rounding errors, in proportion to it.
def numbers(seed=3, learning_rate=0.005, b1=0.8, dropout=0.4, nnz=0):
    return Numbers(jax.random.key(seed), learning_rate, b1, dropout, nnz)


FORMS = {
    "gathers": Form(N_FACTORS, None, BUDGET),
    "by weight": Form(N_FACTORS, None, BUDGET, by_row=False),
    "dense": Form(N_FACTORS, "float32", BUDGET, unit_rows=True),
    "sampled": Form(N_FACTORS, None, BUDGET, n_sampled=50),
    "chosen each step": Form(N_FACTORS, "float32", BUDGET, chosen_each_step=True),
    "nested": Form(N_FACTORS, None, BUDGET, nested=(2, 4)),
    "nested, unit": Form(N_FACTORS, "float32", BUDGET, unit_rows=True, nested=(2,)),
    "paper": Form(N_FACTORS, "float32", BUDGET, unit_rows=True, by_row=False, as_published=True),
}


def trained(problem, form, given, first=0, last=3, state=None):
    start, _, chunk, order = problem
    block = BATCH if form.dense or form.n_sampled else 8  # users of a batch in one block, or in two
    if state is None:
        state = sparse_state(start, form, N_FACTORS if form.dense else CAPACITY)
    layout = None
    if not (form.dense or form.n_sampled):
        layout = jax.device_put(make_layout(np.asarray(state.columns), N_FACTORS))
    batches = in_blocks(jnp.asarray(order), block, 1, N_USERS)
    return train_steps(
        state,
        chunk,
        batches,
        RATES,
        np.array([first, last], np.int32),
        layout,
        given,
        form=form,
    )


def numpy_training(problem, form, given, batches=(0, 1, 2), pruned_to=None):
    """Nadam (Dozat, ICLR 2016 workshop) on the plain formula; dense weights and moments.

    The second moment is of every weight, or of the length of a row. Before the third step there
    may be a mask update.
    """
    start, dense, chunk, order = problem
    columns, values, _ = start
    weights = dense_of(columns, values, N_FACTORS)
    used = dense_of(columns, np.ones(columns.shape), N_FACTORS) > 0
    users = np.append(dense, np.zeros((1, N_ITEMS), np.float32), axis=0)
    first, losses = np.zeros(weights.shape), np.zeros(3)
    second = np.zeros((N_ITEMS, 1) if form.by_row else weights.shape)
    clear = used.copy()  # where no step is taken of rounding errors
    for step, at in enumerate(batches):
        if step == 2 and pruned_to:
            used &= top(np.where(used, np.abs(weights), -1), pruned_to)
            lengths = np.linalg.norm(weights, axis=1, keepdims=True)
            weights, first = (np.where(used, a, 0) for a in (weights, first))
            second = second if form.by_row else np.where(used, second, 0)
            left = np.linalg.norm(weights, axis=1, keepdims=True)
            weights *= np.where(left > 0, lengths / np.maximum(left, 1e-12), 0)
        key = jax.random.fold_in(given.key, step)
        rows, counts = order[at], np.ones(N_ITEMS, np.float32)
        seen = seen_of(chunk, rows, key, given.dropout)
        drawn = np.arange(N_ITEMS)
        if form.n_sampled:
            own = np.flatnonzero(users[rows].any(axis=0)).astype(np.int32)
            drawn, share = map(np.asarray, draw_items(key, own, N_ITEMS, N_ITEMS, form.n_sampled))
            drawn, share = drawn[share > 0], share[share > 0]
            counts[:] = 0
            counts[drawn] = share
        if form.as_published:
            own = users[rows].any(axis=0)
            counts[~own] = (20_000 - own.sum()) / (~own).sum()
        mask = used.copy()
        if form.chosen_each_step:
            mask = top(np.where(used, np.abs(weights), -1), given.nnz) & used
        arrays = [np.where(mask, weights, 0), seen, users[rows], counts]
        n_real = (rows < N_USERS).sum()
        with jax.enable_x64(True):
            losses[at], grad = plain_loss_and_grad(*arrays, form.unit_rows)
            for nnz in form.nested:
                largest = top(np.where(used, np.abs(weights), -1), nnz) & used
                arrays[0], back = cut(arrays[0], largest)
                grad = grad + back(np.asarray(plain_loss_and_grad(*arrays, form.unit_rows)[1]))
                arrays[0] = weights
        grad = np.where(mask, np.asarray(grad, np.float64), 0) / n_real
        b1, count = given.b1, step + 1
        row = np.isin(np.arange(N_ITEMS), drawn)[:, None]
        first = np.where(row, b1 * first + (1 - b1) * grad, first)
        squared = (grad**2).sum(axis=1, keepdims=True) if form.by_row else grad**2
        second = np.where(row, 0.999 * second + 0.001 * squared, second)
        momenta, epsilon = [b1] * (count + 1), 1e-12 if form.by_row else 1e-8
        if form.as_published:
            momenta = [b1 * (1 - 0.5 * 0.96**t) for t in range(1, count + 2)]
            epsilon = 1e-7 * 20_000
        ahead = momenta[-1] * first / (1 - np.prod(momenta))
        ahead += (1 - momenta[-2]) * grad / (1 - np.prod(momenta[:-1]))
        direction = ahead / (np.sqrt(second / (1 - 0.999**count)) + epsilon)
        rate = given.learning_rate * RATES[at]
        weights = np.where(row, weights - rate * direction, weights)
        clear &= np.abs(first) > 1e-5 * np.abs(first).max()
    return weights, first, second, losses, clear


def cut(weights, mask):
    """Rows under a mask at their length before, and what takes a gradient back through that."""
    kept = np.where(mask, weights, 0)
    lengths, left = (
        np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (weights, kept)
    )

    def back(grad):
        along = (grad * kept).sum(axis=1, keepdims=True) / left
        across = np.where(mask, grad - along * kept / left, 0)
        return across * lengths / left + along * weights / lengths

    return kept * lengths / left, back


def top(scores, k):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


@jax.jit
def batch_of_rows(chunk, rows, key, dropout):
    return take_batch(chunk, rows, BUDGET, key, dropout)


def seen_of(chunk, rows, key, dropout):
    """What is left of the histories, [n_users, n_items], read off `kept`."""
    batch = batch_of_rows(chunk, rows, key, dropout)
    seen = np.zeros((len(rows), N_ITEMS))
    for item, row, kept in zip(*(np.asarray(a) for a in batch[:3]), strict=True):
        if row < len(rows):
            seen[row, item] = kept
    return seen


def assert_equal(problem, form, given, found, **how):
    state, losses = found
    weights, first, second, expected, clear = numpy_training(problem, form, given, **how)
    columns = np.asarray(state.columns)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    moments = state.opt_state
    if not form.by_row:
        second = at_places(second, columns, N_FACTORS)
    first = at_places(first, columns, N_FACTORS)
    for ours, expected_moment in ((moments.mu, first), (moments.nu, second)):
        atol = 1e-4 * np.abs(expected_moment).max()
        np.testing.assert_allclose(ours, expected_moment, rtol=1e-3, atol=atol)
    # Of a gradient that is a rounding error Nadam makes a whole step.
    clear = at_places(clear, columns, N_FACTORS) > 0
    assert clear.sum() > 50
    expected = at_places(weights, columns, N_FACTORS)
    atol = 0.02 * given.learning_rate
    np.testing.assert_allclose(np.asarray(state.weights)[clear], expected[clear], atol=atol)
    assert int(state.step) == int(moments.count) == 3
    begun = at_places(dense_of(*problem[0]), columns, N_FACTORS)
    learned = np.abs(np.asarray(state.weights) - begun).max()
    assert learned > 0.5 * given.learning_rate  # or nothing was
    assert not np.asarray(state.weights)[columns == N_FACTORS].any()


@pytest.mark.parametrize(
    ("form", "dropout"),
    [*(("gathers", 0.0), ("gathers", 0.4), ("by weight", 0.4), ("dense", 0.0), ("dense", 0.4)),
     *(("nested", 0.4), ("nested, unit", 0.0), ("paper", 0.0))],
)  # fmt: skip
def test_steps_equal_a_numpy_loop(problem, form, dropout):
    """Whether a batch is one block of users or two."""
    given = numbers(dropout=dropout)
    assert_equal(problem, FORMS[form], given, trained(problem, FORMS[form], given))


def test_mask_updates_between_steps_equal_a_numpy_loop(problem):
    """Draws go on with the steps, whichever batch is next."""
    form, given = FORMS["gathers"], numbers()
    state, early = trained(problem, form, given, first=1)
    state = prune(state, 2, jax.random.key(0), form=form, places=CAPACITY)
    state, late = trained(problem, form, given, last=1, state=state)
    found = state, early + late
    assert_equal(problem, form, given, found, batches=(1, 2, 0), pruned_to=2)
    n_used = (np.asarray(state.columns) < N_FACTORS).sum(axis=1)
    assert set(np.delete(n_used, 1)) == {2}


def test_sampled_steps_equal_a_numpy_loop(problem):
    form, given = FORMS["sampled"], numbers()
    found = trained(problem, form, given)
    assert_equal(problem, form, given, found)
    # Some items were not drawn in all of the steps, or it would show nothing.
    drawn = [numpy_training(problem, form, given, b)[1].any(axis=1) for b in ((0,), (0, 1, 2))]
    assert drawn[1].sum() > drawn[0].sum()


def test_rows_that_are_not_drawn_are_unchanged(problem):
    form, given = FORMS["sampled"], numbers()
    state, _ = trained(problem, form, given, last=2)
    before = jax.tree.map(np.array, state)
    after, _ = trained(problem, form, given, first=2, last=3, state=state)
    users = np.append(problem[1], np.zeros((1, N_ITEMS)), 0)[problem[3][2]]
    own = np.flatnonzero(users.any(axis=0)).astype(np.int32)
    key = jax.random.fold_in(given.key, 2)
    drawn, count = map(np.asarray, draw_items(key, own, N_ITEMS, N_ITEMS, form.n_sampled))
    drawn = drawn[count > 0]
    others = np.setdiff1d(np.arange(N_ITEMS), drawn)
    assert len(others)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if one.ndim == 2:
            np.testing.assert_array_equal(one[others], np.asarray(other)[others])
    # Those that were drawn move, without a gradient, too: by their momentum.
    moved = (before.weights[drawn] != np.asarray(after.weights)[drawn]).any(axis=1)
    assert moved.sum() > len(own)


def test_a_mask_chosen_at_every_step_equals_a_numpy_loop(problem):
    form, given = FORMS["chosen each step"], numbers(nnz=3)
    assert_equal(problem, form, given, trained(problem, form, given))


def test_the_mask_of_every_step_is_that_of_the_end(problem):
    """Lengths were learned for what is kept, so that the last mask update scales nothing."""
    form, given = FORMS["chosen each step"], numbers(nnz=3)
    state, _ = trained(problem, form, given)
    weights = np.array(state.weights)
    kept = top(np.where(np.asarray(state.columns) < N_FACTORS, np.abs(weights), -1), 3)
    pruned = prune(state, 3, jax.random.key(0), form=form, places=N_FACTORS)
    np.testing.assert_array_equal(pruned.weights, np.where(kept, weights, 0))


def test_an_epoch_may_be_trained_in_pieces(problem):
    form, given = FORMS["dense"], numbers()
    whole, losses = trained(problem, form, given)
    first, early = trained(problem, form, given, last=1)
    second, late = trained(problem, form, given, first=1, state=first)
    np.testing.assert_array_equal(early[1:], 0)
    np.testing.assert_array_equal(late[:1], 0)
    np.testing.assert_array_equal(early + late, losses)
    jax.tree.map(np.testing.assert_array_equal, whole, second)


@pytest.mark.parametrize("form", ["gathers", "sampled"])
def test_nothing_is_compiled_again_for_other_numbers(problem, form):
    trained(problem, FORMS[form], numbers())
    others = numbers(seed=4, learning_rate=0.01, b1=0.9, dropout=0.1, nnz=2)
    with compilations() as seconds:
        trained(problem, FORMS[form], others, first=1, last=2)
    assert not seconds


def test_edges_stay_finite(problem):
    """Users of one item and of nothing seen, items of nobody, rows of zeros and of no factor.

    And a batch of no user, as where chunks are of unequal numbers of users.
    """
    start, dense, chunk, order = problem
    values, order = start.values.copy(), order.copy()
    values[5], order[2] = 0, N_USERS
    edges = start._replace(values=values), dense, chunk, order
    form = FORMS["gathers"]
    state, losses = trained(edges, form, numbers(learning_rate=1.0, dropout=0.99))
    assert np.isfinite(losses).all()
    assert losses[2] == 0
    assert bool(is_finite(state))
    embeddings = embeddings_of(state, N_ITEMS, form)
    np.testing.assert_array_equal(
        embeddings.getnnz(axis=1), (start.columns < N_FACTORS).sum(axis=1)
    )
    assert np.isfinite(embeddings.data).all()
    np.testing.assert_array_equal(state.weights[1], 0)  # of no factor
