"""The estimator: what callers of scikit-learn and implicit expect, and the same model as a run."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pandas
import pyarrow as pa
import pytest
import scipy.sparse as sp
from conftest import small
from launch import ROOT
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from celsa_jax import CompressedELSA, datasets, load_dataset
from celsa_jax.config import by_name, default_config
from celsa_jax.data import dataset_of
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommender, SparseEmbeddings, load_embeddings
from celsa_jax.workdir import Workdir

PARAMS = {
    "nnz": 4,
    "start_nnz": 16,
    "norms": "learned",
    "batch_size": 64,
    "n_epochs": 2,
    "n_final_epochs": 1,
    "input_dropout": 0.25,
    "learning_rate": 0.01,
}


def two_groups(n_users=60, n_items=24, seed=0):
    """Users of even rows like items of the first half, those of odd rows of the second."""
    rng = np.random.default_rng(seed)
    dense = rng.random((n_users, n_items)) < 0.5
    dense[::2, n_items // 2 :] = dense[1::2, : n_items // 2] = False
    dense[np.arange(n_users), np.arange(n_users) % 2 * (n_items // 2)] = True
    return sp.csr_matrix(dense.astype(np.float32))


@pytest.fixture(scope="module")
def users():
    return two_groups()


@pytest.fixture(scope="module")
def fitted(users):
    """Of two groups; tests leave it as it is."""
    return CompressedELSA(**PARAMS).fit(users, progress=False)


def copied(model):
    return pickle.loads(pickle.dumps(model))


def test_unsound_matrices_are_refused(users, fitted):
    """Compiled code of scikit-learn and SciPy would read far outside of them."""
    for kind in ("csr", "csc"):
        unsound = users.asformat(kind, copy=True)
        unsound.indices[0] = 4_000_000
        for call in (fitted.recommend, copied(fitted).fit):
            with pytest.raises(ValueError, match=r"(indices|index values) must be <"):
                call(unsound)


def test_odd_notes_of_a_file_are_one_line(tmp_path, fitted):
    for notes in ({"version": 1}, {"version": "x"}, 7, {"version": 1, "params": {"who": 1}}):
        fitted.embeddings_.with_metadata({"estimator": notes}).save(tmp_path / "m")
        with pytest.raises(InputError, match="m: damaged, or no model: "):
            CompressedELSA.load(tmp_path / "m")


def test_histories_are_answered_from_their_own_half(users, fitted):
    items, scores = fitted.recommend(users, k=5)
    own = (np.arange(60) % 2)[:, None] == items // 12
    n_unseen = 12 - users.getnnz(axis=1)
    assert own[n_unseen >= 5].all()
    assert (np.diff(scores) <= 0).all()
    seen = users.toarray().astype(bool)
    assert not np.take_along_axis(seen, items, axis=1).any()
    assert fitted.recommend(users, k=5, filter_seen=False)[1].max() > scores.max()
    assert set(fitted.recommend(users[:1], k=3, candidates=[20, 3])[0][0]) <= {20, 3, -1}


def test_counts_are_interactions(users, fitted):
    counts = users.copy()
    counts.data[:] = np.random.default_rng(0).integers(1, 9, users.nnz)
    other = CompressedELSA(**PARAMS).fit(counts.tocsc(), progress=False)
    np.testing.assert_array_equal(
        other.embeddings_.tocsr().toarray(), fitted.embeddings_.tocsr().toarray()
    )
    np.testing.assert_array_equal(other.recommend(counts)[1], fitted.recommend(users)[1])


def test_the_order_of_columns_is_that_of_the_model(users, fitted):
    """As text, position 10 would come before 2."""
    order = np.random.default_rng(1).permutation(24)
    other = CompressedELSA(**PARAMS).fit(users[:, order], item_ids=order, progress=False)
    assert other.item_ids_.tolist() == order.tolist()
    items, _ = other.recommend(users[:, order], k=4)
    assert ((np.arange(60) % 2)[:, None] == order[items] // 12)[users.getnnz(axis=1) <= 8].all()
    assert fitted.item_ids_.tolist() == list(range(24))
    assert fitted.positions([10, 2, 99]).tolist() == [10, 2, -1]


def test_it_is_the_model_of_a_run(small_run):
    """To the bit, from the matrix alone; and the folder of the run loads."""
    config = small()
    split = load_split(small_run / "split.npz", dataset_of(config.data).interactions)
    model = CompressedELSA(**PARAMS, options={"eval.every_epochs": 9}).fit(
        split.train.matrix,
        item_ids=split.train.item_ids,
        validation=split.val.onto(split.train.item_ids),
        progress=False,
    )
    matrix, item_ids, _ = load_embeddings(small_run / "embeddings.npz")
    np.testing.assert_array_equal(model.embeddings_.tocsr().toarray(), matrix.toarray())
    assert model.item_ids_.tolist() == item_ids.tolist()
    logged = Workdir(small_run).metrics()
    assert [r["loss"] for r in model.history_] == [r["loss"] for r in logged]
    assert model.history_[-1]["ndcg@100"] > 0.2  # folds are those of other user ids
    loaded = CompressedELSA.load(small_run)
    assert loaded.get_params()["learning_rate"] == 0.01
    judged = loaded.evaluate(split.test).summary()
    assert (
        judged["ndcg@100"]
        == json.loads((small_run / "results.json").read_text())["test"]["ndcg@100"]
    )
    assert loaded.recommend_ids([[item_ids[0]]], 3)[0].item_ids.dtype.kind == "U"


def test_a_configuration_goes_both_ways():
    config = small()
    config.train.b1, config.mesh.item, config.seeds.folds = 0.7, 1, 5
    model = CompressedELSA.from_config(config)
    assert by_name(model.config()) == by_name(config)
    assert by_name(clone(model).config()) == by_name(config)
    assert model.get_params()["nnz"] == 4


def test_numbers_of_numpy_are_numbers(users, tmp_path):
    model = CompressedELSA(**PARAMS | {"nnz": np.int64(3), "learning_rate": np.float32(0.25)})
    model.fit(users, progress=False).save(tmp_path / "model")
    assert CompressedELSA.load(tmp_path / "model").get_params()["learning_rate"] == 0.25


def test_defaults_are_those_of_a_run():
    assert by_name(CompressedELSA().config()) == by_name(default_config())
    assert (
        CompressedELSA.from_config(default_config()).get_params() == CompressedELSA().get_params()
    )


@pytest.mark.parametrize("make", [pa.table, pandas.DataFrame])
def test_tables(make):
    """Ids come back as they were; ratings below the threshold and short histories are left out."""
    user = ["x", "x", "y", "y", "z", "z", "z", "w"]
    film = [70, 8, 8, 9, 70, 9, 8, 8]
    stars = [5, 4, 5, 5, 4, 4, 1, 5]
    frame = make({"user": user, "film": film, "stars": stars})
    model = CompressedELSA(nnz=2, n_epochs=1, n_final_epochs=0)
    model.fit_frame(
        frame, user="user", item="film", rating="stars", min_user_interactions=2, progress=False
    )
    assert sorted(model.item_ids_.tolist()) == [8, 9, 70]
    assert model.item_ids_.dtype == np.int64
    [best] = model.recommend_ids([[70, 8, 1234]], k=5)
    assert best.item_ids.tolist() == [9]
    assert best.unknown == ["1234"]
    assert model.recommend_ids([[70, 8, 8, 8]], k=1)[0].scores == best.scores[:1]  # count once
    with pytest.raises(InputError, match=r"frame.*no column 'genre'"):
        model.fit_frame(frame, user="user", item="genre")
    with pytest.raises(InputError, match=r"^frame: give a table of pandas .* not list"):
        model.fit_frame([1, 2], user="user", item="film")
    with pytest.raises(InputError, match="min_rating: name the column of the ratings"):
        model.fit_frame(frame, user="user", item="film", min_rating=4)


def test_saved_and_loaded(users, fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = CompressedELSA.load(tmp_path / "model")
    for answers in (lambda m: m.recommend(users, 7), lambda m: m.similar_items([3, 4], 4)):
        for one, other in zip(answers(fitted), answers(loaded), strict=True):
            np.testing.assert_array_equal(one, other)
    assert loaded.get_params() == fitted.get_params()
    assert loaded.history_ == fitted.history_
    assert loaded.item_ids_.tolist() == fitted.item_ids_.tolist()
    served = Recommender(SparseEmbeddings.load(tmp_path / "model")).recommend(users, 7)
    np.testing.assert_array_equal(served[0], fitted.recommend(users, 7)[0])
    fitted.save(tmp_path / "small", format="int8")
    n_same = (
        CompressedELSA.load(tmp_path / "small").recommend(users, 3)[0] == served[0][:, :3]
    ).mean()
    assert n_same > 0.5
    assert (tmp_path / "small").stat().st_size < (tmp_path / "model").stat().st_size


def test_a_fit_that_fails_changes_nothing(users, fitted, tmp_path):
    def fail(record):
        raise ZeroDivisionError

    model = copied(fitted)
    wider = sp.hstack([users, users])
    for arguments in (
        {"callbacks": [fail]},
        {"validation": users},
        {"item_ids": [f"i{n}" for n in range(48)], "callbacks": [fail]},
    ):
        with pytest.raises((ZeroDivisionError, ValueError)):
            model.fit(wider, progress=False, **arguments)
    with pytest.raises(ZeroDivisionError):
        model.update(users, callbacks=[fail], progress=False)
    assert model.history_ == fitted.history_
    model.save(tmp_path / "model")
    for one in (model, CompressedELSA.load(tmp_path / "model")):
        np.testing.assert_array_equal(one.recommend(users)[0], fitted.recommend(users)[0])


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (["a"] * 24, "'a' is there twice"),
        (["\ud800", *"abcdefghijklmnopqrstuvw"], "is not UTF-8"),
        (["a\nb", *"abcdefghijklmnopqrstuvw"], "has a line break"),
        (["a\0", *"abcdefghijklmnopqrstuvw"], "has a NUL"),
        (["", *"abcdefghijklmnopqrstuvw"], "is empty"),
        ([None, *"abcdefghijklmnopqrstuvw"], "None is no text"),
        ([1, *"abcdefghijklmnopqrstuvw"], "all texts or all integers"),
        ("abcdefghijklmnopqrstuvwx", "give a list of ids"),
        (np.arange(24) / 2, "no text"),
    ],
)
def test_ids_are_checked_before_training(users, ids, problem):
    def never(record):
        raise AssertionError

    if ids[0] == 1:
        ids = np.array(ids, object)
    with pytest.raises(InputError, match=problem):
        CompressedELSA(**PARAMS).fit(users, item_ids=ids, callbacks=[never], progress=False)


def test_columns_with_names_stay_in_their_order(users, tmp_path):
    frame = pandas.DataFrame(users.toarray(), columns=[f"i{n}" for n in range(24)])
    model = CompressedELSA(**PARAMS).fit(frame, progress=False)
    model.save(tmp_path / "model")
    other = frame[frame.columns[::-1]]
    for one in (model, CompressedELSA.load(tmp_path / "model")):
        one.recommend(frame)
        with pytest.raises(ValueError, match="feature names should match"):
            one.recommend(other)
    more = copied(model).add_items([24], user_items=sp.hstack([users, users[:, :1]]))
    with pytest.warns(UserWarning, match="fitted without feature names"):
        more.recommend(frame.assign(i24=frame.i0))
    rows = {"user": [0, 0, 1, 1], "item": [*other.columns[:2], *other.columns[1:3]]}
    three = CompressedELSA(nnz=2, n_epochs=1, n_final_epochs=0).fit(
        other.iloc[:, :3], progress=False
    )
    three.fit_frame(pa.table(rows), user="user", item="item", progress=False)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        three.recommend(frame[three.item_ids_], k=1)


def test_large_integers_are_ids(users):
    ids = np.arange(24, dtype=np.uint64) + np.uint64(2**63)
    model = CompressedELSA(**PARAMS).fit(users, item_ids=ids, progress=False)
    np.testing.assert_array_equal(model.item_ids_, ids)
    pairs = users.tocoo()
    frame = pandas.DataFrame({"user": pairs.row, "item": pandas.Categorical(pairs.col)})
    model.fit_frame(frame, user="user", item="item", progress=False)
    assert model.item_ids_.tolist() == sorted(range(24), key=str)


def test_small_counts_do_not_wrap_around(users, fitted):
    plays = sp.coo_matrix((np.ones(256, np.uint8), (np.zeros(256, int),) * 2), shape=(1, 24))
    once = sp.csr_matrix(([1.0], ([0], [0])), shape=(1, 24))
    np.testing.assert_array_equal(fitted.recommend(plays)[0], fitted.recommend(once)[0])


def test_an_ignored_signal_stays_ignored(users):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        press = [lambda record: os.kill(os.getpid(), signal.SIGINT)]
        model = CompressedELSA(**PARAMS).fit(users, callbacks=press, progress=False)
        assert len(model.history_) == 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_data_sets_by_name_and_what_is_wrong_with_them():
    for arguments, problem in (
        ({"name": "movielens"}, "^name is 'movielens'; choose one of"),
        ({"name": "file"}, "^path is empty"),
        ({"name": "synthetic", "min_ratings": 3}, "no field min_ratings; there are"),
    ):
        with pytest.raises(InputError, match=problem):
            load_dataset(**arguments)


def test_what_is_no_model(fitted, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        CompressedELSA.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no finished run"):
        CompressedELSA.load(tmp_path)
    fitted.embeddings_.save(tmp_path / "plain")
    with pytest.raises(InputError, match=r"embeddings without a model; serve them with celsa_jax"):
        CompressedELSA.load(tmp_path / "plain")
    newer = {"estimator": {"version": 2}, "celsa_jax": "9.1"}
    fitted.embeddings_.with_metadata(newer).save(tmp_path / "newer")
    with pytest.raises(InputError, match=r"newer: saved by celsa_jax 9\.1, newer than this one"):
        CompressedELSA.load(tmp_path / "newer")
    with pytest.raises(NotFittedError):
        CompressedELSA().save(tmp_path / "x")
    with pytest.raises(NotFittedError):
        CompressedELSA().recommend_ids([["1"]])


def test_ctrl_c_leaves_what_was_learned(users):
    def press(record):
        if record["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    model = CompressedELSA(**PARAMS | {"n_epochs": 9})
    model.fit(users, callbacks=[press], progress=False)
    assert [record["epoch"] for record in model.history_] == [1, 2]
    assert model.history_[-1]["k"] > 4
    assert set(np.diff(model.embeddings_.starts)) == {4}
    model.recommend(users)

    def press_twice(record):
        press({"epoch": 2})
        press({"epoch": 2})

    other = CompressedELSA(**PARAMS)
    with pytest.raises(KeyboardInterrupt):
        other.fit(users, callbacks=[press_twice], progress=False)
    with pytest.raises(NotFittedError):
        other.recommend(users)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_thread_that_gets_no_signals_can_fit(users, fitted):
    model = CompressedELSA(**PARAMS)
    thread = threading.Thread(target=model.fit, args=(users,), kwargs={"progress": False})
    thread.start()
    thread.join()
    np.testing.assert_array_equal(model.recommend(users)[0], fitted.recommend(users)[0])


def test_a_folder_is_gone_on_in(users, fitted, tmp_path):
    """Stopped after the first epoch, it ends with the same bits."""

    def press(record):
        if record["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "run"
    stopped = CompressedELSA(**PARAMS).fit(users, workdir=folder, callbacks=[press], progress=False)
    assert stopped.stopped_
    with pytest.raises(InputError, match="no finished run"):
        CompressedELSA.load(folder)
    model = CompressedELSA(**PARAMS).fit(users, workdir=folder, progress=False)
    assert [record["epoch"] for record in model.history_] == [1, 2, 3]
    np.testing.assert_array_equal(
        model.embeddings_.tocsr().toarray(), fitted.embeddings_.tocsr().toarray()
    )
    again = CompressedELSA.load(folder)
    np.testing.assert_array_equal(again.recommend(users)[0], model.recommend(users)[0])
    assert again.history_ == model.history_
    with pytest.raises(InputError, match=r"nnz=4, not 5"):
        CompressedELSA(**PARAMS | {"nnz": 5}).fit(users, workdir=folder)
    with pytest.raises(InputError, match="the data have changed since"):
        CompressedELSA(**PARAMS).fit(users[1:], workdir=folder)


@pytest.mark.parametrize("start", ["neighbours", "random"])
def test_an_update_goes_on(users, start):
    """Items that the new users do not have stay as they are, to the bit."""
    first = CompressedELSA(**PARAMS, start=start)
    if start == "random":
        first.set_params(start_nnz=None, norms="unit", n_factors=20)
    first.fit(users, progress=False)
    model = copied(first)
    new = two_groups(40, seed=1).toarray()
    new[:, [0, 5, 13]] = 0
    new = sp.csr_matrix(new)
    model.update(new, progress=False)
    if start == "neighbours":  # of fewer items than an embedding has non-zeros
        copied(first).update(new[:1, :][[0, 0]], progress=False)
    before, after = (m.embeddings_.tocsr().toarray() for m in (first, model))
    assert before.shape == after.shape
    changed = (before != after).any(axis=1)
    assert np.flatnonzero(~changed).tolist() == [0, 5, 13]
    assert set(np.diff(model.embeddings_.starts)) == {4}
    assert len(model.history_) == 6
    items, _ = model.recommend(users, k=2)
    assert ((np.arange(60) % 2)[:, None] == items // 12)[users.getnnz(axis=1) <= 9].mean() > 0.8


def means_of_the_nearest(rows, likeness, k, n_nearest=20):
    """A loop over the definition: the k largest of their weighed sum, at the median length."""
    expected = np.zeros((len(likeness), rows.shape[1]))
    for row, of_item in zip(expected, likeness, strict=True):
        nearest = np.argsort(-of_item, kind="stable")[:n_nearest]
        mean = sum(of_item[item] * rows[item] for item in nearest)
        kept = np.argsort(-np.abs(mean), kind="stable")[:k]
        row[kept] = mean[kept] / np.linalg.norm(mean[kept])
    return np.median(np.linalg.norm(rows, axis=1)) * expected


def test_an_update_from_a_table_is_that_of_its_matrix(users, fitted, monkeypatch):
    given = []
    monkeypatch.setattr(CompressedELSA, "update", lambda self, x, **_: given.append(x))
    new = users[:3].tocoo()
    who, what = [*new.row.tolist(), 7, 2], [*new.col.tolist(), 99, 0]
    stars = [5.0] * (new.nnz + 1) + [1.0]
    frame = pa.table({"who": who, "what": what, "stars": stars})
    columns = {"user": "who", "item": "what", "rating": "stars"}
    copied(fitted).update_frame(frame, **columns)
    np.testing.assert_array_equal(given[0][:3].toarray(), users[:3].toarray())
    assert given[0][3:].nnz == 0  # of whom nothing is known that the model has
    with pytest.raises(InputError, match="no row is of an item of the model"):
        copied(fitted).update_frame(frame.slice(new.nnz, 1), **columns)


def test_new_items_of_their_users(users):
    known = CompressedELSA(**PARAMS).fit(
        users, item_ids=[f"i{n}" for n in range(24)], progress=False
    )
    rows = known.embeddings_.tocsr().toarray()
    new = np.zeros((60, 2), np.float32)
    new[::4, 0] = new[1::2, 1] = 1
    model = copied(known).add_items(["new", "last"], user_items=sp.hstack([users, new]))
    cosines = new.T @ users.toarray() / np.sqrt(users.getnnz(axis=0))
    np.testing.assert_allclose(
        model.embeddings_.tocsr()[24:].toarray(),
        means_of_the_nearest(rows, cosines, 4),
        rtol=1e-4,
        atol=1e-6,
    )
    [best] = model.recommend_ids([["i1", "i2"]], k=2, candidates=["new", "last"])
    assert best.item_ids[0] == "new"
    assert model.n_features_in_ == 26
    wider = sp.csr_matrix(np.hstack([users.toarray(), new]))
    assert model.recommend(wider)[0].shape == (60, 10)
    for bad, problem in (
        (["i3"], "item_ids: 'i3' is there twice"),
        ([7], "item_ids are integers, and those of the model texts"),
        (["a", "b"], r"has 25 columns; give the 24 items of the model and then the 2 new ones"),
    ):
        with pytest.raises(InputError, match=problem):
            copied(known).add_items(bad, user_items=wider[:, :25])
    with pytest.raises(InputError, match="takes user_items, or texts with known_texts"):
        copied(known).add_items(["a"])


def test_new_items_of_their_texts(fitted):
    words = ["red apple", "green pear"]
    known_texts = [f"{words[i // 12]} number{i}" for i in range(24)]
    texts = ["a red apple", "green pear", "nothing alike", ""]
    with pytest.warns(UserWarning, match=r"^2 of the 4 new items share nothing .*: 32, 33$"):
        model = copied(fitted).add_items([30, 31, 32, 33], texts=texts, known_texts=known_texts)
    rows = model.embeddings_.tocsr().toarray()
    assert not rows[26:].any()
    inside, outside = rows[24:26] @ rows[:12].T, rows[24:26] @ rows[12:24].T
    assert inside[0].mean() > 0.1 + outside[0].mean()
    assert outside[1].mean() > 0.1 + inside[1].mean()
    [best] = model.recommend_ids([[13, 14]], k=4, candidates=[30, 31, 32])
    assert best.item_ids[0] == 31
    with pytest.raises(InputError, match="known_texts: 3 texts for 24 known items"):
        copied(fitted).add_items([30], texts=["x"], known_texts=["a", "b", "c"])
    with pytest.raises(InputError, match="no word"):
        copied(fitted).add_items([30], texts=["x"], known_texts=[""] * 24)
    with pytest.raises(InputError, match="known_texts: None at 3 is no text"):
        copied(fitted).add_items([30], texts=["x"], known_texts=["a", "b", "c", None] * 6)
    with pytest.raises(InputError, match="texts: 1 texts for 2 new items"):
        copied(fitted).add_items([30, 31], texts=["x"], known_texts=["a"] * 24)
    assert copied(fitted).add_items([], texts=[], known_texts=["a"] * 24).n_features_in_ == 24


def test_similar_users_and_reasons(users, fitted):
    rows, cosines = fitted.similar_users(users[:2], users, k=3)
    assert rows[:, 0].tolist() == [0, 1]
    np.testing.assert_allclose(cosines[:, 0], 1, rtol=1e-5)
    assert (rows[0] % 2 == 0).all()
    rows, cosines = fitted.similar_users(0 * users[:1], users, k=2)
    assert rows.tolist() == [[-1, -1]]
    items, scores = fitted.recommend(users[:1], k=1)
    reasons = fitted.explain(users[:1], items[0, 0])
    assert reasons.score == pytest.approx(scores[0, 0], rel=1e-5)
    assert {item for item, _ in reasons.history} <= set(users[0].indices)
    latent = fitted.transform(users)
    assert latent.shape == (60, 24)


def test_segments_are_the_two_groups(fitted):
    genres = ["crime"] * 12 + ["poetry"] * 12
    tree = fitted.segments({"genre": genres}, n_segments=[2])
    found = [(s.name.name, sorted(s.items.tolist())) for s in tree.levels[0]]
    assert sorted(found) == [("Crime", list(range(12))), ("Poetry", list(range(12, 24)))]
    with pytest.raises(InputError, match="3 items"):
        fitted.segments({"genre": genres[:3]})


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"nnz": 0}, "^nnz is 0; it must be a whole number from 1 on"),
        ({"nnz": 30, "start_nnz": None}, "^nnz is 30, and the training users have 24 items"),
        ({"start": "clusters", "n_factors": 25}, "^n_factors is 25, and .* have 24 items"),
        ({"start": "warm"}, "^start is 'warm'; choose one of"),
        ({"learning_rate": "fast"}, "^learning_rate is 'fast'"),
        ({"start": "clusters"}, "^start=clusters needs n_factors"),
        ({"options": {"train.rate": 1}}, r"^options: there is no field 'train\.rate'"),
        ({"options": {"seed.x": 1}}, r"^options: there is no field 'seed\.x'"),
        ({"options": {"train.n_epochs": 1}}, "is an argument of its own, n_epochs"),
        ({"n_epochs": 2.0}, "^n_epochs is 2.0; it must be a whole number"),
        ({"alpha": None}, "^alpha is None"),
        ({"options": {"eval.every_epochs": "x"}}, r"^config\.eval\.every_epochs is 'x'"),
        ({"learning_rate": 1e30}, "not finite|is nan|is inf"),
    ],
)
def test_parameters_at_fault(users, params, problem):
    with pytest.raises(InputError, match=problem):
        CompressedELSA(**PARAMS | params).fit(users, progress=False)


def test_matrices_at_fault(users, fitted):
    with pytest.raises(ValueError, match="no interaction"):
        CompressedELSA(**PARAMS).fit(0 * users)
    with pytest.raises(ValueError, match="Negative values"):
        CompressedELSA(**PARAMS).fit(-users)
    with pytest.raises(ValueError, match="NaN"):
        fitted.recommend(users * np.nan)
    with pytest.raises(ValueError, match="X has 23 features, but CompressedELSA is expecting 24"):
        fitted.recommend(users[:, :23])
    with pytest.raises(InputError, match="item_ids: 3 ids for 24 items"):
        CompressedELSA(**PARAMS).fit(users, item_ids=[1, 2, 3])
    with pytest.raises(InputError, match="'1' is there twice"):
        CompressedELSA(**PARAMS).fit(users, item_ids=[1] * 24, progress=False)


def test_scikit_learn_agrees():
    """All of its checks that apply: those of the array API are skipped where it is off."""
    model = CompressedELSA(nnz=1, start_nnz=1, n_epochs=1, n_final_epochs=0)
    checked = check_estimator(model, on_fail=None, on_skip=None)
    others = {
        check["check_name"]: check["status"] for check in checked if check["status"] != "passed"
    }
    assert others == {"check_array_api_input": "skipped"}
    assert len(checked) > 40


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, celsa_jax, celsa_jax.sparse\n"
    code += "assert not {'jax', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
    code += "from celsa_jax import CompressedELSA\nCompressedELSA()\n"
    code += "assert not {'jax', 'flax', 'optax'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_lines_of_the_readme(monkeypatch, tmp_path, capsys):
    """On made-up data, as tests download nothing."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [snippet] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "ml-100k" in b]
    made_up = load_dataset("synthetic", synthetic={"n_users": 200, "n_items": 60, "n_segments": 4})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made_up)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    printed = capsys.readouterr().out
    assert sum(title in printed for title in made_up.titles) >= 5
    assert isinstance(CompressedELSA.load("model"), CompressedELSA)
