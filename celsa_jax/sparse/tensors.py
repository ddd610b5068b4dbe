"""The file of `SparseEmbeddings.save`: arrays and text in the safetensors layout, with a checksum.

The checksum, in the header, is the SHA-256 of the SHA-256s of the header, with zeros in its place,
and of each 4 MiB behind it; blocks let several cores check a large file.
"""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import struct

import numpy as np

from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path
from celsa_jax.sparse.threads import in_threads, n_cores

KIND = "celsa_jax.sparse_embeddings"
VERSION = 2
VERSION_WITH_NORMS = 3  # another number, as code of version 2 would take all rows for unit rows
_DTYPES = {"F32": "<f4", "F16": "<f2", "U32": "<u4", "U16": "<u2", "U8": "u1", "I8": "i1"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_NO_DIGEST = "0" * 64
_BLOCK = 1 << 22


def write_tensors(
    path: pathlib.Path, tensors: dict[str, np.ndarray], fields: dict[str, str]
) -> None:
    """Writes arrays and text; the file appears whole or not at all."""
    # Not by the package safetensors, which writes the text in another order each time.
    fixed = {"sha256": _NO_DIGEST, "kind": KIND, "version": str(_version(tensors))}
    header: dict[str, dict] = {"__metadata__": {**fixed, **fields}}
    # Without gaps, only wide items before narrow ones leave every array aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _NAMES[tensors[name].dtype.newbyteorder("<")],
            "shape": tensors[name].shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                stream.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
        digest = _digest(np.memmap(temporary, np.uint8, "r"), 8 + len(text), _NO_DIGEST)
        with temporary.open("r+b") as stream:
            stream.seek(8)
            stream.write(text.replace(_NO_DIGEST.encode(), digest.encode(), 1))


def read_tensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, read into memory, and its text, after comparing its checksum.

    Raises:
      InputError: the file is of another kind or version, or its checksum does not fit.
      Exception: of other kinds, where the header is damaged.
    """
    import safetensors  # here, so that a run's embeddings.npz is served without it

    with safetensors.safe_open(path, "np") as file:  # checks the header and all sizes
        fields = file.metadata() or {}
        _check_version(path, fields)
        slices = {name: file.get_slice(name) for name in file.offset_keys()}
        kinds = {n: (np.dtype(_DTYPES[s.get_dtype()]), s.get_shape()) for n, s in slices.items()}
    # What is checked here is what will be used: a mapped file would change with the one on disk.
    content = np.fromfile(path, np.uint8)
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    digest = fields.pop("sha256", "")
    if not digest or _digest(content, start, digest) != digest:
        raise InputError(f"{path}: damaged: its checksum does not fit; copy or export it again")
    tensors = {}
    for name, (dtype, shape) in kinds.items():
        end = start + dtype.itemsize * math.prod(shape)
        tensors[name] = content[start:end].view(dtype).reshape(shape)
        start = end
    if int(fields["version"]) != _version(tensors):
        raise ValueError(f"norms are for version {VERSION_WITH_NORMS}, which cannot lack them")
    return tensors, fields


def _version(tensors: dict[str, np.ndarray]) -> int:
    return VERSION_WITH_NORMS if "norms" in tensors else VERSION


def _check_version(path: pathlib.Path, fields: dict[str, str]) -> None:
    version = fields.get("version", "")
    if fields.get("kind") != KIND or not version.isdecimal():
        raise InputError(f"{path}: damaged, or no file of sparse embeddings")
    if not VERSION <= int(version) <= VERSION_WITH_NORMS:
        remedy = "update celsa_jax" if int(version) > VERSION else "export it again"
        raise InputError(
            f"{path}: written in version {version} of the format, not {VERSION} or "
            f"{VERSION_WITH_NORMS}; {remedy}"
        )


def _digest(content: np.ndarray, start: int, stored: str) -> str:
    """The checksum of a file whose header, up to `start`, has `stored` in its place."""

    def of_block(first: int) -> bytes:
        return hashlib.sha256(content[first : first + _BLOCK].data).digest()

    header = content[:start].tobytes().replace(stored.encode(), _NO_DIGEST.encode(), 1)
    parts = in_threads(of_block, range(start, len(content), _BLOCK), n_cores())
    return hashlib.sha256(hashlib.sha256(header).digest() + b"".join(parts)).hexdigest()
