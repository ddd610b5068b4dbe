import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celsa_jax.data.batches import make_chunks, take_batch
from celsa_jax.gradient import loss_and_grad
from celsa_jax.losses import nmse, unit
from celsa_jax.model import ELSA, item_embeddings, training_scores


def numpy_loss(weights, mask, x, cap, relu=True):
    """The loss of DESIGN's equations, user by user in float64."""
    a = np.where(mask, weights, 0).astype(np.float64)
    for row in a:
        row /= max(np.linalg.norm(row), 1e-12)
    losses = []
    for user in x.astype(np.float64):
        y = user @ a @ a.T - user
        if relu:
            y = np.maximum(y, 0)
        if cap is not None:
            y = np.minimum(y, cap)
        y = y / max(np.linalg.norm(y), 1e-12)
        losses.append(((y - user / np.linalg.norm(user)) ** 2).sum())
    return np.mean(losses)


def numeric_gradient(weights, mask, x, cap, relu=True, step=1e-6):
    gradient = np.zeros(weights.shape)
    for index in np.ndindex(*weights.shape):
        up, down = weights.astype(np.float64), weights.astype(np.float64)
        up[index] += step
        down[index] -= step
        difference = numpy_loss(up, mask, x, cap, relu) - numpy_loss(down, mask, x, cap, relu)
        gradient[index] = difference / (2 * step)
    return gradient


def compiled(precision="float32"):
    """Compiled afresh, since the backend is looked up while tracing."""
    return jax.jit(
        lambda *arguments: loss_and_grad(*arguments, precision=precision), static_argnums=(3, 4)
    )


def whole_batch(matrix, n_padding_users=0, n_padding_places=0):
    (chunk,) = make_chunks(matrix, 0, seed=0)
    rows = np.concatenate([np.arange(matrix.shape[0]), np.full(n_padding_users, matrix.shape[0])])
    return take_batch(chunk, jnp.asarray(rows, jnp.int32), matrix.nnz + n_padding_places)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """The encoder is chosen by backend; both choices run on a CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.fixture(params=["few factors", "many users an item"])
def problem(request, random_matrix):
    """Weights, a mask and a matrix in which some items have no user and some have nearly all."""
    n_users, n_items = (5, 9) if request.param == "few factors" else (40, 12)
    matrix = random_matrix(n_users, n_items, density=0.3, seed=2).tolil()
    matrix[:, 3] = 0
    matrix[:, 4] = 1
    matrix[2] = 0
    matrix[2, [0, 1]] = 1
    rng = np.random.default_rng(0)
    mask = rng.random((n_items, 6)) < 0.7
    mask[:, 0] = True
    weights = np.where(mask, rng.normal(size=mask.shape), 0).astype(np.float32)
    return weights, mask, matrix.tocsr().astype(np.float32)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("cap", "relu"), [(6.0, True), (1.5, True), (None, True), (1.5, False), (None, False)]
)
def test_loss_and_gradient_equal_a_numpy_loop(problem, cap, relu):
    weights, mask, matrix = problem
    with jax.numpy_dtype_promotion("strict"):
        loss, grad = compiled()(
            jnp.asarray(weights), jnp.asarray(mask), whole_batch(matrix), cap, relu
        )
    x = matrix.toarray()
    assert float(loss) == pytest.approx(numpy_loss(weights, mask, x, cap, relu), rel=1e-5)
    expected = np.where(mask, numeric_gradient(weights, mask, x, cap, relu), 0)
    np.testing.assert_allclose(np.asarray(grad), expected, atol=2e-5)
    assert np.abs(expected).max() > 1e-2  # or the comparison shows nothing


@pytest.mark.usefixtures("backend")
def test_gradient_equals_automatic_differentiation(random_matrix):
    rng = np.random.default_rng(1)
    matrix = random_matrix(64, 300, density=0.1, seed=3)
    mask = rng.random((300, 40)) < 0.5
    weights = jnp.asarray(np.where(mask, rng.normal(size=mask.shape), 0), jnp.float32)
    x = jnp.asarray(matrix.toarray())

    def loss_of(w):
        return jnp.mean(nmse(training_scores(item_embeddings(w, mask), x, 6.0), x))

    expected_loss, expected = jax.value_and_grad(loss_of)(weights)
    loss, grad = compiled()(weights, jnp.asarray(mask), whole_batch(matrix), 6.0)
    np.testing.assert_allclose(float(loss), float(expected_loss), rtol=1e-6)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(np.asarray(grad) / scale, np.asarray(expected) / scale, atol=1e-6)


@pytest.mark.usefixtures("backend")
def test_bfloat16_rounds_the_operands_of_products_alone(random_matrix):
    """Against NumPy, with a rounding before every product."""
    rng = np.random.default_rng(1)
    matrix = random_matrix(64, 300, density=0.1, seed=3)
    x, w = matrix.toarray(), rng.normal(size=(300, 40)).astype(np.float32)

    def low(a):
        return a.astype(jnp.bfloat16).astype(np.float32)

    scale = 1 / np.linalg.norm(w, axis=1)
    hidden = low(x * scale) @ low(w)
    z = low(hidden) @ low(w).T * scale - x
    y = np.clip(z, 0, 6.0)
    y_length, x_length = (np.linalg.norm(a, axis=1, keepdims=True) for a in (y, x))
    cosine = np.sum(x * y, axis=1, keepdims=True) / y_length / x_length
    z_grad = 2 / 64 / y_length * (cosine / y_length * y - x / x_length) * (z > 0) * (z < 6.0)
    z_grad = z_grad * scale
    grad = low(z_grad).T @ low(hidden) + low(x * scale).T @ low(low(z_grad) @ low(w))
    grad -= np.sum(grad * w, axis=1, keepdims=True) * (scale**2)[:, None] * w

    loss, found = compiled("bfloat16")(w, jnp.ones(w.shape, bool), whole_batch(matrix), 6.0)
    assert loss.dtype == found.dtype == jnp.float32
    assert float(loss) == pytest.approx(np.mean(2 - 2 * cosine), rel=1e-5)
    error = np.linalg.norm(found - grad) / np.linalg.norm(grad)
    exact = compiled("float32")(w, jnp.ones(w.shape, bool), whole_batch(matrix), 6.0)[1]
    assert error < 0.02 * np.linalg.norm(exact - grad) / np.linalg.norm(grad)


@pytest.mark.parametrize(("platform", "same_as"), [("cpu", "float32"), ("gpu", "bfloat16")])
def test_precision_is_low_on_accelerators_unless_said(
    random_matrix, monkeypatch, platform, same_as
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(30, 8)), jnp.float32)
    arguments = weights, jnp.ones((30, 8), bool), whole_batch(random_matrix(9, 30)), 6.0
    auto, expected = (compiled(p)(*arguments)[1] for p in ("auto", same_as))
    np.testing.assert_array_equal(np.asarray(auto), np.asarray(expected))


@pytest.mark.usefixtures("backend")
def test_padding_counts_neither_users_nor_places(problem):
    weights, mask, matrix = problem
    arguments = jnp.asarray(weights), jnp.asarray(mask)
    loss, grad = compiled()(*arguments, whole_batch(matrix), 6.0)
    padded_loss, padded_grad = compiled()(*arguments, whole_batch(matrix, 3, 17), 6.0)
    assert float(loss) == pytest.approx(float(padded_loss), rel=1e-6)
    np.testing.assert_allclose(np.asarray(grad), np.asarray(padded_grad), atol=1e-6)


def test_a_user_without_scores_has_loss_one_and_no_gradient(random_matrix):
    # Orthogonal embeddings: x A A^T - x is zero everywhere.
    weights = jnp.eye(6, dtype=jnp.float32)
    mask = jnp.ones((6, 6), bool)
    loss, grad = compiled()(weights, mask, whole_batch(random_matrix(4, 6)), 6.0)
    assert float(loss) == pytest.approx(1)
    np.testing.assert_array_equal(np.asarray(grad), 0)


def test_unit_is_safe_at_zero():
    v = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]])
    np.testing.assert_allclose(np.asarray(unit(v)), [[0.6, 0.8], [0, 0], [0, 0]], atol=1e-12)
    grad = jax.grad(lambda v: jnp.sum(unit(v) ** 2))(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(np.asarray(grad), 0)


def test_module_scores_equal_a_numpy_loop():
    model = ELSA(7, 4, relu_cap=0.4, rngs=nnx.Rngs(0))
    weights = np.asarray(model.weights[...])
    limit = np.sqrt(6 / (7 + 4))  # Xavier-uniform
    assert np.abs(weights).max() <= limit
    assert np.abs(weights).max() > 0.7 * limit
    mask = np.ones((7, 4), bool)
    mask[2, 1:] = False
    model.mask[...] = jnp.asarray(mask)
    x = np.array([[1, 1, 0, 0, 1, 0, 0]], np.float32)
    a = np.where(mask, weights, 0)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(model.embeddings()), a, atol=1e-6)
    expected = np.clip(x @ a @ a.T - x, 0, 0.4)
    scores = nnx.jit(ELSA.__call__)(model, jnp.asarray(x))
    np.testing.assert_allclose(np.asarray(scores), expected, atol=1e-6)
