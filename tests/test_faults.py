"""Faults of runs that take days, on the real program: it goes on and ends with the same bits."""

import itertools
import json
import os
import runpy
import shutil
import signal
import time

import numpy as np
import pytest
from launch import program, start
from stress import runs as stress

from celsa_jax import stopping
from celsa_jax.errors import InputError
from celsa_jax.train import train_and_evaluate
from celsa_jax.workdir import Workdir

CONFIG = """
from celsa_jax.config import default_config

def get_config():
    config = default_config()
    config.data.update(path={path!r}, n_val_users=10, n_test_users=20, min_user_interactions=1)
    config.model.alpha = 0.5
    config.sparsity.update(start_nnz=8, target_nnz=2)
    config.train.update(batch_size=32, n_epochs=3, n_final_epochs=2)
    config.train.update(input_dropout=0.25, learning_rate=0.01)
    config.checkpoint.every_epochs = 1
    config.eval.every_epochs = 2
    return config
"""
# Kills the process in place of the n-th call of a function.
KILL_AT = """
import os, pkgutil, signal
module, _, names = {where!r}.partition(":")
*owners, name = names.split(".")
owner, calls = pkgutil.resolve_name(".".join([module, *owners])), []
function = getattr(owner, name)
def killed(*arguments, **options):
    calls.append(1)
    if len(calls) == {n}:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **options)
setattr(owner, name, killed)
"""
# Holds the second epoch up until there is a file.
HELD = """
import os, sys, time
from celsa_jax.loop import TrainingLoop
train_epoch = TrainingLoop._train_epoch
def held(self, epoch, state):
    if epoch == 1:
        print("held up", file=sys.stderr)
    while epoch == 1 and not os.path.exists({path!r}):
        time.sleep(0.01)
    return train_epoch(self, epoch, state)
TrainingLoop._train_epoch = held
"""
# No file may be longer, as under a quota.
QUOTA = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({n}, {n}))"
# Root writes wherever it likes, but without capabilities.
AS_A_USER = """
import ctypes
version = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert ctypes.CDLL(None).capset(version, (ctypes.c_uint32 * 6)()) == 0
"""


class Runs:
    """The program on one data file, and what it leaves undisturbed."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        rows = [f"u{u},{u % 2}{i}" for u in range(120) for i in rng.permutation(30)[:8]]
        self.folder, self.data = folder, folder / "r.csv"
        self.data.write_text("\n".join(["user_id,item_id", *rows]) + "\n")
        self.config = folder / "config.py"
        self.config.write_text(CONFIG.format(path=str(self.data)))
        done = self.run(folder / "whole")
        assert done.returncode == 0, done.stderr
        self.log = done.stderr
        # Killed while the third of five checkpoints was written.
        code = KILL_AT.format(where="celsa_jax.checkpoint:sums", n=3)
        assert self.run(folder / "half", code=code).returncode == -signal.SIGKILL
        assert steps(folder / "half") == [3, 6]

    def flags(self, workdir, *more):
        return f"--config={self.config}", f"--workdir={workdir}", *more

    def start(self, workdir, *flags, code=""):
        return start("train", *self.flags(workdir, *flags), code=code)

    def run(self, workdir, *flags, code=""):
        return program("train", *self.flags(workdir, *flags), code=code)

    def half(self, workdir):
        """A run with checkpoints of two of its five epochs."""
        return shutil.copytree(self.folder / "half", workdir)

    def as_library(self, workdir, **fields):
        """The same run by a call, with other values of some fields."""
        config = runpy.run_path(str(self.config))["get_config"]()
        config.update_from_flattened_dict(fields)
        return train_and_evaluate(config, workdir)

    def assert_alike(self, workdir):
        """It has the bits of the undisturbed run, and nothing that is not whole."""
        for name in ("embeddings.npz", "items.txt", "factors.txt", "split.npz"):
            assert (workdir / name).read_bytes() == (self.folder / "whole" / name).read_bytes()
        assert not list(workdir.rglob(".*.tmp"))

    def assert_ends_alike(self, workdir, *flags, **options):
        """The same command goes on to the bits of the undisturbed run; returns its log."""
        done = self.run(workdir, *flags, **options)
        assert done.returncode == 0, done.stderr
        self.assert_alike(workdir)
        return done.stderr


def steps(workdir):
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def assert_one_line(done, *parts):
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for part in parts:
        assert part in last


def wait_for(process, text):
    """Until a line of its log has a text."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}: {seen}")


def end_in_second_epoch(process, released, number):
    """A signal, and when it was noticed the epoch goes on; the log from then on."""
    wait_for(process, "held up")
    process.send_signal(number)
    wait_for(process, f"asked to stop ({number.name})")
    released.touch()
    _, log = process.communicate()
    assert process.returncode == 128 + number, log
    assert "Traceback" not in log
    return log


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


def test_the_log_says_once_what_was_run_and_what_it_took(runs):
    for once in (
        "devices: ",
        "versions: ",
        "config: SHA-256 ",
        "data: SHA-256 ",
        "peak memory: host ",
    ):
        assert runs.log.count(once) == 1
    assert runs.log.count("checkpoint saved: step ") == 5
    assert "damaged" not in runs.log


def test_killed_again_and_again(runs, tmp_path):
    """In every place where files are written, each time from what the kill before has left."""
    workdir, resumed = tmp_path / "w", None
    for where, n, goes_on_at in (
        ("celsa_jax.checkpoint:write_json", 2, 3),
        ("celsa_jax.loop:prune", 1, 3),
        ("celsa_jax.checkpoint:sums", 3, 6),  # its first call checks those of step 3
        ("celsa_jax.checkpoint:Checkpoints._remove", 1, 9),
        ("celsa_jax.sparse.npz:write_sealed", 1, 15),
        ("celsa_jax.workdir:write_json", 1, 15),
    ):
        done = runs.run(workdir, code=KILL_AT.format(where=where, n=n))
        assert done.returncode == -signal.SIGKILL, (where, done.stderr)
        assert not (workdir / "results.json").exists()
        assert steps(workdir)[-1] == goes_on_at
        assert resumed is None or f"resumed at step {resumed}" in done.stderr
        assert "damaged" not in done.stderr
        resumed = goes_on_at
    log = runs.assert_ends_alike(workdir)
    assert "resumed at step 15" in log
    assert "damaged" not in log


@pytest.mark.slow
def test_killed_at_random_again_and_again(runs, tmp_path):
    rng = np.random.default_rng(0)
    workdir, resumed = tmp_path / "w", 0
    for _ in range(4):
        process = runs.start(workdir)
        for _ in range(rng.integers(5, 15)):  # lines of its log
            resumed += "resumed at step" in process.stderr.readline()
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:  # it was faster
            shutil.rmtree(workdir)
    assert resumed
    runs.assert_ends_alike(workdir)


def test_sigterm_leaves_a_checkpoint(runs, tmp_path):
    workdir, released = tmp_path / "w", tmp_path / "released"
    flags = "--config.checkpoint.every_epochs=9", "--config.eval.every_epochs=0"
    process = runs.start(workdir, *flags, code=HELD.format(path=str(released)))
    log = end_in_second_epoch(process, released, signal.SIGTERM)
    assert "asked to stop: checkpoint at step 6; go on" in log
    assert steps(workdir) == [6]
    assert "resumed at step 6" in runs.assert_ends_alike(workdir, *flags)


@pytest.mark.parametrize("asked", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]], ids=str)
def test_stopped_in_an_epoch_that_is_too_long(runs, tmp_path, asked):
    """It leaves when the time is over, or on a second Ctrl-C."""
    assert stopping._SECONDS < 30
    code = HELD.replace("epoch == 1", "True").format(path=str(tmp_path / "never"))
    code += f"import celsa_jax.stopping as s\ns._SECONDS = {0.5 if len(asked) == 1 else 1e6}\n"
    process = runs.start(runs.half(tmp_path / "w"), code=code)
    wait_for(process, "resumed at step 6")
    process.send_signal(asked[0])
    wait_for(process, f"asked to stop ({asked[0].name})")
    for number in asked[1:]:
        process.send_signal(number)
    _, log = process.communicate()
    assert process.returncode == 128 + asked[0]
    assert "the run resumes from its newest" in log
    assert steps(tmp_path / "w") == [3, 6]


def test_ctrl_c_ends_a_sweep_and_is_no_failure_of_a_run(runs, tmp_path):
    sweep, workdir, released = tmp_path / "sweep.py", tmp_path / "w", tmp_path / "released"
    sweep.write_text(
        "import runpy\nfrom celsa_jax.sweeps.grid import make_sweep\n"
        f"base = runpy.run_path({str(runs.config)!r})['get_config']()\n"
        "rows = {'a': {'method': 'elsa'}, 'b': {'method': 'popularity'}}\n"
        "columns = {'c': {'config': {'sparsity': {'target_nnz': 2}}}}\n"
        "def get_config():\n"
        "    return make_sweep(base=base, rows=rows, columns=columns, reference='b')\n"
    )
    flags = f"--config={sweep}", f"--workdir={workdir}"
    process = start("sweep", *flags, code=HELD.format(path=str(released)))
    assert "failed" not in end_in_second_epoch(process, released, signal.SIGINT)
    assert not list(workdir.glob("runs/*/result.json"))
    (checkpoints,) = workdir.glob("models/*/checkpoints")
    assert steps(checkpoints.parent)[-1] == 6


def test_a_damaged_checkpoint_and_truncated_metrics(runs, tmp_path, caplog):
    workdir = runs.half(tmp_path / "w")
    files = [path for path in (workdir / "checkpoints" / "6").rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    metrics = workdir / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:20])
    with caplog.at_level("INFO", logger="celsa_jax"):
        runs.as_library(workdir)
    runs.assert_alike(workdir)
    assert "checkpoint 6 is damaged (not as SHA256SUMS says: state/" in caplog.text
    assert "resumed at step 3" in caplog.text
    assert f"{metrics}: damaged: epochs [1] are missing; going on" in caplog.text
    assert [json.loads(line)["epoch"] for line in metrics.open()] == [2, 3, 4, 5]


def test_two_processes_in_one_workdir(runs, tmp_path):
    with Workdir(tmp_path / "w").locked():
        assert_one_line(runs.run(tmp_path / "w"), "another process is at this run")
    assert not (tmp_path / "w").exists()  # nothing had begun


def test_a_quota(runs, tmp_path):
    workdir = tmp_path / "w"
    done = runs.run(workdir, code=QUOTA.format(n=500))
    assert_one_line(done, "File too large")
    done = runs.run(workdir, code=QUOTA.format(n=3_000))
    assert_one_line(done, "checkpoint 3 cannot be written", "free space")
    runs.assert_ends_alike(workdir)


@pytest.mark.parametrize("form", ["int8", "parquet"])
def test_an_export_to_a_full_disk_names_its_file(runs, tmp_path, form):
    output = tmp_path / f"out.{form}"
    flags = f"--workdir={runs.folder / 'whole'}", f"--format={form}", f"--output={output}"
    done = program("export", *flags, code=QUOTA.format(n=300))
    assert_one_line(done, f"error: {output}: ", "File too large")
    assert not list(tmp_path.iterdir())


def test_memory_that_is_not_enough_is_one_line(runs, tmp_path):
    code = "import numpy as np\nfrom celsa_jax.sparse import SparseEmbeddings\n"
    code += "SparseEmbeddings.load = lambda *_: np.empty(1 << 50)"
    flags = f"--workdir={runs.folder / 'whole'}", f"--output={tmp_path / 'out'}"
    assert_one_line(program("export", *flags, code=code), "more memory is needed than there is")


def test_a_read_only_workdir(runs, tmp_path):
    workdir = runs.half(tmp_path / "w")
    (workdir / ".lock").unlink()
    workdir.chmod(0o555)
    done = runs.run(workdir, code=AS_A_USER)
    workdir.chmod(0o755)
    assert_one_line(done, f"{workdir}: cannot be written to (Permission denied)")
    # A finished one can still be read there.
    finished = shutil.copytree(runs.folder / "whole", tmp_path / "finished")
    finished.chmod(0o555)
    done = runs.run(finished, code=AS_A_USER)
    finished.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((finished / "results.json").read_text())


def test_a_clock_that_goes_backwards(runs, tmp_path, caplog, monkeypatch):
    workdir = runs.half(tmp_path / "w")
    assert list(workdir.rglob(".*.tmp"))  # what was being written when it was killed
    later, calls = time.time() + 1e7, itertools.count()
    for path in workdir.rglob("*"):
        os.utime(path, (later, later))
    monkeypatch.setattr(time, "time", lambda: later - 60.0 * next(calls))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * time.time()))
    with caplog.at_level("INFO", logger="celsa_jax"):
        runs.as_library(workdir)
    runs.assert_alike(workdir)
    assert "resumed at step 6" in caplog.text


def test_data_or_a_configuration_that_changed(runs, tmp_path):
    workdir = runs.half(tmp_path / "w")
    with pytest.raises(InputError, match=r"config\.train\.learning_rate=0\.01, not 0\.02"):
        runs.as_library(workdir, **{"train.learning_rate": 0.02})
    content = runs.data.read_text()
    runs.data.write_text(content + "u0,new\n")
    with pytest.raises(InputError, match=r"split\.npz: the data have changed since"):
        runs.as_library(workdir)
    runs.data.write_text(content)
    assert steps(workdir) == [3, 6]


@pytest.mark.slow
def test_the_stress_program(tmp_path):
    flips = stress.flip(tmp_path / "flips", 8, seed=0)
    assert (flips["flips"], flips["loaded"], flips["errors_not_one_line"]) == (8, 0, 0)
    assert flips["files"] > 10
    assert stress.repeat(tmp_path / "memory", minutes=0.01)["runs"] > 0
