"""Splits by user: train, validation and test users are disjoint."""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
import zlib

import numpy as np

from celsa_jax.data.interactions import Interactions, lookup
from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path


@dataclasses.dataclass(frozen=True)
class Split:
    """Disjoint sets of users.

    Attributes:
      train: training users over the catalogue, the items that at least one of them has.
      val, test: other users over all items, those outside the catalogue included: held out,
        such an item counts as a miss.
    """

    train: Interactions
    val: Interactions
    test: Interactions

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
        """Writes the external user ids of each part (a NumPy .npz)."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                train=self.train.user_ids,
                val=self.val.user_ids,
                test=self.test.user_ids,
            )


def split_users(interactions: Interactions, n_val: int, n_test: int, seed: int) -> Split:
    """Draws test and validation users; the others train. Deterministic in seed and user ids."""
    n_users = interactions.n_users
    for name, value in (("n_val_users", n_val), ("n_test_users", n_test)):
        if value < 0:
            raise InputError(f"config.data.{name} is {value}; it must be at least 0")
    if n_val + n_test >= n_users:
        raise InputError(
            f"config.data.n_val_users + n_test_users = {n_val} + {n_test}, but the data have "
            f"{n_users} users and at least one must be left to train; ask for fewer"
        )
    order = np.random.default_rng(seed).permutation(n_users)
    test, val, train = np.split(order, [n_test, n_test + n_val])
    return _split(interactions, np.sort(train), np.sort(val), np.sort(test))


def load_split(path: pathlib.Path, interactions: Interactions) -> Split:
    """The split that `Split.save` wrote, over the same interactions."""
    parts = {name: lookup(interactions.user_ids, ids) for name, ids in read_parts(path).items()}
    n_listed = sum(map(len, parts.values()))
    if any((rows < 0).any() for rows in parts.values()) or n_listed != interactions.n_users:
        raise InputError(
            f"{path}: the users of the split are not those of the data; "
            "the data have changed since: use another --workdir"
        )
    return _split(interactions, **parts)


def read_parts(path: pathlib.Path) -> dict[str, np.ndarray]:
    """External user ids of the parts `train`, `val` and `test`."""
    try:
        with np.load(path) as stored:
            return {part: stored[part] for part in ("train", "val", "test")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a split file: {error}") from None


def _split(
    interactions: Interactions, train: np.ndarray, val: np.ndarray, test: np.ndarray
) -> Split:
    return Split(
        interactions.take_users(train).drop_unused_items(),
        interactions.take_users(val),
        interactions.take_users(test),
    )
