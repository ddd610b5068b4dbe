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


def flip_a_bit(folder, step, n=0):
    """Flips one bit in the n-th largest data file of a step."""
    files = (p for p in (folder / str(step) / "state").rglob("*") if p.is_file())
    path = sorted(files, key=lambda p: -p.stat().st_size)[n]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_falls_back_to_the_older_one(tmp_path, like, caplog):
    save_steps(tmp_path, [3, 8])
    flip_a_bit(tmp_path, 8)
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        step, state, _ = checkpoints.restore_latest(like)
        assert "checkpoint 8 is damaged" in caplog.text
        assert step == int(state.step) == 3
        # The run goes on from there, past the step that was damaged.
        checkpoints.save(8, state._replace(step=jnp.int32(8)), {"epoch": 8})
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert checkpoints.restore_latest(like)[0] == 8


def test_a_digest_shows_what_orbax_does_not(tmp_path, like, monkeypatch, caplog):
    save_steps(tmp_path, [3])
    changed = create_state(RECIPE, 40, 16)
    changed = changed._replace(weights=changed.weights.at[5, 5].add(1e-7))
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        restore = checkpoints._manager.restore
        monkeypatch.setattr(
            checkpoints._manager,
            "restore",
            lambda *a, **k: {"state": changed, "notes": restore(*a, **k)["notes"]},
        )
        with pytest.raises(InputError, match=r"no checkpoint is sound \(steps \[3\]\)"):
            checkpoints.restore_latest(like)
    assert "do not match their digests" in caplog.text


def test_keeps_the_newest_and_the_best(tmp_path):
    scores = {2: 0.9, 3: 0.4, 5: 0.7, 6: 0.3}
    save_steps(tmp_path, [1, 2, 3, 4, 5, 6, 7], keep=2, scores=scores)
    assert {int(p.name) for p in tmp_path.iterdir()} == {2, 6, 7}
