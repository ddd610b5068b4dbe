"""Metrics as TensorBoard reads them (the only file that imports tensorboard)."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

Log = Callable[[Mapping[str, float | None]], None]


@contextlib.contextmanager
def scalars(folder: pathlib.Path, step: int) -> Iterator[Log]:
    """Adds a file of events to a folder.

    Args:
      folder: of a run; TensorBoard reads all its files as one.
      step: of the checkpoint that the run goes on from. What was logged after it is trained again,
        and TensorBoard forgets it.

    Yields:
      What takes a line of metrics.jsonl: its numbers become scalars, in float32, at its `step`.
      They are on disk when it returns.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    def log(record: Mapping[str, float | None]) -> None:
        numbers = {name: value for name, value in record.items() if value is not None}
        step = int(numbers.pop("step"))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()

    with contextlib.closing(EventFileWriter(str(folder))) as writer:
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
        yield log
