"""The parts of a training step, by their named scopes, from a trace of the profiler."""

from __future__ import annotations

import collections
import gzip
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Callable

import jax

_SCOPES = (
    *("batch", "norms", "encoder", "scores", "loss", "latent_gradient", "decoder_gradient"),
    *("encoder_gradient", "optimizer", "encode", "decode", "products_of_rows"),
)
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*op_name=\"([^\"]*)\"", re.MULTILINE)


def time_parts(train: Callable[[], object], compiled: str, n_steps: int) -> dict[str, float]:
    """Milliseconds of a step in each part, and in none of them ("rest").

    On a CPU an event may end before its product does, which other threads work at: what the
    product of the decoder's gradient takes is in the rest.

    Args:
      train: trains for `n_steps` steps, and waits for them.
      compiled: HLO text of what it runs.
      n_steps: steps in all.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            started = time.perf_counter()
            train()
            whole = 1e6 * (time.perf_counter() - started)
        (path,) = pathlib.Path(folder).rglob("*.trace.json.gz")
        with gzip.open(path) as stream:
            events = json.load(stream)["traceEvents"]
    total = sum_parts(events, scopes_of(compiled))
    total["rest"] = whole - total.total()
    return {part: round(us / 1e3 / n_steps, 2) for part, us in total.most_common()}


def scopes_of(compiled: str) -> dict[str, str]:
    """The innermost known scope of each instruction, by its name in the HLO text."""
    found = {}
    for name, path in _INSTRUCTION.findall(compiled):
        known = [scope for scope in path.split("/") if scope in _SCOPES]
        if known:
            found[name] = known[-1]
    return found


def sum_parts(events: list[dict], scopes: dict[str, str]) -> collections.Counter[str]:
    """Microseconds by scope; what runs inside of another one's instruction counts there alone."""
    total: collections.Counter[str] = collections.Counter()
    until: dict[tuple, float] = {}  # by thread, the end of the last one that counted
    for event in sorted((e for e in events if e.get("ph") == "X"), key=lambda e: e["ts"]):
        scope = scopes.get(event.get("args", {}).get("hlo_op", ""))
        thread = event["pid"], event["tid"]
        if scope and event["ts"] >= until.get(thread, 0.0):
            total[scope] += event["dur"]
            until[thread] = event["ts"] + event["dur"]
    return total
