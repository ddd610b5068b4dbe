"""What came of the runs of a sweep, by row and column."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.errors import InputError
from celsa_jax.evaluation import MAIN_METRIC
from celsa_jax.files import read_json
from celsa_jax.sweeps.grid import ANY_SIZE
from celsa_jax.sweeps.methods import Run


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
        """[n_seeds] of a cell, means over trainings; of what is done and defined."""
        return np.array([np.mean(of_seed) for of_seed in self._by_seed(row, column, name)])

    def _by_seed(self, row: str, column: str, name: str) -> list[list[float]]:
        found: dict[int, list[float]] = {}
        for run, result in self.done(row, column):
            if result.get(name) is not None:
                found.setdefault(run.seed, []).append(result[name])
        return list(found.values())

    def is_whole(self, row: str, column: str, name: str) -> bool:
        """Whether every run of a cell that was planned has a value."""
        n_values = sum(map(len, self._by_seed(row, column, name)))
        return 0 < len(self.cell(row, column)) == n_values

    def spread(self, row: str, column: str) -> tuple[float, float] | None:
        """Standard deviations of the metric from split to split, and from training to training.

        Those of a one-way analysis of variance with random effects; None where some split has
        another number of trainings, or there are not two of both.
        """
        by_seed = self._by_seed(row, column, MAIN_METRIC)
        n_trainings = len(by_seed[0]) if by_seed else 0
        if len(by_seed) < 2 or n_trainings < 2 or {*map(len, by_seed)} != {n_trainings}:
            return None
        values = np.array(by_seed)
        within = values.var(axis=1, ddof=1).mean()
        between = max(0.0, values.mean(axis=1).var(ddof=1) - within / n_trainings)
        return float(np.sqrt(between)), float(np.sqrt(within))

    def differences(self, row: str, column: str) -> np.ndarray:
        """[n_users] row - reference of every user that both can be judged on.

        A user whom several seeds test counts once, with the mean of them, as they are not
        independent. A row without a budget of bytes is compared at every size of the other. Seeds
        whose test users or folds are not those of the reference are left out.

        Raises:
          InputError: a file of data changed between the two.
        """
        reference = self.sweep.reference
        columns = [
            column if (name, column) in self._cells else ANY_SIZE for name in (row, reference)
        ]
        if column not in columns:
            return np.empty(0)
        users, differences = [np.empty(0, str)], [np.empty(0)]
        for seed in self.sweep.seeds:
            both = [
                [done for done in self.done(name, of) if done[0].seed == seed]
                for name, of in zip((row, reference), columns, strict=True)
            ]
            pair = [[run for run, _ in of_one] for of_one in both]
            if all(pair) and _tests(pair[0][0]) == _tests(pair[1][0]):
                if len({result["data_sha256"] for of_one in both for _, result in of_one}) > 1:
                    raise InputError(
                        f"{self.folder}: the data changed between the runs of '{row}' and "
                        f"'{reference}' with seed {seed}; use another folder"
                    )
                mine, other = (np.mean([self._per_user(r.id)[1] for r in runs], 0) for runs in pair)
                judged = ~np.isnan(mine - other)
                users.append(self._per_user(pair[0][0].id)[0][judged])
                differences.append((mine - other)[judged])
        _, at = np.unique(np.concatenate(users), return_inverse=True)
        return np.bincount(at, np.concatenate(differences)) / np.maximum(np.bincount(at), 1)

    @functools.lru_cache(maxsize=64)  # noqa: B019, an object lives for one table
    def _per_user(self, run_id: str) -> tuple[np.ndarray, np.ndarray]:
        """[n_users] ids, and the metric of each; in one order whatever the method."""
        with np.load(self.folder / "runs" / run_id / "per_user.npz") as stored:
            return stored["user_ids"], stored[MAIN_METRIC]


def _tests(run: Run) -> tuple[dict, str]:
    """What decides, with the seed, who is tested on what."""
    return run.config.data.to_dict() | {"n_val_users": None}, run.config.eval.folds
