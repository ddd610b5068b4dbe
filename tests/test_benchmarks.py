"""The programs whose figures the docs quote still run, on next to nothing."""

import json

import pytest
from launch import program

FIGURES = {
    "benchmark_data": (
        ["--form=netflix", "--n_ratings=50000"],
        lambda report: report["second"]["interactions"],
    ),
    "benchmark_segments": (
        ["--n_items=200", "--n_factors=16", "--nnz=2", "--n_genres=16"],
        lambda report: report["peak_gb"],
    ),
    "benchmark_training": (
        "--n_items=60 --n_factors=8 --batch_size=4 --nnz=2 --rounds=1 --steps=2".split(),
        lambda report: report["steps"]["k=2"]["step_ms"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_benchmark_measures(name):
    flags, figure = FIGURES[name]
    done = program(name, *flags)
    assert done.returncode == 0, done.stderr
    assert figure(json.loads(done.stdout.splitlines()[-1])) > 0
