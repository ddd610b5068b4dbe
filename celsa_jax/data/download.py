"""Downloads of published archives."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import pathlib
import shutil
import socket
import urllib.error
import urllib.request
import zipfile

import tqdm

from celsa_jax.errors import InputError, one_line
from celsa_jax.files import atomic_path, remove_left_overs

_TIMEOUT = 30  # seconds without a byte
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Archive:
    """A zip on a publisher's server.

    Attributes:
      url: its address.
      sha256: of its bytes, hexadecimal; None where it is not known.
    """

    url: str
    sha256: str | None = None


def fetch(archive: Archive, folder: pathlib.Path) -> None:
    """Downloads an archive into a folder, under its own name once it is whole.

    Raises:
      InputError: no network, the server's refusal, a connection that breaks off, a wrong checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder)
    with atomic_path(folder / archive.url.rpartition("/")[2]) as temporary:
        try:
            _download(archive.url, temporary)
        except (OSError, http.client.HTTPException) as error:
            status = isinstance(error, urllib.error.HTTPError)
            reason = error if status else getattr(error, "reason", error)
            no_network = "no network? " if isinstance(reason, socket.gaierror) else ""
            problem = one_line(reason) or type(reason).__name__
            raise InputError(f"{archive.url}: {no_network}{problem}") from None
        with temporary.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if archive.sha256 not in (None, sha256):
            raise InputError(
                f"{archive.url}: what came has the SHA-256 {sha256}, not {archive.sha256}"
            )
        if not _is_sound(temporary):
            raise InputError(f"{archive.url}: what came is no sound zip archive")


def _is_sound(path: pathlib.Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _download(url: str, path: pathlib.Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "celsa_jax"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        shown = {"desc": url.rpartition("/")[2], "total": response.length}
        with (
            path.open("wb") as stream,
            tqdm.tqdm.wrapattr(stream, "write", **shown, disable=None) as target,  # on a terminal
        ):
            shutil.copyfileobj(response, target, _BLOCK)
        if response.length:  # what is still to come
            raise ConnectionError("the connection broke off")
