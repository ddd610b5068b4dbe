"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import filelock

from celsa_jax.errors import InputError

TEMPORARY = ".celsa_jax-{}.tmp"  # the names of what is not whole yet
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_UNPACKED = 1 << 28  # bytes that any archive may unpack to
_RATIO = 200  # above that, times its own size; real data come to less than 50


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, moved onto it (and flushed to disk) on success.

    Raises:
      OSError: what writing raised, which names `path`.
    """
    temporary = temporary_beside(path)
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """An OSError that names no file, as of a full disk, or a temporary one, will name this."""
    try:
        yield
    except OSError as error:
        if (error.errno and error.filename is None) or str(error.filename).endswith(".tmp"):
            error.filename = str(path)
        raise


def sync_folder(folder: pathlib.Path) -> None:
    """Flushes the names in a folder to disk, so that a new one outlives a loss of power."""
    with contextlib.suppress(OSError):  # where a folder cannot be opened, or flushed
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_beside(path: pathlib.Path) -> pathlib.Path:
    """A hidden path that no other process uses, on this host or another."""
    return path.with_name(TEMPORARY.format(f"{path.name}-{secrets.token_hex(8)}"))


def remove_left_overs(folder: pathlib.Path, older_than: float = 0) -> None:
    """Removes the temporary paths of processes that were killed.

    Args:
      folder: where they are.
      older_than: seconds without a change, where living processes may write there, too.
    """
    for path in folder.glob(TEMPORARY.format("*")):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            # A clock that went backwards leaves times in the future.
            if older_than and time.time() - path.stat().st_mtime < older_than:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@contextlib.contextmanager
def locked(path: pathlib.Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock on a file; it is free again when the process ends, however it ends.

    Args:
      path: the file, which is made.
      wait: until no other process holds the lock.

    Yields:
      Whether this process holds it: without `wait` another may.

    Raises:
      InputError: the folder cannot be written to, or its file system has no locks.
    """
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(blocking=wait)
    except OSError as error:
        has_none = error.errno in _NO_LOCKS
        problem = "is on a disk without locks" if has_none else "cannot be written to"
        reason = error.strerror or error
        raise InputError(
            f"{path.parent}: {problem} ({reason}); mend that, or use another folder"
        ) from None
    try:
        yield lock.is_locked
    finally:
        lock.release()


def probe_space(folder: pathlib.Path, n_bytes: int) -> None:
    """OSError where a folder has no room for that many bytes: a full disk, or a quota.

    They are taken and given back, where system and file system can do so at once.
    """
    # Not `os.posix_fallocate`, which writes to every block where the file system cannot.
    if os.name != "posix" or not n_bytes:
        return
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "fallocate"):  # macOS
        return
    with tempfile.TemporaryFile(dir=folder) as stream:
        ctypes.set_errno(0)
        library.fallocate(stream.fileno(), 0, ctypes.c_int64(0), ctypes.c_int64(n_bytes))
        if (code := ctypes.get_errno()) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(code, os.strerror(code), str(folder))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file of UTF-8, lines as they are; whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: pathlib.Path, value: object) -> None:
    """Writes a value as JSON, indented; whole or not at all.

    Raises:
      ValueError: a number in it is not finite.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """The value in a JSON file; ValueError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_lines(path: pathlib.Path) -> list[dict]:
    """The objects of a file that has one a line, if it is there.

    Lines that a killed process left half-written are passed over.
    """
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line.decode())  # as JSON, bytes may have a mark of their encoding
            if isinstance(value, dict):
                found.append(value)
    return found


def check_unpacked(path: object, n_bytes: int, n_packed: int) -> None:
    """InputError for an archive, or a file of compressed columns, that would fill the memory.

    Args:
      path: for the message.
      n_bytes: unpacked, as announced or as counted so far.
      n_packed: its own size.
    """
    if n_bytes > max(_UNPACKED, _RATIO * n_packed):
        raise InputError(
            f"{path}: unpacks to more than {_RATIO} times its {n_packed} bytes, which no real data "
            "do; if it is to be trusted, unpack it and give the unpacked file"
        )
