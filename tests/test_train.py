import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import compilations, small
from flax import nnx
from launch import program

from celsa_jax import runtime, starts
from celsa_jax.checkpoint import sums
from celsa_jax.config import outcome
from celsa_jax.data import dataset_of
from celsa_jax.data.splits import load_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.sparse import load_embeddings, scorer
from celsa_jax.state import initial_weights
from celsa_jax.step import train_steps
from celsa_jax.train import train_and_evaluate
from celsa_jax.workdir import Workdir


def metrics_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def embeddings_of(workdir):
    return load_embeddings(workdir / "embeddings.npz")[0]


def split_of(config, workdir):
    return load_split(workdir / "split.npz", dataset_of(config.data).interactions)


def at_random(config):
    """Dense and random to begin with, and rewound, as in the paper."""
    config.model.update(start="random", n_factors=32, norms="unit")
    config.sparsity.update(start_nnz=None, rewind=True)
    return config


def of_kind(kind):
    """The configuration of a run that has a checkpoint of every epoch."""
    config = small()
    if kind == "random":
        at_random(config)
    elif kind == "constant":  # the mask is chosen at every step, and the target met at the end
        config.sparsity.schedule = "constant"
    elif kind == "sampled":
        config.train.update(n_negatives=10, batch_size=2)
    elif kind == "chunks":  # of 77, 77 and 76 users: one batch of the last chunk is empty
        config.train.update(chunk_users=77, batch_size=1)
    config.checkpoint.update(every_epochs=1, keep=9)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Makes runs, each kind once; tests leave their folders as they are."""
    folder = tmp_path_factory.mktemp("finished")

    def run(kind):
        train_and_evaluate(of_kind(kind), folder / kind)  # or it is only reported
        return folder / kind

    return run


@pytest.fixture
def copied(small_run, tmp_path):
    """A finished run, to be changed."""
    return shutil.copytree(small_run, tmp_path / "copied")


def test_a_run_leaves_what_it_promises(small_config, small_run):
    results = json.loads((small_run / "results.json").read_text())
    assert json.loads((small_run / "config.json").read_text())["seed"] == 0
    embeddings = sp.load_npz(small_run / "embeddings.npz")
    items = (small_run / "items.txt").read_text().splitlines()
    assert (small_run / "factors.txt").read_text().splitlines() == items
    assert embeddings.format == "csc"
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(items), len(items))  # a factor for every item
    assert set(embeddings.getnnz(axis=1)) == {4}
    assert np.std(sp.linalg.norm(embeddings, axis=1)) > 0.01  # learned
    assert split_of(small_config, small_run).train.item_ids.tolist() == items

    assert results["bytes_per_item"] == 32
    assert results["n_factors"] == len(items)
    assert results["step"] == 12
    assert results["recipe"] == {}
    assert results["seed"] == 0
    lines = metrics_of(small_run)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [4, 8, 12]  # 230 users in batches of 64
    for name in ("k", "nnz_per_row", "nnz_per_row_min", "nnz_per_row_max"):
        assert [line[name] for line in lines] == [16, 6, 4]
    assert ["ndcg@100" in line for line in lines] == [False, False, True]


def test_test_metrics_are_those_of_the_exported_model(small_config, small_run):
    results = json.loads((small_run / "results.json").read_text())
    embeddings, items, _ = load_embeddings(small_run / "embeddings.npz")
    exported = evaluate(scorer(embeddings), split_of(small_config, small_run).test, items)
    for name, value in exported.summary().items():
        assert results["test"][name] == pytest.approx(value, abs=1e-3)


def test_it_learns_the_planted_segments(small_config, tmp_path):
    small_config.data.synthetic.update(n_users=600, n_items=240, n_segments=16)
    small_config.train.update(n_epochs=4, n_final_epochs=2)
    results = train_and_evaluate(small_config, tmp_path)
    split = split_of(small_config, tmp_path)
    counts = np.asarray(split.train.matrix.sum(axis=0))
    popularity = evaluate(
        lambda h: np.repeat(counts, h.shape[0], axis=0), split.test, split.train.item_ids
    ).summary()
    assert results["test"]["ndcg@100"] > 1.3 * popularity["ndcg@100"]


@pytest.mark.parametrize("start", ["neighbours", "clusters", "random"])
def test_at_a_tiny_rate_it_ends_at_the_largest_values_of_its_start(small_config, tmp_path, start):
    config = small_config
    config.train.learning_rate = 1e-9
    config.seeds.start = 3
    if start == "clusters":
        config.model.update(start="clusters", n_factors=24)
    if start == "random":
        at_random(config)
    results = train_and_evaluate(config, tmp_path)
    train = split_of(config, tmp_path).train
    if start == "neighbours":
        begin = starts.neighbours(train.matrix, 16, 0.5, seed=3)
    elif start == "clusters":
        begin = starts.clusters(train.matrix, 24, 16, 0.5, seed=3)
    else:
        weights = np.asarray(initial_weights(nnx.Rngs(params=3).params(), train.n_items, 32))
        begin = starts.Start(np.arange(32) + np.zeros_like(weights, int), weights, 32)
    assert results["n_factors"] == begin.n_factors
    dense = np.zeros((train.n_items, begin.n_factors), np.float32)
    np.put_along_axis(dense, begin.columns, begin.values, axis=1)
    length = 1 if start == "random" else np.median(np.linalg.norm(dense, axis=1))
    small = np.argsort(-np.abs(dense), axis=1, kind="stable")[:, 4:]
    np.put_along_axis(dense, small, 0, axis=1)
    dense *= length / np.linalg.norm(dense, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings_of(tmp_path).toarray(), dense, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.b1", 0.5),
        ("train.learning_rate", 0.02),
        ("train.input_dropout", 0.5),
        ("model.alpha", 0.2),
        ("seeds.training", 2),  # whose largest batch is rounded to the same (`Feed`)
    ],
)
def test_a_field_changes_what_is_learned_and_compiles_nothing(
    small_config, small_run, tmp_path, field, value
):
    small_config.update_from_flattened_dict({field: value})
    with compilations() as seconds:
        train_and_evaluate(small_config, tmp_path)
    assert not seconds
    assert np.abs(embeddings_of(small_run) - embeddings_of(tmp_path)).max() > 0.01


def test_one_seed_stands_for_all_that_have_none_of_their_own(small_config, tmp_path):
    small_config.seed = 5
    small_config.train.update(n_epochs=1, n_final_epochs=0)
    train_and_evaluate(small_config, tmp_path / "one")
    small_config.seed = 9
    for name in small_config.seeds:
        small_config.seeds[name] = 5
    train_and_evaluate(small_config, tmp_path / "each")
    for name in ("embeddings.npz", "split.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()


def test_what_the_data_chose_stands_in_the_results(small_config, tmp_path, caplog):
    """Given by hand, it makes the same run."""
    small_config.sparsity.start_nnz = None
    small_config.train.update(batch_size=None, input_dropout=None, learning_rate=None)
    with caplog.at_level(logging.INFO, logger="celsa_jax"):
        chosen = train_and_evaluate(small_config, tmp_path / "open")["recipe"]
    fields = ["batch_size", "input_dropout", "learning_rate"]
    fields = ["sparsity.start_nnz", *(f"train.{name}" for name in fields)]
    assert sorted(chosen) == fields
    for field in fields:
        assert f"{field} {chosen[field]:g}" in caplog.text
    small_config.update_from_flattened_dict(chosen)
    assert train_and_evaluate(small_config, tmp_path / "given")["recipe"] == {}
    bits = [(tmp_path / name / "embeddings.npz").read_bytes() for name in ("open", "given")]
    assert bits[0] == bits[1]


def test_a_finished_run_is_only_reported(small_config, copied):
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*")}
    results = json.loads((copied / "results.json").read_text())
    assert train_and_evaluate(small_config, copied) == results
    assert {p: p.stat().st_mtime_ns for p in copied.rglob("*")} == before


def test_a_workdir_of_another_configuration_is_refused(small_config, small_run):
    small_config.train.learning_rate = 0.02
    with pytest.raises(InputError, match=r"train\.learning_rate=0.01, not 0.02 \(1 fields"):
        train_and_evaluate(small_config, small_run)


def test_a_path_is_the_same_however_it_is_spelt(timed_config, tmp_path, monkeypatch):
    """In the folder of a run, and in the names of a sweep's, which are those elsewhere, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    folder, found = Workdir(tmp_path / "w"), set()
    folder.path.mkdir()
    folder.start(timed_config)
    for spelt in ("r.csv", "./r.csv", "sub/../r.csv", str(tmp_path / "r.csv")):
        timed_config.data.path = spelt
        folder.check(timed_config)
        found.add(outcome(timed_config)["data"]["path"])
    assert found == {"r.csv"}
    for other in ("sub/r.csv", "../r.csv", ""):
        timed_config.data.path = other
        with pytest.raises(InputError, match=r"config\.data\.path='r\.csv', not "):
            folder.check(timed_config)
    timed_config.data.update(path="r.csv", items_path="items.csv")
    with pytest.raises(InputError, match=r"config\.data\.items_path='', not 'items\.csv'"):
        folder.check(timed_config)


def test_a_run_from_before_a_field_existed_is_still_that_run(small_config, copied, tmp_path):
    stored = json.loads((copied / "config.json").read_text())
    del stored["train"]["chunk_users"], stored["data"]["split"]
    (copied / "config.json").write_text(json.dumps(stored))
    small_config.data.data_dir = str(tmp_path / "elsewhere")  # where data are kept is no matter
    assert train_and_evaluate(small_config, copied)["step"] == 12
    small_config.train.chunk_users = 50
    with pytest.raises(InputError, match=r"train\.chunk_users=0, not 50 \(1 fields"):
        train_and_evaluate(small_config, copied)


@pytest.mark.parametrize("kept_epochs", [1, 2, 3])
@pytest.mark.parametrize("kind", ["neighbours", "random", "constant", "sampled", "chunks"])
def test_resumed_equals_uninterrupted(finished, tmp_path, kind, kept_epochs, caplog):
    """From what a run leaves that is killed in the epoch after so many."""
    config, folder = of_kind(kind), finished(kind)
    cut = shutil.copytree(folder, tmp_path / "cut")
    for name in ("results.json", "embeddings.npz", "items.txt"):
        (cut / name).unlink()
    steps = metrics_of(folder)[0]["step"] * kept_epochs
    for checkpoint in (cut / "checkpoints").iterdir():
        if int(checkpoint.name) > steps:
            shutil.rmtree(checkpoint)
    with (cut / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2')
    config.checkpoint.update(keep=5, every_epochs=7)  # a run may go on with others
    with caplog.at_level(logging.INFO, logger="celsa_jax"), compilations() as seconds:
        train_and_evaluate(config, cut)
    assert f"resumed at step {steps}" in caplog.text
    assert not seconds
    for name in ("embeddings.npz", "items.txt"):
        assert (cut / name).read_bytes() == (folder / name).read_bytes()
    timeless = [
        [{k: v for k, v in m.items() if k not in ("seconds", "users_per_s")} for m in metrics_of(d)]
        for d in (cut, folder)
    ]
    assert timeless[0] == timeless[1]
    assert set(embeddings_of(cut).getnnz(axis=1)) == {4}


def test_where_a_row_has_other_places_a_run_is_not_resumed(finished, tmp_path, monkeypatch):
    cut = shutil.copytree(finished("random"), tmp_path / "cut")
    (cut / "results.json").unlink()
    for checkpoint in (cut / "checkpoints").iterdir():
        if int(checkpoint.name) > metrics_of(cut)[0]["step"]:
            shutil.rmtree(checkpoint)
    monkeypatch.setattr("celsa_jax.loop.device_bytes", lambda: 10_000)  # no dense products
    monkeypatch.setattr("celsa_jax.fitting.check_memory", lambda needed: None)
    with pytest.raises(InputError, match=r"hold 32 places an item, and here there would be \d+"):
        train_and_evaluate(of_kind("random"), cut)


def test_sampled_outputs_are_an_estimate_of_the_whole(finished, tmp_path, caplog):
    """In batches of few users, or the items of a batch are the whole catalogue."""
    with caplog.at_level(logging.INFO, logger="celsa_jax"):
        sampled = finished("sampled")
        assert "nothing is sampled" not in caplog.text
        config = of_kind("sampled")
        config.train.update(n_negatives=119, n_epochs=1, n_final_epochs=0)
        train_and_evaluate(config, tmp_path)
        assert "nothing is sampled" in caplog.text
    sampled, whole = (metrics_of(folder)[0]["loss"] for folder in (sampled, tmp_path))
    assert sampled != whole
    assert sampled == pytest.approx(whole, rel=0.05)


def test_a_batch_of_padding_alone(finished):
    assert all(0 < line["loss"] < 2 for line in metrics_of(finished("chunks")))


def test_the_same_model_by_dense_products_in_bfloat16(finished, tmp_path):
    config = of_kind("random")
    config.train.precision = "bfloat16"
    train_and_evaluate(config, tmp_path)
    whole, rounded = (
        [line["loss"] for line in metrics_of(folder)] for folder in (finished("random"), tmp_path)
    )
    assert rounded != whole
    np.testing.assert_allclose(rounded, whole, rtol=0.01)


@pytest.mark.parametrize(
    ("n_epochs", "n_final"), [(2, 0), (0, 2)], ids=["no final phase", "no pruning phase"]
)
def test_phases_may_be_missing(small_config, tmp_path, n_epochs, n_final):
    small_config.sparsity.start_nnz = 48
    small_config.train.update(n_epochs=n_epochs, n_final_epochs=n_final)
    train_and_evaluate(small_config, tmp_path)
    assert set(embeddings_of(tmp_path).getnnz(axis=1)) == {4}
    assert metrics_of(tmp_path)[-1]["nnz_per_row_max"] == 4


def test_without_validation_and_test_users(small_config, tmp_path):
    small_config.data.n_val_users = small_config.data.n_test_users = 0
    small_config.train.update(n_epochs=1, n_final_epochs=0)
    assert train_and_evaluate(small_config, tmp_path)["test"] is None
    assert not any("ndcg@100" in line for line in metrics_of(tmp_path))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_loss_that_is_not_finite_stops_the_run(small_config, tmp_path):
    small_config.train.learning_rate = 1e39
    with pytest.raises(
        InputError,
        match=r"the loss is nan at step 2 \(epoch 1, learning rate 1e\+39\); last sound "
        r"checkpoint: none; lower config.train.learning_rate and use another folder",
    ):
        train_and_evaluate(small_config, tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(("start", "by_row"), [("neighbours", True), ("random", False)])
def test_a_start_from_the_data_has_a_second_moment_for_each_row(
    small_config, tmp_path, monkeypatch, start, by_row
):
    shapes = set()

    def seen(state, *arguments, **options):
        n_items, n_places = state.weights.shape
        assert n_places > 1
        assert state.opt_state.mu.shape == state.weights.shape
        shapes.add(state.opt_state.nu.shape == (n_items, 1 if by_row else n_places))
        return train_steps(state, *arguments, **options)

    monkeypatch.setattr("celsa_jax.loop.train_steps", seen)
    small_config.model.update(start=start, n_factors=0 if start == "neighbours" else 32)
    small_config.sparsity.update(target_nnz=4, start_nnz=None)
    small_config.train.update(n_epochs=1, n_final_epochs=1)
    train_and_evaluate(small_config, tmp_path)
    assert shapes == {True}


@pytest.mark.parametrize("what", ["loss", "weights", "optimizer"])
def test_a_step_that_diverges_is_named(small_config, tmp_path, monkeypatch, what):
    """In the third epoch, whose steps are 9 to 12, where the rate falls to 0."""
    small_config.checkpoint.every_epochs = 1

    def diverging(state, *arguments, **options):
        state, losses = train_steps(state, *arguments, **options)
        if int(state.step) != 12:
            return state, losses
        if what == "loss":
            losses = losses.at[2:].set(jnp.inf)
        elif what == "weights":
            state = state._replace(weights=state.weights.at[3, 3].set(jnp.nan))
        else:
            moments = state.opt_state._replace(nu=state.opt_state.nu.at[3, 0].set(jnp.inf))
            state = state._replace(opt_state=moments)
        return state, losses

    monkeypatch.setattr("celsa_jax.loop.train_steps", diverging)
    if what == "loss":
        said = r"the loss is inf at step 11 \(epoch 3, learning rate 0\.005\)"
    else:
        said = r"the gradient is not finite at step 12 \(epoch 3, learning rate 0\.00146\)"
    with pytest.raises(InputError, match=rf"{said}; last sound checkpoint: step 8 in"):
        train_and_evaluate(small_config, tmp_path)
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.start": "nearest"}, "start is 'nearest'; choose one of clusters, neighbours, ra"),
        ({"model.n_factors": 64}, r"n_factors is 64, but with .*start=neighbours every item"),
        ({"model.start": "clusters"}, r"start=clusters needs config\.model\.n_factors"),
        ({"model.start": "clusters", "model.n_factors": 200}, r"200"),
        (
            {"model.start": "clusters", "model.n_factors": 3},
            r"target_nnz is 4, more than config\.model\.n_factors \(3\)",
        ),
        ({"model.start": "random", "model.n_factors": 32}, "start_nnz is of starts from data"),
        ({"sparsity.start_nnz": 3}, r"start_nnz is 3, less than config\.sparsity\.target_nnz"),
        ({"sparsity.start_nnz": 0}, "start_nnz is 0; it must be a whole number from 1 on"),
        (
            {"sparsity.nested_nnz": 4},
            r"nested_nnz is 4, not less than config\.sparsity\.target_nnz",
        ),
        ({"sparsity.rewind": True}, r"rewind is of config\.model\.start=random"),
        ({"sparsity.target_nnz": 0}, "target_nnz is 0; it must be a whole number from 1 on"),
        ({"sparsity.target_nnz": 200, "sparsity.start_nnz": None}, r"target_nnz is 200"),
        ({"sparsity.schedule": "quartic"}, "choose one of constant, cosine, cubic"),
        ({"model.alpha": float("inf")}, "alpha is inf; give a number from 0 on"),
        ({"model.alpha": -0.5}, "alpha is -0.5; give a number from 0 on"),
        ({"train.learning_rate": 0.0}, "use a number above 0"),
        ({"train.b1": 1.0}, "b1 is 1.0; it must be from 0 to below 1"),
        ({"train.input_dropout": 1.0}, "input_dropout is 1.0; it must be from 0 to below 1"),
        ({"train.input_dropout": True}, "input_dropout is True; it must be"),
        ({"train.batch_size": 0}, "batch_size is 0; it must be a whole number from 1 on"),
        ({"train.n_epochs": 0, "train.n_final_epochs": 0}, "nothing to train"),
        ({"seeds.start": -1}, r"seeds\.start is -1; choose a whole number from 0 to 2\^32 - 1"),
        ({"seeds.folds": 2**32}, r"seeds\.folds is 4294967296; choose"),
        ({"seed": 2**64}, "seed is 18446744073709551616; choose"),
        ({"data.min_rating": "good"}, "min_rating is 'good'; give a number"),
        ({"eval.folds": "one"}, "choose one of disjoint, independent"),
        ({"data.min_rating": float("nan")}, "min_rating is nan"),
        ({"data.n_test_users": 300}, "300 users"),
        ({"data.n_val_users": -1}, "n_val_users is -1; it must be a whole number from 0 on"),
        ({"data.split": "temporal"}, r"data\.test_from is ''; give a date"),
    ],
    ids=str,
)
def test_bad_fields_are_named_and_nothing_is_written(small_config, tmp_path, fields, message):
    small_config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=message):
        train_and_evaluate(small_config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_checkpoints_of_an_older_version(small_config, copied):
    """They are refused in one line, and stay as they are."""
    (copied / "results.json").unlink()
    (folder,) = (copied / "checkpoints").iterdir()
    notes = json.loads((folder / "notes.json").read_text())
    del notes["layout"]
    (folder / "notes.json").write_text(json.dumps(notes))
    (folder / "SHA256SUMS").write_text(sums(folder))
    before = {p: p.read_bytes() for p in (copied / "checkpoints").rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"of another version of celsa_jax.*use another folder"):
        train_and_evaluate(small_config, copied)
    after = {p: p.read_bytes() for p in (copied / "checkpoints").rglob("*") if p.is_file()}
    assert after == before


@pytest.mark.parametrize("name", ["config.json", "results.json", "split.npz"])
def test_a_damaged_file_of_the_run_is_named(small_config, copied, name):
    if name == "split.npz":
        (copied / "results.json").unlink()
    (copied / name).write_bytes((copied / name).read_bytes()[:-30])
    with pytest.raises(InputError, match=name):
        train_and_evaluate(small_config, copied)


def test_deterministic_operations_must_be_asked_for_before_a_gpu_starts(
    small_config, tmp_path, monkeypatch
):
    small_config.train.deterministic = True
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    said = r"deterministic: on a GPU, .* XLA_FLAGS=--xla_gpu_deterministic_ops=true before"
    with pytest.raises(InputError, match=said):
        train_and_evaluate(small_config, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_gpu_deterministic_ops=true")
    runtime.check_deterministic()


def test_the_program_asks_for_them(tmp_path):
    code = (
        "import celsa_jax.train as t, os\nt.train_and_evaluate = lambda *_: os.environ['XLA_FLAGS']"
    )
    flags = "--config=configs/synthetic.py", "--config.train.deterministic"
    done = program("train", *flags, f"--workdir={tmp_path}", code=code)
    assert json.loads(done.stdout).split()[-1] == "--xla_gpu_deterministic_ops=true"


def test_a_profile(small_config, tmp_path):
    small_config.train.update(n_epochs=1, n_final_epochs=1, profile=True)
    train_and_evaluate(small_config, tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"train_steps" in trace.read_bytes()
    small_config.train.profile = False  # it is no other run
    assert train_and_evaluate(small_config, tmp_path)["seed"] == 0


def test_validation_changes_nothing_where_the_mask_is_chosen_at_every_step(finished, tmp_path):
    config = of_kind("constant")
    config.eval.every_epochs = 1
    train_and_evaluate(config, tmp_path)
    validated = [line.get("ndcg@100") is not None for line in metrics_of(tmp_path)]
    assert validated == [True, True, True]
    validated = [line.get("ndcg@100") is not None for line in metrics_of(finished("constant"))]
    assert validated == [False, False, True]
    a, b = ((folder / "embeddings.npz").read_bytes() for folder in (tmp_path, finished("constant")))
    assert a == b
