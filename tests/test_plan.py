"""The epochs of a run, decided before the first one: by hand for small numbers, and in general."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celsa_jax.config import default_config
from celsa_jax.plan import Epoch, plan
from celsa_jax.schedules import SCHEDULES
from celsa_jax.sweeps import paper


def planned(schedule, start, target, n_epochs, n_final_epochs, rewind=False, init_from=""):
    config = default_config()
    config.sparsity.update(schedule=schedule, start_nnz=start, target_nnz=target, rewind=rewind)
    config.train.update(n_epochs=n_epochs, n_final_epochs=n_final_epochs, init_from=init_from)
    return plan(config)


@pytest.mark.parametrize(
    ("schedule", "nnz"),
    [
        ("cubic", [64, 29, 12, 5]),  # 4 + 60 (1 - p)^3 = 29.3, 11.5, 4.9 in fourths of p
        ("linear", [64, 49, 34, 19]),
        ("cosine", [64, 55, 34, 13]),  # 4 + 60 (1 + cos(pi p)) / 2 = 55.2, 34, 12.8
        ("exponential", [64, 32, 16, 8]),
        ("exponential_half", [64, 19, 11, 7]),  # 32 / 8^p = 19.03, 11.3, 6.7
        ("step-wise", [64, 16, 8, 4]),
        ("constant", [4, 4, 4, 4]),
    ],
)
def test_every_schedule_by_hand(schedule, nnz):
    epochs = planned(schedule, 64, 4, 4, 2)
    assert [epoch.nnz for epoch in epochs] == [*nnz, 4, 4]
    # Without rewinding or a mask that is chosen afresh, what is kept is what the model has.
    kept = [64] * 6 if schedule == "constant" else [*nnz, 4, 4]
    assert [epoch.kept for epoch in epochs] == kept


def test_the_preset_of_the_paper():
    """k = d / 2^(e/10 + 1) before epoch e > 0, rewound each time, at one rate."""
    config = paper.preset("goodbooks")
    config.sparsity.start_nnz = 4096
    config.train.update(n_epochs=70, n_final_epochs=10)
    epochs = plan(config)
    expected = [4096, *(round(4096 / 2 ** (e / 10 + 1)) for e in range(1, 70)), *[16] * 10]
    assert [epoch.nnz for epoch in epochs] == expected
    assert [e for e, epoch in enumerate(epochs) if epoch.rewind] == list(range(1, 71))
    assert {epoch.settled for epoch in epochs} == {(0, 0)}


def test_a_plan_by_hand():
    settled = [
        (0.0, 0.0),
        (0.0, 0.0),
        (0.0, 0.0),
        (0.0, 0.25),
        (0.25, 0.5),
        (0.5, 0.75),
        (0.75, 1.0),
    ]
    assert planned("exponential", 27, 1, 3, 4, rewind=True) == [
        Epoch(nnz, nnz, rewind, s)
        for nnz, rewind, s in zip(
            [27, 9, 3, 1, 1, 1, 1], [False, True, True, True, False, False, False], settled,
            strict=True,
        )
    ]  # fmt: skip


def test_rewinding_is_where_k_changes_alone():
    epochs = planned("step-wise", 32, 4, 6, 2, rewind=True)
    assert [(epoch.nnz, epoch.rewind) for epoch in epochs] == [
        (32, False), (32, False), (8, True), (8, False), (4, True), (4, False),
        (4, False), (4, False),
    ]  # fmt: skip
    assert not any(epoch.rewind for epoch in planned("constant", 32, 4, 6, 2, rewind=True))
    # What an earlier run has learned is not rewound.
    warm = planned("step-wise", 32, 4, 6, 2, rewind=True, init_from="earlier")
    assert not any(epoch.rewind for epoch in warm)
    assert [epoch.nnz for epoch in warm] == [epoch.nnz for epoch in epochs]


def test_without_pruning_epochs_the_target_is_met_at_once():
    first, *others = planned("cubic", 32, 4, 0, 3, rewind=True)
    assert first == Epoch(4, 4, True, (0.0, 1 / 3))
    assert [(epoch.nnz, epoch.rewind) for epoch in others] == [(4, False), (4, False)]


def test_without_a_final_phase_the_rate_stays_and_the_target_is_not_met():
    epochs = planned("linear", 8, 4, 2, 0)
    assert epochs == [Epoch(8, 8, False, (0.0, 0.0)), Epoch(6, 6, False, (0.0, 0.0))]


def test_the_rate_is_one_and_then_half_a_cosine():
    rates = [epoch.rates(3) for epoch in planned("cubic", 8, 4, 1, 2)]
    assert all(rate.dtype == np.float32 for rate in rates)
    np.testing.assert_array_equal(rates[0], 1)
    expected = (1 + np.cos(np.pi * np.arange(7) / 6)) / 2
    np.testing.assert_allclose(np.concatenate(rates[1:]), expected[:-1], rtol=1e-6)
    assert expected[-1] == 0


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 600),
    st.integers(1, 600),
    st.integers(0, 12),
    st.integers(0, 5),
    st.booleans(),
    st.integers(1, 7),
)
def test_any_plan_falls_to_the_target(schedule, one, other, n_epochs, n_final, rewind, n_steps):
    start, target = max(one, other), min(one, other)
    epochs = planned(schedule, start, target, n_epochs, n_final, rewind)
    assert len(epochs) == n_epochs + n_final
    nnz = [start, *(epoch.nnz for epoch in epochs)]
    kept = [start, *(epoch.kept for epoch in epochs)]
    assert all(now <= before for before, now in itertools.pairwise(nnz))
    assert all(target <= k <= wide for k, wide in zip(nnz, kept, strict=True))
    assert all(k == target for k in nnz[n_epochs + 1 :])
    if schedule == "constant":
        assert set(kept) == {start}
    else:
        assert kept == nnz
        assert n_epochs == 0 or nnz[1] == start
    for epoch, (before, now) in zip(epochs, itertools.pairwise(nnz), strict=True):
        assert epoch.rewind == (rewind and schedule != "constant" and now != before)
    rates = np.concatenate([np.ones(1), *(epoch.rates(n_steps) for epoch in epochs)])
    assert (rates[: 1 + n_epochs * n_steps] == 1).all()
    assert (np.diff(rates) <= 0).all()
    assert (rates > 0).all()
    if n_final:
        # In the middle of the final phase the rate is half.
        assert abs(np.mean(rates[1 + n_epochs * n_steps :]) - 0.5) < 1 / (n_final * n_steps)
