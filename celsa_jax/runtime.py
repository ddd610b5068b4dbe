"""What a run runs on: versions, devices, memory."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import sys

if sys.platform != "win32":
    import resource

import jax

import celsa_jax
from celsa_jax.config import DETERMINISTIC
from celsa_jax.errors import InputError


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
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux may be of the process that started this one
        peak["host"] = 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    elif sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024
        peak["host"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
