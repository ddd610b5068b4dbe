"""What a run runs on: versions, devices, compilation, memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

if sys.platform != "win32":
    import resource

import jax
from jax._src import xla_bridge  # nothing public says whether the backend has started

import celsa_jax
from celsa_jax.errors import InputError

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_COMPILED = "/jax/core/compile/backend_compile_duration"


def use_deterministic_operations() -> None:
    """Makes GPUs give the same bits again; CPUs do so anyway.

    Raises:
      InputError: JAX has started a GPU without it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC in flags:
        return
    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()
    elif jax.default_backend() == "gpu":
        raise InputError(
            "config.train.deterministic comes too late, JAX has started the GPU; start with "
            f"XLA_FLAGS={_DETERMINISTIC}"
        )


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """Collects the seconds that each compilation takes."""
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def peak_memory() -> dict[str, int]:
    """Bytes that this process, and on accelerators its first device, had in use at most."""
    peak = {}
    if sys.platform != "win32":
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
