"""Segments on disk."""

from __future__ import annotations

import contextlib
import csv
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from celsa_jax.arrays import read_sparse, text_array
from celsa_jax.data.interactions import lookup
from celsa_jax.data.metadata import printable
from celsa_jax.errors import InputError, one_line
from celsa_jax.files import atomic_path, read_json, write_json
from celsa_jax.segments.naming import Name
from celsa_jax.segments.segments import Segment, Segments, SegmentTree, loadings


def save_segments(folder: pathlib.Path, tree: SegmentTree, embeddings: sp.csr_matrix) -> None:
    """Writes `segments.json`, `segment_vectors.npz` and `assignments.csv`.

    Args:
      folder: where to.
      tree: the segments.
      embeddings: A, items x factors, that they are of.
    """
    item_ids = tree.levels[0].item_ids
    starts = np.cumsum([0, *map(len, tree.levels)])
    entries = [
        {
            "level": level + 1,
            "parent": None if not level else int(starts[level - 1]) + segment.parent,
            "name": segment.name.name,
            "terms": list(segment.name.terms),
            "items": item_ids[segment.items].tolist(),
        }
        for level, segments in enumerate(tree.levels)
        for segment in segments
    ]
    write_json(folder / "segments.json", entries)
    with atomic_path(folder / "segment_vectors.npz") as temporary, temporary.open("wb") as stream:
        sp.save_npz(stream, sp.vstack([level.vectors for level in tree.levels], format="csr"))
    finest = tree.levels[-1]
    towards = loadings(embeddings, finest.vectors, finest.of_item)
    names = [np.array([*level.names, ""], object)[level.of_item] for level in tree.levels]
    path = folder / "assignments.csv"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["item_id", "cosine", *(f"level_{at}" for at, _ in enumerate(names, 1))])
        rows = zip(item_ids, towards, finest.of_item >= 0, *names, strict=True)
        for item, cosine, known, *own in rows:
            writer.writerow([item, f"{cosine:.6g}" if known else "", *own])


def load_segments(folder: str | pathlib.Path, item_ids: np.ndarray) -> SegmentTree:
    """Reads what `save_segments` wrote, over the items of a catalogue.

    Raises:
      InputError: a file is missing or damaged, the two are not of one run, or they name items
        that the catalogue does not have.
    """
    path = pathlib.Path(folder) / "segments.json"
    vectors_path = path.with_name("segment_vectors.npz")
    with _reading(path):
        entries = read_json(path)
        entries = [_checked(entry) for entry in entries]
        items = _positions(path, entries, item_ids)
    with _reading(vectors_path):
        vectors = read_sparse(vectors_path).tocsr().astype(np.float32)
    if vectors.shape[0] != len(entries):
        raise InputError(
            f"{vectors_path}: {vectors.shape[0]} vectors for the {len(entries)} segments of "
            f"{path}; run experiments.segments again"
        )
    levels: list[Segments] = []
    first, above = 0, 0
    with _reading(path):
        for number, group in itertools.groupby(entries, lambda entry: entry["level"]):
            of_level = list(group)
            end = first + len(of_level)
            if number != len(levels) + 1:
                raise ValueError(f"level {number} behind level {len(levels)}")
            segments = tuple(
                _segment(entry, of_entry, above, first)
                for entry, of_entry in zip(of_level, items[first:end], strict=True)
            )
            positions = np.concatenate([segment.items for segment in segments])
            if len(np.unique(positions)) < len(positions):
                raise ValueError(f"an item that is in two segments of level {number}")
            levels.append(Segments(segments, vectors[first:end], item_ids))
            above, first = first, end
        if not levels:
            raise ValueError("no segment")
    return SegmentTree(tuple(levels))


def _checked(entry: dict) -> dict[str, Any]:
    """An entry; ValueError for values of other kinds."""
    name, terms, ids = (entry[field] for field in ("name", "terms", "items"))
    lists = isinstance(terms, list) and isinstance(ids, list) and ids
    if not lists or not all(isinstance(text, str) for text in (name, *terms, *ids)):
        raise ValueError("a name, a term or an item that is no text, or no items")
    if type(entry["level"]) is not int or type(entry["parent"]) not in (int, type(None)):
        raise ValueError("a level or a parent that is no whole number")
    return entry


def _positions(
    path: pathlib.Path, entries: list[dict[str, Any]], item_ids: np.ndarray
) -> list[np.ndarray]:
    """Of each entry, its items' positions in the catalogue."""
    ids = [item for entry in entries for item in entry["items"]]
    positions = lookup(item_ids, text_array(ids))
    if (positions < 0).any():
        raise InputError(
            f"{path}: item '{ids[np.argmin(positions)]}' is not in the catalogue; "
            "are the segments of these embeddings?"
        )
    return np.split(positions, np.cumsum([len(entry["items"]) for entry in entries])[:-1])


def _segment(entry: dict[str, Any], items: np.ndarray, above: int, first: int) -> Segment:
    """A segment, the level above of which are the entries from `above` to `first`."""
    parent = entry["parent"]
    if (parent is None) != (first == 0) or not (parent is None or above <= parent < first):
        raise ValueError(f"the parent {parent} of '{entry['name']}' is not of the level above")
    name = Name(printable(entry["name"]), tuple(map(printable, entry["terms"])))
    return Segment(name, items, -1 if parent is None else parent - above)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """Makes an InputError that names the file of whatever reading it raises."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; give the folder that experiments.segments wrote"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        problem = one_line(error)
        raise InputError(f"{path}: damaged: {problem}; run experiments.segments again") from None
