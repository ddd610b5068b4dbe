import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celsa_jax.config import default_config
from celsa_jax.data import Interactions, make_split, split_users
from celsa_jax.data import interactions as interactions_module
from celsa_jax.data.splits import load_split, split_by_time
from celsa_jax.errors import InputError
from celsa_jax.evaluation.folds import holdouts

PARTS = ("train", "val", "test")


@pytest.fixture
def interactions(random_matrix):
    matrix = random_matrix(50, 40, density=0.05)
    return Interactions(
        matrix,
        np.array([f"u{i:03d}" for i in range(50)]),
        np.array([f"i{i:03d}" for i in range(40)]),
    )


def test_interactions_over_another_catalogue(interactions):
    catalogue = np.array(["i039", "new", "i000", "i020"])
    matrix = interactions.onto(catalogue)
    assert (matrix.dtype, matrix.shape) == (np.float32, (50, 4))
    dense = interactions.matrix.toarray()
    expected = np.stack([dense[:, 39], np.zeros(50), dense[:, 0], dense[:, 20]], axis=1)
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.has_canonical_format
    assert interactions.onto(catalogue[:0]).shape == (50, 0)


def test_ids_may_be_in_any_order(random_matrix, tmp_path):
    """Everything of data whose users and items are shuffled is that of the sorted ones."""
    rng = np.random.default_rng(0)
    ids = [np.array([f"{kind}{i}" for i in range(n)]) for kind, n in (("u", 30), ("i", 20))]
    users, items = rng.permutation(30), rng.permutation(20)
    matrix = random_matrix(30, 20, density=0.2)
    data = Interactions(matrix, *ids)
    shuffled = Interactions(matrix[users][:, items].sorted_indices(), ids[0][users], ids[1][items])

    def pairs(part):
        user = np.repeat(part.user_ids, np.diff(part.matrix.indptr))
        item = part.item_ids[part.matrix.indices]
        return set(zip(user.tolist(), item.tolist(), strict=True))

    assert pairs(shuffled) == pairs(data)
    for kind in ("disjoint", "independent"):
        held_out = [holdouts(d, kind, seed=5) for d in (data, shuffled)]
        for fold in range(5):
            one, other = (
                pairs(d.take_entries(masks[fold]))
                for d, masks in zip((data, shuffled), held_out, strict=True)
            )
            assert one == other
    split = split_users(data, 4, 6, seed=1)
    split.save(tmp_path / "split.npz")
    again = load_split(tmp_path / "split.npz", data)
    assert pairs(again.test) == pairs(split.test)
    np.savez(tmp_path / "hand.npz", **{p: getattr(split, p).user_ids for p in PARTS})
    other = load_split(tmp_path / "hand.npz", shuffled)
    for part in PARTS:
        assert pairs(getattr(other, part)) == pairs(getattr(split, part))
    catalogue = rng.permutation(ids[1])[:9]
    one, other = (d.take_users(d.user_ids == "u7").onto(catalogue) for d in (data, shuffled))
    np.testing.assert_array_equal(one.toarray(), other.toarray())


def test_listed_users_test_and_the_others_are_drawn_from(interactions, tmp_path):
    path, config = tmp_path / "users.txt", default_config().data
    config.update(n_val_users=7, test_users=str(path))
    path.write_text("u049\r\nu003\n\nu020\n")
    split = make_split(interactions, config, seed=3)
    assert split.test.user_ids.tolist() == ["u003", "u020", "u049"]
    assert [split.val.n_users, split.train.n_users] == [7, 40]
    path.write_text("u003\nu99\n")
    with pytest.raises(InputError, match=r"users\.txt: user 'u99' is not in the data"):
        make_split(interactions, config, seed=3)
    path.write_text("\r\n\n")
    with pytest.raises(InputError, match=r"users\.txt: lists no user"):
        make_split(interactions, config, seed=3)
    path.write_text("u003\n", "utf-8-sig")  # as editors on Windows write it
    assert make_split(interactions, config, seed=3).test.user_ids.tolist() == ["u003"]
    known = dict.fromkeys(PARTS, interactions.user_ids[:9])
    with pytest.raises(InputError, match="test_users has users that the run of"):
        make_split(interactions, config, seed=3, earlier=known)
    config.split = "temporal"
    with pytest.raises(InputError, match=r"takes config\.data\.split=users"):
        make_split(interactions, config, seed=3)


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
    with pytest.raises(InputError, match="n_test_users is -1; it must be at least 0"):
        split_users(interactions, 5, -1, seed=0)


def test_a_split_of_the_same_users_with_other_interactions_is_refused(interactions, tmp_path):
    config = default_config().data
    config.update(n_val_users=5, n_test_users=9)
    make_split(interactions, config, 0).save(tmp_path / "split.npz")
    assert load_split(tmp_path / "split.npz", interactions).train.n_users == 36
    kept = np.arange(interactions.nnz) > 0
    other = interactions.take_entries(kept)
    with pytest.raises(InputError, match=r"split\.npz: the data have changed"):
        load_split(tmp_path / "split.npz", other)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"test": ["u001", "u030"]}, "user 'u001' is in train and test"),
        ({"val": ["u002", "u001", "u030"]}, "user 'u001' is in train and val"),
        ({"val": ["u030", "u031", "u030"]}, "user 'u030' is in val and val"),
    ],
)
def test_a_user_in_two_parts_of_a_split_by_hand(tmp_path, interactions, change, where):
    """Also where another user is in none, so that the numbers fit."""
    users = interactions.user_ids
    parts = {"train": users[:30], "val": users[30:40], "test": users[40:]}
    np.savez(tmp_path / "split.npz", **parts)
    assert load_split(tmp_path / "split.npz", interactions).train.n_users == 30
    np.savez(tmp_path / "split.npz", **{**parts, **change})
    with pytest.raises(InputError, match=rf"split\.npz: {where}; leave each user in one"):
        load_split(tmp_path / "split.npz", interactions)


def test_the_digest_is_that_of_the_data(interactions):
    matrix = interactions.matrix.copy()
    matrix.indices, matrix.indptr = (a.astype(np.int64) for a in (matrix.indices, matrix.indptr))
    wider = Interactions(matrix, interactions.user_ids.astype("U40"), interactions.item_ids)
    assert wider.digest() == interactions.digest()
    changed = [
        Interactions(matrix, interactions.user_ids, interactions.item_ids[::-1]),
        Interactions(matrix, interactions.item_ids[:50].repeat(2)[:50], interactions.item_ids),
        Interactions(matrix[::-1], interactions.user_ids, interactions.item_ids),
        Interactions(*_parts(interactions), np.arange(interactions.nnz)),
        Interactions(*_parts(interactions), np.arange(interactions.nnz) + 1),
    ]
    digests = {data.digest() for data in [interactions, *changed]}
    assert len(digests) == 6


def test_the_digest_by_hand(interactions, monkeypatch):
    """SHA-256 of the lines of ids and of the arrays, however many ids are hashed at once."""
    digest = hashlib.sha256("\n".join(interactions.user_ids).encode())
    digest.update("\n".join(interactions.item_ids).encode())
    digest.update(interactions.matrix.indptr.astype("<i8").tobytes())
    digest.update(interactions.matrix.indices.astype("<i4").tobytes())
    for at_once in (1, 7, 10**6):
        monkeypatch.setattr(interactions_module, "_IDS_AT_ONCE", at_once)
        assert interactions.digest() == digest.hexdigest()


def _parts(data):
    return data.matrix, data.user_ids, data.item_ids


def test_users_that_weights_know_train_again(interactions):
    plain = split_users(interactions, 5, 9, seed=3)
    known = np.concatenate([plain.test.user_ids[:4], plain.train.user_ids[:10], ["another"]])
    split = split_users(interactions, 5, 9, seed=3, trained_on=known)
    parts = [split.train.user_ids, split.val.user_ids, split.test.user_ids]
    assert [len(p) for p in parts] == [36, 5, 9]
    assert sorted(np.concatenate(parts)) == interactions.user_ids.tolist()
    assert not np.isin(known, np.concatenate(parts[1:])).any()
    # The order of the draw is kept: what can stay where it was does.
    assert set(plain.test.user_ids[4:]) <= set(parts[2])
    nobody = split_users(interactions, 5, 9, seed=3, trained_on=known[-1:])
    assert nobody.test.user_ids.tolist() == plain.test.user_ids.tolist()
    with pytest.raises(InputError, match=r"= 5 \+ 32, but only 36 users are left"):
        split_users(interactions, 5, 32, seed=3, trained_on=known)


def timed(rows):
    """Interactions of (user, item, time)."""
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    user_ids, user = np.unique(users, return_inverse=True)
    item_ids, item = np.unique(items, return_inverse=True)
    return Interactions.from_pairs(user, item, user_ids, item_ids, times.astype(np.int64))[0]


def entries(data):
    users = np.repeat(data.user_ids, np.diff(data.matrix.indptr)).tolist()
    items = data.item_ids[data.matrix.indices].tolist()
    return set(zip(users, items, data.times.tolist(), strict=True))


DAY = 86_400
ROWS = [  # days 0 to 9 train, 10 to 19 validate, from 20 on test
    ("ann", "a", 1 * DAY),
    ("ann", "b", 12 * DAY),
    ("ann", "c", 25 * DAY),
    ("bob", "a", 3 * DAY),
    ("bob", "b", 4 * DAY),
    ("cas", "c", 15 * DAY),  # no history at validation
    ("cas", "d", 20 * DAY),  # the first moment of the test
    ("dan", "a", 21 * DAY),  # no history at all
]
DATES = ("1970-01-11", "1970-01-21")


def test_by_time_by_hand():
    split = split_by_time(timed(ROWS), *DATES, 9, 9, seed=0)
    assert entries(split.train) == {r for r in ROWS if r[2] < 10 * DAY}
    assert split.train.item_ids.tolist() == ["a", "b"]
    assert split.train.user_ids.tolist() == ["ann", "bob"]
    assert entries(split.val) == set(ROWS[:2])
    assert split.val_from == 10 * DAY
    assert entries(split.test) == {r for r in ROWS if r[0] in ("ann", "cas")}
    assert split.test_from == 20 * DAY
    assert split.counts()["test_interactions_outside_catalogue"] == 3  # c, c and d


def test_by_time_without_validation_trains_until_the_test():
    split = split_by_time(timed(ROWS), "", DATES[1], 9, 9, seed=0)
    assert entries(split.train) == {r for r in ROWS if r[2] < 20 * DAY}
    assert split.val.n_users == 0


@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 29)), min_size=1),
    dates=st.tuples(st.integers(1, 29), st.integers(1, 29)).map(sorted),
)
def test_by_time_is_what_a_loop_gives(rows, dates):
    rows = [(f"u{u}", f"i{i}", day * DAY) for u, i, day in rows]
    earliest = {}
    for user, item, time in rows:
        earliest[user, item] = min(time, earliest.get((user, item), time))
    known = {(u, i, t) for (u, i), t in earliest.items()}
    val, test = (d * DAY for d in dates)
    names = [str(np.datetime64(d, "D")) for d in dates]
    if not any(t < val for _, _, t in known):
        with pytest.raises(InputError, match="nothing happened before"):
            split_by_time(timed(rows), *names, 99, 99, seed=0)
        return
    wanted = {}
    for part, start, end in (("val", val, test), ("test", test, 99 * DAY)):
        users = {
            u
            for u in {u for u, _, _ in known}
            if any(r[0] == u and r[2] < start for r in known)
            and any(r[0] == u and start <= r[2] < end for r in known)
        }
        wanted[part] = {r for r in known if r[0] in users and r[2] < end}
    if not wanted["test"] or (not wanted["val"] and val < test):
        with pytest.raises(InputError, match="no user has interactions before and after"):
            split_by_time(timed(rows), *names, 99, 99, seed=0)
        return
    split = split_by_time(timed(rows), *names, 99, 99, seed=0)
    assert entries(split.train) == {r for r in known if r[2] < val}
    assert entries(split.val) == wanted["val"]
    assert entries(split.test) == wanted["test"]


def test_by_time_draws_at_most_so_many_users():
    rows = [
        (f"u{u:02d}", item, day * DAY) for u in range(30) for item, day in (("a", 0), ("b", 25))
    ]
    split = split_by_time(timed(rows), "", DATES[1], 9, 7, seed=0)
    again, other = (split_by_time(timed(rows), "", DATES[1], 9, 7, seed=s) for s in (0, 1))
    assert split.test.n_users == 7
    assert split.test.user_ids.tolist() == again.test.user_ids.tolist()
    assert split.test.user_ids.tolist() != other.test.user_ids.tolist()


@pytest.mark.parametrize(
    ("dates", "part"),
    [
        (("", ""), r"test_from is ''; give a date such as 2015-03-31"),
        (("soon", DATES[1]), r"val_from is 'soon'"),
        (("", "today"), r"test_from is 'today'"),
        (("", "20150331"), r"test_from is '20150331'"),
        (("", "1420070400"), r"test_from is '1420070400'"),
        (("", "2015-02-30"), r"test_from is '2015-02-30'"),
        (DATES[::-1], r"val_from=1970-01-21 is after test_from=1970-01-11"),
        (("1960-01-01", "1960-01-02"), r"the data are from 1970-01-02T00:00:00 to 1970-01-26"),
        (("1970-01-05", "2000-01-01"), r"test_from: no user has interactions before and after"),
    ],
)
def test_dates_that_do_not_fit(dates, part):
    with pytest.raises(InputError, match=part):
        split_by_time(timed(ROWS), *dates, 9, 9, seed=0)


def test_by_time_takes_times(interactions):
    with pytest.raises(
        InputError, match=r"have no times \(goodbooks, synthetic and \.npz.*split=users"
    ):
        split_by_time(interactions, *DATES, 9, 9, seed=0)


def test_a_split_by_time_is_not_read_as_one_by_user(tmp_path):
    split_by_time(timed(ROWS), *DATES, 9, 9, seed=0).save(tmp_path / "split.npz")
    with pytest.raises(InputError, match=r"split\.npz: a split by time"):
        load_split(tmp_path / "split.npz", timed(ROWS))
