import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from celsa_jax import runtime
from celsa_jax.config import default_config
from celsa_jax.data import load_dataset
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.phases import Phase, phase_at, phases_of
from celsa_jax.schedules import SCHEDULES
from celsa_jax.sparse import load_embeddings, scorer
from celsa_jax.step import train_chunk, update_mask
from celsa_jax.train import train_and_evaluate

ROOT = pathlib.Path(__file__).parent.parent


def metrics_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(small_config, tmp_path):
    results = train_and_evaluate(small_config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    assert json.loads((tmp_path / "config.json").read_text())["train"]["seed"] == 0

    embeddings = sp.load_npz(tmp_path / "embeddings.npz")
    items = (tmp_path / "items.txt").read_text().splitlines()
    assert embeddings.format == "csc"
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(items), 32)
    assert set(embeddings.getnnz(axis=1)) == {4}
    np.testing.assert_allclose(sp.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert results["bytes_per_item"] == 32

    dataset = load_dataset(small_config.data)
    split = load_split(tmp_path / "split.npz", dataset.interactions)
    assert split.train.item_ids.tolist() == items

    lines = metrics_of(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]  # 230 users in batches of 64
    assert [line["k"] for line in lines] == [32, 12, 5, 4, 4]
    assert [line["nnz_per_row"] for line in lines] == [32, 12, 5, 4, 4]
    assert ["ndcg@100" in line for line in lines] == [False, True, False, True, True]
    assert results["step"] == 20


def test_test_metrics_are_those_of_the_exported_model(small_config, tmp_path):
    results = train_and_evaluate(small_config, tmp_path)
    embeddings, items = load_embeddings(tmp_path / "embeddings.npz", tmp_path / "items.txt")
    dataset = load_dataset(small_config.data)
    test = load_split(tmp_path / "split.npz", dataset.interactions).test
    exported = evaluate(scorer(embeddings), test, items).summary()
    for name, value in exported.items():
        assert results["test"][name] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("regrow", [False, True])
def test_how_much_of_the_mask_an_update_keeps(small_config, tmp_path, regrow):
    small_config.sparsity.regrow = regrow
    train_and_evaluate(small_config, tmp_path)
    lines = metrics_of(tmp_path)
    kept = [line.get("mask_kept") for line in lines]
    assert kept[0] is None  # no update before the first epoch
    assert kept[1] == pytest.approx(12 / 32)  # of a full mask, the rest
    if regrow:
        assert kept[2] < 5 / 12
    else:
        assert kept[2:4] == pytest.approx([5 / 12, 4 / 5])  # nested
        assert kept[4] is None


def test_refinement_prunes_once_more_from_what_was_learned(small_config, tmp_path):
    small_config.refine.update(n_rounds=2, n_epochs=2, n_final_epochs=1)
    train_and_evaluate(small_config, tmp_path)
    assert [line["k"] for line in metrics_of(tmp_path)] == [32, 12, 5, 4, 4] + 2 * [32, 8, 4]
    assert set(sp.load_npz(tmp_path / "embeddings.npz").getnnz(axis=1)) == {4}
    # No rewinding: at a tiny rate it ends where the first phase has ended.
    small_config.train.learning_rate = 1e-9
    refined = train_and_evaluate(small_config, tmp_path / "refined")
    small_config.refine.n_rounds = 0
    plain = train_and_evaluate(small_config, tmp_path / "plain")
    refined, plain = (
        load_embeddings(tmp_path / n / "embeddings.npz")[0] for n in ("refined", "plain")
    )
    np.testing.assert_allclose(refined.toarray(), plain.toarray(), atol=1e-5)


def test_a_phase_without_final_epochs_still_ends_at_the_target(small_config, tmp_path):
    small_config.train.n_final_epochs = 0
    small_config.refine.update(n_rounds=1, n_epochs=1, n_final_epochs=1)
    train_and_evaluate(small_config, tmp_path)
    lines = metrics_of(tmp_path)
    assert [line["k"] for line in lines] == [32, 12, 5, 32, 4]
    assert lines[3]["mask_kept"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("train", "b1", 0.5),
        ("train", "epsilon", 0.1),
        ("train", "auxiliary_weight", 0.5),
        ("model", "relu", False),
        ("sparsity", "reset_optimizer", True),
    ],
)
def test_a_field_changes_what_is_learned(small_config, tmp_path, section, field, value):
    small_config.sparsity.rewind = False
    for name in ("base", "changed"):
        train_and_evaluate(small_config, tmp_path / name)
        small_config[section][field] = value
    base, changed = (
        load_embeddings(tmp_path / n / "embeddings.npz")[0] for n in ("base", "changed")
    )
    assert np.abs(base - changed).max() > 0.01


@pytest.mark.parametrize("what", ["no zeros", "a warm start", "constant", "regrowth"])
def test_where_there_is_nothing_to_refine(small_config, what):
    small_config.refine.n_rounds = 1
    assert len(phases_of(small_config)) == 2
    if what == "no zeros":
        small_config.sparsity.target_nnz = small_config.model.n_factors
    elif what == "constant":
        small_config.sparsity.schedule = "constant"
    elif what == "regrowth":
        small_config.sparsity.regrow = True
    else:
        small_config.train.init_from = "earlier"
    assert phases_of(small_config) == [Phase(0, 3, 2, rewind=what != "a warm start")]


def test_progress_through_a_phase_by_hand():
    phase = Phase(first=10, n_pruning=4, n_final=2, rewind=False)
    assert (phase.at_target, phase.end) == (14, 16)
    epochs = np.array([9, 10, 11.5, 14, 15, 16])
    np.testing.assert_array_equal(phase.pruned(epochs), [0, 0, 0.375, 1, 1, 1])
    np.testing.assert_array_equal(phase.settled(epochs), [0, 0, 0, 0, 0.5, 1])
    assert Phase(10, 0, 2, rewind=False).pruned(10) == 1
    assert phase_at([Phase(0, 6, 4, rewind=True), phase], 10) is phase


def test_it_learns_the_planted_segments(small_config, tmp_path):
    small_config.data.synthetic.update(n_users=1000, n_items=400, n_segments=16)
    small_config.model.n_factors = 64
    small_config.train.n_epochs, small_config.train.n_final_epochs = 10, 10
    small_config.checkpoint.every_epochs = 20
    results = train_and_evaluate(small_config, tmp_path)
    dataset = load_dataset(small_config.data)
    split = load_split(tmp_path / "split.npz", dataset.interactions)
    counts = np.asarray(split.train.matrix.sum(axis=0))
    popularity = evaluate(
        lambda h: np.repeat(counts, h.shape[0], axis=0), split.test, split.train.item_ids
    ).summary()
    assert results["test"]["ndcg@100"] > 1.3 * popularity["ndcg@100"]


def test_a_finished_run_is_only_reported(small_config, tmp_path):
    first = train_and_evaluate(small_config, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert train_and_evaluate(small_config, tmp_path) == json.loads(json.dumps(first))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_workdir_of_another_configuration_is_refused(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path)
    small_config.train.learning_rate = 0.02
    with pytest.raises(InputError, match=r"train\.learning_rate=0.01, not 0.02 \(1 fields"):
        train_and_evaluate(small_config, tmp_path)


def test_a_run_from_before_a_field_existed_is_still_that_run(small_config, tmp_path):
    results = train_and_evaluate(small_config, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["train"]["chunk_users"], stored["data"]["split"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    small_config.data.data_dir = str(tmp_path / "elsewhere")  # where data are kept is no matter
    assert train_and_evaluate(small_config, tmp_path) == results
    small_config.train.chunk_users = 50
    with pytest.raises(InputError, match=r"train\.chunk_users=0, not 50 \(1 fields"):
        train_and_evaluate(small_config, tmp_path)


@pytest.mark.parametrize("kept_epochs", [1, 3, 5, 6])
def test_resumed_equals_uninterrupted(small_config, tmp_path, kept_epochs, caplog):
    small_config.refine.update(n_rounds=1, n_epochs=2, n_final_epochs=1)  # from epoch 6 on
    train_and_evaluate(small_config, tmp_path / "whole")
    small_config.checkpoint.keep = 9
    train_and_evaluate(small_config, tmp_path / "cut")
    # What a run leaves that is killed in the epoch after `kept_epochs`.
    cut = tmp_path / "cut"
    for name in ("results.json", "embeddings.npz", "items.txt"):
        (cut / name).unlink()
    for folder in (cut / "checkpoints").iterdir():
        if int(folder.name) > 4 * kept_epochs:
            subprocess.run(["rm", "-r", folder], check=True)
    with (cut / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2')
    small_config.checkpoint.update(keep=5, every_epochs=1)  # a run may go on with others
    with caplog.at_level(logging.INFO, logger="celsa_jax"):
        train_and_evaluate(small_config, cut)
    assert f"resumed at step {4 * kept_epochs}" in caplog.text
    for name in ("embeddings.npz", "items.txt"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    timeless = [
        [{k: v for k, v in m.items() if k not in ("seconds", "users_per_s")} for m in metrics_of(d)]
        for d in (cut, tmp_path / "whole")
    ]
    assert timeless[0] == timeless[1]


def test_killed_at_any_moment_it_ends_with_the_same_bits(small_config, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({small_config.to_dict()!r})\n"
    )
    train_and_evaluate(small_config, tmp_path / "whole")
    command = [sys.executable, "-m", "experiments.train", f"--config={config}"]
    command.append(f"--workdir={tmp_path / 'killed'}")
    kills = 0
    for moment in (0, 2, 4):  # lines of metrics.jsonl after which to kill
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        metrics = tmp_path / "killed" / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) > moment:
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            time.sleep(0.005)
    assert kills
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "killed" / "embeddings.npz").read_bytes() == (
        tmp_path / "whole" / "embeddings.npz"
    ).read_bytes()


@pytest.mark.parametrize("update_every", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_the_target_is_met_for_every_interval(small_config, tmp_path, schedule, update_every):
    small_config.sparsity.schedule = schedule
    small_config.sparsity.update_every = update_every
    small_config.sparsity.rewind = update_every % 2 == 1
    small_config.sparsity.target_nnz = 5
    small_config.checkpoint.every_epochs = 9
    small_config.data.n_val_users = 0
    train_and_evaluate(small_config, tmp_path)
    lines = metrics_of(tmp_path)
    assert [line["nnz_per_row_max"] for line in lines[3:]] == [5, 5]
    assert [line["nnz_per_row_min"] for line in lines[3:]] == [5, 5]
    assert set(sp.load_npz(tmp_path / "embeddings.npz").getnnz(axis=1)) == {5}


def test_regrowth_at_every_step(small_config, tmp_path):
    small_config.sparsity.update_every = 0
    small_config.sparsity.regrow = True
    with pytest.raises(InputError, match="would rewind at every step"):
        train_and_evaluate(small_config, tmp_path)
    small_config.sparsity.rewind = False
    small_config.train.auxiliary_weight = 0.1
    with pytest.raises(InputError, match="use one of them"):
        train_and_evaluate(small_config, tmp_path)
    small_config.train.auxiliary_weight = 0.0
    train_and_evaluate(small_config, tmp_path)
    assert set(sp.load_npz(tmp_path / "embeddings.npz").getnnz(axis=1)) == {4}


@pytest.mark.parametrize(
    ("n_epochs", "n_final"), [(2, 0), (0, 2)], ids=["no final phase", "no pruning phase"]
)
def test_phases_may_be_missing(small_config, tmp_path, n_epochs, n_final):
    small_config.train.n_epochs, small_config.train.n_final_epochs = n_epochs, n_final
    train_and_evaluate(small_config, tmp_path)
    assert set(sp.load_npz(tmp_path / "embeddings.npz").getnnz(axis=1)) == {4}
    assert metrics_of(tmp_path)[-1]["nnz_per_row_max"] == 4


def test_without_validation_and_test_users(small_config, tmp_path):
    small_config.data.n_val_users = small_config.data.n_test_users = 0
    assert train_and_evaluate(small_config, tmp_path)["test"] is None
    assert not any("ndcg@100" in line for line in metrics_of(tmp_path))


def test_a_batch_of_padding_alone(small_config, tmp_path):
    """230 users in chunks of 77, 77 and 76: with a user a batch, one batch is empty."""
    small_config.train.chunk_users = 77
    small_config.train.batch_size = 1
    small_config.train.n_epochs = small_config.train.n_final_epochs = 1
    train_and_evaluate(small_config, tmp_path)
    losses = [line["loss"] for line in metrics_of(tmp_path)]
    assert all(0 < loss < 2 for loss in losses)


def test_several_chunks_of_users(small_config, tmp_path):
    small_config.train.chunk_users = 64
    results = train_and_evaluate(small_config, tmp_path)
    assert results["step"] == 5 * 4  # four chunks of 57 or 58 users, a step each
    assert set(sp.load_npz(tmp_path / "embeddings.npz").getnnz(axis=1)) == {4}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_loss_that_is_not_finite_stops_the_run(small_config, tmp_path):
    small_config.train.learning_rate = 1e39
    with pytest.raises(
        InputError,
        match=r"the loss is nan at step 2 \(epoch 1, learning rate 1e\+39\); last sound "
        r"checkpoint: none; lower --config.train.learning_rate and use another --workdir",
    ):
        train_and_evaluate(small_config, tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("what", ["loss", "weights", "optimizer"])
def test_a_step_that_diverges_is_named(small_config, tmp_path, monkeypatch, what):
    """In the fourth epoch, whose steps are 13 to 16; the rate there is that of the config."""

    def diverging(state, *arguments, **options):
        state, losses = train_chunk(state, *arguments, **options)
        if int(state.step) != 16:
            return state, losses
        if what == "loss":
            losses = losses.at[2:].set(jnp.inf)
        elif what == "weights":
            state = state._replace(weights=state.weights.at[3, 3].set(jnp.nan))
        else:
            opt_state = jax.tree.map(lambda leaf: leaf.at[()].set(jnp.inf), state.opt_state[0].nu)
            state = state._replace(
                opt_state=(state.opt_state[0]._replace(nu=opt_state), *state.opt_state[1:])
            )
        return state, losses

    monkeypatch.setattr("celsa_jax.loop.train_chunk", diverging)
    said = (
        "the loss is inf at step 15" if what == "loss" else "the gradient is not finite at step 16"
    )
    with pytest.raises(
        InputError,
        match=rf"{said} \(epoch 4, learning rate 0\.0\d+\); last sound checkpoint: step 12 in",
    ):
        train_and_evaluate(small_config, tmp_path)
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert max(saved) == 12


def test_the_best_checkpoint_at_the_target_is_kept(small_config, tmp_path):
    small_config.train.n_final_epochs = 6
    small_config.eval.every_epochs = 1
    small_config.checkpoint.keep = 1
    train_and_evaluate(small_config, tmp_path)
    at_target = [line for line in metrics_of(tmp_path) if line["k"] == 4]
    best = max(at_target, key=lambda line: line["ndcg@100"])["step"]
    kept = {int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()}
    assert kept == {best, at_target[-1]["step"]}


def test_one_compilation_for_the_whole_run(small_config, tmp_path):
    small_config.model.n_factors = 31  # a shape that no other test has compiled
    before = train_chunk._cache_size(), update_mask._cache_size()
    train_and_evaluate(small_config, tmp_path)
    assert train_chunk._cache_size() - before[0] == 1
    assert update_mask._cache_size() - before[1] == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.n_factors", 3, r"target_nnz is 4, more than config\.model\.n_factors \(3\)"),
        ("sparsity.target_nnz", 0, "target_nnz is 0; it must be at least 1"),
        ("sparsity.schedule", "quartic", "choose one of constant, cosine, cubic"),
        ("train.optimizer", "sgd", "choose one of adam, nadam"),
        ("train.learning_rate", 0.0, "use a number above 0"),
        ("train.epsilon", 0.0, r"train\.epsilon is 0.0; use a number above 0"),
        ("train.epsilon", 1e-39, "which is 0 in float32; use at least 1.2e-38"),
        ("train.b1", 1.0, "from 0 to below 1"),
        ("train.auxiliary_weight", -1.0, "must be at least 0, which turns it off"),
        ("train.batch_size", 0, "must be at least 1"),
        ("refine.n_rounds", -1, "must be at least 0"),
        ("eval.folds", "one", "choose one of disjoint, independent"),
        ("model.relu_cap", -1.0, "use a number above 0, or None"),
        ("model.relu_cap", True, "use a number above 0, or None"),
        ("data.min_rating", float("nan"), "min_rating is nan"),
        ("data.n_test_users", 300, "300 users"),
        ("data.n_val_users", -1, "must be at least 0"),
        ("data.split", "temporal", r"data\.test_from is ''; give a date"),
    ],
)
def test_bad_fields_are_named_and_nothing_is_written(small_config, tmp_path, field, value, message):
    section, name = field.split(".")
    small_config[section][name] = value
    with pytest.raises(InputError, match=message):
        train_and_evaluate(small_config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["config.json", "results.json", "split.npz"])
def test_a_damaged_file_of_the_run_is_named(small_config, tmp_path, name):
    small_config.train.n_epochs = small_config.train.n_final_epochs = 1
    train_and_evaluate(small_config, tmp_path)
    if name == "split.npz":
        (tmp_path / "results.json").unlink()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
    with pytest.raises(InputError, match=name):
        train_and_evaluate(small_config, tmp_path)


def test_deterministic_operations_are_asked_for_before_a_gpu_starts(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert runtime.xla_bridge.backends_are_initialized() or jax.devices()
    with pytest.raises(InputError, match=r"too late.*XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        runtime.use_deterministic_operations()
    monkeypatch.setattr(runtime.xla_bridge, "backends_are_initialized", lambda: False)
    runtime.use_deterministic_operations()
    assert os.environ["XLA_FLAGS"] == "--a=1 --xla_gpu_deterministic_ops=true"
    monkeypatch.setattr(runtime.xla_bridge, "backends_are_initialized", lambda: True)
    runtime.use_deterministic_operations()


def test_the_default_configuration():
    config = default_config()
    assert (config.model.n_factors, config.sparsity.target_nnz) == (4096, 16)
    assert (config.sparsity.schedule, config.sparsity.rewind) == ("cubic", True)
    assert (config.train.n_epochs, config.train.n_final_epochs) == (20, 3)
    assert config.refine.to_dict() == {"n_rounds": 1, "n_epochs": 8, "n_final_epochs": 8}
    assert (config.train.batch_size, config.train.learning_rate) == (1024, 0.01)
    assert os.path.exists(ROOT / "configs" / "goodbooks.py")


def test_a_run_asks_for_them_before_it_starts_a_device(tmp_path):
    code = (
        "import celsa_jax.runtime as runtime, celsa_jax.train as train\n"
        "from celsa_jax.config import default_config\n"
        "from celsa_jax.errors import InputError\n"
        "started = runtime.xla_bridge.backends_are_initialized\n"
        "runtime.use_deterministic_operations = lambda: print('started:', started())\n"
        "config = default_config()\n"
        "config.train.deterministic = True\n"
        "config.data.path = 'missing.csv'\n"
        "try:\n"
        f"    train.train_and_evaluate(config, {str(tmp_path / 'w')!r})\n"
        "except InputError:\n"
        "    print('started:', started())\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["started:", "False", "started:", "True"]


def test_a_profile(small_config, tmp_path):
    small_config.train.update(n_epochs=1, n_final_epochs=1, profile=True)
    train_and_evaluate(small_config, tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"train_chunk" in trace.read_bytes()
    small_config.train.profile = False  # it is no other run
    assert train_and_evaluate(small_config, tmp_path)["seed"] == 0
