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
    content = path.read_bytes()  # at once: what is checked is what will be used
    tensors = safetensors.numpy.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = header.get("__metadata__", {}).get(_KEY)
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
