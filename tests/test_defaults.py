"""Copies of a split with fewer training interactions (`experiments.defaults`)."""

import numpy as np
import pytest

from celsa_jax.data.splits import split_users
from celsa_jax.data.synthetic import synthetic
from celsa_jax.errors import InputError
from experiments.defaults import thinned


@pytest.fixture(scope="module")
def split():
    interactions, _ = synthetic(120, 80, 8, seed=0)
    return split_users(interactions, 10, 10, seed=0)


def test_each_training_user_keeps_so_many(split):
    copy = thinned(split, "7", seed=0)
    lengths = copy.train.matrix.getnnz(axis=1)
    np.testing.assert_array_equal(lengths, np.minimum(split.train.matrix.getnnz(axis=1), 7))
    whole = split.train.onto(copy.train.item_ids)
    assert (copy.train.matrix > whole).nnz == 0  # nothing is made up
    assert copy.train.matrix.getnnz(axis=0).min() > 0
    assert (copy.train.matrix != thinned(split, "7", seed=1).train.onto(copy.train.item_ids)).nnz


def test_a_tenth_of_the_training_users(split):
    copy = thinned(split, "tenth", seed=0)
    assert copy.train.n_users == 10
    assert np.isin(copy.train.user_ids, split.train.user_ids).all()


@pytest.mark.parametrize("copy", ["whole", "3", "tenth"])
def test_the_users_to_judge_stay(split, copy):
    of_copy = thinned(split, copy, seed=0)
    assert of_copy.test is split.test
    assert of_copy.val is split.val


@pytest.mark.parametrize("copy", ["0", "-1", "half", "all", "all0"])
def test_an_unknown_copy(split, copy):
    with pytest.raises(InputError, match="--copies"):
        thinned(split, copy, seed=0)
