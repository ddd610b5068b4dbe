"""Streaming, and splits by time: training as on full-size data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launch import WITHOUT_JAX, program

from celsa_jax import feed, load_dataset, loop
from celsa_jax.data import dataset_of, make_split
from celsa_jax.data.batches import Chunk, in_blocks, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.errors import InputError
from celsa_jax.sparse import load_embeddings
from celsa_jax.starts import neighbours
from celsa_jax.state import Form, Numbers, sparse_state
from celsa_jax.step import train_steps
from celsa_jax.train import train_and_evaluate

N_ITEMS = 40


def trained(matrix, chunks, batches, budget):
    form = Form(N_ITEMS, None, budget)
    state, losses = sparse_state(neighbours(matrix, 8, 0.5, seed=0), form, 8), []
    for chunk, rows in zip(chunks, batches, strict=True):
        rates, steps = jnp.ones(len(rows)), jnp.array([0, len(rows)], jnp.int32)
        rows = in_blocks(rows, 8, 1, chunk.n_rows)
        numbers = Numbers(jax.random.key(0), 0.01, 0.8, 0.0)
        state, loss = train_steps(state, chunk, rows, rates, steps, None, numbers, form=form)
        losses.append(float(loss.sum()))
    return np.asarray(state.weights), sum(losses)


def test_chunks_give_what_resident_data_give_in_the_same_order(random_matrix):
    """Every chunk's users at their places in one chunk that holds them all."""
    matrix = random_matrix(90, N_ITEMS)
    chunks = make_chunks(matrix, 30, seed=0)
    assert len(chunks) == 3
    batches = [shuffled_batches(jax.random.key(c), chunks[c].n_rows, 8) for c in range(3)]
    budget = max(nnz_budget(c, b) for c, b in zip(chunks, batches, strict=True))
    streamed = trained(matrix, chunks, batches, budget)

    offsets = np.cumsum([0, *(c.n_rows for c in chunks)])
    lengths = np.concatenate([np.diff(c.indptr)[:-1] for c in chunks])
    indices = np.concatenate([c.indices[: c.indptr[-1]] for c in chunks])
    ends = np.cumsum(lengths)
    resident = Chunk(np.concatenate([[0], ends, ends[-1:]]).astype(np.int32), indices)
    empty = resident.n_rows
    order = [
        np.where(np.asarray(b) == c.n_rows, empty, np.asarray(b) + offset)
        for c, b, offset in zip(chunks, batches, offsets, strict=False)
    ]
    order = jnp.asarray(np.concatenate(order), jnp.int32)
    whole = trained(matrix, [resident], [order], budget)
    np.testing.assert_array_equal(streamed[0], whole[0])
    assert streamed[1] == pytest.approx(whole[1], rel=1e-6)


def test_a_streamed_run_is_that_of_resident_chunks(small_config, tmp_path, monkeypatch):
    """And no more than three chunks are on the device: one is put there while the one before it is
    trained on, and another has just been."""
    small_config.train.chunk_users = 64
    small_config.mesh.item = 1  # device
    events, put, steps = [], jax.device_put, loop.train_steps

    def put_noted(value, *rest):
        if isinstance(value, Chunk):
            events.append("put")
        return put(value, *rest)

    def steps_noted(*arguments, **options):
        events.append("trained")
        return steps(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(jax, "device_put", put_noted)
        patched.setattr(loop, "train_steps", steps_noted)
        streamed = train_and_evaluate(small_config, tmp_path / "streamed")
    assert streamed["step"] == 3 * 4  # four chunks of 57 or 58 users, a step each
    assert events == (["put"] + ["put", "trained"] * 3 + ["trained"]) * 3

    def resident(self, epoch, block):
        steps = np.split(np.arange(self.steps_per_epoch), 4)
        for at, ((chunk,), batches) in zip(steps, self._epoch(epoch), strict=True):
            yield at, jax.device_put(chunk), self._blocks(batches, block)

    monkeypatch.setattr(feed.Feed, "on_device", resident)
    assert train_and_evaluate(small_config, tmp_path / "resident")["test"] == streamed["test"]
    a, b = (load_embeddings(tmp_path / n / "embeddings.npz")[0] for n in ("streamed", "resident"))
    np.testing.assert_array_equal(a.toarray(), b.toarray())


def test_a_run_by_time(timed_config, timed_file, tmp_path):
    """It predicts what comes later, resumes, and does not go on with other data."""
    timed_config.mesh.item = 1  # device
    results = train_and_evaluate(timed_config, tmp_path / "run")
    assert results["folds"] == "temporal"
    assert results["test"]["n_users"] == results["test"]["n_user_folds"] == 60
    # Half of the items are of the other taste, so chance is about 0.5 of recall@20.
    assert results["test"]["recall@20"] > 0.8

    embeddings, item_ids, _ = load_embeddings(tmp_path / "run" / "embeddings.npz")
    interactions = dataset_of(timed_config.data).interactions
    first = int(np.datetime64("2020-01-26", "s").astype(int))
    dense = embeddings.toarray()
    split = make_split(interactions, timed_config.data, 0)
    recalls = []
    for row in range(split.test.n_users):
        span = slice(*split.test.matrix.indptr[row : row + 2])
        items = split.test.item_ids[split.test.matrix.indices[span]]
        late = split.test.times[span] >= first
        history = np.isin(item_ids, items[~late])
        scores = dense @ (history @ dense)
        scores[history] = -np.inf
        best = item_ids[np.argsort(-scores, kind="stable")[:20]]
        recalls.append(np.isin(items[late], best).sum() / min(20, late.sum()))
    assert results["test"]["recall@20"] == pytest.approx(np.mean(recalls), abs=1e-6)

    (tmp_path / "run" / "results.json").unlink()
    assert train_and_evaluate(timed_config, tmp_path / "run")["test"] == results["test"]

    (tmp_path / "run" / "results.json").unlink()
    timed_file.write_text(timed_file.read_text().replace(",a7,", ",c7,"))  # the same users
    with pytest.raises(InputError, match="the data have changed since; use another folder"):
        train_and_evaluate(timed_config, tmp_path / "run")


def test_baselines_by_time(timed_file, tmp_path):
    done = program(
        "sweep",
        "--config=configs/sweeps/baselines.py:file",
        f"--workdir={tmp_path}",
        f"--config.base.data.path={timed_file}",
        "--config.base.data.split=temporal",
        "--config.base.data.test_from=2020-01-26",
        "--config.base.data.val_from=2020-01-21",
        "--config.rows.EASE.options.l2=(1.0, 10.0)",
        code=WITHOUT_JAX,
    )
    assert done.returncode == 0, done.stderr
    [result] = tmp_path.glob("runs/ease_any-size*/result.json")
    assert json.loads(result.read_text())["recall@20"] > 0.8


def test_what_was_left_out_is_counted(tmp_path):
    rows = [f"{u},{i},{2 + 3 * (i != 2)}" for u in "abc" for i in range(7)]
    rows += ["d,1,5", "a,1,5"]
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows) + "\n")
    assert load_dataset("file", path=tmp_path / "r.csv", data_dir=tmp_path).counts == {
        "users": 3,
        "items": 6,
        "interactions": 18,
        "dropped_below_min_rating": 3,
        "dropped_repeated_pairs": 1,
        "dropped_users_with_too_few": 1,
        "dropped_rows_of_those_users": 1,
        "dropped_rows_of_items_with_too_few": 0,
        "rows": 23,
    }
