import json
import shutil

import numpy as np
import pytest
from conftest import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from celsa_jax.errors import InputError
from celsa_jax.sweeps.grid import expand, make_sweep
from celsa_jax.tensorboard import scalars
from celsa_jax.train import train_and_evaluate


@pytest.fixture
def config():
    return logging_config()


def logging_config():
    config = small()
    config.train.tensorboard = True
    config.checkpoint.update(every_epochs=1, keep=9)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_and_evaluate(logging_config(), folder)
    return folder


def logged(workdir):
    """The numbers of metrics.jsonl by name and step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line} - {"step"}
    return {
        name: {line["step"]: line[name] for line in lines if line.get(name) is not None}
        for name in names
    }


def shown(folder):
    """What TensorBoard shows of a folder; it has no step twice."""
    accumulator = EventAccumulator(str(folder)).Reload()
    found = {}
    for name in accumulator.Tags()["scalars"]:
        points = accumulator.Scalars(name)
        found[name] = {point.step: point.value for point in points}
        assert len(found[name]) == len(points)
    return found


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert list(found[name]) == list(values), name
        np.testing.assert_allclose(list(found[name].values()), list(values.values()), rtol=1e-6)


def test_scalars_are_the_numbers_of_the_metrics(run):
    wanted = logged(run)
    assert wanted.keys() > {"epoch", "k", "loss", "users_per_s", "ndcg@100"}
    assert list(wanted["loss"]) == [4, 8, 12]
    assert_same(shown(run / "tensorboard"), wanted)


def test_epochs_that_are_trained_again_are_shown_once(config, run, tmp_path):
    """After what a run leaves that is killed while it logs its last epoch."""
    again = shutil.copytree(run, tmp_path / "again")
    (again / "results.json").unlink()
    for step in (8, 12):
        shutil.rmtree(again / "checkpoints" / str(step))
    (path,) = (again / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    train_and_evaluate(config, again)
    first, wanted = logged(run), logged(again)
    # The time that an epoch takes tells its two trainings apart.
    kept = [step for step in first["seconds"] if first["seconds"][step] == wanted["seconds"][step]]
    assert kept[0] == 4
    assert len(kept) < 3
    assert_same(shown(again / "tensorboard"), wanted)


def test_a_line_is_on_disk_at_once_and_nothing_of_what_is_undefined(tmp_path):
    with scalars(tmp_path, 0) as log:
        log({"step": 3, "loss": 0.5, "ndcg@100": None})
        assert shown(tmp_path) == {"loss": {3: 0.5}}


def test_the_switch_makes_no_other_run(small_config, small_run):
    small_config.train.tensorboard = True
    results = json.loads((small_run / "results.json").read_text())
    assert train_and_evaluate(small_config, small_run) == results
    assert not (small_run / "tensorboard").exists()


def test_the_switch_makes_no_other_run_of_a_sweep(config):
    rows = {"ours": {"method": "elsa"}, "EASE": {"method": "ease", "once": True}}
    columns = {"32": {"config": {"sparsity": {"target_nnz": 4}}}}
    ids = []
    for config.train.tensorboard in (False, True):
        runs = expand(make_sweep(base=config, rows=rows, columns=columns, reference="ours"))
        ids.append([(run.id, run.model_config and run.model_id) for run in runs])
        assert runs[0].config.train.tensorboard == config.train.tensorboard
    assert ids[0] == ids[1]


def test_without_the_library_nothing_is_trained(config, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"config\.train\.tensorboard .*celsa_jax\[tensorboard\]"):
        train_and_evaluate(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()
