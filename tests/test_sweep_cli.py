"""The program `experiments.sweep`: killed, in two processes at once, and with wrong flags."""

import collections
import json
import os
import signal
import time

import numpy as np
import pytest
from launch import ROOT, WITHOUT_JAX, program, start
from test_cli import assert_fails
from test_sweeps import WIDTH_32, read_csv, stable

SMALL = """
from celsa_jax.sweeps import make_sweep
from celsa_jax.sweeps.rows import size_columns
from test_sweeps import tiny_base

def get_config():
    return make_sweep(
        base=tiny_base(), rows=ROWS, columns=size_columns((32, 16)), seeds=SEEDS,
        reference="a",
    )
"""
TRAINED = {
    "a": {"method": "elsa", "once": True},
    "b": {"method": "top_k", "config": WIDTH_32, "once": True},
    "c": {"method": "pruned_ease"},
}
CHEAP = {"a": {"method": "pruned_ease"}, "b": {"method": "ease", "once": True}}
# Drawing takes longer than all the rest.
NO_FIGURES = """
from celsa_jax.sweeps import runner
runner._draw = lambda results: None
"""
# A method that takes its time and says when it was called.
SLOW = """
import time
from celsa_jax import baselines
fit = baselines.BASELINES["pruned_ease"]
def slow(train, *, n_bytes, seed=0, l2=100.0):
    with open("{log}", "a") as stream:
        stream.write(f"{{n_bytes}} {{seed}}\\n")
    time.sleep(0.3)
    return fit(train, n_bytes=n_bytes, seed=seed, l2=l2)
baselines.BASELINES["pruned_ease"] = slow
"""


def write_config(folder, rows, seeds):
    path = folder / "config.py"
    given = (
        f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\nROWS = {rows!r}\nSEEDS = {seeds}"
    )
    path.write_text(given + SMALL)
    return path


def start_sweep(config, workdir, code=""):
    flags = f"--config={config}", f"--workdir={workdir}"
    return start("sweep", *flags, code=code)


def n_files(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_results(tmp_path):
    config = write_config(tmp_path, TRAINED, (3,))
    whole = start_sweep(config, tmp_path / "whole", NO_FIGURES)
    assert json.loads(whole.communicate()[0].splitlines()[-1])["done"] == 4
    rng = np.random.default_rng(0)
    # By the number of files there are; a finished sweep has fewer than a running one at times.
    moments = np.sort(rng.integers(1, n_files(tmp_path / "whole") * 3 // 4, 2))
    kills = 0
    for moment in moments:
        process = start_sweep(config, tmp_path / "killed")
        while process.poll() is None:
            if n_files(tmp_path / "killed") > moment:
                time.sleep(rng.uniform(0, 0.2))
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            time.sleep(0.005)
        process.communicate()
    assert kills
    last = start_sweep(config, tmp_path / "killed")
    out, err = last.communicate()
    assert last.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["done"] == 4
    assert stable(tmp_path / "killed") == stable(tmp_path / "whole")
    assert (tmp_path / "killed" / "table.md").read_text() == (
        tmp_path / "whole" / "table.md"
    ).read_text()
    assert not list((tmp_path / "killed").rglob(".*.tmp"))


def test_two_processes_share_one_part(tmp_path):
    config = write_config(tmp_path, CHEAP, (0,))
    slow = WITHOUT_JAX + SLOW.format(log=tmp_path / "calls") + NO_FIGURES
    processes = [start_sweep(config, tmp_path / "w", slow) for _ in range(2)]
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        # Each waits for the other's runs before it ends.
        assert json.loads(out.splitlines()[-1])["done"] == 3
    calls = collections.Counter((tmp_path / "calls").read_text().splitlines())
    assert calls == {"32 0": 1, "16 0": 1}
    assert [row["state"] for row in read_csv(tmp_path / "w")] == ["done"] * 3


def test_baselines_need_no_jax(tmp_path):
    config = write_config(tmp_path, CHEAP, (0, 1))
    shard = ("--shard=1/2", "--config.seeds=(4,)")
    done = program(
        "sweep", f"--config={config}", f"--workdir={tmp_path / 'w'}", *shard, code=WITHOUT_JAX
    )
    assert done.returncode == 0, done.stderr
    assert [row["seed"] for row in read_csv(tmp_path / "w")] == ["4"] * 3
    assert json.loads(done.stdout.splitlines()[-1])["done"] == 2


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--shard=half"], ["--shard=half", "1/4"]),
        (["--workdir="], ["give --workdir=..."]),
        (["--config.reference=theirs"], ["config.reference is 'theirs'"]),
        (["--config=configs/sweeps/paper.py:goodbooks/mane"], ["there is no table 'mane'"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, flags, parts):
    given = ["--config=configs/sweeps/smoke.py", f"--workdir={tmp_path / 'w'}", *flags]
    assert_fails(program("sweep", *given, code=WITHOUT_JAX), *parts)
    assert not (tmp_path / "w").exists()
