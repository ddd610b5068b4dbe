"""The program that measures how time and memory grow; its runs are made up here."""

import csv

import pytest
from absl.testing import flagsaver

from celsa_jax.errors import InputError
from experiments import scaling


def test_every_point_is_measured_once_and_drawn(tmp_path, monkeypatch):
    asked = []

    def measured(sizes):
        asked.append(sizes)
        return {**sizes, "start_seconds": 1, "epoch_seconds": sizes["items"], "peak_gb": 0.5}

    monkeypatch.setattr(scaling, "measured", measured)
    table, figure = tmp_path / "scaling.csv", tmp_path / "scaling.svg"
    with flagsaver.as_parsed(output=str(table), figure=str(figure)):
        scaling.main()
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(asked) == sum(map(len, scaling.VALUES.values()))
    assert [int(row["items"]) for row in rows[:5]] == [10_000, 30_000, 100_000, 300_000, 1_000_000]
    assert {row["users"] for row in rows[:5]} == {"20000"}
    drawn = figure.read_text()
    assert all(f"<!-- {quantity} -->" in drawn for quantity in scaling.VALUES)


def test_a_figure_of_another_kind_is_refused_before_anything_runs(tmp_path):
    with (
        flagsaver.as_parsed(output=str(tmp_path / "a.csv"), figure="a.pdf"),
        pytest.raises(InputError, match=r"--figure is a \.svg or \.png"),
    ):
        scaling.main()
