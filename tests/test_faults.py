"""Faults of runs that take days, on the real program: it goes on and ends with the same bits."""

import ctypes
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from celsa_jax import stopping

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from celsa_jax.config import default_config

def get_config():
    config = default_config()
    config.data.update(path={path!r}, n_val_users=10, n_test_users=20, min_user_interactions=1)
    config.model.n_factors = 16
    config.sparsity.target_nnz = 2
    config.train.update(batch_size=32, n_epochs=3, n_final_epochs=2)
    config.refine.n_rounds = 0
    config.checkpoint.every_epochs = 1
    config.eval.every_epochs = 2
    return config
"""
# Kills the process in place of the n-th call of a function.
KILL_AT = """
import importlib, os, signal
module = importlib.import_module({module!r})
function, calls = getattr(module, {name!r}), []
def killed(*arguments, **options):
    calls.append(1)
    if len(calls) == {n}:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **options)
setattr(module, {name!r}, killed)
"""
# Holds every epoch up, so that there is time to do something to the run.
SLOWLY = """
import time
import celsa_jax.loop as loop
train_chunk = loop.train_chunk
def slowly(*arguments, **options):
    time.sleep({seconds})
    return train_chunk(*arguments, **options)
loop.train_chunk = slowly
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
        code = KILL_AT.format(module="celsa_jax.checkpoint", name="sums", n=3)
        assert self.run(folder / "half", code=code).returncode == -signal.SIGKILL
        assert steps(folder / "half") == [3, 6]

    def start(self, workdir, *flags, code="", program="train", config=None, **options):
        run_it = (
            f"{code}\nimport runpy\nrunpy.run_module('experiments.{program}', run_name='__main__')"
        )
        command = [sys.executable, "-c", run_it, f"--config={config or self.config}"]
        # Compiled once for all processes.
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **cache, **options.pop("environment", {})}
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *flags],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments, **options):
        return finished(self.start(*arguments, **options))

    def half(self, workdir):
        """A run with checkpoints of two of its five epochs."""
        return shutil.copytree(self.folder / "half", workdir)

    def assert_ends_alike(self, workdir, *flags, **options):
        """The same command goes on to the bits of the undisturbed run; returns its log."""
        done = self.run(workdir, *flags, **options)
        assert done.returncode == 0, done.stderr
        for name in ("embeddings.npz", "items.txt", "split.npz"):
            assert (workdir / name).read_bytes() == (self.folder / "whole" / name).read_bytes()
        assert not list(workdir.rglob(".*.tmp"))
        return done.stderr


def finished(process):
    output, log = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, log)


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


def wait_for_epoch(process, workdir):
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


def test_the_log_says_once_what_was_run_and_what_it_took(runs):
    for once in (
        "devices: ",
        "versions: ",
        "config: SHA-256 ",
        "data: SHA-256 ",
        "compiled: ",
        "peak memory: host ",
    ):
        assert runs.log.count(once) == 1
    assert runs.log.count("checkpoint saved: step ") == 5
    assert "damaged" not in runs.log


@pytest.mark.parametrize(
    ("module", "name", "n"),
    [
        ("celsa_jax.checkpoint", "write_json", 2),
        ("celsa_jax.checkpoint", "write_text", 3),
        ("celsa_jax.checkpoint.Checkpoints", "_remove", 1),
        ("celsa_jax.loop", "update_mask", 2),
        ("celsa_jax.sparse.npz", "write_sealed", 1),
        ("celsa_jax.workdir", "write_json", 1),
    ],
    ids=["saving", "saving its sums", "dropping", "pruning", "exporting", "finishing"],
)
def test_killed(runs, tmp_path, module, name, n):
    code = KILL_AT.format(module=module, name=name, n=n)
    if module.endswith("Checkpoints"):
        code = code.replace(
            f"importlib.import_module({module!r})",
            "importlib.import_module('celsa_jax.checkpoint').Checkpoints",
        )
    assert runs.run(tmp_path / "w", code=code).returncode == -signal.SIGKILL
    assert not (tmp_path / "w" / "results.json").exists()
    log = runs.assert_ends_alike(tmp_path / "w")
    assert "resumed at step" in log
    assert "damaged" not in log


def test_sigterm_leaves_a_checkpoint(runs, tmp_path):
    flags = "--config.checkpoint.every_epochs=9", "--config.eval.every_epochs=0"
    process = runs.start(tmp_path / "w", *flags, code=SLOWLY.format(seconds=1))
    wait_for_epoch(process, tmp_path / "w")
    process.send_signal(signal.SIGTERM)
    done = finished(process)
    assert done.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in done.stderr
    (step,) = steps(tmp_path / "w")
    assert f"asked to stop: checkpoint at step {step}; go on" in done.stderr
    assert f"resumed at step {step}" in runs.assert_ends_alike(tmp_path / "w", *flags)


def test_sigterm_in_an_epoch_that_is_too_long(runs, tmp_path):
    assert stopping._EPOCH_SECONDS + stopping._LEAVING_SECONDS < 30
    code = "import celsa_jax.stopping as s\ns._EPOCH_SECONDS = 0.5\n" + SLOWLY.format(seconds=600)
    process = runs.start(runs.half(tmp_path / "w"), code=code)
    for line in process.stderr:
        if "resumed at step 6" in line:
            break
    process.send_signal(signal.SIGTERM)
    done = finished(process)
    assert done.returncode == 128 + signal.SIGTERM
    assert "the run resumes from its newest checkpoint" in done.stderr
    assert steps(tmp_path / "w") == [3, 6]


def test_sigterm_ends_a_sweep_and_is_no_failure_of_a_run(runs, tmp_path):
    sweep = tmp_path / "sweep.py"
    sweep.write_text(
        "import runpy\nfrom celsa_jax.sweeps.grid import make_sweep\n"
        f"base = runpy.run_path({str(runs.config)!r})['get_config']()\n"
        "rows = {'a': {'method': 'elsa'}, 'b': {'method': 'popularity'}}\n"
        "columns = {'c': {'config': {'sparsity': {'target_nnz': 2}}}}\n"
        "def get_config():\n"
        "    return make_sweep(base=base, rows=rows, columns=columns, reference='b')\n"
    )
    workdir = tmp_path / "w"
    process = runs.start(workdir, program="sweep", config=sweep, code=SLOWLY.format(seconds=1))
    while not (found := list(workdir.glob("models/*/metrics.jsonl"))) or not found[0].read_bytes():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    done = finished(process)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "failed" not in done.stderr
    assert not list(workdir.glob("runs/*/result.json"))
    assert steps(found[0].parent)


@pytest.mark.parametrize("fault", ["truncated", "flipped"])
def test_a_damaged_checkpoint(runs, tmp_path, fault):
    workdir = runs.half(tmp_path / "w")
    files = [path for path in (workdir / "checkpoints" / "6").rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content if fault == "flipped" else content[: len(content) // 2])
    log = runs.assert_ends_alike(workdir)
    assert "checkpoint 6 is damaged (not as SHA256SUMS says: state/" in log
    assert "resumed at step 3" in log


def test_truncated_metrics(runs, tmp_path):
    workdir = runs.half(tmp_path / "w")
    content = (workdir / "metrics.jsonl").read_bytes()
    (workdir / "metrics.jsonl").write_bytes(content[: content.index(b"\n") + 20])
    log = runs.assert_ends_alike(workdir)
    assert f"{workdir / 'metrics.jsonl'}: damaged: epochs [2] are missing; going on" in log
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 4


def test_two_processes_in_one_workdir(runs, tmp_path):
    first = runs.start(tmp_path / "w", code=SLOWLY.format(seconds=3))
    wait_for_epoch(first, tmp_path / "w")
    assert_one_line(runs.run(tmp_path / "w"), "another process is at this run")
    assert finished(first).returncode == 0
    log = runs.assert_ends_alike(tmp_path / "w")
    assert "holds a finished run" in log


@pytest.mark.parametrize("n_bytes", [500, 3_000])
def test_a_quota(runs, tmp_path, n_bytes):
    """The configuration does not fit, or a checkpoint does not."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    said = (
        ["File too large"] if n_bytes == 500 else ["checkpoint 3 cannot be written", "free space"]
    )
    assert_one_line(runs.run(tmp_path / "w", preexec_fn=limit), *said)
    runs.assert_ends_alike(tmp_path / "w")


def test_a_read_only_workdir(runs, tmp_path):
    def as_a_user():
        """Root writes wherever it likes, but for this."""
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    workdir = runs.half(tmp_path / "w")
    (workdir / ".lock").unlink()
    workdir.chmod(0o555)
    done = runs.run(workdir, preexec_fn=as_a_user)
    workdir.chmod(0o755)
    assert_one_line(done, f"--workdir={workdir} cannot be written to (Permission denied)")
    runs.assert_ends_alike(workdir)
    # A finished one can still be read there.
    workdir.chmod(0o555)
    done = runs.run(workdir, preexec_fn=as_a_user)
    workdir.chmod(0o755)
    assert done.returncode == 0, done.stderr


def test_a_clock_that_goes_backwards(runs, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "begin, call = time.time(), itertools.count()\n"
        "time.time = lambda: begin - 60.0 * next(call)\n"
        "time.time_ns = lambda: int(1e9 * time.time())\n"
    )
    workdir = runs.half(tmp_path / "w")
    assert list(workdir.rglob(".*.tmp"))  # what was being written when it was killed
    later = time.time() + 1e7
    for path in workdir.rglob("*"):
        os.utime(path, (later, later))
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    log = runs.assert_ends_alike(workdir, environment=environment)
    assert "resumed at step 6" in log


def test_a_data_file_that_changed(runs, tmp_path):
    workdir, content = runs.half(tmp_path / "w"), runs.data.read_text()
    runs.data.write_text(content + "u0,new\n")
    done = runs.run(workdir)
    runs.data.write_text(content)
    assert_one_line(done, "split.npz: the data have changed since")
    runs.assert_ends_alike(workdir)


def test_the_stress_program():
    command = [sys.executable, "-m", "experiments.stress", "--kills=1", "--flips=20"]
    done = subprocess.run([*command, "--minutes=0.01"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == {
        "kills": 1,
        "resumed": report["kills"]["resumed"],
        "runs": report["kills"]["runs"],
        "divergences": 0,
        "unreadable": 0,
    }
    files = report["flips"].pop("files")
    assert files > 10
    assert report["flips"] == {"flips": 20, "loaded": 0, "errors_not_one_line": 0}
    assert report["memory"]["max_mib"] >= report["memory"]["start_mib"] > 0


def test_a_configuration_that_changed(runs, tmp_path):
    workdir = runs.half(tmp_path / "w")
    done = runs.run(workdir, "--config.train.learning_rate=0.02")
    assert_one_line(done, "holds a run with config.train.learning_rate=0.01, not 0.02")
    assert steps(workdir) == [3, 6]
