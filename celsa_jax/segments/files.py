"""Segments on disk."""

from __future__ import annotations

import contextlib
import csv
import pathlib
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from celsa_jax.arrays import read_sparse, text_array
from celsa_jax.data.interactions import lookup
from celsa_jax.data.metadata import printable
from celsa_jax.errors import InputError, one_line
from celsa_jax.files import atomic_path, read_json, write_json
from celsa_jax.segments.find import Segmentation
from celsa_jax.segments.groups import shown_pair
from celsa_jax.segments.naming import Name
from celsa_jax.segments.segments import Segment, Segments


def save_segments(folder: pathlib.Path, segmentation: Segmentation) -> None:
    """Writes `segments.json`, `segment_vectors.npz`, `assignments.csv` and `merges.csv`."""
    segments = segmentation.segments
    write_json(
        folder / "segments.json",
        [
            {
                "name": segment.name.name,
                "terms": list(segment.name.terms),
                "pairs": [list(pair) for pair in segment.pairs],
                "items": segments.item_ids[segment.items].tolist(),
            }
            for segment in segments.segments
        ],
    )
    with atomic_path(folder / "segment_vectors.npz") as temporary, temporary.open("wb") as stream:
        sp.save_npz(stream, segments.vectors)
    groups = segmentation.groups
    pairs = list(zip(groups.factors.tolist(), groups.signs.tolist(), strict=True))
    with _csv_writer(folder / "assignments.csv") as writer:
        writer.writerow(["item_id", "factor", "sign", "weight", "segment"])
        rows = zip(segments.item_ids, groups.of_item, groups.strength, strict=True)
        for item, group, strength in rows:
            if group < 0:  # an item without weights
                writer.writerow([item, "", "", "", ""])
            else:
                segment = segments.names[segmentation.labels[group]]
                writer.writerow([item, *pairs[group], f"{strength:.7g}", segment])
    with _csv_writer(folder / "merges.csv") as writer:
        writer.writerow(["node", "left", "right", "cosine"])
        nodes = [shown_pair(*pair) for pair in pairs]
        for at, (left, right, cosine) in enumerate(segmentation.tree):
            nodes.append(f"merge {at}")
            writer.writerow([nodes[-1], nodes[left], nodes[right], cosine])


@contextlib.contextmanager
def _csv_writer(path: pathlib.Path) -> Iterator:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield csv.writer(file, lineterminator="\n")


def load_segments(folder: str | pathlib.Path, item_ids: np.ndarray) -> Segments:
    """Reads what `save_segments` wrote, over the items of a catalogue.

    Raises:
      InputError: a file is missing or damaged, the two are not of one run, or they name items
        that the catalogue does not have.
    """
    path = pathlib.Path(folder) / "segments.json"
    vectors_path = path.with_name("segment_vectors.npz")
    with _reading(path):
        entries = read_json(path)
    with _reading(vectors_path):
        n_segments, n_factors = read_sparse(vectors_path).shape
    with _reading(path):
        segments = tuple(_read_segment(path, entry, item_ids) for entry in entries)
        _check_pairs([pair for segment in segments for pair in segment.pairs], n_factors)
    if n_segments != len(segments):
        raise InputError(
            f"{vectors_path}: {n_segments} vectors for the {len(segments)} segments of {path}; "
            "run experiments.segments again"
        )
    return Segments(segments, item_ids, n_factors)


def load_merges(folder: str | pathlib.Path, segments: Segments) -> list[np.ndarray]:
    """Reads how the groups of each segment became one.

    Args:
      folder: what `save_segments` wrote.
      segments: read from the same folder.

    Returns:
      For each segment a linkage matrix of `scipy.cluster.hierarchy`, [n_pairs - 1, 4] float64:
      rows (left, right, 1 - cosine, number of groups), nodes below n_pairs being the segment's
      pairs in their order.

    Raises:
      InputError: the file is missing or damaged, or not of these segments.
    """
    path = pathlib.Path(folder) / "merges.csv"
    trees: list[list[tuple]] = [[] for _ in segments.segments]
    # By its name in the file: the segment of a node, its number there, its number of groups.
    nodes = {
        shown_pair(*pair): (at, leaf, 1)
        for at, segment in enumerate(segments.segments)
        for leaf, pair in enumerate(segment.pairs)
    }
    with _reading(path), path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            at, left, n_left = nodes.pop(row["left"])
            other, right, n_right = nodes.pop(row["right"])
            if at != other:
                raise ValueError(f"'{row['node']}' is of two segments")
            n_groups = n_left + n_right
            nodes[row["node"]] = (at, len(segments[at].pairs) + len(trees[at]), n_groups)
            trees[at].append((left, right, 1 - float(row["cosine"]), n_groups))
        for segment, tree in zip(segments.segments, trees, strict=True):
            if len(tree) != len(segment.pairs) - 1:
                raise ValueError(f"no tree of the segment '{segment.name.name}'")
    return [np.array(tree).reshape(-1, 4) for tree in trees]


def _read_segment(path: pathlib.Path, entry: dict, item_ids: np.ndarray) -> Segment:
    """A segment from its JSON; ValueError for values of other kinds."""
    name, terms, pairs, ids = (entry[field] for field in ("name", "terms", "pairs", "items"))
    lists = isinstance(terms, list) and isinstance(ids, list)
    if not lists or not all(isinstance(text, str) for text in (name, *terms, *ids)):
        raise ValueError("a name, a term or an item that is no text")
    if not all(type(number) is int for pair in pairs for number in pair):
        raise ValueError("a pair that is no two whole numbers")
    items = lookup(item_ids, text_array(ids))
    if (items < 0).any():
        raise InputError(
            f"{path}: item '{ids[np.argmin(items)]}' is not in the catalogue; "
            "are the segments of these embeddings?"
        )
    shown = Name(printable(name), tuple(map(printable, terms)))
    return Segment(shown, tuple((factor, sign) for factor, sign in pairs), items)


def _check_pairs(pairs: list[tuple[int, int]], n_factors: int) -> None:
    """ValueError for a pair that the embeddings cannot have, or one that is there twice."""
    known = set()
    for factor, sign in pairs:
        if not 0 <= factor < n_factors or sign not in (1, -1) or (factor, sign) in known:
            raise ValueError(
                f"the pair [{factor}, {sign}] (factors are 0 to {n_factors - 1}, "
                "signs 1 or -1, each pair is there once)"
            )
        known.add((factor, sign))


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
