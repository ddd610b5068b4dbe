"""Streaming, splits by time, warm starts and comparisons: training as on full-size data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from test_cli import WITHOUT_JAX, assert_fails, program

from celsa_jax.config import default_config
from celsa_jax.data import Interactions, load_dataset, make_split
from celsa_jax.data.batches import Chunk, make_chunks, nnz_budget, shuffled_batches
from celsa_jax.errors import InputError
from celsa_jax.evaluation import Evaluation, evaluate
from celsa_jax.sparse import load_embeddings, scorer
from celsa_jax.step import Recipe, create_state, train_chunk
from celsa_jax.train import train_and_evaluate
from celsa_jax.warm_start import warm_weights
from experiments.compare import compare

RECIPE = Recipe(
    relu_cap=6.0, rewind=True, regrow=False, optimizer="nadam", learning_rate=0.01, seed=0
)


def trained(chunks, batches, n_items, budget):
    state = create_state(RECIPE, n_items, 16)
    losses = []
    for chunk, rows in zip(chunks, batches, strict=True):
        nnz, rate = jnp.full(len(rows), 16, jnp.int32), jnp.ones(len(rows), jnp.float32)
        state, loss = train_chunk(state, chunk, rows, nnz, rate, recipe=RECIPE, budget=budget)
        losses.append(float(loss))
    return np.asarray(state.weights), sum(losses)


def test_chunks_give_what_resident_data_give_in_the_same_order(random_matrix):
    """Every chunk's users at their places in one chunk that holds them all."""
    matrix = random_matrix(90, 40)
    chunks = make_chunks(matrix, 30, seed=0)
    assert len(chunks) == 3
    batches = [shuffled_batches(jax.random.key(c), chunks[c].n_rows, 8) for c in range(3)]
    budget = max(nnz_budget(c, b) for c, b in zip(chunks, batches, strict=True))
    streamed = trained(chunks, batches, 40, budget)

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
    whole = trained([resident], [jnp.asarray(np.concatenate(order), jnp.int32)], 40, budget)
    np.testing.assert_array_equal(streamed[0], whole[0])
    assert streamed[1] == pytest.approx(whole[1], rel=1e-6)


def test_a_streamed_run_is_that_of_resident_chunks(small_config, tmp_path, monkeypatch):
    small_config.train.chunk_users = 64
    streamed = train_and_evaluate(small_config, tmp_path / "streamed")
    from celsa_jax.train import _Run

    def resident(self, epoch):
        yield from [(jax.device_put(chunk), rows) for chunk, rows in self._epoch(epoch)]

    monkeypatch.setattr(_Run, "_on_device", resident)
    assert train_and_evaluate(small_config, tmp_path / "resident")["test"] == streamed["test"]
    a, b = (load_embeddings(tmp_path / n / "embeddings.npz")[0] for n in ("streamed", "resident"))
    np.testing.assert_array_equal(a.toarray(), b.toarray())


def test_no_more_than_three_chunks_are_on_the_device(small_config, tmp_path, monkeypatch):
    """A chunk is put there only when the one two before it has been trained on."""
    small_config.train.chunk_users = 40
    events = []
    put, wait = jax.device_put, jax.block_until_ready

    def put_noted(value, *rest):
        if isinstance(value, Chunk):
            events.append("put")
        return put(value, *rest)

    def wait_noted(value):
        if isinstance(value, list):
            events.append("waited" if value else "nothing yet")
        return wait(value)

    monkeypatch.setattr(jax, "device_put", put_noted)
    monkeypatch.setattr(jax, "block_until_ready", wait_noted)
    small_config.train.n_epochs, small_config.train.n_final_epochs = 1, 0
    train_and_evaluate(small_config, tmp_path)
    n_chunks = events.count("put")
    assert n_chunks > 3
    expected = ["put", "put", "nothing yet"] + ["put", "waited"] * (n_chunks - 2) + ["waited"]
    assert events == expected


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


def test_a_run_by_time_predicts_what_comes_later(timed_config, tmp_path):
    results = train_and_evaluate(timed_config, tmp_path / "run")
    assert results["folds"] == "temporal"
    assert results["test"]["n_users"] == results["test"]["n_user_folds"] == 60
    # Half of the items are of the other taste, so chance is about 0.5 of recall@20.
    assert results["test"]["recall@20"] > 0.8

    embeddings, item_ids = load_embeddings(tmp_path / "run" / "embeddings.npz")
    interactions = load_dataset(timed_config.data).interactions
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


def test_a_run_by_time_resumes(timed_config, tmp_path):
    whole = train_and_evaluate(timed_config, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    assert train_and_evaluate(timed_config, tmp_path / "run")["test"] == whole["test"]


def test_baselines_by_time(timed_file, tmp_path):
    done = program(
        "baselines",
        "--config=configs/file.py",
        f"--config.data.path={timed_file}",
        "--config.data.split=temporal",
        "--config.data.test_from=2020-01-26",
        "--config.data.val_from=2020-01-21",
        "--l2=1,10",
        code=WITHOUT_JAX,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["ease"]["recall@20"] > 0.8


def test_weights_of_a_warm_start_by_hand(tmp_path):
    earlier = np.array([[0.6, 0.8, 0], [0, 0, 1]], np.float32)
    sp.save_npz(tmp_path / "embeddings.npz", sp.csc_matrix(earlier))
    (tmp_path / "items.txt").write_text("c\na\n")
    # a and c are known; b is new, of users with (a, c) and (a); d is new and of nobody known.
    matrix = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], np.float32)
    train = Interactions(sp.csr_matrix(matrix), np.array(list("xyz")), np.array(list("abcd")))
    weights = warm_weights(str(tmp_path), train, 3)
    np.testing.assert_array_equal(weights[0], earlier[1])
    np.testing.assert_array_equal(weights[2], earlier[0])
    both = np.array([0.6, 0.8, 1]) / np.sqrt(2)
    mean = both + np.array([0, 0, 1])
    np.testing.assert_allclose(weights[1], mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_array_equal(weights[3], 0)
    state = create_state(RECIPE, 4, 3, jnp.asarray(weights))
    cold = create_state(RECIPE, 4, 3)
    np.testing.assert_array_equal(state.weights[:3], weights[:3])
    np.testing.assert_array_equal(state.weights[3], cold.weights[3])


def test_a_warm_start_goes_on_from_the_earlier_run(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "first")
    small_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    small_config.train.learning_rate = 1e-9
    results = train_and_evaluate(small_config, tmp_path / "second")
    first, second = (load_embeddings(tmp_path / n / "embeddings.npz") for n in ("first", "second"))
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_allclose(first[0].toarray(), second[0].toarray(), atol=1e-5)
    assert results["nnz_per_row"] == 4


def test_a_warm_start_that_was_killed_early_is_still_warm(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "first")
    small_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=1)
    (tmp_path / "second" / "checkpoints").mkdir(parents=True)
    second = train_and_evaluate(small_config, tmp_path / "second")
    assert second["test"] == train_and_evaluate(small_config, tmp_path / "third")["test"]
    # With a checkpoint the earlier run is not needed any more.
    (tmp_path / "first").rename(tmp_path / "gone")
    (tmp_path / "second" / "results.json").unlink()
    assert train_and_evaluate(small_config, tmp_path / "second")["test"] == second["test"]


def test_a_warm_start_takes_new_items(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "first")
    small_config.data.synthetic.n_items = 140
    small_config.train.update(init_from=str(tmp_path / "first"), n_epochs=0, n_final_epochs=2)
    train_and_evaluate(small_config, tmp_path / "second")
    matrix, item_ids = load_embeddings(tmp_path / "second" / "embeddings.npz")
    assert len(item_ids) > 120
    assert set(matrix.getnnz(axis=1)) == {4}


def test_what_a_warm_start_cannot_start_from(small_config, tmp_path):
    small_config.train.init_from = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"init_from=.*nowhere: no finished run"):
        train_and_evaluate(small_config, tmp_path / "run")
    sp.save_npz(tmp_path / "embeddings.npz", sp.csc_matrix(np.eye(3, 32, dtype=np.float32)))
    (tmp_path / "items.txt").write_text("x\ny\nz\n")
    small_config.train.init_from = str(tmp_path)
    with pytest.raises(InputError, match="no item in common"):
        train_and_evaluate(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    small_config.model.n_factors = 16
    with pytest.raises(InputError, match=r"has 32 factors, and config\.model\.n_factors is 16"):
        train_and_evaluate(small_config, tmp_path / "run")


def judged(values):
    ids = np.array([f"u{i}" for i in range(len(values))])
    return Evaluation({"ndcg@100": np.asarray(values, float)}, ids, {})


def test_paired_statistics_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a = rng.random(60)
    b = a + rng.normal(0.05, 0.1, 60)
    a[3] = np.nan  # a user that cannot be judged
    row = compare(judged(a), judged(b), "ndcg@100", seed=0)
    kept = ~np.isnan(a)
    assert row["n_users"] == 59
    assert row["difference"] == pytest.approx(b[kept].mean() - a[kept].mean())
    assert row["p_t"] == pytest.approx(scipy.stats.ttest_rel(b[kept], a[kept]).pvalue)
    assert row["p_wilcoxon"] == pytest.approx(scipy.stats.wilcoxon(b[kept], a[kept]).pvalue)
    assert row["better"] + row["worse"] == 59
    low, high = row["interval"]
    stderr = (b - a)[kept].std(ddof=1) / np.sqrt(59)
    assert low == pytest.approx(row["difference"] - 1.96 * stderr, abs=0.3 * stderr)
    assert high == pytest.approx(row["difference"] + 1.96 * stderr, abs=0.3 * stderr)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.125, 0.0)])
def test_runs_that_differ_by_nothing_or_by_a_constant(shift, p):
    a = np.arange(10) / 16
    row = compare(judged(a), judged(a + shift), "ndcg@100", seed=0)
    assert row["difference"] == pytest.approx(shift)
    assert row["interval"] == pytest.approx([shift, shift])
    assert row["p_t"] == pytest.approx(p, abs=1e-6)


def test_one_user_is_too_few():
    with pytest.raises(InputError, match="fewer than two users"):
        compare(judged([1.0, np.nan]), judged([0.5, 0.5]), "ndcg@100", seed=0)


def test_compare_judges_both_runs_on_the_shared_users(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "a")
    small_config.sparsity.target_nnz = 8
    train_and_evaluate(small_config, tmp_path / "b")
    done = program("compare", str(tmp_path / "a"), str(tmp_path / "b"), code=WITHOUT_JAX)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:2] == ["A", "B"]
    report = json.loads(done.stdout.splitlines()[-1])
    split = make_split(load_dataset(small_config.data).interactions, small_config.data, 0)
    for name, column in (("a", "a"), ("b", "b")):
        matrix, item_ids = load_embeddings(tmp_path / name / "embeddings.npz")
        wanted = evaluate(scorer(matrix), split.test, item_ids, seed=0).summary()
        assert report["ndcg@100"][column] == pytest.approx(wanted["ndcg@100"])
    assert report["n_users"] == 40


def test_compare_by_time(timed_config, tmp_path):
    results = train_and_evaluate(timed_config, tmp_path / "a")
    timed_config.train.seed = 1
    train_and_evaluate(timed_config, tmp_path / "b")
    done = program("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["recall@20"]["a"] == pytest.approx(results["test"]["recall@20"], abs=1e-6)


def test_compare_names_what_is_wrong(small_config, tmp_path):
    train_and_evaluate(small_config, tmp_path / "a")
    assert_fails(program("compare", str(tmp_path / "a")), "give RUN_B")
    assert_fails(program("compare"), "give RUN_A and RUN_B")
    assert_fails(program("compare", "x", "y", "z"), "unexpected argument 'z'")
    a, nowhere = str(tmp_path / "a"), str(tmp_path / "nowhere")
    assert_fails(program("compare", a, nowhere), "nowhere: no finished run")
    split = np.load(tmp_path / "a" / "split.npz")
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        if path.is_file():
            (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    np.savez(tmp_path / "b" / "split.npz", train=split["test"], val=split["val"], test=["x"])
    assert_fails(program("compare", a, str(tmp_path / "b")), "no test user in common")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["data"]["name"] = "ml-100k"
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    assert_fails(program("compare", a, str(tmp_path / "b")), "b: config.data.name is 'ml-100k'")


def test_prepare_data_reports_what_it_kept(tmp_path):
    rows = [f"{u},{i},{2 + 3 * (i != 2)}" for u in "abc" for i in range(7)]
    rows += ["d,1,5", "a,1,5"]
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows) + "\n")
    given = ["--dataset=file", f"--source={tmp_path}/r.csv", f"--data_dir={tmp_path}/data"]
    for _ in range(2):
        done = program("prepare_data", *given, code=WITHOUT_JAX)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout.splitlines()[-1])
        assert report.pop("seconds") > 0
        folder = report.pop("folder")
        assert report == {
            "users": 3,
            "items": 6,
            "interactions": 18,
            "dropped": {
                "below_min_rating": 3,
                "repeated_pairs": 1,
                "users_with_too_few": 1,
                "rows_of_those_users": 1,
            },
            "rows": 23,
            "items_with_metadata": 0,
            "times": False,
        }
    assert "prepared data: " + folder in done.stderr
    config = default_config().data
    config.update(name="file", path=f"{tmp_path}/r.csv", data_dir=f"{tmp_path}/data")
    assert str(load_dataset(config).folder) == folder


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ([], ["give --dataset=... and --data_dir=..."]),
        (["--dataset=file", "--data_dir={at}"], ["config.data.path is empty"]),
        (["--dataset=netflicks", "--data_dir={at}"], ["netflicks", "ml-20m"]),
        (
            ["--dataset=ml-20m", "--data_dir={at}", "--source={at}/none.zip"],
            ["none.zip: no such file or folder"],
        ),
        (
            ["--dataset=ml-20m", "--data_dir={at}", "--user_column=u"],
            ["--user_column is for --dataset=file"],
        ),
    ],
)
def test_prepare_data_names_what_is_wrong(tmp_path, given, parts):
    given = [flag.format(at=tmp_path) for flag in given]
    assert_fails(program("prepare_data", *given, code=WITHOUT_JAX), *parts)
