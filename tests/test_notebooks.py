"""The notebooks, run from top to bottom on little data, and stripped in the repository."""

import base64
import os
import pathlib
import subprocess
import sys

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# The data of a user with a network are larger.
SMALL = {
    "quickstart": "N_FACTORS = 16\n",
    "segments": "N_SEGMENTS = (3, 8)\n",
    "schedules": "N_FACTORS, SIZES = 16, (4,)\n",
}
SHARED = 'DATA = "synthetic"\nN_USERS = N_ITEMS = 160\nN_VAL_USERS, N_TEST_USERS = 16, 32\n'


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


def png(cell):
    """The pictures among a cell's outputs."""
    data = [output.get("data", {}) for output in cell.outputs]
    return [base64.b64decode(entry["image/png"]) for entry in data if "image/png" in entry]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where notebooks leave their runs, which others of them go on with."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, folder, monkeypatch):
    one_device = "--xla_force_host_platform_device_count=1"
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {one_device}")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # as Streamlit sets it here
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = tagged(notebook, "parameters")
    parameters.source += "\n" + SHARED + SMALL[path.stem]
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    (kept,) = tagged(notebook, "keep_output")
    assert len(png(kept)) == 1
    assert list(folder.iterdir()) == [folder / "runs"]


def test_all_are_tested():
    assert [path.stem for path in NOTEBOOKS] == sorted(SMALL)


def test_notebooks_are_stripped():
    """As the hook of .pre-commit-config.yaml has it."""
    subprocess.run([sys.executable, "-m", "nbstripout", "--verify", *NOTEBOOKS], check=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_one_small_figure(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    (kept,) = [cell for cell in notebook.cells if cell.get("outputs")]
    assert [kept] == tagged(notebook, "keep_output")
    assert [len(figure) < 30_000 for figure in png(kept)] == [True]
    assert len(kept.outputs) == 1
