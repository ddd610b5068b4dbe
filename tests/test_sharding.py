"""One device, several virtual ones, and two processes do the same."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celsa_jax import export, loop
from celsa_jax.data.batches import Chunk, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.errors import InputError
from celsa_jax.export import sparse_embeddings
from celsa_jax.sharding import make_placement, to_host
from celsa_jax.sparse import load_embeddings
from celsa_jax.step import Recipe, create_state, train_chunk, unprune, update_mask
from celsa_jax.train import train_and_evaluate

ROOT = pathlib.Path(__file__).parent.parent
N_ITEMS, N_FACTORS, BATCH = 203, 32, 16  # rows are padded for 2, 4 and 8 devices
MESHES = [(1, 2), (2, 1), (1, 4), (2, 4), (4, 2), (1, 8), (8, 1)]
RECIPE = Recipe(
    relu_cap=6.0, rewind=True, regrow=False, optimizer="nadam", learning_rate=0.01, seed=0
)


def on_mesh(config, data, item):
    config.mesh.data, config.mesh.item = data, item
    return config


@pytest.fixture(params=MESHES, ids=lambda mesh: "{}x{}".format(*mesh))
def placement(request, small_config):
    small_config.train.batch_size = BATCH
    return make_placement(on_mesh(small_config, *request.param), N_ITEMS)


def trained(recipe, matrix, n_steps, nnz=N_FACTORS, state=None):
    """The state after some steps, and the losses."""
    (chunk,) = make_chunks(matrix, 0, seed=0)
    batches = np.asarray(shuffled_batches(jax.random.key(0), chunk.n_rows, BATCH))[:n_steps]
    budget = nnz_budget(chunk, batches)
    arrays = batches, np.full(n_steps, nnz, np.int32), np.ones(n_steps, np.float32)
    if placement := recipe.placement:
        chunk = Chunk(placement.put(chunk.indptr), placement.put_shares(chunk.indices))
        arrays = [placement.put(array) for array in arrays]
    if state is None:
        state = create_state(recipe, N_ITEMS, N_FACTORS)
    return train_chunk(state, chunk, *arrays, recipe=recipe, budget=budget)


@pytest.mark.parametrize("n_negatives", [0, 40])
def test_steps_equal_those_on_one_device(random_matrix, placement, n_negatives):
    matrix = random_matrix(64, N_ITEMS, density=0.05)
    single = dataclasses.replace(RECIPE, n_negatives=n_negatives)
    several = dataclasses.replace(single, placement=placement)
    (one, loss), (many, losses) = trained(single, matrix, 4), trained(several, matrix, 4)
    np.testing.assert_allclose(np.asarray(losses), np.asarray(loss), rtol=1e-5)
    assert many.weights.shape[0] == placement.n_rows
    n_devices = placement.mesh.shape["item"]
    for leaf in (many.weights, many.mask, *jax.tree.leaves(many.opt_state)):
        assert len(leaf.sharding.device_set) == placement.mesh.size
        if leaf.ndim == 2:  # every device has its rows alone
            assert leaf.addressable_shards[0].data.shape[0] == placement.n_rows // n_devices
    scale = np.abs(one.weights).max()
    found = to_host(many.weights)
    np.testing.assert_allclose(found[:N_ITEMS] / scale, np.asarray(one.weights) / scale, atol=1e-4)
    assert not found[N_ITEMS:].any()
    assert not to_host(many.mask)[N_ITEMS:].any()


def test_the_first_gradient_is_that_of_one_device(random_matrix, placement):
    """Read off the optimizer: after one step its first moment is (1 - b1) times the gradient."""
    matrix = random_matrix(64, N_ITEMS, density=0.05)
    several = dataclasses.replace(RECIPE, placement=placement)
    one, many = (trained(recipe, matrix, 1)[0].opt_state for recipe in (RECIPE, several))
    (one,), (many,) = ([s.mu for s in state if hasattr(s, "mu")] for state in (one, many))
    one, many = np.asarray(one), to_host(many)[:N_ITEMS]
    assert np.linalg.norm(many - one) < 1e-5 * np.linalg.norm(one)


@pytest.mark.parametrize("rewind", [True, False])
def test_pruning_on_several_devices(random_matrix, placement, rewind):
    matrix = random_matrix(64, N_ITEMS, density=0.05)
    single = dataclasses.replace(RECIPE, rewind=rewind)
    several = dataclasses.replace(single, placement=placement)
    start, _ = trained(single, matrix, 2)
    rows = placement.put_rows(np.asarray(start.weights))
    many = create_state(several, N_ITEMS, N_FACTORS)._replace(weights=rows)
    one, many = (update_mask(s, jnp.int32(5), r) for s, r in ((start, single), (many, several)))
    np.testing.assert_array_equal(to_host(many.mask)[:N_ITEMS], np.asarray(one.mask))
    assert not to_host(many.mask)[N_ITEMS:].any()
    np.testing.assert_array_equal(to_host(many.weights)[:N_ITEMS], np.asarray(one.weights))
    again = unprune(many, several)
    assert to_host(again.mask)[:N_ITEMS].all()
    assert not to_host(again.weights)[N_ITEMS:].any()


def metrics_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_alike(found, expected):
    """Rounding grows under the optimizer, so later epochs are near each other, not equal."""
    first, *later = zip(metrics_of(found), metrics_of(expected), strict=True)
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-5)
    for a, b in later:
        assert a["loss"] == pytest.approx(b["loss"], rel=0.01)
        assert a["k"] == b["k"]
        if "ndcg@100" in b:
            assert a["ndcg@100"] == pytest.approx(b["ndcg@100"], abs=0.01)
    a, b = (load_embeddings(path / "embeddings.npz")[0] for path in (found, expected))
    assert a.shape == b.shape
    assert set(a.getnnz(axis=1)) == {4}


@pytest.fixture
def config(small_config):
    small_config.data.synthetic.n_items = 121  # not a multiple of 2, 4 or 8
    small_config.refine.update(n_rounds=1, n_epochs=2, n_final_epochs=1)
    return small_config


@pytest.mark.parametrize(
    ("mesh", "change"),
    [
        ((1, 8), {}),
        ((2, 2), {}),
        ((2, 2), {"train.chunk_users": 64}),
        ((2, 2), {"train.auxiliary_weight": 0.125, "sparsity.rewind": False}),
        ((1, 2), {"sparsity.update_every": 0}),
        ((1, 2), {"sparsity.regrow": True, "sparsity.rewind": False}),
    ],
    ids=str,
)
def test_whole_runs(config, tmp_path, mesh, change, monkeypatch):
    config.update_from_flattened_dict(change)
    masks = {}

    def remember(name):
        def update(state, k, recipe):
            state = update_mask(state, k, recipe)
            masks.setdefault(name, to_host(state.mask))
            return state

        monkeypatch.setattr(loop, "update_mask", update)

    remember("one")
    one = train_and_evaluate(on_mesh(config, 1, 1), tmp_path / "one")
    remember("many")
    many = train_and_evaluate(on_mesh(config, *mesh), tmp_path / "many")
    n_items = one["data"]["catalogue_items"]
    assert masks or config.sparsity.update_every == 0  # inside of the compiled epoch
    if masks:
        assert (masks["one"] == masks["many"][:n_items]).mean() > 0.995
    assert_alike(tmp_path / "many", tmp_path / "one")
    assert many["test"]["ndcg@100"] == pytest.approx(one["test"]["ndcg@100"], abs=0.01)


@pytest.mark.parametrize("from_to", [((1, 8), (1, 1)), ((1, 1), (1, 8)), ((4, 2), (1, 4))], ids=str)
def test_a_checkpoint_goes_on_on_other_devices(config, tmp_path, from_to, monkeypatch, caplog):
    before, after = from_to
    whole = tmp_path / "whole"
    train_and_evaluate(on_mesh(config, *before), whole)

    def fails(self, record):
        log_metrics(self, record)
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    log_metrics = loop.Workdir.log_metrics
    monkeypatch.setattr(loop.Workdir, "log_metrics", fails)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(on_mesh(config, *before), tmp_path / "half")
    monkeypatch.undo()
    with caplog.at_level("INFO"):
        train_and_evaluate(on_mesh(config, *after), tmp_path / "half")
    assert "resumed at step" in caplog.text
    assert "damaged" not in caplog.text
    assert_alike(tmp_path / "half", whole)


def test_a_warm_start(config, tmp_path):
    train_and_evaluate(on_mesh(config, 1, 1), tmp_path / "earlier")
    config.train.init_from = str(tmp_path / "earlier")
    for name, mesh in (("one", (1, 1)), ("many", (2, 2))):
        train_and_evaluate(on_mesh(config, *mesh), tmp_path / name)
    assert_alike(tmp_path / "many", tmp_path / "one")


def test_the_export_goes_by_blocks_of_rows(random_matrix, placement, monkeypatch):
    recipe = dataclasses.replace(RECIPE, placement=placement)
    state, _ = trained(recipe, random_matrix(64, N_ITEMS, density=0.05), 2)
    state = update_mask(state, jnp.int32(5), recipe)
    whole = sparse_embeddings(state, N_ITEMS)
    weights, mask = to_host(state.weights)[:N_ITEMS], to_host(state.mask)[:N_ITEMS]
    expected = np.where(mask, weights, 0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(whole.toarray(), expected, atol=1e-6)
    monkeypatch.setattr(export, "_BLOCK_ENTRIES", 50 * N_FACTORS)
    assert (sparse_embeddings(state, N_ITEMS) != whole).nnz == 0


@pytest.mark.parametrize(
    ("data", "item", "batch_size", "said"),
    [
        (3, 3, 63, r"data x config.mesh.item is 3 x 3, but there are 8 devices"),
        (2, 1, 63, r"config.train.batch_size is 63; it must be a multiple of config.mesh.data"),
    ],
)
def test_a_mesh_that_does_not_fit(config, tmp_path, data, item, batch_size, said):
    config.train.batch_size = batch_size
    with pytest.raises(InputError, match=said):
        train_and_evaluate(on_mesh(config, data, item), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_devices_that_would_be_idle(config, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert dict(make_placement(on_mesh(config, 2, 0), N_ITEMS).mesh.shape) == {"data": 2, "item": 4}
    with pytest.raises(InputError, match=r"config\.mesh\.data is 3, which does not divide the 8"):
        make_placement(on_mesh(config, 3, 0), N_ITEMS)


def test_on_a_cpu_one_device_is_the_default(config):
    assert jax.device_count() == 8
    assert make_placement(config, N_ITEMS) is None


class Pair:
    """Two processes of the program on one machine, each with two devices."""

    def __init__(self, config, folder):
        self.folder = folder
        config.mesh.item = 0
        (folder / "config.py").write_text(
            "import json\nfrom ml_collections import ConfigDict\n"
            f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
        )

    def start(self, *flags):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "experiments.train", "--processes=2", *flags]
        command += [f"--config={self.folder / 'config.py'}", f"--workdir={self.folder / 'two'}"]
        return [
            subprocess.Popen(
                [*command, f"--coordinator=localhost:{port}", f"--process={process}"],
                cwd=ROOT,
                env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(2)
        ]


def test_two_processes(config, tmp_path):
    """The first one writes; after SIGTERM both leave, and the run goes on to the same end."""
    train_and_evaluate(on_mesh(config, 1, 1), tmp_path / "one")
    pair = Pair(config, tmp_path)
    first, second = pair.start()
    metrics = tmp_path / "two" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes()):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    second.send_signal(signal.SIGTERM)  # a scheduler tells all; one is enough
    logs = [process.communicate(timeout=300)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [128 + signal.SIGTERM] * 2, logs
    assert not (tmp_path / "two" / "results.json").exists()

    processes = pair.start()
    (output, log), (silence, quiet) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], log + quiet
    assert "mesh: 1 (data) x 4 (item) of 2 processes" in log
    assert "resumed at step" in log
    assert "{" not in silence  # gloo has its own to say
    assert "epoch" not in quiet
    assert json.loads(output.splitlines()[-1])["step"] == metrics_of(tmp_path / "two")[-1]["step"]
    assert_alike(tmp_path / "two", tmp_path / "one")


def test_an_error_in_one_process(config, tmp_path):
    """It says so and leaves at once; JAX ends the other one some time later."""
    (tmp_path / "two").write_text("")  # not a folder
    first, second = Pair(config, tmp_path).start()
    _, log = first.communicate(timeout=300)
    second.kill()
    second.communicate()
    assert first.returncode == 1, log
    assert "is a file; give a folder" in log.splitlines()[-1]
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--coordinator=localhost:1", "--processes=2", "--process=2"], "processes count from 0"),
        (["--processes=2"], "--processes and --process need --coordinator"),
        (["--coordinator=auto"], "--coordinator=auto: the processes do not come together"),
    ],
)
def test_processes_that_cannot_meet(tmp_path, flags, said):
    command = [sys.executable, "-m", "experiments.train", "--config=configs/synthetic.py"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'w'}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
