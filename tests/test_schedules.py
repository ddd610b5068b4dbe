import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celsa_jax.schedules import SCHEDULES, nnz_at


@pytest.mark.parametrize(
    ("schedule", "progress", "nnz"),
    [
        ("cubic", 0.0, 1024),
        ("cubic", 0.5, 142),  # 1024 (1 - 63/64 * 7/8) = 142
        ("cubic", 1.0, 16),
        ("linear", 0.5, 520),
        ("cosine", 0.5, 520),
        ("cosine", 0.25, 876),  # 1024 (1 - 63/64 * (1 - 0.70711) / 2) = 876.4
        ("exponential", 0.5, 128),  # the geometric mean of 1024 and 16
        ("exponential_half", 0.0, 1024),
        ("exponential_half", 0.5, 91),  # 512 sqrt(1/32) = 90.5
        ("step-wise", 0.0, 1024),
        ("step-wise", 0.17, 256),  # levels 1024, 256, 128, 64, 32, 16
        ("step-wise", 0.84, 16),
        ("constant", 0.0, 16),
    ],
)
def test_hand_computed_values(schedule, progress, nnz):
    assert nnz_at(schedule, progress, 1024, 16) == nnz


def test_stepwise_levels_are_equally_long():
    values = nnz_at("step-wise", np.arange(600) / 600, 1024, 16)
    levels, counts = np.unique(values, return_counts=True)
    assert levels.tolist() == [16, 32, 64, 128, 256, 1024]
    assert counts.tolist() == [100] * 6


def test_stepwise_ends_at_a_target_that_is_no_power_of_two():
    values = nnz_at("step-wise", np.arange(100) / 100, 1000, 20)
    assert sorted(set(values.tolist())) == [20, 31, 62, 125, 250, 1000]


@pytest.mark.parametrize(
    ("schedule", "nnz"),
    [
        ("cubic", 22),  # 16 + 48 / 8
        ("linear", 40),
        ("cosine", 40),
        ("exponential", 32),
        ("exponential_half", 23),  # 32 sqrt(1/2) = 22.6
        ("step-wise", 16),  # levels 64 and 16
        ("constant", 16),
    ],
)
def test_from_the_few_factors_of_a_start_to_the_target(schedule, nnz):
    assert nnz_at(schedule, 0.5, 64, 16) == nnz


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 5000),
    st.data(),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_every_schedule_falls_to_exactly_the_target(schedule, n_factors, data, progress):
    target = data.draw(st.integers(1, n_factors))
    values = nnz_at(schedule, np.sort(progress), n_factors, target)
    assert values.dtype == np.int32
    assert ((values >= target) & (values <= n_factors)).all()
    assert (np.diff(values) <= 0).all()
    assert nnz_at(schedule, 1.0, n_factors, target) == target
    if schedule != "constant":
        assert nnz_at(schedule, 0.0, n_factors, target) == n_factors


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_jax_traces_a_schedule(schedule):
    progress = np.linspace(0, 1, 101, dtype=np.float32)
    traced = jax.jit(lambda p: nnz_at(schedule, p, 1024, 16))(progress)
    assert traced.dtype == np.int32
    # float32 against float64: a rounding may fall to the other side.
    np.testing.assert_allclose(traced, nnz_at(schedule, progress, 1024, 16), atol=1)
