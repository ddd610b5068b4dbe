"""Files from their publishers: resumed when broken off, checked, and unpacked safely."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import logging
import pathlib
import shutil
import socket
import time
import urllib.error
import urllib.request

import tqdm

from celsa_jax.data.tables import check_member, open_archive
from celsa_jax.errors import InputError, one_line
from celsa_jax.files import atomic_path, check_space, remove_left_overs

log = logging.getLogger(__name__)

_TIMEOUT = 30  # seconds without a byte
_WAITS = (1, 2, 4)  # seconds before a second attempt, and further ones
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Archive:
    """A zip on a publisher's server.

    Attributes:
      url: its address.
      members: the files wanted, by their last names.
      sha256: of its bytes, hexadecimal; None where it is not known.
    """

    url: str
    members: tuple[str, ...]
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetch(archive: Archive, folder: pathlib.Path) -> None:
    """Downloads an archive and unpacks its members into a folder.

    What arrived stays beside them as `NAME.part` until it is whole, so that a download that
    breaks off goes on where it stopped, in this process or the next. (Pooch begins anew, and
    unpacks whatever an archive holds.)

    Raises:
      InputError: no network, the server's refusal, a wrong checksum, a broken archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder)
    part = folder / f"{archive.name}.part"
    _download(archive, part)
    with part.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if archive.sha256 not in (None, sha256):
        part.unlink()
        raise InputError(
            f"{archive.url}: what came has the SHA-256 {sha256}, not {archive.sha256}; removed, "
            "start again"
        )
    unpack(part, archive.members, folder)
    part.unlink()


def unpack(path: pathlib.Path, members: tuple[str, ...], folder: pathlib.Path) -> None:
    """Writes members of a zip into a folder under their last names, whatever paths they have.

    The first comes last, so where it is, all are. Of several members of a name the one in the
    fewest folders is meant (not that of `samples/`). An archive that will not do is removed.
    """
    try:
        with open_archive(path) as archive:
            sources = {name: _member(path, archive.namelist(), name) for name in members}
            for member in sources.values():
                check_member(path, archive, member)
            for name, member in reversed(sources.items()):
                with (
                    archive.open(member) as source,
                    atomic_path(folder / name) as temporary,
                    temporary.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target, _BLOCK)
    except InputError as error:
        path.unlink()
        raise InputError(f"{error}; removed, start again") from None


def _member(path: pathlib.Path, names: list[str], wanted: str) -> str:
    of_name = [n for n in names if pathlib.PurePosixPath(n).name == wanted]
    of_name = [n for n in of_name if not n.startswith("__MACOSX") and not n.endswith("/")]
    fewest = min((n.count("/") for n in of_name), default=0)
    shallow = [n for n in of_name if n.count("/") == fewest]
    if len(shallow) != 1:
        raise InputError(f"{path}: has {len(shallow)} members called {wanted}, not one")
    return shallow[0]


def _download(archive: Archive, part: pathlib.Path) -> None:
    """Appends to `part` what is missing of an archive; InputError after several attempts."""
    for wait in (*_WAITS, None):
        try:
            if _continue(archive, part):
                return
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            problem = one_line(reason) or type(error).__name__
            if isinstance(reason, socket.gaierror):
                problem = f"no network? ({problem})"
                break
        if wait is not None:
            log.info("%s: %s; trying again", archive.url, problem)
            time.sleep(wait)
    kept = f"; {part.stat().st_size} bytes are kept for the next attempt" if part.exists() else ""
    raise InputError(f"{archive.url}: {problem}{kept}")


def _continue(archive: Archive, part: pathlib.Path) -> bool:
    """Appends what is missing; whether all is there."""
    arrived = part.stat().st_size if part.exists() else 0
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
        if resumed and not response.headers.get("Content-Range", "").startswith(
            f"bytes {arrived}-"
        ):
            part.unlink()  # another place than what was asked for: from the beginning, then
            return False
        check_space(part.parent, response.length or 0)
        before = arrived if resumed else 0
        total = response.length and response.length + before
        shown = {"desc": archive.name, "total": total, "initial": before}
        with (
            part.open("ab" if resumed else "wb") as stream,
            tqdm.tqdm.wrapattr(stream, "write", **shown, disable=None) as target,  # on a terminal
        ):
            shutil.copyfileobj(response, target, _BLOCK)
    return total is None or part.stat().st_size == total
