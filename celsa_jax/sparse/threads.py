"""Work spread over threads that stay."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence


def in_threads(work: Callable, parts: Sequence, n_threads: int) -> list:
    """[work(part) for part in parts] by several threads; after an error no other part begins."""
    if min(n_threads, len(parts)) <= 1:
        return [work(part) for part in parts]
    return list(_pool(n_threads).map(work, parts))


@functools.cache
def _pool(n_threads: int) -> concurrent.futures.ThreadPoolExecutor:
    """Threads that stay: new ones would get all their memory afresh at every request."""
    return concurrent.futures.ThreadPoolExecutor(n_threads, "celsa_jax")


if hasattr(os, "register_at_fork"):  # a forked child has no threads but its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
