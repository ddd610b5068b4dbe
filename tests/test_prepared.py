"""The prepared form: the same data again, without reading them."""

import concurrent.futures
import errno
import os
import shutil
import stat
import threading
import time

import numpy as np
import pytest

from celsa_jax.config import default_config
from celsa_jax.data import dataset_of, datasets, prepared
from celsa_jax.data.interactions import Interactions
from celsa_jax.errors import InputError


@pytest.fixture
def config(tmp_path):
    """MovieLens' form: 6 users of 3 to 8 interactions, and a data folder."""
    source = tmp_path / "source"
    source.mkdir()
    rows = [f"{u},{i},{3.5 + i % 2 / 2},{100 * u + i}" for u in range(1, 7) for i in range(u + 2)]
    (source / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(rows))
    (source / "movies.csv").write_text("movieId,title,genres\n0,Ænima,A|B\n1,,C\n")
    config = default_config().data
    config.update(name="ml-20m", path=str(source), data_dir=str(tmp_path / "data"))
    config.update(min_rating=1.0, min_user_interactions=5)
    return config


@pytest.fixture
def reads(monkeypatch):
    """How often ratings were read from text."""
    count = []
    known = datasets.DATASETS["ml-20m"]

    def read(path, config):
        count.append(path)
        return known.read(path, config)

    monkeypatch.setitem(
        datasets.DATASETS, "ml-20m", datasets.Published(read, known.files, None, "get it")
    )
    return count


def assert_same(a, b):
    assert (a.interactions.matrix != b.interactions.matrix).nnz == 0
    np.testing.assert_array_equal(a.interactions.user_ids, b.interactions.user_ids)
    np.testing.assert_array_equal(a.interactions.item_ids, b.interactions.item_ids)
    np.testing.assert_array_equal(a.interactions.times, b.interactions.times)
    assert a.interactions.digest() == b.interactions.digest()
    assert a.counts == b.counts
    assert {n: c.tolist() for n, c in a.metadata.items()} == {
        n: c.tolist() for n, c in b.metadata.items()
    }


def test_the_second_start_maps_what_the_first_one_wrote(config, reads):
    first, second = dataset_of(config), dataset_of(config)
    assert len(reads) == 1
    assert_same(first, second)
    assert first.interactions.n_users == 4
    stored = np.load(first.folder / "indices.npy", mmap_mode="r")
    base = second.interactions.matrix.indices
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == stored.filename
    assert not second.interactions.matrix.indices.flags.writeable
    assert first.folder == second.folder


@pytest.mark.parametrize(
    "change", ["min_rating", "min_user_interactions", "content", "time", "metadata"]
)
def test_another_source_or_filter_is_another_data_set(config, reads, tmp_path, change):
    first = dataset_of(config)
    ratings = tmp_path / "source" / "ratings.csv"
    if change == "content":  # of the same length, at the same time
        moment = ratings.stat().st_mtime_ns
        ratings.write_text(ratings.read_text().replace("\n6,", "\n7,"))
        os.utime(ratings, ns=(moment, moment))
    elif change == "time":
        os.utime(ratings, ns=(1, 1))
    elif change == "metadata":
        (tmp_path / "source" / "movies.csv").write_text("movieId,title,genres\n0,Other,A\n")
    else:
        config[change] = config[change] + 1
    assert dataset_of(config).folder != first.folder
    assert len(reads) == 2


def test_a_copy_with_its_times_shares_it(config, reads, tmp_path):
    first = dataset_of(config)
    shutil.copytree(tmp_path / "source", tmp_path / "copy")
    config.path = str(tmp_path / "copy")
    assert dataset_of(config).folder == first.folder
    assert len(reads) == 1


@pytest.mark.parametrize("damage", ["short", "gone", "info", "list", "lengths"])
def test_what_is_damaged_is_prepared_again(config, reads, damage, caplog):
    first = dataset_of(config)
    if damage == "short":
        path = first.folder / "indices.npy"
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "gone":
        (first.folder / "times.npy").unlink()
    elif damage == "info":
        (first.folder / "info.json").write_text("{")
    elif damage == "list":
        (first.folder / "info.json").write_text("[]")
    else:
        np.save(first.folder / "indices.npy", np.zeros(3, np.int32))
    assert_same(first, dataset_of(config))
    assert len(reads) == 2
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_what_cannot_be_read_now_is_left_alone(config, reads, monkeypatch, number):
    first = dataset_of(config)

    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(prepared.np, "load", fails)
        with pytest.raises(InputError, match=os.strerror(number)):
            dataset_of(config)
    assert_same(first, dataset_of(config))
    assert len(reads) == 1


def test_other_metadata_are_not_those_prepared_before(tmp_path):
    folder = tmp_path / "data" / "goodbooks"
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_text("user_id,book_id,rating\n9,1,5\n")
    (folder / "books.csv").write_text("book_id,title,authors\n1,One,A\n")
    (tmp_path / "own.csv").write_text("book_id,title,authors\n1,Eins,A\n")
    config = default_config().data
    config.update(name="goodbooks", data_dir=str(tmp_path / "data"), min_user_interactions=1)
    for path, title in (("", "One"), (str(tmp_path / "own.csv"), "Eins"), ("", "One")):
        config.items_path = path
        assert dataset_of(config).metadata["title"].tolist() == [title]


def test_a_folder_that_cannot_be_written_is_done_without(config, reads, tmp_path, caplog):
    (tmp_path / "data").write_text("a file in its place")
    dataset = dataset_of(config)
    assert dataset.folder is None
    assert dataset.interactions.n_users == 4
    assert "going on without a prepared form" in caplog.text


def test_nothing_half_written_is_left(config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared.np, "save", full)
    assert dataset_of(config).folder is None
    assert not list((tmp_path / "data" / "prepared").iterdir())


def test_the_slower_of_two_processes_keeps_the_others(config, reads, monkeypatch):
    first = dataset_of(config)
    before = (first.folder / "info.json").stat().st_ino
    metadata, counts = first.metadata, first.counts
    prepared.save(first.folder, first.interactions, metadata, counts)
    assert (first.folder / "info.json").stat().st_ino == before
    assert not [p for p in first.folder.parent.iterdir() if p.name.startswith(".")]


def test_several_that_prepare_at_once_agree(config, reads, monkeypatch):
    """Four threads, as four processes of the same number on four hosts."""
    together = threading.Barrier(4)
    save = prepared.save

    def save_at_once(*given):
        together.wait()
        save(*given)

    monkeypatch.setattr(prepared, "save", save_at_once)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: dataset_of(config), range(4)))
    assert len(reads) == 4
    assert len({dataset.folder for dataset in found}) == 1
    assert [p.name for p in found[0].folder.parent.iterdir()] == [found[0].folder.name]
    assert_same(found[0], dataset_of(config))
    assert len(reads) == 4


def test_left_overs_of_the_killed_are_removed_in_time(config, tmp_path):
    parent = tmp_path / "data" / "prepared"
    for name, age in ((".celsa_jax-old.tmp", 2 * 24 * 3600), (".celsa_jax-new.tmp", 60)):
        (parent / name).mkdir(parents=True)
        (parent / name / "indices.npy").touch()
        moment = time.time() - age
        os.utime(parent / name, (moment, moment))
    folder = dataset_of(config).folder
    assert {p.name for p in parent.iterdir()} == {".celsa_jax-new.tmp", folder.name}


def test_ids_are_kept_as_they_are(tmp_path):
    matrix = np.array([[1, 0], [1, 1]], np.float32)
    import scipy.sparse as sp

    data = Interactions(
        sp.csr_matrix(matrix), np.array(["007", "戦"]), np.array(["a b", "é"]), None
    )
    prepared.save(tmp_path / "x", data, {}, {"users": 2})
    loaded, metadata, counts = prepared.load(tmp_path / "x")
    assert loaded.user_ids.tolist() == ["007", "戦"]
    assert loaded.item_ids.tolist() == ["a b", "é"]
    np.testing.assert_array_equal(loaded.matrix.toarray(), matrix)
    for array in (loaded.user_ids, loaded.item_ids):
        assert isinstance(array.base, np.memmap)  # not in memory until it is used
    assert loaded.times is None
    assert (metadata, counts) == ({}, {"users": 2})
    assert stat.S_ISDIR((tmp_path / "x").stat().st_mode)
