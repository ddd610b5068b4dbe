import gc
import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax.checkpoint import Checkpoints
from celsa_jax.errors import InputError
from celsa_jax.starts import Start
from celsa_jax.state import Form, sparse_state, state_shape


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(0)
    columns = np.sort(rng.permuted(np.tile(np.arange(16), (40, 1)), axis=1)[:, :5], axis=1)
    values = rng.normal(size=(40, 5)).astype(np.float32)
    return sparse_state(Start(columns.astype(np.int32), values, 16), Form(16), 8)


@pytest.fixture
def like():
    return lambda notes: state_shape(40, 8, Form(16))


@pytest.fixture
def save_steps(state):
    def save(folder, steps, keep=9):
        with Checkpoints(folder, keep) as checkpoints:
            for step in steps:
                at_step = state._replace(step=jnp.int32(step))
                checkpoints.save(step, at_step, {"epoch": step})

    return save


def test_state_and_notes_come_back(tmp_path, like, state, save_steps):
    save_steps(tmp_path, [3, 8])
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        step, found, notes = checkpoints.restore_latest(like)
    assert (step, notes) == (8, {"epoch": 8})
    expected = state._replace(step=jnp.int32(8))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)


def test_shapes_follow_from_the_notes(tmp_path, state, save_steps):
    """A run knows by its epoch how many weights its items have."""
    save_steps(tmp_path, [3, 8])
    asked = []

    def like(notes):
        asked.append(notes)
        return state_shape(40, 8, Form(16))

    with Checkpoints(tmp_path, keep=9) as checkpoints:
        checkpoints.restore_latest(like)
    assert asked == [{"epoch": 8}]


def test_notes_that_cannot_be_gone_on_from_lose_nothing(tmp_path, save_steps):
    save_steps(tmp_path, [3, 8])
    before = files_of(tmp_path)

    def refuse(notes):
        raise InputError("another layout")

    with (
        Checkpoints(tmp_path, keep=1) as checkpoints,
        pytest.raises(InputError, match="another layout"),
    ):
        checkpoints.restore_latest(refuse)
    assert files_of(tmp_path) == before


def test_no_checkpoint_at_all(tmp_path, like):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore_latest(like) is None


def test_saves_leave_nothing_in_memory(tmp_path, save_steps):
    def lists() -> int:
        gc.collect()
        return sum(type(thing) is list for thing in gc.get_objects())

    save_steps(tmp_path, range(2))
    before = lists()
    save_steps(tmp_path, range(2, 5))
    assert lists() - before < 10  # tensorstore's statistics would be 10 lists a save


def test_sha256sum_reads_the_sums(tmp_path, save_steps):
    save_steps(tmp_path, [3])
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(command, cwd=tmp_path / "3", check=True, capture_output=True)
    listed = {line[66:] for line in (tmp_path / "3" / "SHA256SUMS").read_text().splitlines()}
    there = {str(p.relative_to(tmp_path / "3")) for p in tmp_path.rglob("*") if p.is_file()}
    assert there - listed == {"SHA256SUMS"}


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_falls_back_to_the_older_one(tmp_path, like, caplog, save_steps):
    save_steps(tmp_path, [3, 8])
    flip_a_bit(max(files_of(tmp_path / "8"), key=lambda path: path.stat().st_size))
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        step, state, _ = checkpoints.restore_latest(like)
        assert "checkpoint 8 is damaged (not as SHA256SUMS says: state/" in caplog.text
        assert step == int(state.step) == 3
        # The run goes on from there, past the step that was damaged.
        checkpoints.save(8, state._replace(step=jnp.int32(8)), {"epoch": 8})
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert checkpoints.restore_latest(like)[0] == 8


def test_a_bit_of_any_file_is_noticed(tmp_path, like, caplog, save_steps):
    save_steps(tmp_path / "whole", [3])
    names = [path.relative_to(tmp_path / "whole") for path in files_of(tmp_path / "whole")]
    assert {name.name for name in names} > {"SHA256SUMS", "notes.json", "_METADATA"}
    for name in names:
        shutil.copytree(tmp_path / "whole", tmp_path / "flipped", dirs_exist_ok=True)
        flip_a_bit(tmp_path / "flipped" / name)
        with (
            Checkpoints(tmp_path / "flipped", keep=9) as checkpoints,
            pytest.raises(InputError, match=r"no checkpoint is sound \(steps \[3\]\)"),
        ):
            checkpoints.restore_latest(like)


@pytest.mark.parametrize("name", ["SHA256SUMS", "notes.json", "more"])
def test_a_file_too_few_or_too_many_is_noticed(tmp_path, like, name, caplog, save_steps):
    save_steps(tmp_path, [3, 8])
    path = tmp_path / "8" / name
    path.unlink() if path.exists() else path.touch()
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert checkpoints.restore_latest(like)[0] == 3
    assert f"damaged ({'it has no SHA256SUMS' if name == 'SHA256SUMS' else 'not as'}" in caplog.text


def test_only_what_this_package_has_left_over_is_removed(tmp_path):
    (tmp_path / ".celsa_jax-7.tmp" / "state").mkdir(parents=True)
    (tmp_path / ".celsa_jax-notes.json-0a.tmp").touch()
    (tmp_path / ".mine.tmp").touch()
    with Checkpoints(tmp_path, keep=1):
        assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]


def test_a_checkpoint_is_on_disk_before_older_ones_are_removed(tmp_path, monkeypatch, save_steps):
    """Files, the names in their folders, its own name: or a loss of power leaves none at all."""
    save_steps(tmp_path, [3])
    events, replace, fsync = [], os.replace, os.fsync

    def noted_fsync(descriptor):
        events.append(("flush", pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noted_replace(old, new):
        if str(pathlib.Path(old).name).isdecimal():
            events.append(("remove", pathlib.Path(old)))
        if str(pathlib.Path(new).name).isdecimal():
            events.append(("name", pathlib.Path(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    save_steps(tmp_path, [8], keep=1)
    named = events.index(("name", tmp_path / "8"))
    assert events[named + 1 :] == [("flush", tmp_path), ("remove", tmp_path / "3")]
    flushed = {path.relative_to(path.parents[-1]) for what, path in events[:named]}
    inside = {path.relative_to(tmp_path / "8").as_posix() for path in (tmp_path / "8").rglob("*")}
    for name in inside - {"notes.json", "SHA256SUMS"}:  # flushed under other names
        assert any(path.as_posix().endswith(f".tmp/{name}") for path in flushed), name


def test_one_that_cannot_be_written_leaves_the_others(
    tmp_path, like, monkeypatch, save_steps, state
):
    save_steps(tmp_path, [3])
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        monkeypatch.setattr("celsa_jax.checkpoint.write_json", lambda *_: 1 / 0)
        with pytest.raises(InputError, match=r"checkpoint 8 cannot be written .* free space"):
            checkpoints.save(8, state, {})
        assert checkpoints.restore_latest(like)[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_keeps_the_newest(tmp_path, save_steps):
    save_steps(tmp_path, [1, 2, 3, 4], keep=2)
    assert {int(p.name) for p in tmp_path.iterdir()} == {3, 4}
