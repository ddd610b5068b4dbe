"""Two runs, user by user: on the same data and the same users, or not at all."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from launch import program
from test_cli import assert_fails

from celsa_jax.data import dataset_of, make_split
from celsa_jax.data.splits import read_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import Evaluation, evaluate
from celsa_jax.evaluation.paired import compare, holm
from celsa_jax.sparse import load_embeddings, save_embeddings, scorer
from celsa_jax.workdir import Workdir


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


def test_correction_for_the_number_of_tests():
    """Holm's steps by hand: 0.01 x 4, 0.015 x 3, 0.03 x 2, 0.06."""
    corrected = holm(np.array([0.03, 0.01, 0.015, 0.06]))
    assert corrected == pytest.approx([0.06, 0.04, 0.045, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []


def test_one_user_is_too_few():
    with pytest.raises(InputError, match="fewer than two users"):
        compare(judged([1.0, np.nan]), judged([0.5, 0.5]), "ndcg@100", seed=0)


def untrained(config, folder):
    """What a run would leave that `compare` reads, with random embeddings."""
    folder.mkdir(exist_ok=True)
    workdir = Workdir(folder)
    workdir.start(config)
    split = make_split(dataset_of(config.data).interactions, config.data, 0)
    split.save(workdir.split)
    values = np.random.default_rng(0).normal(size=(split.train.n_items, 8)).astype(np.float32)
    save_embeddings(folder, sp.csc_matrix(values), split.train.item_ids)
    workdir.finish({})


def test_compare_judges_both_runs_on_the_shared_users(small_config, small_run, tmp_path):
    untrained(small_config, tmp_path)
    done = program("compare", str(small_run), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:6] == "| metric | A | B".split()
    report = json.loads(done.stdout.splitlines()[-1])
    split = make_split(dataset_of(small_config.data).interactions, small_config.data, 0)
    for column, folder in (("a", small_run), ("b", tmp_path)):
        matrix, item_ids, _ = load_embeddings(folder / "embeddings.npz")
        wanted = evaluate(scorer(matrix), split.test, item_ids, seed=0).summary()
        assert report["ndcg@100"][column] == pytest.approx(wanted["ndcg@100"])
    assert report["n_users"] == 40


def copy_run(source, target):
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())


def test_compare_by_time(timed_config, tmp_path):
    """On the users whom both runs drew, not those of the first."""
    untrained(timed_config, tmp_path / "a")
    copy_run(tmp_path / "a", tmp_path / "b")
    drawn = read_split(tmp_path / "a" / "split.npz")
    np.savez(tmp_path / "b" / "split.npz", **{**drawn, "test": drawn["test"][:40]})
    done = program("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    splits = [read_split(tmp_path / name / "split.npz") for name in "ab"]
    shared = np.intersect1d(splits[0]["test"], splits[1]["test"])
    assert report["n_users"] == len(shared) == 40
    data = dataset_of(timed_config.data).interactions
    users = data.take_users(np.isin(data.user_ids, shared))
    for name in "ab":
        matrix, item_ids, _ = load_embeddings(tmp_path / name / "embeddings.npz")
        held_out_from = int(splits[0]["from"][1])
        wanted = evaluate(scorer(matrix), users, item_ids, held_out_from=held_out_from).summary()
        assert report["recall@20"][name] == pytest.approx(wanted["recall@20"], abs=1e-6)


def test_compare_takes_the_same_data_alone(growing, tmp_path):
    config, other = growing("one.csv"), growing("two.csv", n_items=110)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    untrained(config, tmp_path / "a")
    untrained(other, tmp_path / "b")
    assert_fails(program("compare", a, b), "b: was trained on other data than those that")
    (tmp_path / "moved.csv").write_bytes((tmp_path / "one.csv").read_bytes())
    copy_run(tmp_path / "a", tmp_path / "c")  # the same data in another place
    moved = (tmp_path / "a" / "config.json").read_text().replace("one.csv", "moved.csv")
    (tmp_path / "c" / "config.json").write_text(moved)
    done = program("compare", a, str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    done = program("compare", a, str(tmp_path / "c"), f"--data={tmp_path / 'two.csv'}")
    assert_fails(done, "a: was trained on other data")

    # Users whom an earlier run of a warm start knows are left out.
    copy_run(tmp_path / "c", tmp_path / "d")
    split = read_split(tmp_path / "c" / "split.npz")
    np.savez(tmp_path / "d" / "split.npz", **split, trained_before=split["test"][:15])
    done = program("compare", a, str(tmp_path / "d"))
    assert json.loads(done.stdout.splitlines()[-1])["n_users"] == 25


def test_compare_names_what_is_wrong(small_run, tmp_path):
    copy_run(small_run, tmp_path / "a")
    assert_fails(program("compare", str(tmp_path / "a")), "give RUN_B")
    assert_fails(program("compare"), "give RUN_A and RUN_B")
    assert_fails(program("compare", "x", "y", "z"), "unexpected argument 'z'")
    a, nowhere = str(tmp_path / "a"), str(tmp_path / "nowhere")
    assert_fails(program("compare", a, nowhere), "nowhere: no finished run")
    split = np.load(tmp_path / "a" / "split.npz")
    copy_run(tmp_path / "a", tmp_path / "b")
    np.savez(tmp_path / "b" / "split.npz", train=split["test"], val=split["val"], test=["x"])
    assert_fails(program("compare", a, str(tmp_path / "b")), "no test user in common")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["data"]["name"] = "ml-100k"
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    assert_fails(program("compare", a, str(tmp_path / "b")), "b: config.data.name is 'ml-100k'")
    for damaged in ("{", "[]", '{"train": 5}', '{"seed": "x"}'):
        (tmp_path / "b" / "config.json").write_text(damaged)
        assert_fails(program("compare", a, str(tmp_path / "b")), "config.json: damaged")
