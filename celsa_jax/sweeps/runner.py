"""Does the runs of a sweep that are missing, each once, and writes down what came of them.

    W/runs/ID/       result.json (the numbers or the error), per_user.npz, lock
    W/models/ID/     the trained models, as `train_and_evaluate` leaves them; runs share them
    W/results.csv, table.md, figures/, sweep.json (the configuration)

A run is claimed by a lock on a file in its folder, which the system takes back when a process
dies, so any number of processes may work on one folder. Its result is there whole or not at all.
"""

from __future__ import annotations

import collections
import functools
import json
import logging
import pathlib
import time
import traceback
from collections.abc import Callable

from ml_collections import ConfigDict

from celsa_jax import stopping
from celsa_jax.arrays import write_arrays
from celsa_jax.errors import InputError, one_line
from celsa_jax.files import atomic_path, locked, remove_left_overs, write_json
from celsa_jax.sweeps import tables
from celsa_jax.sweeps.grid import expand
from celsa_jax.sweeps.methods import Run, perform
from celsa_jax.sweeps.results import Results, read_result, state

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def run_sweep(
    sweep: ConfigDict,
    workdir: str | pathlib.Path,
    *,
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
) -> dict[str, int]:
    """Runs what is missing; returns how many runs are done, failed and not run.

    Args:
      sweep: of `make_sweep`.
      workdir: the folder for all of the above.
      shard: (i, n), the i-th of n parts of the runs, from 1.
      retry_failed: try runs again that failed before.

    Raises:
      InputError: the sweep or an argument is at fault; nothing has run then.
    """
    runs = expand(sweep)
    part, n_parts = shard
    if not 1 <= part <= n_parts:
        raise InputError(f"shard={part}/{n_parts}: the first number is from 1 to the second")
    folder = pathlib.Path(workdir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"workdir={folder} is a file; give a folder")
    mine = runs[part - 1 :: n_parts]
    if retry_failed:
        _forget_failures(folder, mine)
    write_tables = functools.partial(_write_tables, sweep, runs, folder)
    _run_all(folder, mine, write_tables)
    results = write_tables()
    _draw(results)
    states = collections.Counter(state(result) for _, result in results.runs)
    return {
        "runs": len(runs),
        "done": states["done"],
        "failed": states["failed"],
        "not_run": states[""],
    }


def _run_all(folder: pathlib.Path, runs: list[Run], write_tables: Callable[[], Results]) -> None:
    """Does every run, here or, where another process has it, by waiting for that one."""
    # Seed by seed, as runs on the same data share these and pruned EASE its inversions.
    waiting = sorted(
        (run for run in runs if not read_result(folder, run)), key=lambda run: run.seed
    )
    log.info("%d of %d runs to do", len(waiting), len(runs))
    while waiting:
        elsewhere = []
        for run in waiting:
            if stopping.requested():
                stopping.leave("between two runs")
            with locked(folder / "runs" / run.id / "lock", wait=False) as mine:
                if not mine:
                    elsewhere.append(run)
                    continue
                if not read_result(folder, run):
                    _do(folder, run)
            write_tables()
        if len(elsewhere) == len(waiting):
            time.sleep(_POLL_SECONDS)
        elif elsewhere:
            log.info("%d runs in progress elsewhere; waiting for them", len(elsewhere))
        waiting = elsewhere


def _do(folder: pathlib.Path, run: Run) -> None:
    """One run; what goes wrong in it is its result."""
    path = folder / "runs" / run.id
    remove_left_overs(path)
    log.info("run %s", run.id)
    described = {name: getattr(run, name) for name in ("row", "column", "seed", "training")}
    described |= run.settings
    try:
        numbers, per_user = perform(run, folder / "models")
    except Exception as error:
        # The same text wherever the folder of the sweep is.
        text = str(error).replace(f"{folder}/", "")
        if not isinstance(error, InputError):
            text = f"{type(error).__name__}: {one_line(text)}"
        log.warning("run %s failed: %s", run.id, text)
        failure = {"error": text, "traceback": traceback.format_exc(), "run": described}
        write_json(path / "result.json", failure)
        return
    with atomic_path(path / "per_user.npz") as temporary, temporary.open("wb") as stream:
        write_arrays(stream, per_user)
    model = {"model_path": f"models/{run.model_id}"} if run.model_id else {}
    write_json(path / "result.json", {"error": None, **numbers, **model, "run": described})


def _forget_failures(folder: pathlib.Path, runs: list[Run]) -> None:
    for run in runs:
        if state(read_result(folder, run)) == "failed":
            with locked(folder / "runs" / run.id / "lock", wait=False) as mine:
                if mine:
                    (folder / "runs" / run.id / "result.json").unlink(missing_ok=True)


def _write_tables(sweep: ConfigDict, runs: list[Run], folder: pathlib.Path) -> Results:
    """Tables of all results that are there by now, also by other processes; and these results."""
    with locked(folder / "lock"):  # so that the last to write has read the most
        remove_left_overs(folder)
        write_json(folder / "sweep.json", json.loads(sweep.to_json()))
        results = Results(sweep, runs, folder)
        tables.write_csv(folder / "results.csv", results)
        tables.write_markdown(folder / "table.md", results)
    return results


def _draw(results: Results) -> None:
    try:
        from celsa_jax.sweeps import figures
    except ImportError:
        log.warning('no figures: pip install "celsa_jax[figures]", then run this again')
        return
    folder = results.folder / "figures"
    with locked(results.folder / "lock"):
        folder.mkdir(exist_ok=True)
        remove_left_overs(folder)
        for name in ("quality_bytes.png", "quality_bytes.svg"):
            figures.draw(results.folder / "results.csv", folder / name, results.sweep.reference)
