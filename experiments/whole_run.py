"""A run of `experiments.train` in a process of its own, for those who measure it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any


def whole_run(config: str, path: str, *fields: str) -> dict[str, Any]:
    """What a run of `experiments.train` found, and what it took, loading included."""
    with tempfile.TemporaryDirectory() as folder:
        fields = (f"data.path={path}", f"data.data_dir={folder}/data", *fields)
        given = [f"--workdir={folder}/run", *(f"--config.{field}" for field in fields)]
        command = [sys.executable, "-m", "experiments.train", f"--config=configs/{config}.py"]
        started = time.perf_counter()
        done = subprocess.run([*command, *given], stdout=subprocess.PIPE, text=True, check=True)
        spent = time.perf_counter() - started
        *_, last = pathlib.Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()
    results = json.loads(done.stdout.splitlines()[-1])
    found = {name: value for name, value in results.items() if name.endswith("_seconds")}
    found |= {"ndcg@100": results["test"]["ndcg@100"]} if results["test"] else {}
    found["epoch_seconds"] = json.loads(last)["seconds"]  # of the last
    found["peak_gb"] = round(results["peak_bytes"]["host"] / 1e9, 3)
    return {**found, "wall_seconds": round(spent, 2)}  # with Python's start
