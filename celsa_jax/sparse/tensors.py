"""A file of arrays that is mapped, not read: the safetensors layout with a checksum.

Eight bytes hold the length of a JSON header, the header names dtype, shape and place of every
array, and the arrays follow without gaps (https://github.com/huggingface/safetensors), so other
languages read these files with the libraries they have. Our header also carries, in
`__metadata__`, a checksum: the SHA-256 of the SHA-256s of the header, with zeros for the checksum,
and of each 4 MiB behind it. Blocks let several cores check a large file.
"""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import struct
from collections.abc import Callable

import numpy as np

from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path
from celsa_jax.sparse.threads import in_threads, n_cores

_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_NO_DIGEST = "0" * 64
_LONGEST_HEADER = 1 << 26
_BLOCK = 1 << 22


def write_tensors(
    path: pathlib.Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes arrays and text; the file appears whole or not at all."""
    # Without gaps, only wide items before narrow ones leave every array aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, dict] = {"__metadata__": {**metadata, "sha256": _NO_DIGEST}}
    end = 0
    for name in names:
        array = tensors[name]
        start, end = end, end + array.nbytes
        dtype = _NAMES[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header, ensure_ascii=True).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                stream.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
        digest = _digest(temporary, 8 + len(text), _NO_DIGEST)
        with temporary.open("r+b") as stream:
            stream.seek(8)
            stream.write(text.replace(_NO_DIGEST.encode(), digest.encode(), 1))


def read_tensors(
    path: pathlib.Path,
    verify: bool = True,
    accept: Callable[[dict[str, str]], None] = lambda metadata: None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Maps the arrays of a file read-only, after checking it.

    Args:
      path: a file of `write_tensors`.
      verify: compare the checksum, which reads the file once; sizes are always checked.
      accept: given the metadata before all else; raises what speaks against reading on.

    Raises:
      InputError: the file is missing, of another kind, truncated or altered.
    """
    try:
        with path.open("rb") as stream:
            start, header = _read_header(path, stream)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    metadata = header.pop("__metadata__")
    accept(metadata)
    size, expected = path.stat().st_size, start
    try:
        for entry in header.values():
            first, end = entry["data_offsets"]
            counts = [first, end, *entry["shape"]]
            if not all(type(n) is int and n >= 0 for n in counts):
                raise ValueError(f"not sizes: {counts}")
            n_bytes = _DTYPES[entry["dtype"]].itemsize * math.prod(entry["shape"])
            if first != expected - start or end - first != n_bytes:
                raise ValueError("arrays that overlap or leave gaps")
            expected = start + end
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged header: {error}; export it again") from None
    if size != expected:
        state = "truncated" if size < expected else "altered"
        raise InputError(f"{path}: {state}: {size} bytes, not {expected}; copy or export it again")
    if verify and _digest(path, start, metadata["sha256"]) != metadata["sha256"]:
        raise InputError(f"{path}: altered: its checksum does not fit; copy or export it again")
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        content = mapped[start + first : start + end].view(_DTYPES[entry["dtype"]])
        tensors[name] = content.reshape(entry["shape"])
    return tensors, metadata


def _read_header(path: pathlib.Path, stream) -> tuple[int, dict]:
    kind = (
        f"{path}: damaged, or not embeddings: those are files of experiments.export (float32, "
        "float16, int8, int4), SciPy .npz and NumPy .npy"
    )
    length = stream.read(8)
    if len(length) < 8 or not 2 <= (n := struct.unpack("<Q", length)[0]) <= _LONGEST_HEADER:
        raise InputError(kind)
    try:
        header = json.loads(stream.read(n))
        metadata = header["__metadata__"]
        texts = all(isinstance(value, str) for value in metadata.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(kind) from None
    if not texts or len(metadata.get("sha256", "")) != len(_NO_DIGEST):
        raise InputError(f"{path}: has no checksum; damaged, or not written by celsa_jax")
    return 8 + n, header


def _digest(path: pathlib.Path, start: int, stored: str) -> str:
    """The checksum of a file whose header, up to `start`, has `stored` in its place."""

    def of_block(first: int) -> bytes:
        # Read, not mapped: the pages then do not count as this process's memory.
        with path.open("rb", buffering=0) as stream:
            stream.seek(first)
            return hashlib.sha256(stream.read(_BLOCK)).digest()

    with path.open("rb") as stream:
        header = stream.read(start).replace(stored.encode(), _NO_DIGEST.encode(), 1)
    parts = in_threads(of_block, range(start, path.stat().st_size, _BLOCK), n_cores())
    return hashlib.sha256(hashlib.sha256(header).digest() + b"".join(parts)).hexdigest()
