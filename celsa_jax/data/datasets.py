"""Known data sets and the user's own files, filtered into interactions."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.data import goodbooks, movielens, netflix, prepared
from celsa_jax.data.download import fetch
from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.data.readers import Columns, Ratings, read_ratings
from celsa_jax.data.synthetic import synthetic
from celsa_jax.data.tables import AnyPath, as_file, find_optional, read_text_columns, unzipped
from celsa_jax.errors import InputError
from celsa_jax.files import locked

log = logging.getLogger(__name__)

_LIKED = 4.0  # the rating from which on, of 5, something is taken for liked, as in the paper


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """Interactions with what is known beside them.

    Attributes:
      interactions: users x items after the filters.
      metadata: text columns about items, `item_id` first; empty where there are none.
      counts: rows read, kept, and dropped by reason.
      folder: of the prepared form (`celsa_jax.data.prepared`); None where there is none.
    """

    interactions: Interactions
    metadata: dict[str, np.ndarray]
    counts: dict[str, int]
    folder: pathlib.Path | None = None

    def __repr__(self) -> str:
        data, columns = self.interactions, ", ".join(self.metadata) or "none"
        sizes = f"{data.n_users:,} users, {data.n_items:,} items, {data.nnz:,} interactions"
        return f"Dataset({sizes}; metadata: {columns})"

    @functools.cached_property
    def titles(self) -> np.ndarray:
        """[n_items] text objects in the order of the items, their ids where no title is known."""
        item_ids = self.interactions.item_ids
        titles = item_ids.astype(object)
        if len(self.metadata.get("title", ())):
            at = lookup(self.metadata["item_id"].astype(np.str_), item_ids)
            given = np.where(at >= 0, self.metadata["title"][at], "")
            titles = np.where(given == "", titles, given)
        return titles


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set of files.

    Attributes:
      read: from where the files are and the configuration to ratings and metadata.
      files: their names, those that must be there first.
      fetch: downloads them into a folder; None where a person has to.
      advice: what that person does.
      alone: whether the first file is read by itself where it is named, without those beside it.
    """

    read: Callable[[AnyPath, ConfigDict], tuple[Ratings, dict[str, np.ndarray]]]
    files: tuple[str, ...] = ()
    fetch: Callable[[pathlib.Path], None] | None = None
    advice: str = ""
    alone: bool = False


def dataset_of(config: ConfigDict, seed: int = 0) -> Dataset:
    """The data set of `config.data`; InputError where files or fields are at fault.

    What was read once is kept in its prepared form in `config.data_dir`, and mapped the next time.

    Args:
      config: the section `data` (see `celsa_jax.config.default_config`).
      seed: for synthetic data.
    """
    if config.name not in DATASETS:
        raise InputError(
            f"config.data.name is '{config.name}'; choose one of {', '.join(sorted(DATASETS))}"
        )
    if config.items_path and config.name not in ("file", "goodbooks"):
        raise InputError(f"config.data.items_path is not used with data.name={config.name}")
    known = DATASETS[config.name]
    if known is None:
        interactions, metadata = synthetic(**config.synthetic, seed=seed)
        return Dataset(interactions, metadata, _sizes(interactions))
    source = _source(config, known)
    place, files = _place_and_files(source, known, config)
    name = f"{config.name}-{prepared.fingerprint(files, _settings(config))}"
    folder = data_folder(config) / "prepared" / name
    if stored := prepared.load(folder):
        return Dataset(*stored, folder)
    ratings, metadata = known.read(place, config)
    least = config.min_rating, config.min_user_interactions
    interactions, counts = filter_ratings(
        ratings, *least, str(source), config.min_item_interactions
    )
    try:
        prepared.save(folder, interactions, metadata, counts)
    except OSError as error:
        log.warning("%s: %s; going on without a prepared form", folder, error.strerror or error)
        return Dataset(interactions, metadata, counts)
    return Dataset(interactions, metadata, counts, folder)


def data_folder(config: ConfigDict) -> pathlib.Path:
    """`config.data_dir`; or $CELSA_JAX_CACHE, or celsa_jax in the user's cache folder."""
    if chosen := config.data_dir or os.environ.get("CELSA_JAX_CACHE"):
        return pathlib.Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(base) / "celsa_jax"
    try:
        return pathlib.Path.home() / ".cache" / "celsa_jax"
    except RuntimeError:
        raise InputError(
            "this user has no home folder; name one for data as config.data.data_dir or "
            "CELSA_JAX_CACHE"
        ) from None


def filter_ratings(
    ratings: Ratings,
    min_rating: float | None,
    min_user_interactions: int,
    where: str,
    min_item_interactions: int = 0,
) -> tuple[Interactions, dict[str, int]]:
    """Ratings first, then each pair once, then users and items with enough interactions.

    Users and items take turns until nothing changes. Items that nobody has any more are left out,
    unless they are fixed.

    Args:
      ratings: what was read. Where it has no ratings, every row is a positive.
      min_rating: of a positive. If None, 4, but the values of a matrix are counts, and every one
        is a positive.
      min_user_interactions: positives of a user, each pair once.
      where: the source, for messages.
      min_item_interactions: positives of an item, likewise.

    Raises:
      InputError: nothing is left, or a count is below 0.
    """
    positive = _positives(ratings, min_rating, where)
    if not positive.any() and ratings.ratings is not None and len(positive):
        raise InputError(
            f"{where}: no rows left: of {len(positive)} ratings the largest is "
            f"{ratings.ratings.max():g}; lower min_rating or, if these are no ratings, leave their "
            "column out"
        )
    interactions, repeated = Interactions.from_pairs(
        ratings.users[positive],
        ratings.items[positive],
        ratings.user_ids,
        ratings.item_ids,
        None if ratings.times is None else ratings.times[positive],
        fixed_items=ratings.fixed_items,
    )
    kept, n_before, of_items = interactions, -1, 0
    while kept.nnz != n_before:
        n_before = kept.nnz
        kept = kept.take_users(kept.matrix.getnnz(axis=1) >= max(1, min_user_interactions))
        enough = kept.matrix.getnnz(axis=0)[kept.matrix.indices] >= min_item_interactions
        if not enough.all():
            kept, of_items = kept.take_entries(enough), of_items + int((~enough).sum())
    kept = kept.drop_unused_items()
    if not kept.nnz:
        limits = [f"users with {min_user_interactions}"] * (min_user_interactions > 1)
        limits += [f"items with {min_item_interactions}"] * (min_item_interactions > 1)
        raise InputError(
            f"{where}: no rows left: {len(positive)} read, {int(positive.sum())} of them "
            f"positives, no {' and '.join(limits) or 'users'} of these; ask for fewer"
        )
    return kept, {
        "rows": len(positive),
        "dropped_below_min_rating": int((~positive).sum()),
        "dropped_repeated_pairs": repeated,
        "dropped_users_with_too_few": interactions.n_users - kept.n_users,
        "dropped_rows_of_those_users": interactions.nnz - kept.nnz - of_items,
        "dropped_rows_of_items_with_too_few": of_items,
        **_sizes(kept),
    }


def _positives(ratings: Ratings, min_rating: float | None, where: str) -> np.ndarray:
    """[n_rows] bool; see `filter_ratings`."""
    values = ratings.ratings
    if values is not None and (min_rating is not None or not ratings.fixed_items):
        return values >= (_LIKED if min_rating is None else min_rating)
    if values is not None and values.min() < 0:
        at = np.argmin(values)
        raise InputError(
            f"{where}: row {ratings.user_ids[ratings.users[at]]}, column {ratings.items[at]}: the "
            f"count {values[at]:g} is below 0; if these are ratings, give min_rating"
        )
    return np.ones(len(ratings.users), bool)


def _sizes(interactions: Interactions) -> dict[str, int]:
    return {
        "users": interactions.n_users,
        "items": interactions.n_items,
        "interactions": interactions.nnz,
    }


def _settings(config: ConfigDict) -> dict[str, object]:
    """What decides, beside the source files, what the prepared form holds."""
    fields = ["name", "min_rating", "min_user_interactions", "min_item_interactions"]
    if config.name == "file":
        fields += ["user_column", "item_column", "rating_column", "title_column"]
    return {**{field: config[field] for field in fields}, "time_column": _time_column(config)}


def _time_column(config: ConfigDict) -> str | None:
    """Times of the user's own files are read where they are needed."""
    own = config.name == "file" and config.split == "temporal"
    return config.time_column if own else None


def _source(config: ConfigDict, known: Published) -> pathlib.Path:
    """The path of the configuration, or what lies in the data folder, once it is downloaded."""
    if config.path:
        return pathlib.Path(config.path)
    if config.name == "file":
        raise InputError("config.data.path is empty; give the interactions file")
    folder = data_folder(config) / config.name
    return _here(folder, known) or _fetched(config, known, folder)


def _here(folder: pathlib.Path, known: Published) -> pathlib.Path | None:
    """A folder with the files in it, or the one archive there."""
    if find_optional(folder, known.files[0]):
        return folder
    archives = list(folder.glob("*.zip"))
    own = [path for path in archives if path.name.startswith(folder.name)]  # as it is published
    return next((paths[0] for paths in (own, archives) if len(paths) == 1), None)


def _fetched(config: ConfigDict, known: Published, folder: pathlib.Path) -> pathlib.Path:
    where = (
        f"put it (or {', '.join(known.files)} out of it) into {folder}{os.sep}, or give its path "
        "as config.data.path"
    )
    if known.fetch is None:
        raise InputError(
            f"{config.name} cannot be downloaded by a program; {known.advice} and {where}"
        )
    log.info("%s: downloading into %s", config.name, folder)
    try:
        with locked(folder.with_name(f".{config.name}.lock")):
            if not _here(folder, known):  # another process may have been faster
                known.fetch(folder)
    except (InputError, OSError) as error:
        raise InputError(
            f"{config.name} could not be downloaded: {error}. {known.advice} by hand and {where}; "
            "config.data.name=synthetic needs no network"
        ) from None
    return _here(folder, known) or folder


def _place_and_files(
    source: pathlib.Path, known: Published, config: ConfigDict
) -> tuple[AnyPath, list[pathlib.Path]]:
    """What to read, a file, a folder or an archive; and the files that it consists of."""
    if not source.exists():
        raise InputError(f"{source}: no such file" + (" or folder" if known.files else ""))
    place = unzipped(source) if known.files else source
    if not (known.alone or place.is_dir()):  # of a publisher's file, the folder that it is in
        place = source.parent
        if not any(find_optional(place, name) == source for name in known.files):
            problem = f"not {known.files[0]}; give the publisher's folder or archive"
            raise InputError(f"{source}: {problem}")
    files = [source]
    if isinstance(place, pathlib.Path) and place.is_dir():
        paths = (find_optional(place, name) for name in known.files)
        files = [path for path in paths if isinstance(path, pathlib.Path)]
    if config.items_path:
        as_file(config.items_path)  # or an InputError
        files.append(pathlib.Path(config.items_path))
    return place, files


def _file(path: AnyPath, config: ConfigDict) -> tuple[Ratings, dict[str, np.ndarray]]:
    columns = Columns(
        config.user_column, config.item_column, config.rating_column, _time_column(config)
    )
    if not config.items_path:
        return read_ratings(path, columns), {}
    names = [config.item_column, config.title_column]
    table = read_text_columns(config.items_path, names)
    return read_ratings(path, columns), {"item_id": table[names[0]], "title": table[names[1]]}


def _movielens(
    name: str,
    files: tuple[str, ...],
    read: Callable[[AnyPath], tuple[Ratings, dict[str, np.ndarray]]],
) -> Published:
    archive = movielens.ARCHIVES[name]
    return Published(
        lambda path, config: read(path),
        files,
        movielens.fetch_ml_100k if name == "ml-100k" else functools.partial(fetch, archive),
        f"Download {archive.url}",
    )


DATASETS: dict[str, Published | None] = {
    "file": Published(_file, alone=True),
    "goodbooks": Published(
        lambda path, config: goodbooks.read_goodbooks(path, config.items_path),
        goodbooks.FILES,
        functools.partial(fetch, goodbooks.ARCHIVE),
        f"Download {goodbooks.ARCHIVE.url}",
        alone=True,
    ),
    "ml-100k": _movielens("ml-100k", ("u.data", "u.item"), movielens.read_ml_100k),
    "ml-1m": _movielens("ml-1m", ("ratings.dat", "movies.dat"), movielens.read_ml_1m),
    "ml-20m": _movielens("ml-20m", ("ratings.csv", "movies.csv"), movielens.read_ml_csv),
    "ml-25m": _movielens("ml-25m", ("ratings.csv", "movies.csv"), movielens.read_ml_csv),
    "netflix": Published(
        lambda path, config: netflix.read_netflix(path),
        (*netflix.FILES, netflix.TITLES),
        advice=f"download archive.zip from {netflix.PAGE} with an account there",
    ),
    "synthetic": None,  # made, not read
}
