"""Work spread over threads that stay."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import queue
from collections.abc import Callable, Sequence


def in_threads(work: Callable, parts: Sequence, n_threads: int) -> list:
    """[work(part) for part in parts], by several threads, the calling one among them."""
    n_threads = min(n_threads, len(parts))
    if n_threads <= 1:
        return [work(part) for part in parts]
    results = [None] * len(parts)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for at in range(len(parts)):
        waiting.put(at)

    def help_out() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                at = waiting.get_nowait()
                results[at] = work(parts[at])

    helpers = [_pool().submit(help_out) for _ in range(n_threads - 1)]
    try:
        help_out()
    finally:
        with contextlib.suppress(queue.Empty):  # after an error nobody begins another part
            while True:
                waiting.get_nowait()
        begun = [helper for helper in helpers if not helper.cancel()]
        concurrent.futures.wait(begun)
    for helper in begun:
        helper.result()
    return results


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    """Threads that stay: new ones would get all their memory afresh at every request."""
    return concurrent.futures.ThreadPoolExecutor(n_cores(), "celsa_jax")


if hasattr(os, "register_at_fork"):  # a forked child has no threads but its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
