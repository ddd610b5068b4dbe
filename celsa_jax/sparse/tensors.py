"""The file of `SparseEmbeddings.save`: a safetensors file of arrays, JSON values and a checksum."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path

_DTYPES = {"F32": "<f4", "F16": "<f2", "U32": "<u4", "U16": "<u2", "U8": "u1", "I8": "i1"}
_KEY = "celsa_jax"  # a single one: safetensors writes several in another order each time


def write_tensors(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], fields: Mapping[str, Any]
) -> None:
    """Writes arrays and JSON values; the file appears whole or not at all."""
    text = json.dumps(fields, sort_keys=True)
    digest = np.frombuffer(bytes.fromhex(checksum(tensors, text)), np.uint8)
    content = safetensors.numpy.save({**tensors, "sha256": digest}, {_KEY: text})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON values of a file, after comparing its checksum.

    Raises:
      InputError: the file is of another kind, or its checksum does not fit.
      Exception: of other kinds, where the header is damaged.
    """
    with safetensors.safe_open(path, "np"):  # checks the header and all sizes
        pass
    # In memory, once (safetensors would copy it): what is checked is what will be used.
    content = np.fromfile(path, np.uint8)
    first = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:first].tobytes())
    text = header.pop("__metadata__", {}).get(_KEY)
    tensors = {}
    for name, info in header.items():
        start, end = (first + at for at in info["data_offsets"])
        tensors[name] = content[start:end].view(_DTYPES[info["dtype"]]).reshape(info["shape"])
    if text is None or "sha256" not in tensors:
        raise InputError(f"{path}: damaged, or not of this version's layout; export it again")
    digest = tensors.pop("sha256").tobytes().hex()
    if checksum(tensors, text) != digest:
        raise InputError(f"{path}: damaged: its checksum does not fit; copy or export it again")
    return tensors, json.loads(text)


def checksum(tensors: Mapping[str, np.ndarray], text: str) -> str:
    """The SHA-256 of arrays, with their names, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
