"""The figure of the README."""

from xml.etree import ElementTree

import pytest
from launch import ROOT, program

from celsa_jax.errors import InputError
from experiments.quality_figure import read_points

HEAD = "row,column,state,bytes_per_item,ndcg@100\n"
ROWS = (
    "ours,64,done,64.0,0.40\nours,64,done,64.0,0.42\n"
    "ours,64,failed,,\nEASE,any size,done,30,0.3\nEASE,any size,done,50,0.5\n"
    "EASE,any size,done,40,0.1\nALS,64,done,64.0,0.25\n"
)


def test_points_by_hand(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(HEAD + ROWS)
    points = read_points(path)
    assert set(points) == {"ours", "EASE", "ALS"}
    assert points["ours"] == [pytest.approx((64, 0.41, 0.01))]
    assert points["EASE"] == [pytest.approx((40, 0.3, 0.2 / 3**0.5))]
    assert points["ALS"] == [pytest.approx((64, 0.25, 0))]


def test_the_figure_of_the_repository_is_what_its_command_draws(tmp_path):
    drawn = tmp_path / "quality.svg"
    done = program("quality_figure", f"--results={ROOT}/docs/methods.csv", f"--output={drawn}")
    assert done.returncode == 0, done.stderr
    kept = ROOT / "docs" / "figures" / "quality.svg"
    paths = [len(ElementTree.parse(path).findall(".//{*}path")) for path in (drawn, kept)]
    assert paths[0] == paths[1] > 50


@pytest.mark.parametrize("content", [None, "row,state\nEASE,done\n", HEAD + "EASE,64,done,64,x\n"])
def test_a_file_that_is_no_table_of_a_sweep(tmp_path, content):
    path = tmp_path / "results.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"results\.csv is not .* give docs/methods\.csv"):
        read_points(path)
