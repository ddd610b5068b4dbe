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
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_benchmark_measures(name):
    flags, figure = FIGURES[name]
    done = program(name, *flags)
    assert done.returncode == 0, done.stderr
    assert figure(json.loads(done.stdout.splitlines()[-1])) > 0


@pytest.mark.slow
def test_the_accelerator_report_measures(tmp_path):
    """All of its parts compile for a minute."""
    parts = [f"--parts={name}" for name in ("devices", "numerics", "memory")]
    done = program("accelerator_report", f"--output={tmp_path}", "--small", *parts)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.pop("equality")["rows"] == []  # there is nothing to compare with
    assert set(report) == {"devices", "numerics", "memory"}
    assert all(part["rows"] for part in report.values()), done.stderr
    said = (tmp_path / "report.md").read_text()
    assert all(f"## {name}\n" in said for name in report)
