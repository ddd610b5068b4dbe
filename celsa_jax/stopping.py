"""A request to stop, by SIGTERM or Ctrl-C (SIGINT): noticed at once, met after an epoch.

Python runs a signal's handler in the main thread, and not while that sits in compiled code. So
the signal is also written to a pipe (`signal.set_wakeup_fd`), which a thread reads. A run that
cannot save and leave in time is left as it is: it resumes from its newest checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_SECONDS = 28.0  # to end the epoch, save and leave; schedulers kill after 30 s

_signal = 0  # that asked first


class Stopped(SystemExit):
    """Ends the program with status 128 + the signal; no `except Exception` takes it for a failure.

    (SIGTERM: 143, SIGINT: 130)
    """


def install() -> None:
    """Meets both signals from here on; for programs, in their main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def requested() -> bool:
    """Whether the program was asked to stop; then it saves what it has, and calls `leave`."""
    return _signal != 0


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """What tells whether Ctrl-C was pressed, for callers that are no programs of their own.

    The first one is only noticed, the second raises KeyboardInterrupt. Nothing changes where it is
    ignored, and in other threads than the main one, which get no signals.
    """
    pressed = threading.Event()

    def notice(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        log.warning("asked to stop: at the end of the epoch; Ctrl-C again leaves now")

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as with nohup
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, notice)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)  # None: not of Python's making


def leave(what: str) -> None:
    """Raises Stopped; the log says what there is to go on from."""
    log.info("asked to stop: %s; go on with the same command", what)
    raise Stopped(128 + (_signal or signal.SIGTERM))  # of several processes one may be asked


def _watch(reader: int) -> None:
    global _signal
    _signal = os.read(reader, 1)[0]
    log.info(
        "asked to stop (%s): at the end of the epoch, in %.0f s at the latest; Ctrl-C leaves now",
        signal.Signals(_signal).name,
        _SECONDS,
    )
    timer = threading.Timer(_SECONDS, _leave_now)
    timer.daemon = True
    timer.start()
    while os.read(reader, 1)[0] != signal.SIGINT:  # some schedulers send SIGTERM twice
        pass
    _leave_now()


def _leave_now() -> None:
    log.info("leaving without a checkpoint; the run resumes from its newest one")
    os._exit(128 + _signal)
