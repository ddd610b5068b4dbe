import numpy as np
import pytest

from celsa_jax.baselines.ease import ease, ease_scorer, popularity_scorer


def test_ease_solves_one_ridge_regression_per_item(random_matrix):
    """With a zero diagonal, column j is the ridge regression of item j on all the others."""
    matrix = random_matrix(40, 9, density=0.4)
    x = matrix.toarray().astype(np.float64)
    expected = np.zeros((9, 9))
    for j in range(9):
        others = np.arange(9) != j
        gram = x[:, others].T @ x[:, others] + 3.0 * np.eye(8)
        expected[others, j] = np.linalg.solve(gram, x[:, others].T @ x[:, j])
    weights = ease(matrix, 3.0)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(ease_scorer(weights)(matrix[:5]), x[:5] @ expected, atol=1e-5)


def test_ease_refuses_a_singular_problem(random_matrix):
    with pytest.raises(ValueError, match="not positive definite"):
        ease(random_matrix(3, 9), 0.0)


def test_popularity_is_the_same_for_all(random_matrix):
    matrix = random_matrix(20, 6)
    scores = popularity_scorer(matrix)(matrix[:4])
    np.testing.assert_array_equal(scores, np.tile(matrix.toarray().sum(axis=0), (4, 1)))
