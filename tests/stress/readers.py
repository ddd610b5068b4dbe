r"""Broken files for every reader, thousands of them: what becomes of each.

    python -m tests.stress.readers --inputs=2000 --seed=0

Each input is a sound file of a reader, changed at random: bytes flipped, inserted, cut out and
doubled, quotes, NUL bytes and line ends put in, cells replaced, other encodings, bombs, archives
with paths that climb out. It is read in a process of its own making, which is ended after ten
seconds. A reader may return a result, which is compared with what Python's own `csv` module makes
of the same bytes where it is a text, or raise an `InputError` of one line. The last line printed is
one JSON object; all but `read` and `errors` should be 0 in it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pathlib
import sys
import tempfile
import traceback

import numpy as np

from celsa_jax.errors import InputError

from .reader_checks import READERS, Lost, compile_all

TIME_LIMIT = 10.0  # seconds for an input


def fuzz(n: int, seed: int) -> dict:
    """Reads `n` broken files, the readers in turn; counts what became of them.

    A process reads them; where it hangs or dies it is replaced.
    """
    context = multiprocessing.get_context("spawn")
    names = list(READERS)
    report = {"inputs": n, "by_reader": dict.fromkeys(names, 0), "read": 0, "errors": 0}
    report |= {"tracebacks": 0, "hangs": 0, "silent_losses": 0, "files_outside": 0, "faults": []}
    worker = None
    for at in range(n):
        name = names[at % len(names)]
        if worker is None:
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs,), daemon=True)
            worker.start()
            ours.recv()  # its imports, and what it compiles, are not the reader's time
        ours.send((name, [seed, at]))
        try:
            kind, detail = ours.recv() if ours.poll(TIME_LIMIT) else ("hangs", "")
        except EOFError:
            kind, detail = "tracebacks", "the process died"
        report["by_reader"][name] += 1
        report[kind] += 1
        if kind not in ("read", "errors"):
            report["faults"].append([name, at, kind, detail])
        if kind == "hangs" or detail == "the process died":
            worker.kill()
            worker.join()
            worker = None
    if worker is not None:
        worker.kill()
    return report


def _work(connection) -> None:
    compile_all()
    connection.send("ready")
    while True:
        name, seed = connection.recv()
        with tempfile.TemporaryDirectory() as folder:
            connection.send(outcome(name, np.random.default_rng(seed), pathlib.Path(folder)))


def outcome(name: str, rng: np.random.Generator, folder: pathlib.Path) -> tuple[str, str]:
    """What became of one broken file of a reader: a key of the report, and what to know of it."""
    inside = folder / "inside"
    inside.mkdir()
    try:
        READERS[name](rng, inside)
        kind, detail = "read", ""
    except InputError as error:
        kind, detail = "errors", str(error)
        if not detail.isprintable() or len(detail) > 3000 or str(folder) not in detail:
            kind = "tracebacks"  # no error of one line that names the file
    except Lost as error:
        kind, detail = "silent_losses", str(error)
    except KeyboardInterrupt:  # of who runs this
        raise
    except BaseException:  # a panic of compiled code is no Exception
        kind, detail = "tracebacks", traceback.format_exc()
    if [path.name for path in folder.iterdir()] != ["inside"]:
        kind, detail = "files_outside", str(list(folder.iterdir()))
    return kind, detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000, help="how many files to read")
    parser.add_argument("--seed", type=int, default=0, help="of the files")
    given = parser.parse_args()
    report = fuzz(given.inputs, given.seed)
    for fault in report.pop("faults"):
        print(*fault, sep=": ", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
