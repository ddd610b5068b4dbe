"""Sweeps: running them whatever happens."""

import csv
import itertools
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.sparse as sp
from launch import ROOT

from celsa_jax import baselines
from celsa_jax.baselines import Baseline
from celsa_jax.config import default_config
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.sparse import SparseEmbeddings, load_embeddings, scorer
from celsa_jax.sweeps import expand, figures, make_sweep, methods, run_sweep, runner
from celsa_jax.sweeps.rows import size_columns


def tiny_base():
    base = default_config()
    base.data.name = "synthetic"
    base.data.synthetic.update(n_users=120, n_items=60, n_segments=4)
    base.data.n_val_users, base.data.n_test_users = 10, 20
    base.train.update(batch_size=32, n_epochs=2, n_final_epochs=1, input_dropout=0.0)
    return base


WIDTH_32 = {"model": {"start": "random", "n_factors": 32}}
COLUMNS = size_columns((32, 16))


def cheap_sweep(**changes):
    """No training: popularity, EASE and its pruning."""
    fields = {
        "base": tiny_base(),
        "rows": {
            "popularity": {"method": "popularity", "once": True},
            "pruned EASE": {"method": "pruned_ease"},
            "mild": {"method": "pruned_ease", "options": {"l2": 5.0}},
        },
        "columns": COLUMNS,
        "seeds": (0, 1),
        "reference": "pruned EASE",
    }
    return make_sweep(**fields | changes)


def read_csv(workdir):
    return list(csv.DictReader((workdir / "results.csv").read_text().splitlines()))


def table(workdir, title):
    """Cells by row name of one section of table.md."""
    text = (workdir / "table.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    header, *rows = [[cell.strip() for cell in row] for row in cells]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sweep with every kind of method, and the folder it ran in."""
    workdir = tmp_path_factory.mktemp("trained")
    rows = {
        "popularity": {"method": "popularity", "once": True},
        "dense": {"method": "dense_elsa", "options": {"width": 32}, "once": True},
        "top k": {"method": "top_k", "config": WIDTH_32},
        "ours": {"method": "elsa"},
        "ours, float16": {"method": "elsa", "options": {"format": "float16"}},
    }
    sweep = make_sweep(
        base=tiny_base(),
        rows=rows,
        columns=size_columns((32,)),
        seeds=(1,),
        reference="ours",
    )
    counts = run_sweep(sweep, workdir)
    assert counts == {"runs": 5, "done": 5, "failed": 0, "not_run": 0}
    return sweep, workdir


def test_a_model_is_trained_once_and_leaves_no_checkpoints(trained):
    sweep, workdir = trained
    models = {run.model_id for run in expand(sweep) if run.model_config}
    assert len(models) == 3  # dense, k = 4, and k = 8 of 4 bytes each
    assert {path.name for path in (workdir / "models").iterdir() if path.is_dir()} == models
    assert not list(workdir.rglob("checkpoints"))


def test_results_are_those_of_the_exported_models(trained):
    sweep, workdir = trained
    for run in expand(sweep):
        if run.method not in ("elsa", "dense_elsa") or "format" in run.options:
            continue
        model = workdir / "models" / run.model_id
        embeddings, item_ids, _ = load_embeddings(model / "embeddings.npz")
        _, split = methods.load_data(run)
        wanted = evaluate(scorer(embeddings), split.test, item_ids, seed=run.seed)
        result = json.loads((workdir / "runs" / run.id / "result.json").read_text())
        with np.load(workdir / "runs" / run.id / "per_user.npz") as users:
            for name, values in wanted.per_user.items():
                np.testing.assert_allclose(users[name], values, atol=1e-6)
                assert result[name] == pytest.approx(values.mean(), abs=1e-6)
            np.testing.assert_array_equal(users["user_ids"], wanted.user_ids)
        trained_to = json.loads((model / "results.json").read_text())["test"]
        assert result["ndcg@100"] == pytest.approx(trained_to["ndcg@100"], abs=5e-3)
    rows = read_csv(workdir)
    assert [float(row["bytes_per_item"]) for row in rows[1:]] == [128, 32, 32, 32]
    assert [row["n_factors"] for row in rows] == ["", "32", "32", "", ""]
    assert [row["target_nnz"] for row in rows] == ["", "", "", "4", "8"]


def test_the_figure_is_written_and_shows_something(trained):
    _, workdir = trained
    png = (workdir / "figures" / "quality_bytes.png").read_bytes()
    svg = (workdir / "figures" / "quality_bytes.svg").read_text()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000
    assert svg.count("<path") > 10


def test_the_points_of_a_figure_by_hand(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(
        "row,column,seed,state,bytes_per_item,ndcg@100\n"
        "ours,64,0,done,64.0,0.39\nours,64,0,done,64.0,0.41\n"  # two trainings of a seed
        "ours,64,1,done,64.0,0.42\nours,64,2,failed,,\n"
        "EASE,any size,0,done,30,0.3\nEASE,any size,1,done,50,0.5\nEASE,any size,2,done,40,0.1\n"
        "ALS,64,0,done,64.0,0.25\n"
    )
    points = figures.read_points(path)
    assert set(points) == {"ours", "EASE", "ALS"}
    assert points["ours"] == [pytest.approx((64, 0.41, 0.01))]
    assert points["EASE"] == [pytest.approx((40, 0.3, 0.2 / 3**0.5))]
    assert points["ALS"] == [pytest.approx((64, 0.25, 0))]


def test_the_figure_of_the_docs_is_that_of_their_table(tmp_path):
    figures.draw(ROOT / "docs" / "methods.csv", tmp_path / "quality.svg")
    kept = ROOT / "docs" / "figures" / "quality.svg"
    drawn = [ElementTree.parse(path) for path in (tmp_path / "quality.svg", kept)]
    n_paths = [len(of.findall(".//{*}path")) for of in drawn]
    assert n_paths[0] == n_paths[1] > 50


@pytest.fixture
def no_figures(monkeypatch):
    """Saves the time that drawing takes."""
    monkeypatch.setattr(runner, "_draw", lambda results: None)


@pytest.mark.usefixtures("no_figures")
def test_parts_add_up_and_nothing_is_done_twice(tmp_path, monkeypatch):
    fitted = []
    fit = baselines.BASELINES["pruned_ease"]

    def counted(train, *, n_bytes, seed=0, l2=100.0):
        fitted.append((n_bytes, seed, l2))
        return fit(train, n_bytes=n_bytes, seed=seed, l2=l2)

    monkeypatch.setitem(baselines.BASELINES, "pruned_ease", counted)
    sweep = cheap_sweep()
    run_sweep(sweep, tmp_path / "whole")
    assert len(fitted) == 8
    counts = run_sweep(sweep, tmp_path / "parts", shard=(2, 3))
    assert counts == {"runs": 10, "done": 3, "failed": 0, "not_run": 7}
    states = [row["state"] for row in read_csv(tmp_path / "parts")]
    assert [at for at, state in enumerate(states) if state] == [1, 4, 7]
    for part in (1, 3, 2):
        counts = run_sweep(sweep, tmp_path / "parts", shard=(part, 3))
    assert counts["done"] == 10
    assert len(fitted) == 16
    assert stable(tmp_path / "parts") == stable(tmp_path / "whole")
    with pytest.raises(InputError, match="shard=4/3: the first number"):
        run_sweep(sweep, tmp_path / "parts", shard=(4, 3))


def stable(workdir):
    """results.csv without the columns that may differ between equal runs."""
    ends = ("_seconds", "_per_s", "_path")
    return [{k: v for k, v in row.items() if not k.endswith(ends)} for row in read_csv(workdir)]


@pytest.mark.usefixtures("no_figures")
def test_a_failure_is_recorded_and_stops_nothing(tmp_path, monkeypatch):
    tries = []

    def broken(train, *, n_bytes, seed=0):
        tries.append(n_bytes)
        if n_bytes == 32:
            raise ValueError("the matrix\nis singular")
        return baselines.BASELINES["pruned_ease"](train, n_bytes=n_bytes, seed=seed)

    monkeypatch.setitem(baselines.BASELINES, "broken", broken)
    rows = {"bad": {"method": "broken"}, "good": {"method": "pruned_ease"}}
    sweep = cheap_sweep(rows=rows, seeds=(0,), reference="good")
    assert run_sweep(sweep, tmp_path) == {"runs": 4, "done": 3, "failed": 1, "not_run": 0}
    first = read_csv(tmp_path)[0]
    assert (first["state"], first["error"]) == ("failed", "ValueError: the matrix is singular")
    assert first["ndcg@100"] == ""
    result = json.loads((tmp_path / "runs" / first["id"] / "result.json").read_text())
    assert "in broken" in result["traceback"]
    assert table(tmp_path, "ndcg@100")["bad"]["32"] == "failed"
    assert f"- {first['id']}: ValueError" in (tmp_path / "table.md").read_text()

    run_sweep(sweep, tmp_path)
    assert tries == [32, 16]  # not again
    run_sweep(sweep, tmp_path, retry_failed=True)
    assert tries == [32, 16, 32]
    monkeypatch.setitem(baselines.BASELINES, "broken", baselines.BASELINES["pruned_ease"])
    assert run_sweep(sweep, tmp_path, retry_failed=True)["failed"] == 0
    assert table(tmp_path, "ndcg@100")["bad"]["32"] == table(tmp_path, "ndcg@100")["good"]["32"]


@pytest.mark.usefixtures("no_figures")
def test_a_method_without_a_size(tmp_path, monkeypatch):
    def unsized(train, *, n_bytes, seed=0):
        return Baseline(lambda history: np.ones(history.shape, np.float32), None)

    monkeypatch.setitem(baselines.BASELINES, "unsized", unsized)
    run_sweep(cheap_sweep(rows={"a": {"method": "unsized"}}, reference="a"), tmp_path)
    assert {row["bytes_per_item"] for row in read_csv(tmp_path)} == {""}
    assert table(tmp_path, "bytes_per_item") == {"a": {"32": "", "16": ""}}


def draws(train, *, n_bytes, seed=0, draw=0, sign=1, quiet=False):
    """Everyone gets the same items in a random order."""
    scores = sign * np.random.default_rng(draw).normal(size=train.shape[1]).astype(np.float32)
    return Baseline(lambda history: np.tile(scores, (history.shape[0], 1)), 4.0)


@pytest.mark.usefixtures("no_figures")
def test_of_all_combinations_the_one_that_validates_best_is_tested(tmp_path, monkeypatch):
    """Of random orders, the best for the validation users is not the best for the test users."""
    monkeypatch.setitem(baselines.BASELINES, "draws", draws)
    tested = []

    def counted(score, users, *arguments, **settings):
        tested.append(users.user_ids)
        return evaluate(score, users, *arguments, **settings)

    monkeypatch.setattr(methods, "evaluate", counted)
    options = {"draw": tuple(range(8)), "sign": [1, -1], "quiet": True}
    rows = {"a": {"method": "draws", "options": options, "once": True}}
    rows["b"] = {"method": "popularity", "once": True}
    base = tiny_base()
    base.eval.folds = "independent"
    sweep = cheap_sweep(base=base, rows=rows, seeds=(4,), reference="b")
    assert run_sweep(sweep, tmp_path)["done"] == 2
    run = expand(sweep)[0]
    _, split = methods.load_data(run)
    assert len(tested) == 2
    for user_ids in tested:
        np.testing.assert_array_equal(user_ids, split.test.user_ids)

    values = {"val": [], "test": []}
    combinations = list(itertools.product(range(8), (1, -1)))
    for draw, sign in combinations:
        score = draws(split.train.matrix, n_bytes=8, draw=draw, sign=sign).score
        for part, found in values.items():
            settings = {"folds": "independent", "seed": 4}
            judged = evaluate(score, getattr(split, part), split.train.item_ids, **settings)
            found.append(judged.summary()["ndcg@100"])
    best = int(np.argmax(values["val"]))
    assert best != int(np.argmax(values["test"]))
    result = json.loads((tmp_path / "runs" / run.id / "result.json").read_text())
    chosen = dict(zip(("draw", "sign"), combinations[best], strict=True))
    assert result["chosen"] == chosen
    assert result["ndcg@100"] == values["test"][best]
    assert [(tried["draw"], tried["sign"]) for tried in result["tried"]] == combinations
    assert [tried["ndcg@100"] for tried in result["tried"]] == values["val"]
    first, second = read_csv(tmp_path)
    assert json.loads(first["chosen"]) == chosen
    assert json.loads(first["options"])["draw"] == list(range(8))
    assert second["chosen"] == ""


@pytest.mark.usefixtures("no_figures")
def test_a_compression_chooses_with_one_model(tmp_path, monkeypatch):
    def columns(dense, *, n_bytes, seed=0, first=0):
        return sp.csr_matrix(dense[:, first:])

    monkeypatch.setitem(baselines.COMPRESSIONS, "columns", columns)
    options = {"first": (31, 0, 30)}
    config = WIDTH_32 | {"train": {"n_final_epochs": 20}}
    rows = {"a": {"method": "columns", "options": options, "config": config, "once": True}}
    run_sweep(cheap_sweep(rows=rows, seeds=(0,), reference="a"), tmp_path)
    (row,) = read_csv(tmp_path)
    assert row["chosen"] == '{"first": 0}'  # all columns say more than one or two
    assert float(row["bytes_per_item"]) == 8 * 32
    assert sum(path.is_dir() for path in (tmp_path / "models").iterdir()) == 1


@pytest.mark.usefixtures("no_figures")
def test_data_that_change_in_between_are_not_compared(tmp_path):
    path, base = tmp_path / "x.csv", tiny_base()
    pairs = np.argwhere(np.random.default_rng(0).random((60, 30)) < 0.4)
    base.data.update(name="file", path=str(path), rating_column="", data_dir=str(tmp_path))
    base.train.update(n_epochs=0)
    of = {
        "popularity": {"method": "popularity"},
        "EASE": {"method": "pruned_ease"},
        "ours": {"method": "elsa"},
        "half": {"method": "elsa", "options": {"format": "float16"}},
    }

    def run(*names, size=32):
        changes = {"base": base, "columns": size_columns((size,)), "seeds": (0,)}
        rows = {name: of[name] for name in names}
        return run_sweep(cheap_sweep(rows=rows, reference=names[0], **changes), tmp_path / "sweep")

    for prefix in ("", "other"):  # the same items of other users
        lines = [f"{prefix}{user},{item}" for user, item in pairs]
        path.write_text("\n".join(["user_id,item_id", *lines]))
        methods._load_data.cache_clear()  # as another process would begin
        if not prefix:
            assert run("popularity", "ours")["done"] == 2
    assert run("half", size=16)["failed"] == 1  # shares the model of `ours`
    [failed] = read_csv(tmp_path / "sweep")
    assert "split.npz: the data have changed since" in failed["error"]
    with pytest.raises(InputError, match="data changed between the runs of 'EASE' and 'popul"):
        run("popularity", "EASE")


def test_a_format_may_not_take_more_than_its_column():
    """So many factors that one takes four bytes, which is known once a model is trained."""
    for n_factors, fits in ((1 << 16, True), ((1 << 16) + 1, False)):
        rows = sp.csr_matrix(([0.6, 0.8], [0, n_factors - 1], [0, 2]), shape=(1, n_factors))
        model = SparseEmbeddings.from_scipy(rows)
        if fits:
            assert methods._fit_elsa(model, n_bytes=8, seed=0, format="float16").bytes_per_item == 8
        else:
            with pytest.raises(InputError, match="takes 12 bytes, and the column allows 8"):
                methods._fit_elsa(model, n_bytes=8, seed=0, format="float16")


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_result_is_named(tmp_path):
    sweep = cheap_sweep(seeds=(0,))
    run_sweep(sweep, tmp_path)
    path = tmp_path / "runs" / read_csv(tmp_path)[0]["id"] / "result.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"result\.json: damaged: .*; delete it"):
        run_sweep(sweep, tmp_path)
