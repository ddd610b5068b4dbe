"""Files changed at random, as disks, people and other programs change them."""

from __future__ import annotations

import codecs
import gzip
import io
import pathlib
import re
import zipfile

import numpy as np

BOMB = 257 << 20  # bytes, more than any archive may unpack to
_CELLS = (
    b"-1",
    b"1e400",
    b"1e5",
    b"2015-01-01",
    b"99999999999999999999999",
    b"0.5",
    b"nan",
    b"",
    b" 4 ",
    b"+4",
    b"0x10",
    "Žluťoučký".encode(),
    "٤".encode(),
    b"x" * 300,
    b"true",
    b"-0",
    b'""',
    b'"a,b"',
    b"1:",
    b"\xff",
)
_MARKS = re.compile(rb"[,\t\n|:]")
_PUT_IN = (b'"', b"\x00", b"\r", b"\n", b"\r\n", b",", b"\t", b":", b"|", b"\xe9", b'"\n', b"\n\n")


def mutate(rng: np.random.Generator, content: bytes, n_changes: int | None = None) -> bytes:
    """A file with up to five faults."""
    data = bytearray(content)
    for _ in range(rng.integers(0, 6) if n_changes is None else n_changes):
        at = int(rng.integers(0, len(data) + 1))
        end = min(at + int(rng.integers(1, 40)), len(data))
        kind = rng.integers(0, 12)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end]
        elif kind == 4:
            del data[at:]
        elif kind in (5, 6, 7):
            data[at:at] = _PUT_IN[rng.integers(len(_PUT_IN))]
        elif kind in (8, 9):  # a cell becomes another
            marks = [m.start() for m in _MARKS.finditer(bytes(data))] if len(data) < 1 << 16 else []
            if len(marks) > 1:
                cell = int(rng.integers(len(marks) - 1))
                first, last = marks[cell] + 1, marks[cell + 1]
                data[first:last] = _CELLS[rng.integers(len(_CELLS))]
        elif kind == 10:
            data[:] = _elsewhere(rng, bytes(data))
        elif rng.random() < 0.1:
            data[at:at] = b"x" * (10 << 20)
    return bytes(data)


def _elsewhere(rng: np.random.Generator, content: bytes) -> bytes:
    """The same text as other programs write it."""
    choice = rng.integers(6)
    if choice == 0:
        return codecs.BOM_UTF8 + content
    if choice == 1:
        return content.replace(b"\n", b"\r\n")
    if choice == 2:
        return content.replace(b"\n", b"\r")
    if choice == 3:
        return content.decode("latin-1").encode("utf-16")
    if choice == 4:
        return content.decode("utf-8", "replace").encode("latin-1", "replace")
    return content.replace(b"\n", b"\r\n", 2)


def pack(rng: np.random.Generator, path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Writes a file plain, as .gz or as .zip, and now and then breaks the archive."""
    choice = rng.integers(8)
    if choice == 0:
        path = path.with_name(path.name + ".gz")
        packed = gzip.compress(content)
        if rng.random() < 0.15:
            packed += gzip.compress(bytes(1 << 20)) * (BOMB >> 20)
    elif choice == 1:
        path = path.with_name(path.name + ".zip")
        others = {"b.csv": b"a,b\n"} if rng.random() < 0.2 else {}
        name = "../" + path.stem if rng.random() < 0.3 else path.stem
        packed = zipped({name: content, **others})
    else:
        path.write_bytes(content)
        return path
    path.write_bytes(mutate(rng, packed, 1) if rng.random() < 0.4 else packed)
    return path


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def unpacked(path: pathlib.Path) -> bytes:
    """The bytes that a reader is to see, by Python's own modules."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.read(archive.namelist()[0])
    return path.read_bytes()
