"""A checksum of a whole `.npz` file, in the comment that a ZIP archive may end with.

ZIP's own checksums cover the contents of the members alone. NumPy and SciPy read past the comment,
and write none, so that files made with them by hand are told apart.
"""

from __future__ import annotations

import hashlib
import io
import pathlib
from collections.abc import Callable
from typing import BinaryIO

from celsa_jax.files import atomic_path

_MARK = b"sha256 "
_COMMENT = len(_MARK) + 64
_LAST_RECORD = 22  # bytes, where no comment follows
_LAST_BEGINS = b"PK\5\6"
_HEXADECIMAL = set(b"0123456789abcdef")


def write_sealed(path: pathlib.Path, write: Callable[[BinaryIO], None], text: str = "") -> None:
    """Writes an archive with a checksum; whole or not at all.

    Args:
      path: the file.
      write: given a stream, writes the archive.
      text: what belongs to the archive; the checksum covers it, too.
    """
    stream = io.BytesIO()
    write(stream)
    content = stream.getvalue()[:-2] + _COMMENT.to_bytes(2, "little")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content + _MARK + _digest(content, text))


def check_seal(path: str | pathlib.Path, text: str = "") -> None:
    """ValueError where an archive has a checksum that does not fit its bytes and `text`."""
    content = pathlib.Path(path).read_bytes()
    begin = content.rfind(_LAST_BEGINS, -(_LAST_RECORD + _COMMENT))
    if begin < 0:
        return
    end = begin + _LAST_RECORD
    sealed, comment = content[:end], content[end:]
    mark, digest = comment[: len(_MARK)], comment[len(_MARK) :]
    # Any of these tells it from the comments of others: a bit may have flipped, its end be lost.
    is_sealed = mark == _MARK or (len(comment) == _COMMENT and set(digest) <= _HEXADECIMAL)
    is_cut = sealed.endswith(_COMMENT.to_bytes(2, "little")) and _MARK.startswith(mark)
    if (is_sealed or is_cut) and comment != _MARK + _digest(sealed, text):
        raise ValueError("its checksum does not fit")


def _digest(content: bytes, text: str) -> bytes:
    digest = hashlib.sha256(content)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest().encode()
