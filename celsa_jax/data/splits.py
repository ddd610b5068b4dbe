"""Splits into train, validation and test: by user, or by time."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.arrays import read_arrays, write_arrays
from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.data.readers import is_date
from celsa_jax.data.tables import open_data
from celsa_jax.errors import InputError
from celsa_jax.seals import check_seal, write_sealed

_PARTS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Split:
    """What to train on, to validate and to test with.

    By user the three have disjoint sets of users. By time they may share users: of a user to
    test, what happened before a date is the history, what happened from then on is held out.

    Attributes:
      train: training users over the catalogue: the items that at least one of them has, or all of
        a matrix (`Interactions.fixed_items`).
      val, test: users over all items, those outside the catalogue included: held out, such an
        item counts as a miss.
      val_from, test_from: by time, in seconds since 1970: what `val` and `test` have from then on
        is held out. None by user, where the evaluation draws folds.
      digest: of the data that were split (`Interactions.digest`); empty where it was not taken.
      trained_before: ids of users outside `train` that the earlier runs of a warm start, whose
        weights it begins at, trained on.
    """

    train: Interactions
    val: Interactions
    test: Interactions
    val_from: int | None = None
    test_from: int | None = None
    digest: str = ""
    trained_before: np.ndarray | None = None

    def counts(self) -> dict[str, int]:
        """What the split holds, and what lies outside the catalogue."""
        known = np.isin(self.test.item_ids, self.train.item_ids)
        outside = {
            f"{part}_interactions_outside_catalogue": int(data.matrix[:, ~known].nnz)
            for part, data in (("val", self.val), ("test", self.test))
        }
        return {
            "train_users": self.train.n_users,
            "val_users": self.val.n_users,
            "test_users": self.test.n_users,
            "catalogue_items": self.train.n_items,
            "train_interactions": self.train.nnz,
            "items_outside_catalogue": int((~known).sum()),
            **outside,
        }

    def save(self, path: pathlib.Path) -> None:
        """Writes the external user ids of each part and the other fields, with a checksum."""
        stored = {part: getattr(self, part).user_ids for part in _PARTS}
        if self.test_from is not None:
            stored["from"] = [self.val_from, self.test_from]
        if self.digest:
            stored["digest"] = self.digest
        if self.trained_before is not None:
            stored["trained_before"] = self.trained_before
        write_sealed(path, lambda stream: write_arrays(stream, stored))


def make_split(
    interactions: Interactions,
    config: ConfigDict,
    seed: int,
    earlier: dict[str, np.ndarray] | None = None,
) -> Split:
    """The split of `config.data`.

    Args:
      interactions: all of them.
      config: the section `data`.
      seed: of the draw of users.
      earlier: `read_split` of the run that a warm start begins at. What that run trained on is
        not validated or tested with.
    """
    sizes = (config.n_val_users, config.n_test_users)
    if config.test_users and config.split != "users":
        raise InputError("config.data.test_users takes config.data.split=users")
    known = None if earlier is None else trained_users(earlier)
    if config.split == "temporal":
        split = split_by_time(interactions, config.val_from, config.test_from, *sizes, seed)
        if earlier is not None and split.val_from is not None:
            _check_earlier(earlier, split.val_from)
    elif config.val_from or config.test_from:
        raise InputError("config.data.val_from and test_from take config.data.split=temporal")
    else:
        test = _listed(config.test_users, interactions) if config.test_users else None
        split = split_users(interactions, *sizes, seed, known, test)
    if known is not None:
        known = np.setdiff1d(known, split.train.user_ids)
    return dataclasses.replace(split, digest=interactions.digest(), trained_before=known)


def _check_earlier(earlier: dict[str, np.ndarray], val_from: int) -> None:
    """InputError if a run may have been trained on what happened from `val_from` on."""
    problem = "was split by user, and has seen what is to be predicted"
    if "from" in earlier:
        until, start = (np.datetime64(int(t), "s") for t in (earlier["from"][0], val_from))
        if until <= start:
            return
        problem = f"was trained until {until}, and this run is judged from {start} on"
    raise InputError(
        f"config.train.init_from: that run {problem}; begin at a run that was trained on what "
        "came before"
    )


def split_users(
    interactions: Interactions,
    n_val: int,
    n_test: int,
    seed: int,
    trained_on: np.ndarray | None = None,
    test_users: np.ndarray | None = None,
) -> Split:
    """Draws test and validation users; the others train. Deterministic in seed and user order.

    Args:
      interactions: all of them.
      n_val, n_test: how many users to draw.
      seed: of the draw.
      trained_on: ids of users that are to train again, drawn or not: those whom the weights of
        a warm start know already.
      test_users: [n_users] bool, whom to test with instead of a draw.

    Example:
      >>> from celsa_jax.data.synthetic import synthetic
      >>> interactions, _ = synthetic(n_users=20, n_items=10, n_segments=2)
      >>> split_users(interactions, n_val=3, n_test=5, seed=0).train.n_users
      12
    """
    n_users = interactions.n_users
    for name, value in (("n_val_users", n_val), ("n_test_users", n_test)):
        if value < 0:
            raise InputError(f"config.data.{name} is {value}; it must be at least 0")
    if test_users is not None:
        n_test = int(test_users.sum())
    if n_val + n_test >= n_users:
        raise InputError(
            f"config.data.n_val_users + n_test_users = {n_val} + {n_test}, but the data have "
            f"{n_users} users and at least one must be left to train; ask for fewer"
            + f", {n_users // 10} each for instance"
            * (n_users >= 10)
        )
    order = np.random.default_rng(seed).permutation(n_users)
    if trained_on is not None:
        known = np.isin(interactions.user_ids, trained_on)[order]
        if n_val + n_test > (n_new := int((~known).sum())):
            raise InputError(
                f"config.data.n_val_users + n_test_users = {n_val} + {n_test}, but only {n_new} "
                "users are left that the run of config.train.init_from was not trained on; "
                "ask for fewer"
            )
        order = np.concatenate([order[~known], order[known]])
    if test_users is not None:
        if trained_on is not None and np.isin(interactions.user_ids[test_users], trained_on).any():
            raise InputError(
                "config.data.test_users has users that the run of config.train.init_from was "
                "trained on; leave them out"
            )
        given = test_users[order]
        order = np.concatenate([order[given], order[~given]])
    test, val, train = np.split(order, [n_test, n_test + n_val])
    return _split(interactions, np.sort(train), np.sort(val), np.sort(test))


def _listed(path: str, interactions: Interactions) -> np.ndarray:
    """[n_users] bool: which users a file lists; InputError where it lists others."""
    with open_data(path) as stream:
        text = stream.read().decode("utf-8-sig", "replace")
    listed = np.array(list(filter(None, text.replace("\r\n", "\n").split("\n"))), np.str_)
    if not len(listed):
        raise InputError(f"{path}: lists no user; give the ids of test users, one a line")
    for user in listed[~np.isin(listed, interactions.user_ids)][:1]:
        raise InputError(f"{path}: user '{user}' is not in the data, behind their filters")
    return np.isin(interactions.user_ids, listed)


def split_by_time(
    interactions: Interactions, val_from: str, test_from: str, n_val: int, n_test: int, seed: int
) -> Split:
    """Trains on what happened before `val_from`, validates on what happened until `test_from`.

    Args:
      interactions: with times.
      val_from, test_from: ISO dates (2015-03-31) or dates and times, UTC. Without `val_from`
        there is no validation.
      n_val, n_test: the most users to validate and to test; drawn from those that have both a
        history and something held out.
      seed: of that draw.

    Raises:
      InputError: no times, or dates that leave a part without interactions.
    """
    times = interactions.times
    if times is None:
        raise InputError(
            "config.data.split is temporal, but the data have no times (goodbooks, synthetic and "
            ".npz have none); use config.data.split=users, or a table of your own with "
            "config.data.time_column"
        )
    test_start = seconds("test_from", test_from)
    val_start = seconds("val_from", val_from) if val_from else test_start
    if val_start > test_start:
        raise InputError(f"config.data.val_from={val_from} is after test_from={test_from}")
    train = interactions.take_entries(~interactions.since(val_start))
    if not train.nnz:
        first, last = np.array([times.min(), times.max()], "datetime64[s]")
        raise InputError(
            f"nothing happened before {val_from or test_from}; the data are from {first} to {last}"
        )
    train = train.take_users(np.diff(train.matrix.indptr) > 0).drop_unused_items()
    known = interactions.take_entries(~interactions.since(test_start))
    val = _with_a_future(known, "val_from", val_start, n_val * (val_start < test_start), seed)
    test = _with_a_future(interactions, "test_from", test_start, n_test, seed)
    return Split(train, val, test, val_start, test_start)


def _with_a_future(
    interactions: Interactions, field: str, start: int, n_users: int, seed: int
) -> Interactions:
    """At most `n_users` of the users with interactions before `start` and from then on."""
    lengths = interactions.matrix.getnnz(axis=1)
    n_held_out = interactions.take_entries(interactions.since(start)).matrix.getnnz(axis=1)
    usable = np.flatnonzero((n_held_out > 0) & (n_held_out < lengths))
    if not len(usable) and n_users:
        raise InputError(f"config.data.{field}: no user has interactions before and after it")
    if len(usable) > n_users:
        usable = np.sort(np.random.default_rng(seed).choice(usable, n_users, replace=False))
    return interactions.take_users(usable)


def seconds(field: str, text: str) -> int:
    """Seconds since 1970 of a date, or a date and a time, of `config.data`."""
    if not is_date(text):
        raise InputError(f"config.data.{field} is '{text}'; give a date such as 2015-03-31")
    return int(np.datetime64(text, "s").astype(np.int64))


def load_split(path: pathlib.Path, interactions: Interactions) -> Split:
    """The split by user that `Split.save` wrote, over the same interactions."""
    check_data(path, interactions.digest())
    parts = {name: lookup(interactions.user_ids, ids) for name, ids in read_parts(path).items()}
    n_listed = sum(map(len, parts.values()))
    if any((rows < 0).any() for rows in parts.values()) or n_listed != interactions.n_users:
        raise InputError(f"{path}: the data have changed since; use another folder")
    return _split(interactions, **parts)


def check_data(path: pathlib.Path, digest: str) -> None:
    """InputError if the split was made of other data than those of a digest."""
    if not same_data(read_split(path), digest):
        raise InputError(f"{path}: the data have changed since; use another folder")


def same_data(stored: dict[str, np.ndarray], digest: str) -> bool:
    """Whether a split (`read_split`) was made of these data; one made by hand may not say."""
    return str(stored.get("digest", digest)) == digest


def read_parts(path: pathlib.Path) -> dict[str, np.ndarray]:
    """User ids of `train`, `val` and `test` of a split file by user.

    Raises:
      InputError: as `read_split`; it is by time, or a user is in two parts or twice in one.
    """
    stored = read_split(path)
    if "from" in stored:
        raise InputError(
            f"{path}: a split by time, where the parts share users; this needs one by user"
        )
    parts = {part: stored[part] for part in _PARTS}
    users, n_times = np.unique(np.concatenate(list(parts.values())), return_counts=True)
    if (n_times > 1).any():
        user = users[np.argmax(n_times > 1)]
        where = " and ".join(p for p, ids in parts.items() for _ in range(int((ids == user).sum())))
        raise InputError(f"{path}: user '{user}' is in {where}; leave each user in one part, once")
    return parts


def read_split(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays that `Split.save` wrote, or `np.savez` by hand, which then has no checksum.

    Returns:
      Ids of `train`, `val` and `test`; where they are known `digest`, of the data; by time `from`,
      [2] int, the two times; of warm starts `trained_before`, ids.

    Raises:
      InputError: the file is missing, damaged, or no split.
    """
    try:
        check_seal(path)
        stored = read_arrays(path)
        if not isinstance(stored, dict) or not stored.keys() >= set(_PARTS):
            raise ValueError(f"it needs {', '.join(_PARTS)}")
        for name, array in stored.items():
            kind, shape = {"from": ("i", (2,)), "digest": ("U", ())}.get(name, ("U", (array.size,)))
            if array.dtype.kind != kind or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        return stored
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, or not a split file: {error}") from None


def trained_users(stored: dict[str, np.ndarray]) -> np.ndarray:
    """Ids of the users that a run (`read_split`), or one that it began at, was trained on."""
    return np.concatenate([stored["train"], stored.get("trained_before", stored["train"][:0])])


def _split(
    interactions: Interactions, train: np.ndarray, val: np.ndarray, test: np.ndarray
) -> Split:
    return Split(
        interactions.take_users(train).drop_unused_items(),
        interactions.take_users(val),
        interactions.take_users(test),
    )
