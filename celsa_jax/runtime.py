"""What a run runs on: versions, devices, memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sys

if sys.platform != "win32":
    import resource

import jax

import celsa_jax
from celsa_jax.config import DETERMINISTIC
from celsa_jax.errors import InputError

_STATUS = pathlib.Path("/proc/self/status")


def check_deterministic() -> None:
    """InputError on a GPU without what makes it give the same bits again; CPUs do so anyway."""
    # Nothing public says whether it was set in time, so that it is left to who starts the process.
    if jax.default_backend() == "gpu" and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        raise InputError(
            "config.train.deterministic: on a GPU, set the environment variable "
            f"XLA_FLAGS={DETERMINISTIC} before Python starts"
        )


def peak_memory() -> dict[str, int]:
    """Bytes that this process, and on accelerators its first device, had in use at most."""
    peak = {}
    if sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024
        peak["host"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux that may be of the process that started this one; not all sandboxes tell this one's.
    with contextlib.suppress(OSError):
        if own := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE):
            peak["host"] = 1024 * int(own[1])
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        peak["device"] = stats["peak_bytes_in_use"]
    return peak


def versions() -> dict[str, str]:
    """Of this package, Python and what results depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
    return {
        "celsa_jax": celsa_jax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }
