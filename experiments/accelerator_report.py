r"""Measures on an accelerator what the documentation says of one.

    python -m experiments.accelerator_report --output=report --data=goodbooks

Every part runs in a process of its own with a time limit, the most important first; report.json and
report.md are written anew after each. `--data` is the first release of Goodbooks-10k; `pip install
elsarec torch` adds the comparison with elsarec. `--small` tries all of it, in 15 s on a CPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing as mp
import os
import pathlib
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import flags

from celsa_jax.config import DETERMINISTIC
from celsa_jax.errors import InputError
from celsa_jax.files import write_json, write_text
from experiments import cli

# Seconds, the measurement if it has another name, and what is set in its environment.
PARTS: dict[str, tuple[int, str, dict[str, str]]] = {
    "devices": (60, "", {}),
    "ceiling": (60, "", {}),
    "steps": (420, "", {}),
    "run": (180, "", {}),
    "large_run": (420, "", {}),
    "products": (240, "", {}),
    "numerics": (60, "", {}),
    "numerics_cpu": (60, "numerics", {"JAX_PLATFORMS": "cpu"}),
    "numerics_deterministic": (60, "numerics", {"XLA_FLAGS": DETERMINISTIC}),
    "memory": (60, "", {}),
    "tests": (240, "", {}),
}
_MEASUREMENTS = "experiments.accelerator_parts"  # JAX
_SECONDS = 25 * 60  # for all
_TOLERANCE = 1e-3

_OUTPUT = flags.DEFINE_string("output", "", "Folder of the report.")
_PARTS = flags.DEFINE_multi_enum("parts", list(PARTS), list(PARTS), "Which.")
_DATA = flags.DEFINE_string("data", "", "The first release of Goodbooks-10k.")
_SMALL = flags.DEFINE_bool("small", False, "Next to nothing; its figures mean nothing.")


def main() -> None:
    folder, end = pathlib.Path(_OUTPUT.value), time.monotonic() + _SECONDS
    if _DATA.value and not pathlib.Path(_DATA.value).exists():
        raise InputError(f"--data={_DATA.value}: no such file or folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as compiled:  # which parts have in common
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        if _SMALL.value:
            os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
        report_parts(folder, end)
    print(folder / "report.md")


def report_parts(folder: pathlib.Path, end: float) -> None:
    """Measures part after part, none beyond `end`, and writes what there is after each.

    Small ones, whose times mean nothing, two at a time on a CPU; an accelerator has one process.
    """

    def part(name: str) -> dict[str, Any]:
        limit, measurement, environment = PARTS[name]
        request = measurement or name, (_SMALL.value, _DATA.value), environment
        # That a small one takes long says that the machine is busy.
        limit = 10 * limit if _SMALL.value else min(limit, end - time.monotonic())
        return measured(request, limit)

    report: dict[str, Any] = {}
    accelerator = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    with ThreadPoolExecutor(2 if _SMALL.value and not accelerator else 1) as pool:
        for name, done in zip(_PARTS.value, pool.map(part, _PARTS.value), strict=True):
            report[name] = done
            report["equality"] = {"state": "compared", "rows": compared(report)}
            write_json(folder / "report.json", report)
            write_text(folder / "report.md", page(report))
            print(f"{name}: {done['state']}", file=sys.stderr)


def measured(request: tuple, limit: float) -> dict[str, Any]:
    """The rows that a part gave in time, and how it ended."""
    started, rows = time.monotonic(), []
    context = mp.get_context("forkserver")  # imports once; JAX begins in the processes
    context.set_forkserver_preload([_MEASUREMENTS])
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=cli.call, args=(_MEASUREMENTS, "send", *request, writing))
    process.start()
    writing.close()
    state = f"stopped after {limit:.0f} s"
    try:
        while reading.poll(max(0, started + limit - time.monotonic())):
            rows.append(reading.recv())
    except EOFError:
        process.join()
        state = "failed, as stderr says" if process.exitcode else "done"
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):  # it has started nothing yet
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return {"state": f"{state} ({time.monotonic() - started:.0f} s)", "rows": rows}


def compared(report: dict[str, Any]) -> list[dict[str, Any]]:
    """`numerics` beside those on the CPU, and with deterministic operations."""
    names = ("numerics", "numerics_cpu", "numerics_deterministic")
    rows = []
    for here, cpu, exact in zip(*(report.get(n, {"rows": []})["rows"] for n in names)):  # noqa: B905
        pairs = zip(here["values"], cpu["values"], strict=True)
        difference = max(abs(value / other - 1) for value, other in pairs)
        row = {"what": here["what"], "from_cpu": difference, "equal": difference <= _TOLERANCE}
        row |= {"same_bits": here["same_bits"], "deterministic": exact["same_bits"]}
        rows.append(row | {"deterministic_takes": round(exact["ms"] / here["ms"], 2)})
    return rows


def page(report: dict[str, Any]) -> str:
    """A table in Markdown for every part."""
    text = "# What was measured\n"
    for name, part in report.items():
        text += f"\n## {name}\n\n{part['state']}\n"
        columns = list(dict.fromkeys(column for row in part["rows"] for column in row))
        columns = [column for column in columns if column != "values"]
        if columns:
            rows = ([row.get(column, "") for column in columns] for row in part["rows"])
            text += f"\n{cli.markdown(columns, rows)}\n"
    return text


if __name__ == "__main__":
    cli.run(main, required=("output",))
