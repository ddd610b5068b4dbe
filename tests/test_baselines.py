import dataclasses
import itertools
import json
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from launch import WITHOUT_JAX, program

from celsa_jax.baselines import BASELINES, COMPRESSIONS, autoencoder, embeddings_baseline
from celsa_jax.baselines.choice import validation_value
from celsa_jax.baselines.ease import ease, fit_ease
from celsa_jax.baselines.popularity import fit_popularity
from celsa_jax.data import dataset_of, make_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate, holdouts
from celsa_jax.sparse.rows import keep_largest, unit_rows

WITHOUT_IMPLICIT = WITHOUT_JAX + "import sys\nsys.modules['implicit'] = None\n"

SIZED = [name for name in BASELINES if name not in ("popularity", "ease", "user_knn")]


def cut_by_loop(dense, k):
    """Row by row, entry by entry: the k of largest magnitude, ties to the lower column."""
    kept = np.zeros(dense.shape)
    for i, row in enumerate(dense):
        for j in sorted(range(len(row)), key=lambda j: (-abs(row[j]), j))[:k]:
            kept[i, j] = row[j]
    return kept


def cosines(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture
def sparse_mixtures():
    """600 embeddings, each of two of 40 random directions in 12 dimensions, of either sign."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(40, 12))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mixtures = np.zeros((600, 40))
    for row in mixtures:
        row[rng.choice(40, 2, replace=False)] = rng.choice([-1, 1], 2) * rng.uniform(0.5, 1, 2)
    dense = mixtures @ directions
    return (dense / np.linalg.norm(dense, axis=1, keepdims=True)).astype(np.float32)


def regressions(inputs, targets, penalty):
    """Column j is the ridge regression of targets' column j on all other columns of the inputs."""
    n_items = inputs.shape[1]
    weights = np.zeros((n_items, n_items))
    for j in range(n_items):
        others = np.arange(n_items) != j
        gram = inputs[:, others].T @ inputs[:, others] + penalty * np.eye(n_items - 1)
        weights[others, j] = np.linalg.solve(gram, inputs[:, others].T @ targets[:, j])
    return weights


def test_ease_solves_one_ridge_regression_per_item(random_matrix):
    matrix = random_matrix(40, 9, density=0.4)
    x = matrix.toarray().astype(np.float64)
    expected = regressions(x, x, 3.0)
    np.testing.assert_allclose(ease(matrix, 3.0), expected, atol=1e-6)
    fitted = fit_ease(matrix, l2=3.0)
    np.testing.assert_allclose(fitted.score(matrix[:5]), x[:5] @ expected, atol=1e-5)


def test_dropout_is_the_mean_over_everything_that_may_be_dropped(random_matrix):
    """EDLAE: each of 2^6 inputs with its probability, what is kept of it over its share."""
    matrix = random_matrix(12, 6, density=0.5)
    x = matrix.toarray().astype(np.float64)
    inputs, targets = [], []
    for kept in itertools.product((0, 1), repeat=6):
        weight = np.sqrt(0.7 ** sum(kept) * 0.3 ** (6 - sum(kept)))
        inputs.append(weight * x * kept / 0.7)
        targets.append(weight * x)
    expected = regressions(np.concatenate(inputs), np.concatenate(targets), 2.0)
    np.testing.assert_allclose(ease(matrix, 2.0, dropout=0.3), expected, atol=1e-6)


def test_discounted_scores(random_matrix):
    matrix = random_matrix(40, 9, density=0.4)
    expected = fit_ease(matrix).score(matrix) / matrix.toarray().sum(axis=0) ** 0.3
    found = fit_ease(matrix, discount=0.3).score(matrix)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("options", [{"l2": 1e-3}, {"l2": 50.0, "dropout": 0.4}])
@pytest.mark.parametrize("repeated", [1, 3])
@pytest.mark.parametrize(("n_users", "n_items"), [(21, 70), (66, 70), (90, 70)])
def test_ease_by_users_or_by_items_is_the_formula(
    random_matrix, n_users, n_items, repeated, options
):
    """Also where users are there several times, and the penalty is all that tells them apart."""
    users = random_matrix(n_users // repeated, n_items, density=0.3)
    matrix = sp.vstack([users] * repeated, format="csr")
    x = matrix.toarray().astype(np.float64)
    dropout = options.get("dropout", 0)
    penalty = options["l2"] + (x**2).sum(axis=0) * dropout / (1 - dropout)
    inverse = np.linalg.inv(x.T @ x + np.diag(penalty))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    weights = ease(matrix, **options)
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert weights.dtype == np.float32
    assert weights.flags.c_contiguous
    np.testing.assert_array_equal(np.diag(weights), 0)


@pytest.mark.parametrize("n_users", [100, 450, 900])
def test_ease_keeps_to_the_memory_that_it_states(random_matrix, n_users):
    n_items = 500
    matrix = random_matrix(n_users, n_items)
    tracemalloc.start()
    ease(matrix, 10.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    by_users, by_items = 12 * n_items**2 + 8 * n_users * n_items, 20 * n_items**2
    copies = 24 * matrix.nnz  # of X in float64
    assert peak < 1.05 * (by_users if n_users < n_items else by_items) + copies


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_ease_refuses_a_penalty_that_is_none(random_matrix, l2):
    with pytest.raises(InputError, match=f"the penalty l2 of EASE is {l2}; it must be above 0"):
        ease(random_matrix(3, 9), l2)


@pytest.mark.parametrize("dropout", [1.0, -0.1])
def test_ease_refuses_a_dropout_out_of_range(random_matrix, dropout):
    with pytest.raises(InputError, match="give one from 0 to below 1"):
        ease(random_matrix(3, 9), 1.0, dropout=dropout)


def test_ease_refuses_a_singular_problem():
    """Two items that are always together, and a penalty below what float64 can tell."""
    few_items = np.ones((9, 2), np.float32)
    few_users = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], np.float32)
    for matrix in (few_items, few_users):
        with pytest.raises(InputError, match="l2 of EASE is 1e-17, too small for float64"):
            ease(sp.csr_matrix(matrix), 1e-17)


def test_popularity_is_the_same_for_all(random_matrix):
    matrix = random_matrix(20, 6)
    scores = fit_popularity(matrix).score(matrix[:4])
    np.testing.assert_array_equal(scores, np.tile(matrix.toarray().sum(axis=0), (4, 1)))


@pytest.mark.parametrize("k", [1, 3, 7, 9])
def test_largest_entries_of_rows_against_a_loop(k):
    rng = np.random.default_rng(k)
    dense = rng.integers(-3, 4, (50, 7)).astype(np.float32)  # many ties and zeros
    columns = np.indices(dense.shape)[1]
    at = rng.permuted(np.tile(columns, 2), axis=1)  # halves of values, and zeros, in any order
    halves = (np.take_along_axis(dense, at, axis=1).ravel() / 2, at.ravel(), np.arange(51) * 14)
    stored = sp.csr_matrix(halves, dense.shape)
    for matrix in (dense, sp.csr_matrix(dense), stored):
        kept = keep_largest(matrix, k)
        np.testing.assert_array_equal(kept.toarray(), cut_by_loop(dense, k))
        assert (kept.data != 0).all()
        assert kept.has_sorted_indices
    assert kept.dtype == np.float32


def test_largest_entries_come_in_blocks_of_rows(monkeypatch):
    dense = np.random.default_rng(0).normal(size=(23, 7)).astype(np.float32)
    whole = keep_largest(dense, 2).toarray()
    monkeypatch.setattr("celsa_jax.sparse.rows._ENTRIES_AT_ONCE", 30)
    for matrix in (dense, sp.csr_matrix(dense)):
        np.testing.assert_array_equal(keep_largest(matrix, 2).toarray(), whole)
        assert keep_largest(matrix[:0], 2).shape == (0, 7)


def test_unit_rows_even_of_tiny_values():
    matrix = sp.csr_matrix(np.array([[3e-30, 4e-30], [0, 0], [2, 0]], np.float32))
    matrix.data[-1] = 0  # stored
    rows = unit_rows(matrix)
    np.testing.assert_allclose(rows.toarray(), [[0.6, 0.8], [0, 0], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("name", ["pruned_ease", "column_pruned_ease"])
def test_pruned_ease_against_a_loop(random_matrix, name):
    matrix = random_matrix(60, 12, density=0.4)
    pruned = BASELINES[name](matrix, n_bytes=31, l2=2.0)
    x = matrix.toarray().astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(12))
    weights = np.eye(12) - inverse / np.diag(inverse)
    weights = cut_by_loop(weights, 3) if name == "pruned_ease" else cut_by_loop(weights.T, 3).T
    np.testing.assert_allclose(pruned.score(matrix), x @ weights, atol=1e-5)
    assert pruned.bytes_per_item == 24


def test_sizes_of_pruned_ease_share_an_inversion(random_matrix, monkeypatch):
    matrix, other = random_matrix(60, 12), random_matrix(60, 12, seed=1)
    calls = []

    def counted(*arguments, **options):
        calls.append(options)
        return ease(*arguments, **options)

    monkeypatch.setattr("celsa_jax.baselines.ease.ease", counted)
    for n_bytes in (16, 24):
        BASELINES["column_pruned_ease"](matrix, n_bytes=n_bytes, dropout=0.2)
    assert len(calls) == 1
    shared = BASELINES["pruned_ease"](other, n_bytes=16).score(matrix)
    assert len(calls) == 2
    kept = keep_largest(ease(other, 100.0), 2).toarray()
    np.testing.assert_allclose(shared, matrix @ kept, atol=1e-6)


def test_methods_of_their_own_size_report_it(random_matrix):
    matrix = random_matrix(20, 6)
    assert BASELINES["popularity"](matrix, n_bytes=8).bytes_per_item == 4
    assert BASELINES["ease"](matrix, n_bytes=8, l2=5.0).bytes_per_item == 24


def test_user_knn_against_a_loop(random_matrix):
    train, new = random_matrix(50, 15, density=0.3), random_matrix(6, 15, density=0.3, seed=1)
    train.data = np.random.default_rng(2).uniform(0.5, 1, train.nnz).astype(np.float32)  # no ties
    fitted = BASELINES["user_knn"](train, n_neighbours=4, locality=2.0)
    found = fitted.score(new)
    for user, x in enumerate(new.toarray().astype(np.float64)):
        near = [x @ v / np.linalg.norm(x) / np.linalg.norm(v) for v in train.toarray()]
        best = np.argsort(near)[-4:]
        expected = sum(near[v] ** 2 * train[v].toarray()[0] for v in best)
        np.testing.assert_allclose(found[user], expected, atol=1e-6)
    assert fitted.bytes_per_item == 4 * train.nnz / 15


def test_item_knn_by_cosine_against_a_loop(random_matrix):
    matrix = random_matrix(50, 15, density=0.3)
    x = matrix.toarray().astype(np.float64)
    similarity = np.zeros((15, 15))
    for i in range(15):
        for j in range(15):
            if i != j:
                norms = np.linalg.norm(x[:, i]) * np.linalg.norm(x[:, j])
                similarity[i, j] = x[:, i] @ x[:, j] / norms
    fitted = BASELINES["item_knn"](matrix, n_bytes=40)
    assert fitted.bytes_per_item == 40
    found = fitted.score(sp.identity(15, np.float32, format="csr"))
    for i in range(15):  # of equally near items either may be kept
        np.testing.assert_allclose(np.sort(found[i])[-5:], np.sort(similarity[i])[-5:], atol=1e-6)
        np.testing.assert_allclose(found[i][found[i] > 0], similarity[i][found[i] > 0], atol=1e-6)
    np.testing.assert_allclose(fitted.score(matrix), x @ found, atol=1e-5)


def test_item_knn_of_rare_items_has_fewer_neighbours():
    matrix = sp.csr_matrix(np.array([[1, 1, 0], [0, 0, 1]], np.float32))
    fitted = BASELINES["item_knn"](matrix, n_bytes=16)
    found = fitted.score(sp.identity(3, np.float32, format="csr"))
    np.testing.assert_allclose(found, np.eye(3)[[1, 0, 2]] * [1, 1, 0])


def test_item_knn_by_bm25_differs_and_keeps_its_size(random_matrix):
    matrix = random_matrix(50, 15, density=0.3)
    weighted = BASELINES["item_knn"](matrix, n_bytes=16, similarity="bm25")
    assert weighted.bytes_per_item == 16
    assert not np.allclose(
        weighted.score(matrix), BASELINES["item_knn"](matrix, n_bytes=16).score(matrix)
    )
    with pytest.raises(InputError, match="'jaccard'; choose cosine or bm25"):
        BASELINES["item_knn"](matrix, n_bytes=16, similarity="jaccard")


def test_als_solves_the_normal_equations_of_a_new_user(random_matrix):
    from implicit.cpu.als import AlternatingLeastSquares

    matrix, new = random_matrix(60, 20, density=0.3), random_matrix(5, 20, seed=1)
    fitted = BASELINES["als"](matrix, n_bytes=19, seed=3, l2=2.0, alpha=4.0, n_iterations=5)
    assert fitted.bytes_per_item == 16
    model = AlternatingLeastSquares(
        factors=4, regularization=2.0, alpha=4.0, iterations=5, random_state=3
    )
    model.fit(matrix, show_progress=False)
    y = model.item_factors.astype(np.float64)
    expected = []
    for x in new.toarray():
        weight = np.diag(np.where(x > 0, 4.0, 1.0))
        user = np.linalg.solve(y.T @ weight @ y + 2.0 * np.eye(4), y.T @ weight @ x)
        expected.append(y @ user)
    np.testing.assert_allclose(fitted.score(new), expected, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_what_nearly_all_alike_items_share_is_found(checkerboard, name):
    """The withheld item is the first that a user has not seen, or among equals."""
    data, withheld = checkerboard
    options = {"l2": 0.1} if name == "als" else {}
    scores = np.array(BASELINES[name](data.matrix, n_bytes=48, **options).score(data.matrix))
    assert np.isfinite(scores).all()
    scores[data.matrix.toarray() > 0] = -np.inf
    if name != "popularity":
        np.testing.assert_array_equal(np.argmax(scores, axis=1), withheld)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_deterministic_in_the_seed(random_matrix, name):
    matrix = random_matrix(60, 20)
    first, again = (BASELINES[name](matrix, n_bytes=16, seed=2).score(matrix) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", [*SIZED, *COMPRESSIONS])
def test_too_few_bytes_are_named(random_matrix, name):
    fit = {**BASELINES, **COMPRESSIONS}[name]
    data = random_matrix(9, 5)
    with pytest.raises(InputError, match="3 bytes an item hold no number of"):
        fit(data if name in BASELINES else data.toarray(), n_bytes=3)


def test_top_k_of_dense_embeddings_against_a_loop():
    dense = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    codes = COMPRESSIONS["top_k"](dense, n_bytes=24)
    expected = cut_by_loop(dense, 3)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(codes.toarray(), expected, rtol=1e-5)
    assert codes.dtype == np.float32
    assert codes.format == "csr"


def autoencoder_loss_by_loop(encoder, bias, decoder, dense, k):
    """1 - cosine at k, and an eighth of it at 4k, in float64."""
    decoder = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    total = 0.0
    for e in dense / np.linalg.norm(dense, axis=1, keepdims=True):
        hidden = e @ encoder + bias
        for kept, weight in ((k, 1.0), (4 * k, 1 / 8)):
            found = cut_by_loop(hidden[None], kept)[0] @ decoder
            total += weight * (1 - e @ found / np.linalg.norm(found))
    return total / len(dense)


loss_and_gradient = jax.jit(jax.value_and_grad(autoencoder.loss), static_argnums=2)


def test_autoencoder_loss_and_gradient_against_a_loop_and_finite_differences():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(6, 5))
    weights = [rng.normal(size=shape) for shape in ((5, 20), (20,), (20, 5))]
    parameters = autoencoder.Autoencoder(*(jnp.asarray(w, jnp.float32) for w in weights))
    value, gradient = loss_and_gradient(parameters, jnp.asarray(dense, jnp.float32), 2)
    assert float(value) == pytest.approx(autoencoder_loss_by_loop(*weights, dense, 2), rel=1e-5)
    for _ in range(5):
        way = [rng.normal(size=w.shape) for w in weights]
        ahead, behind = (
            autoencoder_loss_by_loop(
                *(w + h * d for w, d in zip(weights, way, strict=True)), dense, 2
            )
            for h in (1e-6, -1e-6)
        )
        slope = sum(float(np.sum(g * d)) for g, d in zip(gradient, way, strict=True))
        assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-3, abs=1e-5)


def test_autoencoder_survives_rows_of_zeros():
    weights = autoencoder.initial(jax.random.key(0), 5, 20)
    _, gradient = loss_and_gradient(weights, jnp.zeros((6, 5)), 2)
    assert all(np.isfinite(leaf).all() for leaf in gradient)


SMALL_AUTOENCODER = {"n_hidden": 80, "batch_size": 64, "learning_rate": 3e-3}


def test_sparse_autoencoder_finds_planted_directions(sparse_mixtures):
    """Better than cutting the embeddings themselves, than codes of random weights, and by far."""
    options = {**SMALL_AUTOENCODER, "n_epochs": 60}
    trained = autoencoder.train(sparse_mixtures, 2, **options)
    hidden = np.asarray(autoencoder.activations(trained, sparse_mixtures))
    found = autoencoder.reconstructions(trained, cut_by_loop(hidden, 2))
    untrained = autoencoder.train(sparse_mixtures, 2, **{**options, "n_epochs": 0})
    hidden_at_random = np.asarray(autoencoder.activations(untrained, sparse_mixtures))
    random_codes = cut_by_loop(hidden_at_random, 2)
    random = autoencoder.reconstructions(untrained, random_codes)
    reached = cosines(sparse_mixtures, np.asarray(found)).mean()
    assert reached > cosines(sparse_mixtures, np.asarray(random)).mean() + 0.1
    assert reached > cosines(sparse_mixtures, cut_by_loop(sparse_mixtures, 2)).mean() + 0.1


def test_codes_are_small_of_unit_length_and_deterministic_in_the_seed(sparse_mixtures):
    options = {**SMALL_AUTOENCODER, "n_bytes": 23, "n_epochs": 2}
    codes, again, other = (
        COMPRESSIONS["sparse_autoencoder"](sparse_mixtures, seed=seed, **options)
        for seed in (1, 1, 2)
    )
    assert codes.shape == (600, 80)
    assert codes.dtype == np.float32
    assert (np.diff(codes.indptr) <= 2).all()
    trained = autoencoder.train(sparse_mixtures, 2, seed=1, **SMALL_AUTOENCODER, n_epochs=2)
    kept = cut_by_loop(np.asarray(autoencoder.activations(trained, sparse_mixtures)), 2)
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    np.testing.assert_allclose(codes.toarray(), kept, atol=1e-5)
    np.testing.assert_array_equal(codes.toarray(), again.toarray())
    assert (codes != other).nnz
    with pytest.raises(InputError, match="81 non-zeros, more than n_hidden"):
        COMPRESSIONS["sparse_autoencoder"](sparse_mixtures, **{**options, "n_bytes": 648})


def metrics_by_loop(scores_of, split, seed, folds="disjoint"):
    """The whole protocol user by user; only the folds come from the package."""
    folds, test = holdouts(split.test, folds, seed), split.test
    place = {item: j for j, item in enumerate(split.train.item_ids)}
    gain = [1 / np.log2(rank + 2) for rank in range(100)]
    users = []
    for u in range(test.n_users):
        span = range(test.matrix.indptr[u], test.matrix.indptr[u + 1])
        values = []
        for fold in folds:
            items = {e: place.get(test.item_ids[test.matrix.indices[e]]) for e in span}
            history = [items[e] for e in span if not fold[e] and items[e] is not None]
            held_out = [items[e] for e in span if fold[e]]
            if not history or not held_out:
                continue
            scores = scores_of(history)
            unseen = [j for j in range(len(place)) if j not in history]
            ranked = sorted(unseen, key=lambda j: (-scores[j], j))[:100]
            hits = [j in held_out for j in ranked]
            ndcg = sum(g for g, hit in zip(gain, hits, strict=False) if hit)
            recalls = [sum(hits[:k]) / min(k, len(held_out)) for k in (20, 50)]
            values.append([*recalls, ndcg / sum(gain[: len(held_out)])])
        if values:
            users.append(np.mean(values, axis=0))
    return dict(zip(("recall@20", "recall@50", "ndcg@100"), np.mean(users, axis=0), strict=True))


@pytest.mark.parametrize("folds", ["disjoint", "independent"])
def test_validation_is_the_protocol_on_validation_users(small_config, folds):
    split = make_split(dataset_of(small_config.data, 0).interactions, small_config.data, 0)
    counts = np.asarray(split.train.matrix.sum(axis=0)).ravel()
    swapped = dataclasses.replace(split, test=split.val)
    wanted = metrics_by_loop(lambda history: counts, swapped, 3, folds)["ndcg@100"]
    score = fit_popularity(split.train.matrix).score
    assert validation_value(score, split, folds=folds, seed=3) == pytest.approx(wanted, abs=1e-6)


def test_validation_by_time_holds_out_what_came_later(timed_config):
    split = make_split(dataset_of(timed_config.data, 0).interactions, timed_config.data, 0)
    score = fit_popularity(split.train.matrix).score
    value = validation_value(score, split, folds="disjoint", seed=0)
    data, late = split.val, split.val.times >= split.val_from
    later = evaluate(score, data, split.train.item_ids, held_out_from=split.val_from)
    assert late.any()
    assert not late.all()
    assert value == later.summary()["ndcg@100"]
    assert value != evaluate(score, data, split.train.item_ids).summary()["ndcg@100"]


def test_validation_users_that_nothing_can_be_asked_of(small_config):
    split = make_split(dataset_of(small_config.data, 0).interactions, small_config.data, 0)
    nobody = split.val.take_users(np.arange(0))
    score = fit_popularity(split.train.matrix).score
    with pytest.raises(InputError, match=r"none of them has both .*\(n_val_users\)"):
        validation_value(score, dataclasses.replace(split, val=nobody), folds="disjoint", seed=0)


def test_the_sweep_judges_baselines_as_an_independent_loop(small_config, tmp_path):
    data = small_config.data
    done = program(
        "sweep",
        "--config=configs/sweeps/baselines.py:synthetic",
        f"--workdir={tmp_path}",
        *(f"--config.base.data.synthetic.{name}={n}" for name, n in data.synthetic.items()),
        f"--config.base.data.n_val_users={data.n_val_users}",
        f"--config.base.data.n_test_users={data.n_test_users}",
        "--config.rows.EDLAE.options.l2=(20.0, 60.0)",
        "--config.rows.EDLAE.options.dropout=(0.0, 0.5)",
        code=WITHOUT_IMPLICIT,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    found = {(of["run"]["row"], of["run"]["column"]): of for of in results}
    split = make_split(dataset_of(data, 0).interactions, data, 0)
    x = split.train.matrix.toarray().astype(np.float64)
    chosen = found["EDLAE", "any size"]["chosen"]
    penalty = chosen["l2"] + chosen["dropout"] / (1 - chosen["dropout"]) * x.sum(axis=0)
    inverse = np.linalg.inv(x.T @ x + np.diag(penalty))
    weights = np.eye(x.shape[1]) - inverse / np.diag(inverse)
    expected = {
        "popularity": metrics_by_loop(lambda history: x.sum(axis=0), split, 0),
        "EDLAE": metrics_by_loop(lambda history: weights[history].sum(axis=0), split, 0),
    }
    for row, metrics in expected.items():
        for name, value in metrics.items():
            assert found[row, "any size"][name] == pytest.approx(value, abs=1e-6)
    tried = found["EDLAE", "any size"]["tried"]
    combinations = [(fit["l2"], fit["dropout"]) for fit in tried]
    assert sorted(combinations) == [(20, 0), (20, 0.5), (60, 0), (60, 0.5)]
    best = max(tried, key=lambda fit: fit["ndcg@100"])
    assert (best["l2"], best["dropout"]) == (chosen["l2"], chosen["dropout"])
    assert found["EASE", "any size"]["bytes_per_item"] == 4 * split.train.n_items
    assert found["column_pruned_EASE", "64"]["bytes_per_item"] == 64
    for row in ("item_k_NN", "ALS"):  # of the library that is missing
        assert "celsa_jax[baselines]" in found[row, "128"]["error"]


def test_a_missing_library_is_named(random_matrix, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    monkeypatch.setitem(sys.modules, "implicit.nearest_neighbours", None)
    for name in ("als", "item_knn"):
        with pytest.raises(InputError, match=r"celsa_jax\[baselines\]"):
            BASELINES[name](random_matrix(9, 5), n_bytes=16)


def test_codes_are_judged_by_their_own_products(sparse_mixtures):
    codes = COMPRESSIONS["top_k"](sparse_mixtures, n_bytes=16)
    fitted = embeddings_baseline(codes)
    history = sp.csr_matrix(np.eye(3, 600, dtype=np.float32))
    dense = codes.toarray()
    np.testing.assert_allclose(fitted.score(history), dense[:3] @ dense.T, atol=1e-6)
    assert fitted.bytes_per_item == 16
