"""One device, several virtual ones, and two processes do the same."""

import json
import os
import signal
import socket
import time

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import small
from launch import program, start
from test_faults import HELD, wait_for
from test_train import at_random, metrics_of

from celsa_jax import workdir
from celsa_jax.config import default_config
from celsa_jax.data.batches import by_items, in_blocks, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.errors import InputError
from celsa_jax.feed import put_chunk
from celsa_jax.products import make_layout
from celsa_jax.sharding import make_placement, to_host
from celsa_jax.sparse import load_embeddings
from celsa_jax.starts import neighbours
from celsa_jax.state import Form, Numbers, embeddings_of, prune, sparse_state
from celsa_jax.step import train_steps
from celsa_jax.train import train_and_evaluate

N_ITEMS, K, BATCH = 203, 16, 16  # rows are padded for 4 and 8 devices
MESHES = [(2, 2), (1, 8)]
N_STEPS = 3


def on_mesh(config, data, item):
    config = config.copy_and_resolve_references()
    config.mesh.data, config.mesh.item = data, item
    return config


@pytest.fixture(scope="module", params=MESHES, ids=lambda mesh: "{}x{}".format(*mesh))
def placement(request):
    return make_placement(on_mesh(default_config(), *request.param), N_ITEMS)


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    dense = rng.random((64, N_ITEMS)) < 0.05
    dense[rng.integers(0, 64, N_ITEMS), np.arange(N_ITEMS)] = True
    return sp.csr_matrix(dense.astype(np.float32))


def begun(matrix, placement, budget=0, **more):
    form = Form(N_ITEMS, None, budget, placement=placement, **more)
    start = neighbours(matrix, K, 0.5, seed=0)  # with equal values, which rounding would part
    noise = np.random.default_rng(1).uniform(0.2, 1.8, start.values.shape).astype(np.float32)
    return form, sparse_state(start._replace(values=start.values * noise), form, K)


def trained(matrix, placement, n_sampled=0):
    """The state after some steps, and the losses."""
    (chunk,) = make_chunks(matrix, 0, seed=0)
    batches = shuffled_batches(jax.random.key(0), chunk.n_rows, BATCH)[:N_STEPS]
    data, item = (1, 1) if placement is None else placement.mesh.devices.shape
    batches = in_blocks(batches, 8, data, chunk.n_rows)
    more = {"n_sampled": n_sampled, "nested": (5,)}
    form, state = begun(matrix, placement, nnz_budget(chunk, batches), **more)
    layout = None
    if not n_sampled:
        parts = [make_layout(c, N_ITEMS) for c in np.split(to_host(state.columns), item)]
        layout = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    rates, steps = np.ones(N_STEPS, np.float32), np.array([0, N_STEPS], np.int32)
    if placement is not None:
        (shares,) = by_items([chunk], placement.n_rows // item, item)
        chunk = put_chunk(shares, placement)
        batches, rates, steps = (placement.put(array) for array in (batches, rates, steps))
        layout = jax.tree.map(lambda leaf: placement.put(leaf, "item"), layout)
    numbers = Numbers(jax.random.key(1), 0.01, 0.8, 0.25)
    return train_steps(state, chunk, batches, rates, steps, layout, numbers, form=form)


def test_steps_equal_those_on_one_device(matrix, placement):
    (one, loss), (many, losses) = trained(matrix, None), trained(matrix, placement)
    np.testing.assert_allclose(np.asarray(losses), np.asarray(loss), rtol=1e-5)
    n_devices = placement.mesh.shape["item"]
    assert many.weights.shape[0] == placement.n_rows
    for leaf in (many.weights, many.columns, *jax.tree.leaves(many.opt_state)):
        assert len(leaf.sharding.device_set) == placement.mesh.size
        if leaf.ndim == 2:  # every device has its rows alone
            assert leaf.addressable_shards[0].data.shape[0] == placement.n_rows // n_devices
    found = to_host(many.weights)
    np.testing.assert_allclose(found[:N_ITEMS], np.asarray(one.weights), atol=1e-4)
    assert not found[N_ITEMS:].any()
    assert (to_host(many.columns)[N_ITEMS:] == N_ITEMS).all()


def test_sampled_steps_on_several_devices(placement):
    """Where a batch has all items, nothing is left to draw, and the loss is the whole one."""
    nearly_all = np.random.default_rng(0).random((64, N_ITEMS)) < 0.9
    nearly_all = sp.csr_matrix(nearly_all.astype(np.float32))
    n_rows = placement.n_rows // placement.mesh.shape["item"]
    state, whole = trained(nearly_all, placement)
    sampled_state, all_own = trained(nearly_all, placement, n_sampled=n_rows)
    np.testing.assert_allclose(np.asarray(all_own), np.asarray(whole), rtol=1e-5)
    found, expected = to_host(sampled_state.weights), to_host(state.weights)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_drawn_does_not_depend_on_how_users_are_dealt_out(matrix):
    """Devices of the same items draw the same others: a batch has some 70 of 102, 95 are scored."""
    found = []
    for data in (1, 2):
        placement = make_placement(on_mesh(default_config(), data, 2), N_ITEMS)
        state, losses = trained(matrix, placement, n_sampled=95)
        found.append((to_host(state.weights), np.asarray(losses)))
    (one, one_loss), (two, two_loss) = found
    np.testing.assert_allclose(two_loss, one_loss, rtol=1e-5)
    np.testing.assert_allclose(two, one, atol=1e-4)


def test_pruning_on_several_devices(matrix, placement):
    (form, one), (on_many, many) = begun(matrix, None), begun(matrix, placement)
    key = jax.random.key(0)
    one = prune(one, 5, key, form=form, places=8)
    many = prune(many, 5, key, form=on_many, places=8)
    for name in ("columns", "weights"):
        a, b = (to_host(getattr(state, name)) for state in (many, one))
        np.testing.assert_array_equal(a[:N_ITEMS], b)
    assert (to_host(many.columns)[N_ITEMS:] == N_ITEMS).all()
    a, b = (embeddings_of(state, N_ITEMS, form) for state in (many, one))
    assert (a != b).nnz == 0


def assert_alike(found, expected):
    """Rounding grows under the optimizer, so they are near each other, not equal."""
    for a, b in zip(metrics_of(found), metrics_of(expected), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.0015)
        assert a["k"] == b["k"]
        assert ("ndcg@100" in a) == ("ndcg@100" in b)
        if "ndcg@100" in b:
            assert a["ndcg@100"] == pytest.approx(b["ndcg@100"], abs=0.007)
    a, b = (json.loads((path / "results.json").read_text())["test"] for path in (found, expected))
    assert a["ndcg@100"] == pytest.approx(b["ndcg@100"], abs=0.007)
    a, b = (load_embeddings(path / "embeddings.npz")[0] for path in (found, expected))
    assert a.shape == b.shape
    assert set(a.getnnz(axis=1)) == {4}


def of_kind(kind):
    config = small()
    config.data.synthetic.n_items = 121  # not a multiple of 2, 4 or 8
    if kind == "random, in chunks":
        at_random(config)
        config.train.chunk_users = 64
    config.checkpoint.update(every_epochs=1, keep=9)
    return config


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    """Makes runs on one device, each once."""
    folder = tmp_path_factory.mktemp("one")

    def run(kind):
        train_and_evaluate(on_mesh(of_kind(kind), 1, 1), folder / kind)  # or it is only reported
        return folder / kind

    return run


@pytest.mark.parametrize("kind", ["neighbours", "random, in chunks"])
def test_whole_runs(on_one, tmp_path, kind):
    train_and_evaluate(on_mesh(of_kind(kind), 2, 2), tmp_path)
    assert_alike(tmp_path, on_one(kind))


@pytest.mark.parametrize("from_to", [((2, 2), (1, 1)), ((1, 1), (2, 2))], ids=str)
def test_a_checkpoint_goes_on_on_other_devices(on_one, tmp_path, from_to, monkeypatch, caplog):
    before, after = from_to
    config = of_kind("neighbours")

    def fails(self, record):
        log_metrics(self, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    log_metrics = workdir.Workdir.log_metrics
    monkeypatch.setattr(workdir.Workdir, "log_metrics", fails)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(on_mesh(config, *before), tmp_path)
    monkeypatch.undo()
    with caplog.at_level("INFO"):
        train_and_evaluate(on_mesh(config, *after), tmp_path)
    assert "resumed at step 4" in caplog.text
    assert "damaged" not in caplog.text
    assert_alike(tmp_path, on_one("neighbours"))


def test_a_warm_start(on_one, tmp_path):
    config = of_kind("neighbours")
    config.train.init_from = str(on_one("neighbours"))
    for name, mesh in (("one", (1, 1)), ("many", (2, 2))):
        train_and_evaluate(on_mesh(config, *mesh), tmp_path / name)
    assert_alike(tmp_path / "many", tmp_path / "one")


def test_a_batch_that_the_data_axis_does_not_divide_is_filled(on_one, tmp_path):
    """63 users a batch are 64, as on one device with batches of 64."""
    config = of_kind("neighbours")
    config.train.update(batch_size=63, n_epochs=1, n_final_epochs=0)
    results = train_and_evaluate(on_mesh(config, 2, 2), tmp_path)
    assert results["step"] == 4
    (line,), (first, *_) = metrics_of(tmp_path), metrics_of(on_one("neighbours"))
    assert line["loss"] == pytest.approx(first["loss"], rel=0.0015)


def test_a_mesh_that_does_not_fit(small_config, tmp_path):
    said = r"data x config.mesh.item is 3 x 3, but there are 8 devices"
    with pytest.raises(InputError, match=said):
        train_and_evaluate(on_mesh(small_config, 3, 3), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_devices_that_would_be_idle(small_config, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    placement = make_placement(on_mesh(small_config, 2, 0), N_ITEMS)
    assert dict(placement.mesh.shape) == {"data": 2, "item": 4}
    with pytest.raises(InputError, match=r"config\.mesh\.data is 3, which does not divide the 8"):
        make_placement(on_mesh(small_config, 3, 0), N_ITEMS)


def test_on_a_cpu_one_device_is_the_default(small_config):
    assert jax.device_count() == 8
    assert make_placement(small_config, N_ITEMS) is None


class Pair:
    """Two processes of the program on one machine, each with two devices."""

    def __init__(self, config, folder):
        self.folder = folder
        config = on_mesh(config, 1, 0)
        (folder / "config.py").write_text(
            "import json\nfrom ml_collections import ConfigDict\n"
            f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
        )

    def start(self, code=""):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = [f"--config={self.folder / 'config.py'}", f"--workdir={self.folder / 'two'}"]
        flags += ["--processes=2", f"--coordinator=localhost:{port}"]
        flags_of_xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
        devices = {"XLA_FLAGS": flags_of_xla}
        return [
            start("train", *flags, f"--process={process}", code=code, environment=devices)
            for process in range(2)
        ]


def test_two_processes(on_one, tmp_path):
    """The first one writes; after SIGTERM both leave, and the run goes on to the same end."""
    released = tmp_path / "released"
    pair = Pair(of_kind("neighbours"), tmp_path)
    first, second = pair.start(HELD.format(path=str(released)))
    wait_for(second, "held up")
    second.send_signal(signal.SIGTERM)  # a scheduler tells all; one is enough
    time.sleep(0.2)
    released.touch()
    logs = [process.communicate()[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [128 + signal.SIGTERM] * 2, logs
    assert not (tmp_path / "two" / "results.json").exists()

    processes = pair.start()
    (output, log), (silence, quiet) = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [0, 0], log + quiet
    assert "mesh: 1 (data) x 4 (item) of 2 processes" in log
    assert "resumed at step 8" in log
    assert "{" not in silence  # gloo has its own to say
    assert "epoch" not in quiet
    assert json.loads(output.splitlines()[-1])["step"] == 12
    assert_alike(tmp_path / "two", on_one("neighbours"))


def test_an_error_in_one_process(tmp_path):
    """It says so and leaves at once; JAX ends the other one some time later."""
    (tmp_path / "two").write_text("")  # not a folder
    first, second = Pair(small(), tmp_path).start()
    _, log = first.communicate()
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert first.returncode == 1, log
    assert "is a file; give a folder" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_any_error_in_one_process(tmp_path):
    """One that nobody thought of is shown whole, and ends the process, too."""
    code = "import celsa_jax.checkpoint as c\nc.Checkpoints._newest_sound = lambda self: 1 / 0"
    first, second = Pair(small(), tmp_path).start(code)
    _, log = first.communicate()
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert first.returncode == 1, log
    assert "ZeroDivisionError" in log.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--coordinator=localhost:1", "--processes=2", "--process=2"],
            "process 2 of 2; they count from 0",
        ),
        (["--processes=2"], "--processes and --process need --coordinator"),
        (["--coordinator=auto"], "coordinator 'auto': the processes do not come together"),
    ],
)
def test_processes_that_cannot_meet(tmp_path, flags, said):
    workdir = f"--workdir={tmp_path / 'w'}"
    done = program("train", "--config=configs/synthetic.py", workdir, *flags)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
