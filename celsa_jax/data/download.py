"""Files from their publishers: resumed when broken off, checked, and unpacked safely."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import logging
import os
import pathlib
import shutil
import socket
import time
import urllib.error
import urllib.request

import tqdm

from celsa_jax.data.tables import check_member, open_archive
from celsa_jax.errors import InputError, one_line
from celsa_jax.files import atomic_path, remove_left_overs

log = logging.getLogger(__name__)

_TIMEOUT = 30  # seconds without a byte
_ATTEMPTS = 4
_WAIT = 1.0  # seconds before the second attempt, twice as long before each further one
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Archive:
    """A zip on a publisher's server.

    Attributes:
      url: its address.
      members: the files wanted, by their last names.
      size: in bytes; None where the publisher does not say.
      sha256: of its bytes, hexadecimal; None where it is not known.
    """

    url: str
    members: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetch(archive: Archive, folder: pathlib.Path) -> None:
    """Downloads an archive and unpacks its members into a folder.

    What arrived stays beside them as `NAME.part` until it is whole, so that a download that
    breaks off goes on where it stopped, in this process or the next.

    Raises:
      InputError: no network, the server's refusal, a wrong size or checksum, a broken archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder)
    part = folder / f"{archive.name}.part"
    _download(archive, part)
    _check(archive, part)
    unpack(part, archive.members, folder)
    part.unlink()


def unpack(path: pathlib.Path, members: tuple[str, ...], folder: pathlib.Path) -> None:
    """Writes members of a zip into a folder under their last names, whatever paths they have.

    The first comes last, so where it is, all are. Of several members of a name the one in the
    fewest folders is meant (not that of `samples/`). An archive that will not do is removed.
    """
    try:
        with open_archive(path) as archive:
            sources = [_member(path, archive.namelist(), name) for name in members]
            for found in sources:
                check_member(path, archive, found)
            for name, found in reversed(list(zip(members, sources, strict=True))):
                with (
                    archive.open(found) as source,
                    atomic_path(folder / name) as temporary,
                    temporary.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target, _BLOCK)
    except InputError as error:
        path.unlink()
        raise InputError(f"{error}; removed, start again") from None


def _member(path: pathlib.Path, names: list[str], wanted: str) -> str:
    found = [n for n in names if pathlib.PurePosixPath(n).name == wanted]
    found = [n for n in found if not n.startswith("__MACOSX") and not n.endswith("/")]
    fewest = min((n.count("/") for n in found), default=0)
    found = [n for n in found if n.count("/") == fewest]
    if len(found) != 1:
        raise InputError(f"{path}: has {len(found)} members called {wanted}, not one")
    return found[0]


def _download(archive: Archive, part: pathlib.Path) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            if _continue(archive, part):
                return
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise InputError(f"{archive.url}: {error.code} {error.reason}") from None
            problem = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            problem = one_line(reason) or type(error).__name__
            if isinstance(reason, socket.gaierror):
                raise InputError(f"{archive.url}: no network? ({problem})") from None
        if attempt + 1 < _ATTEMPTS:
            log.info("%s: %s; trying again", archive.url, problem)
            time.sleep(_WAIT * 2**attempt)
    arrived = part.stat().st_size if part.exists() else 0
    kept = f"; {arrived} bytes are kept for the next attempt" if arrived else ""
    raise InputError(f"{archive.url}: {problem}{kept}")


def _continue(archive: Archive, part: pathlib.Path) -> bool:
    """Appends what is missing; whether all is there."""
    arrived = part.stat().st_size if part.exists() else 0
    if archive.size is not None and arrived == archive.size:
        return True
    request = urllib.request.Request(archive.url, headers={"User-Agent": "celsa_jax"})
    if arrived:
        request.add_header("Range", f"bytes={arrived}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing behind what is there: whole, or another file
            raise
        if error.headers.get("Content-Range") == f"bytes */{arrived}":
            return True
        part.unlink()
        return False
    with response:
        resumed = response.status == 206
        sent = response.headers.get("Content-Range", "")
        if resumed and not sent.startswith(f"bytes {arrived}-"):
            part.unlink()  # another place than what was asked for: from the beginning, then
            return False
        total = response.length and response.length + arrived * resumed
        _check_room(part, response.length or 0)
        bar = tqdm.tqdm(
            desc=archive.name,
            total=total,
            initial=arrived * resumed,
            unit="B",
            unit_scale=True,
            disable=None,  # on a terminal alone
        )
        with part.open("ab" if resumed else "wb") as stream, bar:
            while block := response.read(_BLOCK):
                stream.write(block)
                bar.update(len(block))
    return total is None or part.stat().st_size == total


def _check_room(part: pathlib.Path, n_bytes: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if n_bytes > free:
        raise InputError(f"{part.parent}: {n_bytes} bytes to download, {free} bytes free")


def _check(archive: Archive, part: pathlib.Path) -> None:
    """InputError for a file that is not the publisher's; it is removed."""
    with part.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    size = os.path.getsize(part)
    if archive.size is not None and size != archive.size:
        problem = f"has {size} bytes, not the {archive.size} of the publisher's file"
    elif archive.sha256 is not None and sha256 != archive.sha256:
        problem = f"has the SHA-256 {sha256}, not {archive.sha256}"
    else:
        return
    part.unlink()
    raise InputError(f"{archive.url}: what came {problem}; removed, start again")
