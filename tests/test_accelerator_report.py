"""The report of an accelerator, whose figures the docs quote, is made on next to nothing."""

import json

import pytest
from launch import program


@pytest.mark.slow
def test_the_accelerator_report_measures(tmp_path):
    done = program("accelerator_report", f"--output={tmp_path}", "--small")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name for name, part in report.items() if not part["rows"]} == set(), done.stderr
    assert all(part["state"].startswith(("done", "compared")) for part in report.values())
    assert [row["equal"] for row in report["equality"]["rows"]] == [True, True]
    assert report["tests"]["rows"][0]["passed"]
    said = (tmp_path / "report.md").read_text()
    assert all(f"## {name}\n" in said for name in report)


@pytest.mark.slow
def test_parts_of_the_report_are_chosen(tmp_path):
    done = program("accelerator_report", f"--output={tmp_path}", "--small", "--parts=ceiling")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == {"ceiling", "equality"}
    assert report["equality"]["rows"] == []  # there is nothing to compare with
