"""A request to stop, by SIGTERM or Ctrl-C (SIGINT): met after an epoch."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_SECONDS = 28.0  # to end the epoch, save and leave after SIGTERM; schedulers kill after 30 s

_asked = 0  # the signal that came first


class Stopped(SystemExit):
    """Ends the program with status 128 + the signal; no `except Exception` takes it for a failure.

    (SIGTERM: 143, SIGINT: 130)
    """


@contextlib.contextmanager
def noticing(*signals: signal.Signals) -> Iterator[Callable[[], bool]]:
    """The first of these signals is only noticed, inside; another Ctrl-C raises KeyboardInterrupt.

    After SIGTERM a program that cannot save and leave in time is ended, to be gone on with from its
    newest checkpoint. Nothing changes for a signal that is ignored, as with nohup, and in other
    threads than the main one, which get none.

    Yields:
      Whether one has come (`requested`).
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    heeded = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
    earlier, _asked = _asked, 0
    before = {number: signal.signal(number, _notice) for number in heeded}
    try:
        yield requested
    finally:
        _asked = earlier
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not of Python's making


def requested() -> bool:
    """Whether the program was asked to stop; then it saves what it has, and calls `leave`."""
    return _asked != 0


def leave(what: str) -> None:
    """Raises Stopped; the log says what there is to go on from."""
    log.info("asked to stop: %s; go on with the same command", what)
    raise Stopped(128 + (_asked or signal.SIGTERM))  # of several processes one may be asked


def _notice(number: int, frame: object) -> None:
    global _asked
    if _asked and number == signal.SIGINT:
        raise KeyboardInterrupt
    if _asked:  # some schedulers send SIGTERM twice
        return
    _asked = number
    in_time = ""
    if number == signal.SIGTERM:
        in_time = f", or after {_SECONDS:.0f} s without a checkpoint"
        timer = threading.Timer(_SECONDS, os._exit, [128 + number])
        timer.daemon = True
        timer.start()
    name = signal.Signals(number).name
    log.warning("asked to stop (%s): at the end of the epoch%s; Ctrl-C leaves now", name, in_time)
