import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from celsa_jax import pruning
from celsa_jax.pruning import top_k_mask

top_k_mask_jit = jax.jit(top_k_mask)


def reference(scores, k):
    """A stable descending sort keeps ties in the order of their indices."""
    order = np.argsort(-np.abs(scores), axis=1, kind="stable")[:, :k]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


TINY = np.float32(1e-45)  # the smallest denormal


@pytest.mark.parametrize(
    "scores",
    [
        np.random.default_rng(0).normal(size=(37, 64)),
        np.random.default_rng(1).integers(-3, 4, (50, 33)),
        np.zeros((5, 16)),
        np.full((3, 17), -2.5),
        np.random.default_rng(2).integers(-4, 5, (20, 40)) * TINY,
        np.array([[0.0, -0.0, TINY, -TINY, 1.0, -1.0, 0.0, np.inf]]),
    ],
    ids=["random", "tied", "zero", "equal", "denormal", "signs"],
)
def test_equals_a_stable_sort_for_every_k(scores):
    scores = scores.astype(np.float32)
    for k in range(1, scores.shape[1] + 1):
        mask = np.asarray(top_k_mask_jit(jnp.asarray(scores), k))
        np.testing.assert_array_equal(mask, reference(scores, k))


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.float32,
        (7, 12),
        elements=st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3.0]),
            st.floats(-(2.0**99), 2.0**99, width=32),
        ),
    ),
    st.integers(1, 12),
)
def test_equals_a_stable_sort_on_drawn_rows(scores, k):
    np.testing.assert_array_equal(
        np.asarray(top_k_mask_jit(jnp.asarray(scores), k)), reference(scores, k)
    )


def test_rows_that_do_not_fill_the_last_block(monkeypatch):
    monkeypatch.setattr(pruning, "_CPU_BLOCK_ENTRIES", 3 * 20)
    scores = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(top_k_mask(scores, 6)), reference(scores, 6))


def test_all_rows_at_once_as_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scores = np.random.default_rng(0).integers(-9, 9, (40, 25)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(top_k_mask(scores, 7)), reference(scores, 7))


def test_one_compilation_serves_every_k():
    compiled = jax.jit(lambda scores, k: top_k_mask(scores, k))
    scores = jnp.ones((4, 10))
    for k in range(1, 11):
        compiled(scores, k)
    assert compiled._cache_size() == 1


def test_under_strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        mask = jax.jit(lambda s, k: top_k_mask(s, k))(jnp.ones((2, 5)), jnp.int32(2))
    np.testing.assert_array_equal(np.asarray(mask), [[1, 1, 0, 0, 0]] * 2)
