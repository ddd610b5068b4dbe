import numpy as np
import pytest

from celsa_jax.data import Interactions, split_users
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError


@pytest.fixture
def interactions(random_matrix):
    matrix = random_matrix(50, 40, density=0.05)
    return Interactions(
        matrix,
        np.array([f"u{i:03d}" for i in range(50)]),
        np.array([f"i{i:03d}" for i in range(40)]),
    )


def test_parts_are_disjoint_and_complete(interactions):
    split = split_users(interactions, 7, 11, seed=3)
    parts = [split.train.user_ids, split.val.user_ids, split.test.user_ids]
    assert [len(p) for p in parts] == [32, 7, 11]
    assert sorted(np.concatenate(parts)) == interactions.user_ids.tolist()


def test_the_catalogue_comes_from_training_users_alone(interactions):
    split = split_users(interactions, 20, 20, seed=0)
    used = {
        interactions.item_ids[i]
        for user in split.train.user_ids
        for i in interactions.matrix[interactions.user_ids.tolist().index(user)].indices
    }
    assert set(split.train.item_ids) == used
    outside = [i for i in interactions.item_ids if i not in used]
    assert outside  # or the test shows nothing
    counts = split.counts()
    assert counts["items_outside_catalogue"] == len(outside)
    columns = np.isin(interactions.item_ids, outside)
    assert counts["test_interactions_outside_catalogue"] == split.test.matrix[:, columns].nnz


def test_deterministic_in_the_seed(interactions):
    first, again = (split_users(interactions, 5, 5, seed=1) for _ in range(2))
    other = split_users(interactions, 5, 5, seed=2)
    assert first.test.user_ids.tolist() == again.test.user_ids.tolist()
    assert first.test.user_ids.tolist() != other.test.user_ids.tolist()


def test_no_validation_users(interactions):
    split = split_users(interactions, 0, 10, seed=0)
    assert split.val.n_users == 0
    assert split.train.n_users == 40


def test_written_and_read_again(interactions, tmp_path):
    split = split_users(interactions, 5, 9, seed=4)
    split.save(tmp_path / "split.npz")
    again = load_split(tmp_path / "split.npz", interactions)
    for part in ("train", "val", "test"):
        old, new = getattr(split, part), getattr(again, part)
        assert old.user_ids.tolist() == new.user_ids.tolist()
        assert (old.matrix != new.matrix).nnz == 0


def test_a_split_of_other_data_is_refused(interactions, tmp_path):
    split_users(interactions, 5, 9, seed=4).save(tmp_path / "split.npz")
    fewer = interactions.take_users(np.arange(49))
    with pytest.raises(InputError, match="data have changed"):
        load_split(tmp_path / "split.npz", fewer)


def test_more_test_users_than_users(interactions):
    with pytest.raises(InputError, match=r"n_test_users = 0 \+ 50.*50 users"):
        split_users(interactions, 0, 50, seed=0)
