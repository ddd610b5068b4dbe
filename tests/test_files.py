"""Files that appear whole, on disks that are full, have no locks or lose power."""

import errno
import fcntl
import os
import pathlib
import subprocess
import sys

import pytest
from launch import ROOT

from celsa_jax.config import default_config
from celsa_jax.data.datasets import data_folder
from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path, locked, write_text
from celsa_jax.workdir import Workdir


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(OSError, match="full") as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "nowhere" / "a", "")
    assert caught.value.filename == str(tmp_path / "nowhere" / "a")  # not what it is called for now
    Workdir(tmp_path).log_metrics({})
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        Workdir(tmp_path).log_metrics({})
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("name", ["results.json", "factors.txt", "items.txt"])
def test_a_folder_with_files_of_others_is_no_place_for_a_run(tmp_path, name):
    """A run writes files of these names, and removes some."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"has {name}, but no config.json"):
        Workdir(tmp_path).check(default_config())


QUOTA = """
import resource, signal, sys
import numpy as np, scipy.sparse as sp
from celsa_jax.sparse import Recommender, SparseEmbeddings
recommender = Recommender(SparseEmbeddings.from_dense(np.eye(4)), engine="numba")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    recommender.recommend(sp.csr_matrix((1, 4)), 2)
except OSError as error:
    print(error.filename)
"""


@pytest.mark.slow
def test_a_full_disk_under_the_cache_of_compiled_code_is_named(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", QUOTA]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert pathlib.Path(done.stdout.strip()).parent == tmp_path


@pytest.mark.slow
def test_without_any_folder_for_compiled_code_it_is_compiled_each_time(tmp_path):
    (tmp_path / "file").touch()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "x")}
    code = "from celsa_jax.sparse import kernels; print(kernels.fill_lists.stats.cache_path)"
    command = [
        sys.executable,
        "-c",
        "import numba.core.caching as c\nc.CacheImpl._locator_classes = []\n" + code,
    ]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_a_new_name_is_on_disk_before_anything_else_happens(tmp_path, monkeypatch):
    """Not only what is in the file: or a loss of power takes it, and what went in its favour."""
    events = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *p: (events.append(str(p[1])), replace(*p)))
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    write_text(tmp_path / "a", "x")
    content, name, folder = events
    assert pathlib.Path(content).name.startswith(".celsa_jax-a-")
    assert (name, folder) == (str(tmp_path / "a"), str(tmp_path))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_called_so(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    for holding in (Workdir(tmp_path / "w").locked(), locked(tmp_path / "w" / "lock")):
        with pytest.raises(InputError, match=r"w: is on a disk without locks \("), holding:
            pass


def test_a_user_without_a_home(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "CELSA_JAX_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(InputError, match="no home folder; name one for data as"):
        data_folder(default_config().data)
