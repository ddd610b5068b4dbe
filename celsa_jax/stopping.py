"""A request to stop (SIGTERM, as a preempted job gets it): noticed at once, met after an epoch.

Python runs a signal's handler in the main thread, and not while that sits in compiled code. So
the signal is also written to a pipe (`signal.set_wakeup_fd`), which a thread reads. A run that does
not come to the end of an epoch in time is left as it is: it resumes from its newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

log = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM
_EPOCH_SECONDS = 20.0  # for the epoch to end; schedulers kill after 30 s
_LEAVING_SECONDS = 8.0  # and for its checkpoint to be written

_requested = threading.Event()
_leaving = threading.Event()


class Stopped(SystemExit):
    """Ends the program; no `except Exception` takes it for a failure."""

    def __init__(self):
        super().__init__(EXIT_CODE)


def install() -> None:
    """Meets SIGTERM from here on; for programs, in their main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def requested() -> bool:
    """Whether the program was asked to stop; then it saves what it has, and calls `leave`."""
    if _requested.is_set():
        _leaving.set()
    return _requested.is_set()


def leave(what: str) -> None:
    """Raises Stopped; the log says what there is to go on from."""
    log.info("asked to stop: %s; go on with the same command", what)
    raise Stopped


def _watch(reader: int) -> None:
    while signal.SIGTERM not in os.read(reader, 1):
        pass
    log.info("asked to stop (SIGTERM): at the end of the epoch, or in %.0f s", _EPOCH_SECONDS)
    _requested.set()
    if _leaving.wait(_EPOCH_SECONDS):
        time.sleep(_LEAVING_SECONDS)
    log.info("asked to stop, and there is no more time; the run resumes from its newest checkpoint")
    os._exit(EXIT_CODE)
