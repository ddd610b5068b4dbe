"""Data sets as arrays on disk, mapped into memory, so that a second start reads no text.

A prepared data set is a folder `NAME-FINGERPRINT`. It appears whole or not at all and is never
changed, so any number of runs can share it. The fingerprint stands for the source files (name,
size, time of change, first and last bytes) and for everything that decides what becomes of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.arrays import read_arrays
from celsa_jax.data.interactions import Interactions
from celsa_jax.errors import InputError, one_line
from celsa_jax.files import read_json, remove_left_overs, temporary_beside

log = logging.getLogger(__name__)

_FORMAT = 3
_ABANDONED = 24 * 3600  # seconds after which nobody is writing any more
_SAMPLE = 1 << 16  # bytes from either end of a source


def fingerprint(files: list[pathlib.Path], settings: dict[str, object]) -> str:
    """16 hexadecimal digits. A copy of the files with their times has the same."""
    digest = hashlib.sha256(json.dumps([_FORMAT, settings], sort_keys=True).encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(_SAMPLE))
            stream.seek(max(stat.st_size - _SAMPLE, 0))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:16]


def save(
    folder: pathlib.Path,
    interactions: Interactions,
    metadata: dict[str, np.ndarray],
    counts: dict[str, int],
) -> None:
    """Writes the folder. If another process has written it meanwhile, that one stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder.parent, _ABANDONED)
    temporary = temporary_beside(folder)
    temporary.mkdir()
    try:
        arrays = {
            "indptr": interactions.matrix.indptr,
            "indices": interactions.matrix.indices,
            "user_ids": interactions.user_ids,
            "item_ids": interactions.item_ids,
        }
        if interactions.times is not None:
            arrays["times"] = interactions.times
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as stream:
                np.save(stream, array)
                os.fsync(stream.fileno())
        info = {
            "counts": counts,
            "arrays": _forms(arrays),
            "fixed_items": interactions.fixed_items,
            "metadata": {name: column.tolist() for name, column in metadata.items()},
        }
        (temporary / "info.json").write_text(json.dumps(info), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(
    folder: pathlib.Path,
) -> tuple[Interactions, dict[str, np.ndarray], dict[str, int]] | None:
    """Interactions (mapped, read-only), metadata and counts; None if it is not there.

    What is damaged is removed, as if it had not been there; bits are not compared.

    Raises:
      InputError: it is there, but cannot be read now.
    """
    if not folder.is_dir():
        return None
    try:
        info = read_json(folder / "info.json")
        arrays: dict[str, Any] = {
            name: read_arrays(folder / f"{name}.npy", mapped=True) for name in info["arrays"]
        }
        if (forms := _forms(arrays)) != info["arrays"]:
            raise ValueError(f"arrays are {forms}, not {info['arrays']}")
        user_ids, item_ids = (np.asarray(arrays[name]) for name in ("user_ids", "item_ids"))
        indices = arrays["indices"]
        entries = (np.ones(len(indices), np.float32), indices, arrays["indptr"])
        matrix = sp.csr_matrix(entries, shape=(len(user_ids), len(item_ids)))
        matrix.check_format(full_check=True)
        matrix.has_canonical_format = True
        times, fixed = arrays.get("times"), bool(info["fixed_items"])
        interactions = Interactions(matrix, user_ids, item_ids, times, fixed)
        metadata = {name: np.array(column, object) for name, column in info["metadata"].items()}
        log.info("prepared data: %s", folder)
        return interactions, metadata, info["counts"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s); preparing again", folder, one_line(error))
        shutil.rmtree(folder, ignore_errors=True)
        return None
    except OSError as error:  # it may be sound, and others may be reading it
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None


def _forms(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    return {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
