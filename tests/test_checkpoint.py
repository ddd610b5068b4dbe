import gc
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax.checkpoint import Checkpoints
from celsa_jax.errors import InputError
from celsa_jax.step import Recipe, create_state

RECIPE = Recipe(
    relu_cap=6.0, rewind=True, regrow=False, optimizer="nadam", learning_rate=0.01, seed=0
)


@pytest.fixture
def like():
    return jax.eval_shape(lambda: create_state(RECIPE, 40, 16))


def save_steps(folder, steps, **options):
    state = create_state(RECIPE, 40, 16)
    with Checkpoints(folder, keep=options.pop("keep", 9)) as checkpoints:
        for step in steps:
            score = options.get("scores", {}).get(step)
            checkpoints.save(step, state._replace(step=jnp.int32(step)), {"epoch": step}, score)


def test_state_and_notes_come_back(tmp_path, like):
    save_steps(tmp_path, [3, 8])
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        step, state, notes = checkpoints.restore_latest(like)
    expected = create_state(RECIPE, 40, 16)._replace(step=jnp.int32(8))
    assert (step, notes) == (8, {"epoch": 8})
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert jax.tree.structure(state) == jax.tree.structure(expected)


def test_no_checkpoint_at_all(tmp_path, like):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore_latest(like) is None


def test_saves_leave_nothing_in_memory(tmp_path):
    def lists() -> int:
        gc.collect()
        return sum(type(thing) is list for thing in gc.get_objects())

    save_steps(tmp_path, range(3))
    before = lists()
    save_steps(tmp_path, range(3, 8))
    assert lists() - before < 5 * 5  # it was 24 a save


def test_sha256sum_reads_the_sums(tmp_path):
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


def test_a_damaged_checkpoint_falls_back_to_the_older_one(tmp_path, like, caplog):
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


def test_a_bit_of_any_file_is_noticed(tmp_path, like, caplog):
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
def test_a_file_too_few_or_too_many_is_noticed(tmp_path, like, name, caplog):
    save_steps(tmp_path, [3, 8])
    path = tmp_path / "8" / name
    path.unlink() if path.exists() else path.touch()
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert checkpoints.restore_latest(like)[0] == 3
    assert f"damaged ({'it has no SHA256SUMS' if name == 'SHA256SUMS' else 'not as'}" in caplog.text


def test_what_orbax_cannot_read_is_damaged_too(tmp_path, like, caplog):
    save_steps(tmp_path, [3])
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        state = create_state(RECIPE, 40, 16)
        checkpoints.save(8, {"another": state.weights}, {})
        assert checkpoints.restore_latest(like)[0] == 3
    assert "checkpoint 8 is damaged" in caplog.text


def test_one_that_cannot_be_written_leaves_the_others(tmp_path, like, monkeypatch):
    save_steps(tmp_path, [3])
    state = create_state(RECIPE, 40, 16)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        monkeypatch.setattr("celsa_jax.checkpoint.write_json", lambda *_: 1 / 0)
        with pytest.raises(InputError, match=r"checkpoint 8 cannot be written .* free space"):
            checkpoints.save(8, state, {})
        assert checkpoints.restore_latest(like)[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_keeps_the_newest_and_the_best(tmp_path):
    scores = {2: 0.9, 3: 0.4, 5: 0.7, 6: 0.3}
    save_steps(tmp_path, [1, 2, 3, 4, 5, 6, 7], keep=2, scores=scores)
    assert {int(p.name) for p in tmp_path.iterdir()} == {2, 6, 7}
