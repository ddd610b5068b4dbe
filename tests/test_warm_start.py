"""Warm starts: from an earlier run, item by item, without its users in the test."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from ml_collections import ConfigDict

from celsa_jax.data import Interactions, load_dataset
from celsa_jax.data.splits import read_split, trained_users
from celsa_jax.errors import InputError
from celsa_jax.sparse import load_embeddings
from celsa_jax.step import Recipe, create_state
from celsa_jax.train import train_and_evaluate
from celsa_jax.warm_start import finished_run, warm_weights

RECIPE = Recipe(
    relu_cap=6.0, rewind=True, regrow=False, optimizer="nadam", learning_rate=0.01, seed=0
)


def test_weights_of_a_warm_start_by_hand(tmp_path):
    earlier = np.array([[0.6, 0.8, 0], [0, 0, 1]], np.float32)
    sp.save_npz(tmp_path / "embeddings.npz", sp.csc_matrix(earlier))
    (tmp_path / "items.txt").write_text("c\na\n")
    (tmp_path / "split.npz").touch()
    # a and c are known; b is new, of users with (a, c) and (a); d is new and of nobody known.
    matrix = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], np.float32)
    train = Interactions(sp.csr_matrix(matrix), np.array(list("xyz")), np.array(list("abcd")))
    weights = warm_weights(str(tmp_path), train, 3)
    np.testing.assert_array_equal(weights[0], earlier[1])
    np.testing.assert_array_equal(weights[2], earlier[0])
    both = np.array([0.6, 0.8, 1]) / np.sqrt(2)
    mean = both + np.array([0, 0, 1])
    np.testing.assert_allclose(weights[1], mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_array_equal(weights[3], 0)
    state = create_state(RECIPE, 4, 3, jnp.asarray(weights))
    cold = create_state(RECIPE, 4, 3)
    np.testing.assert_allclose(state.weights[:3], weights[:3], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(state.weights[3], cold.weights[3])


def test_a_warm_start_goes_on_from_the_earlier_run(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "first")
    small_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    small_config.train.learning_rate = 1e-9
    results = train_and_evaluate(small_config, tmp_path / "second")
    first, second = (load_embeddings(tmp_path / n / "embeddings.npz") for n in ("first", "second"))
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_allclose(first[0].toarray(), second[0].toarray(), atol=1e-5)
    assert results["nnz_per_row"] == 4


def test_a_warm_start_that_was_killed_early_is_still_warm(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "first")
    small_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    (tmp_path / "second" / "checkpoints").mkdir(parents=True)
    second = train_and_evaluate(small_config, tmp_path / "second")
    assert second["test"] == train_and_evaluate(small_config, tmp_path / "third")["test"]
    # With a checkpoint the earlier run is not needed any more.
    (tmp_path / "first").rename(tmp_path / "gone")
    (tmp_path / "second" / "results.json").unlink()
    assert train_and_evaluate(small_config, tmp_path / "second")["test"] == second["test"]


def test_a_warm_start_takes_new_items(growing, tmp_path, caplog):
    train_and_evaluate(growing("first.csv", n_items=100), tmp_path / "first")
    config = growing("second.csv")
    # A rate too low to move anything: what comes out is where it began.
    config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, learning_rate=1e-9)
    with caplog.at_level("INFO", "celsa_jax"):
        train_and_evaluate(config, tmp_path / "second")
    assert "no rewinding" in caplog.text
    (first, known), (second, item_ids) = (
        load_embeddings(tmp_path / name / "embeddings.npz") for name in ("first", "second")
    )
    assert (len(known), len(item_ids)) == (100, 120)
    np.testing.assert_array_equal(item_ids[:100], known)
    np.testing.assert_allclose(second.toarray()[:100], first.toarray(), atol=1e-5)
    # New items begin with the tastes of their users, so near known items of these.
    split = read_split(tmp_path / "second" / "split.npz")
    data = load_dataset(config.data).interactions
    train = data.take_users(np.isin(data.user_ids, split["train"])).matrix.toarray()
    cosine = second.toarray()[100:] @ second.toarray()[:100].T
    together = train[:, 100:].T @ train[:, :100]
    assert np.corrcoef(cosine.ravel(), together.ravel())[0, 1] > 0.2  # by chance: 0.02
    assert set(second.getnnz(axis=1)) == {4}


def test_whom_the_weights_know_is_not_tested(growing, tmp_path):
    """Users come and go from day to day, and most of them change their places in the draw."""
    train_and_evaluate(growing("day1.csv", n_users=260), tmp_path / "day1")
    first = read_split(tmp_path / "day1" / "split.npz")
    seen = set(first["train"])
    for day, n_users in (("day2", 200), ("day3", 300)):
        config = growing(f"{day}.csv", n_users=n_users)
        config.data.update(n_val_users=5, n_test_users=20)
        config.train.init_from = str(tmp_path / f"day{int(day[-1]) - 1}")
        config.train.update(n_epochs=0, n_final_epochs=1)
        train_and_evaluate(config, tmp_path / day)
        stored = read_split(tmp_path / day / "split.npz")
        assert not seen & set(stored["val"])
        assert not seen & set(stored["test"])
        assert set(trained_users(stored)) == seen | set(stored["train"])
        seen |= set(stored["train"])
    config.data.n_test_users = 200
    with pytest.raises(InputError, match=r"n_test_users = 5 \+ 200, but only \d+ users are left"):
        train_and_evaluate(config, tmp_path / "day4")


def test_more_non_zeros_than_the_earlier_run_had_are_spread(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "first")
    small_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    small_config.train.learning_rate = 1e-9
    small_config.sparsity.target_nnz = 8
    train_and_evaluate(small_config, tmp_path / "second")
    first, second = (
        load_embeddings(tmp_path / name / "embeddings.npz")[0].toarray()
        for name in ("first", "second")
    )
    np.testing.assert_allclose(first, second, atol=1e-5)
    taken = ((second != 0) & (first == 0)).sum(axis=0)
    assert taken.sum() == 4 * len(first)
    # 15 an item on the average; by ties to the lower index the first factors have them all.
    assert taken.max() < 3 * taken.mean()


def test_a_warm_start_by_time_begins_before_what_it_predicts(timed_config, small_config, tmp_path):
    train_and_evaluate(timed_config, tmp_path / "first")
    timed_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    timed_config.data.update(val_from="2020-01-15", test_from="2020-01-26")
    with pytest.raises(InputError, match=r"trained until 2020-01-21T00:00:00.*2020-01-15"):
        train_and_evaluate(timed_config, tmp_path / "earlier")
    timed_config.data.update(val_from="2020-01-21", test_from="2020-01-28")
    assert train_and_evaluate(timed_config, tmp_path / "later")["test"]["n_users"] > 0
    by_user = ConfigDict(timed_config.to_dict())
    by_user.data.update(split="users", val_from="", test_from="", n_val_users=0, n_test_users=9)
    by_user.train.init_from = ""
    train_and_evaluate(by_user, tmp_path / "by_user")
    timed_config.train.init_from = str(tmp_path / "by_user")
    with pytest.raises(InputError, match="was split by user"):
        train_and_evaluate(timed_config, tmp_path / "run")


def test_what_a_warm_start_cannot_start_from(small_config, tmp_path):
    small_config.train.init_from = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"init_from=.*nowhere: no finished run"):
        train_and_evaluate(small_config, tmp_path / "run")
    sp.save_npz(tmp_path / "embeddings.npz", sp.csc_matrix(np.eye(3, 32, dtype=np.float32)))
    (tmp_path / "items.txt").write_text("x\ny\nz\n")
    with pytest.raises(InputError, match=r"split\.npz is missing"):
        finished_run(str(tmp_path))
    nobody = np.array([], "U1")
    np.savez(tmp_path / "split.npz", train=nobody, val=nobody, test=nobody)
    small_config.train.init_from = str(tmp_path)
    with pytest.raises(InputError, match="no item in common"):
        train_and_evaluate(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    small_config.model.n_factors = 16
    with pytest.raises(InputError, match=r"has 32 factors, and config\.model\.n_factors is 16"):
        train_and_evaluate(small_config, tmp_path / "run")
