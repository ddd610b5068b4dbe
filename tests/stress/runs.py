"""Does to small runs what happens to long ones, and counts what that breaks.

    python -m tests.stress.runs --kills=100 --flips=200 --minutes=30

--kills ends runs by SIGKILL at random times and starts them again; whatever they leave must be
readable, and the end the same as that of a run that was left alone. --flips turns single bits in
the files of a finished run; none may be loaded. --minutes trains, prunes, checkpoints and exports
over and over in one process, and watches its memory. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.data.splits import read_split
from celsa_jax.errors import InputError
from celsa_jax.sparse import FORMATS, SparseEmbeddings

ROOT = pathlib.Path(__file__).parents[2]
_KILLS_A_RUN = 3  # before it may end
_CONFIG = "config.py"  # what a process reads that is killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, help="how often a run is killed")
    parser.add_argument("--flips", type=int, default=0, help="how many bits are flipped")
    parser.add_argument("--minutes", type=float, default=0, help="how long runs are repeated")
    parser.add_argument("--seed", type=int, default=0, help="of times of kills, places of bits")
    given = parser.parse_args()
    if not (given.kills or given.flips or given.minutes):
        parser.error("give --kills, --flips or --minutes")
    report: dict[str, object] = {"seed": given.seed}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        os.environ["CELSA_JAX_CACHE"] = str(path / "cache")
        if given.kills:
            report["kills"] = kill(path / "kills", given.kills, given.seed)
        if given.flips:
            report["flips"] = flip(path / "flips", given.flips, given.seed)
        if given.minutes:
            report["memory"] = repeat(path / "memory", given.minutes)
    print(json.dumps(report))


def small_config() -> ConfigDict:
    """A run of a second on planted segments, by dense products at first and then by gathers."""
    config = default_config()
    config.data.name = "synthetic"
    config.data.synthetic.update(n_users=400, n_items=200, n_segments=8)
    config.data.update(n_val_users=40, n_test_users=40)
    config.sparsity.target_nnz = 4
    config.train.update(batch_size=64, n_epochs=8, n_final_epochs=4)
    config.checkpoint.every_epochs = 1
    config.eval.every_epochs = 4
    return config


def kill(folder: pathlib.Path, n_kills: int, seed: int) -> dict[str, int]:
    """Kills runs at random times until there were so many kills; compares what they end with.

    From its first line of log on, when all is imported, a process lives for a random share of the
    time that an undisturbed one takes.
    """
    folder.mkdir()
    (folder / _CONFIG).write_text("from tests.stress.runs import small_config as get_config\n")
    rng = np.random.default_rng(seed)
    _start(folder, "warm").wait()  # fills the cache of compiled code
    process = _start(folder, "whole")
    started = time.perf_counter()
    if process.wait():
        sys.exit("the run that is left alone fails; does experiments.train work?")
    longest = time.perf_counter() - started
    expected = _outcome(folder / "whole")
    counts = {"kills": 0, "resumed": 0, "runs": 0, "divergences": 0, "unreadable": 0}
    while counts["kills"] < n_kills:
        name = f"run{counts['runs']}"
        counts["runs"] += 1
        for _ in range(min(_KILLS_A_RUN, n_kills - counts["kills"])):
            process = _start(folder, name)
            try:
                process.wait(rng.uniform() * longest)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
            counts["kills"] += killed
            # A checkpoint was there to go on from.
            counts["resumed"] += killed and (folder / name / "checkpoints").exists()
        process = _start(folder, name)
        if process.wait():
            counts["unreadable"] += 1
            print((folder / f"{name}.log").read_text(), file=sys.stderr)
        elif _outcome(folder / name) != expected:
            counts["divergences"] += 1
        print(json.dumps(counts), file=sys.stderr)
        shutil.rmtree(folder / name, ignore_errors=True)
    return counts


def _start(folder: pathlib.Path, name: str) -> subprocess.Popen:
    """A process that trains, from its first line of log on."""
    command = [sys.executable, "-m", "experiments.train", f"--config={folder / _CONFIG}"]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--workdir={folder / name}"],
            cwd=ROOT,
            env={**os.environ, **cache},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    while process.poll() is None and not (folder / f"{name}.log").stat().st_size:
        time.sleep(0.01)
    return process


def _outcome(workdir: pathlib.Path) -> list[bytes]:
    return [(workdir / name).read_bytes() for name in ("embeddings.npz", "items.txt", "split.npz")]


def flip(folder: pathlib.Path, n_flips: int, seed: int) -> dict[str, int]:
    """Flips bits, one at a time, of checkpoints, splits and embeddings; counts what is loaded."""
    from celsa_jax.checkpoint import Checkpoints
    from celsa_jax.products import capacity
    from celsa_jax.state import Form, state_shape
    from celsa_jax.train import train_and_evaluate

    config = small_config()
    config.checkpoint.keep = 1
    config.eval.every_epochs = 0
    train_and_evaluate(config, folder)
    embeddings = SparseEmbeddings.load(folder / "embeddings.npz")
    for form in FORMATS:
        embeddings.to_format(form).save(folder / form)
    places = capacity(config.sparsity.target_nnz, embeddings.n_factors, dense=False)
    like = state_shape(embeddings.n_items, places, Form(embeddings.n_factors))

    def load_checkpoint() -> None:
        with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
            checkpoints.restore_latest(lambda notes: like)

    files = sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())
    readers = dict.fromkeys(files, load_checkpoint)
    readers[folder / "split.npz"] = lambda: read_split(folder / "split.npz")
    for name in ("embeddings.npz", "items.txt"):
        readers[folder / name] = lambda: SparseEmbeddings.load(folder / "embeddings.npz")
    for form in FORMATS:
        readers[folder / form] = lambda form=form: SparseEmbeddings.load(folder / form)
    for read in set(readers.values()):
        read()  # as they are, all are sound
    rng = np.random.default_rng(seed)
    counts = {"flips": 0, "files": len(readers), "loaded": 0, "errors_not_one_line": 0}
    # A file is drawn before a bit of it, so that small ones have their turn.
    for path in rng.choice(np.array(list(readers), object), n_flips):
        content = path.read_bytes()
        flipped, bit = bytearray(content), int(rng.integers(8 * len(content)))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        counts["flips"] += 1
        try:
            readers[path]()
            counts["loaded"] += 1
            print(f"loaded: bit {bit} of {path}", file=sys.stderr)
        except InputError:
            pass
        except Exception as error:
            counts["errors_not_one_line"] += 1
            print(f"{type(error).__name__}: bit {bit} of {path}", file=sys.stderr)
        path.write_bytes(content)
    return counts


def repeat(folder: pathlib.Path, minutes: float) -> dict[str, float]:
    """Trains and exports over and over in this process; its memory once that is in full swing.

    The first tenth of the time is to warm up.
    """
    from celsa_jax.train import train_and_evaluate

    config, sizes, runs = small_config(), [], 0
    started = time.monotonic()
    while time.monotonic() - started < 60 * minutes:
        train_and_evaluate(config, folder)
        SparseEmbeddings.load(folder / "embeddings.npz").to_format("int8").save(folder / "int8")
        shutil.rmtree(folder)
        runs += 1
        if time.monotonic() - started > 6 * minutes:
            sizes.append(_resident_bytes() / 2**20)
    return {
        "minutes": minutes,
        "runs": runs,
        "start_mib": round(sizes[0], 1),
        "max_mib": round(max(sizes), 1),
        "end_mib": round(sizes[-1], 1),
        "growth_percent": round(100 * (sizes[-1] / sizes[0] - 1), 2),
    }


def _resident_bytes() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
