"""What came of the runs of a sweep, by row and column."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.baselines.choice import CHOSEN_BY
from celsa_jax.errors import InputError
from celsa_jax.files import read_json
from celsa_jax.sweeps.grid import ANY_SIZE
from celsa_jax.sweeps.methods import Run

MAIN_METRIC = CHOSEN_BY  # which is tested and drawn, too


def read_result(folder: pathlib.Path, run: Run) -> dict:
    """What came of a run; empty where it has not ended."""
    path = folder / "runs" / run.id / "result.json"
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}; delete it to do the run again") from None


def state(result: dict) -> str:
    """`done`, `failed`, or empty where the run has not ended."""
    if not result:
        return ""
    return "done" if result["error"] is None else "failed"


class Results:
    """The results that are in the folder of a sweep by now.

    Attributes:
      sweep: its configuration.
      folder: where they are.
      runs: every run with what `read_result` gives of it, in the order of the grid.
      rows, columns: the names of the tables' rows and columns.
      n_bytes: of each column but `any size`, bytes that an item may take.
    """

    def __init__(self, sweep: ConfigDict, runs: list[Run], folder: pathlib.Path):
        self.sweep, self.folder = sweep, folder
        self.runs = [(run, read_result(folder, run)) for run in runs]
        self.rows, self.columns = list(sweep.rows), list(sweep.columns)
        if any(run.column == ANY_SIZE for run in runs):
            self.columns.insert(0, ANY_SIZE)
        self.n_bytes = {run.column: run.n_bytes for run in runs if run.column != ANY_SIZE}
        self._cells: dict[tuple[str, str], list[tuple[Run, dict]]] = {}
        for run, result in self.runs:
            self._cells.setdefault((run.row, run.column), []).append((run, result))

    def cell(self, row: str, column: str) -> list[tuple[Run, dict]]:
        """The runs of a cell, by seed."""
        return self._cells.get((row, column), [])

    def done(self, row: str, column: str) -> list[tuple[Run, dict]]:
        """Those of them that are done."""
        return [(run, r) for run, r in self.cell(row, column) if state(r) == "done"]

    def values(self, row: str, column: str, name: str) -> np.ndarray:
        """[n_seeds] of a cell; those that are done and defined."""
        values = [result.get(name) for _, result in self.done(row, column)]
        return np.array([value for value in values if value is not None], float)

    def is_whole(self, row: str, column: str, name: str) -> bool:
        """Whether every seed of a cell that was planned has a value."""
        return 0 < len(self.cell(row, column)) == len(self.values(row, column, name))

    def mean(self, row: str, column: str, name: str) -> float | None:
        values = self.values(row, column, name)
        return float(values.mean()) if len(values) else None

    def differences(self, row: str, column: str) -> np.ndarray:
        """[n] of each user that both can be judged on, row - reference, the seeds in one.

        A row without a budget of bytes is compared at every size of the other. Seeds whose test
        users or folds are not those of the reference are left out.
        """
        reference = self.sweep.reference
        columns = [
            column if (name, column) in self._cells else ANY_SIZE for name in (row, reference)
        ]
        if column not in columns:
            return np.empty(0)
        others = {run.seed: run for run, _ in self.done(reference, columns[1])}
        differences = [np.empty(0)]
        for run, _ in self.done(row, columns[0]):
            other = others.get(run.seed)
            if other and _tests(run) == _tests(other):
                difference = self._per_user(run.id) - self._per_user(other.id)
                differences.append(difference[~np.isnan(difference)])
        return np.concatenate(differences)

    @functools.lru_cache(maxsize=64)  # noqa: B019, an object lives for one table
    def _per_user(self, run_id: str) -> np.ndarray:
        with np.load(self.folder / "runs" / run_id / "per_user.npz") as stored:
            return stored[MAIN_METRIC]


def _tests(run: Run) -> tuple[dict, str]:
    """What decides, with the seed, who is tested on what."""
    return run.config.data.to_dict(), run.config.eval.folds
