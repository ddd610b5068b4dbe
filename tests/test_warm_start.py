"""Warm starts: from an earlier run, item by item, without its users in the test."""

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import small
from test_train import at_random

from celsa_jax.data import Interactions, dataset_of
from celsa_jax.data.splits import read_split, trained_users
from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings, load_embeddings, save_embeddings
from celsa_jax.starts import neighbours
from celsa_jax.train import train_and_evaluate
from celsa_jax.warm_start import finished_run, warm_start

# a and c are known; b is new, of users with (a, c) and (a); d is new and of nobody known.
MATRIX = sp.csr_matrix(np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], np.float32))
TRAIN = Interactions(MATRIX, np.array(list("xyz")), np.array(list("abcd")))


def dense_of(start):
    """Items x factors; columns in use ascend and are distinct."""
    dense = np.zeros((len(start.columns), start.n_factors + 1), np.float32)
    np.put_along_axis(dense, start.columns, start.values, axis=1)
    assert not dense[:, -1].any()
    used = start.columns < start.n_factors
    assert (np.diff(start.columns, axis=1)[used[:, 1:]] > 0).all()
    return dense[:, :-1]


def finished(folder, matrix, item_ids, factor_ids=None):
    factor_ids = factor_ids and np.array(list(factor_ids))
    save_embeddings(folder, sp.csc_matrix(matrix), np.array(list(item_ids)), factor_ids)
    return SparseEmbeddings.load(folder / "embeddings.npz")


def test_factors_that_belong_to_no_items_by_hand(tmp_path):
    earlier = 2 * np.array([[0.6, 0.8, 0], [0, 0, 1]], np.float32)  # all of length 2
    start, factor_ids = warm_start(finished(tmp_path, earlier, "ca"), TRAIN, 3, 3, 0.5, 0)
    assert factor_ids is None
    dense = dense_of(start)
    # Every place is in use, at next to nothing where nothing is known.
    np.testing.assert_array_equal(start.columns, np.tile(np.arange(3), (4, 1)))
    np.testing.assert_allclose(dense[0], earlier[1], atol=1e-3)
    np.testing.assert_allclose(dense[2], earlier[0], atol=1e-3)
    both = np.array([0.6, 0.8, 1]) / np.sqrt(2)
    mean = both + np.array([0, 0, 1])
    np.testing.assert_allclose(dense[1], 2 * mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(dense[3]), 2, rtol=1e-5)  # at random


def test_factors_follow_their_items_by_hand(tmp_path):
    """Of the earlier items c, g and a, g is gone; a had a value at its factor, c none."""
    earlier = np.array([[0.6, 0, 0.8], [0, 1, 0], [0, 0.28, 0.96]], np.float32)
    loaded = finished(tmp_path, earlier, "cga", "cga")
    start, factor_ids = warm_start(loaded, TRAIN, 4, 4, 0.5, 0)
    assert factor_ids.tolist() == list("abcdg")
    fresh = dense_of(neighbours(MATRIX, 4, 0.5, 0))
    fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)  # a and c have length 1
    offered = 0.1 * fresh
    a = [0.96, offered[0, 1], offered[0, 2], offered[0, 3], 0.28]
    c = [0.8, offered[2, 1], 0.6, offered[2, 3], 0]
    known = np.array([a, c], np.float32)
    smallest = np.abs(known[0]).argmin()  # an item has four
    known[0, smallest] = 0
    dense = dense_of(start)
    np.testing.assert_allclose(dense[[0, 2]], known, atol=1e-6)
    np.testing.assert_allclose(dense[[1, 3], :4], fresh[[1, 3]], atol=1e-6)
    assert not dense[[1, 3], 4].any()


def test_lengths_that_were_learned_stay(tmp_path):
    """A short row is offered a tenth of its own length, and a new item gets the median."""
    earlier = np.array([[0.03, 0, 0.04], [0, 3, 4]], np.float32)
    start, _ = warm_start(finished(tmp_path, earlier, "ac", "agc"), TRAIN, 4, 4, 0.5, 0)
    lengths = np.linalg.norm(start.values, axis=1)
    assert 0.05 <= lengths[0] < 0.05 * 1.1
    assert 5 <= lengths[2] < 5 * 1.1
    np.testing.assert_allclose(lengths[[1, 3]], (0.05 + 5) / 2, rtol=1e-5)


def of_kind(kind):
    config = small()
    if kind == "random":
        at_random(config)
    elif kind == "clusters":
        config.model.update(start="clusters", n_factors=24)
    return config


@pytest.mark.parametrize("kind", ["neighbours", "clusters", "random"])
def test_a_warm_start_goes_on_from_the_earlier_run(tmp_path, kind):
    """At a tiny rate, through a pruning phase, without rewinding."""
    config = of_kind(kind)
    train_and_evaluate(config, tmp_path / "first")
    config.train.update(init_from=str(tmp_path / "first"), n_epochs=1, learning_rate=1e-9)
    results = train_and_evaluate(config, tmp_path / "second")
    first, second = (load_embeddings(tmp_path / n / "embeddings.npz") for n in ("first", "second"))
    np.testing.assert_array_equal(first[1], second[1])
    a, b = first[0].toarray(), second[0].toarray()
    if kind == "neighbours":  # values below a tenth may give way to what was offered
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        assert ((a * b).sum(axis=1) > 0.98).all()
    else:
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert set(second[0].getnnz(axis=1)) == {results["nnz_per_row"]} == {4}


def test_a_warm_start_that_was_killed_early_is_still_warm(small_config, small_run, tmp_path):
    earlier = tmp_path / "first"
    earlier.symlink_to(small_run)
    small_config.train.update(init_from=str(earlier), n_epochs=0, n_final_epochs=1)
    (tmp_path / "second" / "checkpoints").mkdir(parents=True)
    second = train_and_evaluate(small_config, tmp_path / "second")
    assert second["test"] == train_and_evaluate(small_config, tmp_path / "third")["test"]
    # With a checkpoint the earlier run is not needed any more.
    earlier.unlink()
    (tmp_path / "second" / "results.json").unlink()
    assert train_and_evaluate(small_config, tmp_path / "second")["test"] == second["test"]


@pytest.mark.parametrize("kind", ["neighbours", "random"])
def test_items_come_and_go(growing, tmp_path, caplog, kind):
    """20 are gone and 20 are new; at a tiny rate what comes out is where it began."""
    configs = growing("first.csv", n_items=100), growing("second.csv", first_item=20)
    if kind == "random":
        for config in configs:
            at_random(config)
    configs[0].train.update(n_epochs=0, n_final_epochs=3)
    train_and_evaluate(configs[0], tmp_path / "first")
    configs[1].train.update(init_from=str(tmp_path / "first"), n_epochs=0, learning_rate=1e-9)
    with caplog.at_level("INFO", "celsa_jax"):
        train_and_evaluate(configs[1], tmp_path / "second")
    assert "80 items start from" in caplog.text
    first, second = (
        SparseEmbeddings.load(tmp_path / name / "embeddings.npz") for name in ("first", "second")
    )
    assert second.item_ids[:80].tolist() == first.item_ids[20:].tolist()
    rows = second.tocsr()
    assert set(np.diff(rows.indptr)) == {4}
    before, after = first.tocsr()[20:].toarray(), rows.toarray()
    if kind == "neighbours":
        names = second.factor_ids.tolist()
        assert names[:100] == second.item_ids.tolist()
        assert set(names[100:]) <= set(first.item_ids[:20].tolist())
        at = [names.index(name) if name in names else -1 for name in first.factor_ids.tolist()]
        padded = np.pad(after, ((0, 0), (0, 1)))
        assert ((before * padded[:80, at]).sum(axis=1) > 0.98).all()
        own = after[np.arange(80, 100), np.arange(80, 100)]
        np.testing.assert_allclose(own, after[80:].max(axis=1), rtol=1e-5)
    else:
        np.testing.assert_allclose(after[:80], before, atol=1e-5)
    # New items begin near the known ones that their users have.
    split = read_split(tmp_path / "second" / "split.npz")
    data = dataset_of(configs[1].data).interactions
    train = data.take_users(np.isin(data.user_ids, split["train"])).matrix.toarray()
    cosine = after[80:] @ after[:80].T
    together = train[:, 80:].T @ train[:, :80]
    assert np.corrcoef(cosine.ravel(), together.ravel())[0, 1] > 0.1  # by chance: 0.02


def test_more_non_zeros_than_the_earlier_run_had(small_config, tmp_path):
    at_random(small_config)
    train_and_evaluate(small_config, tmp_path / "first")
    small_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    small_config.sparsity.target_nnz = 8
    train_and_evaluate(small_config, tmp_path / "second")
    embeddings = load_embeddings(tmp_path / "second" / "embeddings.npz")[0]
    assert set(embeddings.getnnz(axis=1)) == {8}


def test_whom_the_weights_know_is_not_tested(growing, tmp_path):
    """Users come and go from day to day, and most of them change their places in the draw."""
    config = growing("day1.csv", n_users=260)
    config.train.update(n_epochs=0, n_final_epochs=1)
    train_and_evaluate(config, tmp_path / "day1")
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


def test_a_warm_start_by_time_begins_before_what_it_predicts(timed_config, small_run, tmp_path):
    timed_config.train.update(n_epochs=0, n_final_epochs=1)
    train_and_evaluate(timed_config, tmp_path / "first")
    timed_config.train.init_from = str(tmp_path / "first")
    timed_config.data.update(val_from="2020-01-15", test_from="2020-01-26")
    with pytest.raises(InputError, match=r"trained until 2020-01-21T00:00:00.*2020-01-15"):
        train_and_evaluate(timed_config, tmp_path / "earlier")
    timed_config.data.update(val_from="2020-01-21", test_from="2020-01-28")
    assert train_and_evaluate(timed_config, tmp_path / "later")["test"]["n_users"] > 0
    timed_config.train.init_from = str(small_run)
    with pytest.raises(InputError, match="was split by user"):
        train_and_evaluate(timed_config, tmp_path / "run")


def test_what_a_warm_start_cannot_start_from(small_config, tmp_path):
    small_config.train.init_from = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"nowhere: no finished run"):
        train_and_evaluate(small_config, tmp_path / "run")
    small_config.train.init_from = str(tmp_path)
    finished(tmp_path, np.eye(3, 32, dtype=np.float32), "xyz")
    with pytest.raises(InputError, match=r"split\.npz is missing"):
        finished_run(str(tmp_path))
    nobody = np.array([], "U1")
    np.savez(tmp_path / "split.npz", train=nobody, val=nobody, test=nobody)
    with pytest.raises(InputError, match="no item in common"):
        train_and_evaluate(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_factors_of_items_go_on_as_such_alone(small_config, small_run, tmp_path):
    small_config.train.init_from = str(small_run)
    small_config.model.update(start="clusters", n_factors=24)
    with pytest.raises(InputError, match=r"start is clusters.*leave it at neighbours"):
        train_and_evaluate(small_config, tmp_path / "run")


def test_lengths_that_thin_data_give_up_are_told_of(tmp_path, caplog):
    config = small()
    config.model.norms = "learned"
    train_and_evaluate(config, tmp_path / "first")
    config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    for norms, told in (("learned", False), ("unit", True)):
        config.model.norms = norms
        caplog.clear()
        train_and_evaluate(config, tmp_path / norms)
        assert ("config.model.norms=learned keeps them" in caplog.text) == told
