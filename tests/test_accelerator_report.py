"""The report of an accelerator, whose figures the docs quote, is made on next to nothing."""

import json

import pytest
from launch import program


@pytest.mark.slow
def test_the_accelerator_report_measures(tmp_path):
    """All of its parts take 40 s."""
    parts = [f"--parts={name}" for name in ("devices", "numerics", "memory")]
    done = program("accelerator_report", f"--output={tmp_path}", "--small", *parts)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.pop("equality")["rows"] == []  # there is nothing to compare with
    assert set(report) == {"devices", "numerics", "memory"}
    assert all(part["rows"] for part in report.values()), done.stderr
    said = (tmp_path / "report.md").read_text()
    assert all(f"## {name}\n" in said for name in report)
