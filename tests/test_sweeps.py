"""Sweeps: the grid, its checks, running it whatever happens, the tables and figures."""

import csv
import importlib.util
import itertools
import json
import pathlib

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats

from celsa_jax import baselines
from celsa_jax.baselines import Baseline
from celsa_jax.baselines.choice import several
from celsa_jax.config import default_config
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.files import write_json
from celsa_jax.sparse import load_embeddings, scorer
from celsa_jax.sweeps import expand, make_sweep, methods, paper, published, run_sweep, tables

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "sweeps").glob("*.py"))


def tiny_base():
    base = default_config()
    base.data.name = "synthetic"
    base.data.synthetic.update(n_users=120, n_items=60, n_segments=4)
    base.data.n_val_users, base.data.n_test_users = 10, 20
    base.model.n_factors = 16
    base.train.batch_size = 32
    base.train.n_epochs, base.train.n_final_epochs = 2, 1
    return base


COLUMNS = paper.size_columns((32, 16))


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


# The grid.


def test_runs_are_the_product_of_rows_columns_and_seeds_in_their_order():
    rows = {"z": {"method": "pruned_ease"}, "a": {"method": "elsa"}, "m": {"method": "ease"}}
    sweep = cheap_sweep(rows=rows, seeds=(5, 0, 2), reference="a")
    runs = expand(sweep)
    wanted = list(itertools.product("zam", ("32", "16"), (5, 0, 2)))
    assert [(run.row, run.column, run.seed) for run in runs] == wanted
    assert [run.config.train.seed for run in runs] == [seed for _, _, seed in wanted]
    assert [run.n_bytes for run in runs] == [int(column) for _, column, _ in wanted]
    assert len({run.id for run in runs}) == len(runs)
    assert [run.id for run in expand(sweep)] == [run.id for run in runs]


def test_overrides_reach_the_configuration_and_change_the_id_of_their_runs_alone():
    before = expand(cheap_sweep())
    rows = cheap_sweep().rows.to_dict()
    rows["mild"]["config"] = {"model": {"relu_cap": None}, "train": {"learning_rate": 1}}
    after = expand(cheap_sweep(rows=rows))
    mild = [run for run in after if run.row == "mild"]
    assert all(run.config.model.relu_cap is None for run in mild)
    assert all(run.config.train.learning_rate == 1.0 for run in mild)
    ids = [{run.id for run in runs if run.row != "mild"} for runs in (before, after)]
    assert ids[0] == ids[1]
    assert {run.id for run in mild}.isdisjoint(run.id for run in before)


def test_values_to_choose_from_change_the_ids_of_their_row_alone():
    rows = cheap_sweep().rows.to_dict()
    before = expand(cheap_sweep())
    rows["mild"]["options"]["l2"] = (5.0, 10.0)
    after = expand(cheap_sweep(rows=rows))
    for one, other in zip(before, after, strict=True):
        assert (one.id == other.id) == (one.row != "mild")
    rows["mild"]["options"]["l2"] = [5.0, 10.0]
    assert [run.id for run in expand(cheap_sweep(rows=rows))] == [run.id for run in after]


def test_rows_of_no_size_run_once_a_seed():
    runs = [run for run in expand(cheap_sweep()) if run.row == "popularity"]
    assert [(run.column, run.seed) for run in runs] == [("any size", 0), ("any size", 1)]


def test_models_that_runs_start_from():
    rows = {
        "ours": {"method": "elsa"},
        "half": {"method": "elsa", "options": {"format": "float16"}},
        "dense": {"method": "dense_elsa"},
        "wide": {"method": "dense_elsa", "options": {"width": 16}, "once": True},
        "top k": {"method": "top_k"},
        "EASE": {"method": "ease", "once": True},
    }
    runs = {
        (r.row, r.column): r for r in expand(cheap_sweep(rows=rows, seeds=(3,), reference="ours"))
    }

    def shape(row, column):
        config = runs[row, column].model_config
        return config.sparsity.target_nnz, config.model.n_factors, config.train.n_epochs

    assert shape("ours", "32") == (4, 16, 2)
    assert shape("half", "16") == (4, 16, 2)  # 16 bytes of 4 a non-zero
    assert runs["half", "16"].model_id == runs["ours", "32"].model_id
    assert shape("dense", "32") == (8, 8, 0)
    assert shape("wide", "any size") == shape("top k", "16") == (16, 16, 0)
    assert runs["top k", "32"].model_id == runs["top k", "16"].model_id
    assert runs["wide", "any size"].model_id == runs["top k", "16"].model_id
    assert runs["EASE", "any size"].model_config is None


ROWS = {"a": {"method": "pruned_ease"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {}}, "config.rows is empty"),
        ({"columns": {}}, "config.columns is empty"),
        ({"rows": {"a": {"method": "easy"}}}, "row 'a', column '32': method is 'easy'; choose one"),
        ({"rows": {"a": {}}}, "config.rows.a.method is missing"),
        ({"rows": {"a|b": {"method": "ease"}}}, "without '|'"),
        ({"rows": {"a": {"method": 3}}}, "config.rows.a.method is 3"),
        ({"rows": {"a": {"method": "ease", "optoins": {}}}}, "did you mean 'options'"),
        ({"rows": {"a": {"method": "ease", "once": "yes"}}}, r"config\.rows\.a\.once is 'yes'"),
        (
            {"rows": {"a": {"method": "pruned_ease", "options": {"l3": 1}}}},
            "row 'a', column '32': options: .*'l3'",
        ),
        (
            {"rows": {"a": {"method": "elsa", "options": {"format": "int3"}}}},
            "options.format is 'int3'",
        ),
        (
            {"rows": {"a": {"method": "dense_elsa", "options": {"width": 0}}}},
            "options.width is 0",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"n_epoch": 1}}}}},
            r"config\.rows\.a\.config\.train\.n_epoch: no such field; did you mean 'n_epochs'",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"n_epochs": "3"}}}}},
            r"config\.rows\.a\.config\.train\.n_epochs is '3'",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"n_epochs": True}}}}},
            r"n_epochs is True",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": 3}}}},
            r"config\.rows\.a\.config\.train is 3; give its fields",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"seed": 3}}}}},
            "the seeds are those of config.seeds",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"sparsity": {"target_nnz": 3}}}}},
            r"rows\.a\.config and \.columns\.32\.config both set sparsity\.target_nnz",
        ),
        (
            {"columns": {"wide": {"config": {"sparsity": {"target_nnz": 17}}}}},
            r"row 'a', column 'wide': config\.sparsity\.target_nnz is 17, more than",
        ),
        (
            {"rows": {"a": {"method": "elsa", "options": {"format": ("int8", "int4")}}}},
            r"row 'a', column '32': options\.format is \('int8', 'int4'\): only a baseline",
        ),
        (
            {"rows": {"a": {"method": "dense_elsa", "options": {"width": [8, 16]}}}},
            r"options\.width is \[8, 16\]: only a baseline",
        ),
        (
            {"rows": {"a": {"method": "pruned_ease", "options": {"l2": (5.0,)}}}},
            r"options\.l2 is \(5\.0,\): nothing to choose from; give two or more",
        ),
        (
            {
                "rows": {
                    "a": {
                        "method": "pruned_ease",
                        "options": {"l2": (5.0, 9.0)},
                        "config": {"data": {"n_val_users": 0}},
                    }
                }
            },
            r"options\.l2 is \(5\.0, 9\.0\), .* config\.data\.n_val_users is 0, .*; set it",
        ),
        (
            {
                "rows": {
                    "a": {
                        "method": "pruned_ease",
                        "options": {"l2": (5.0, 9.0)},
                        "config": {"data": {"split": "temporal", "test_from": "2020-01-01"}},
                    }
                }
            },
            r"config\.data\.val_from is '', which leaves none",
        ),
        ({"columns": {"b": {"conf": {}}}}, r"config\.columns\.b\.conf: no such field"),
        ({"columns": {"b": {}}}, r"config\.columns\.b\.config is missing"),
        (
            {"columns": {"b": {"config": {}}, "c": {"config": {}}}},
            "row 'a', column 'c' is the same run as row 'a', column 'b'",
        ),
        (
            {"rows": {**ROWS, "b": {"method": "pruned_ease"}}},
            "row 'b', column '32' is the same run as row 'a', column '32'",
        ),
        ({"seeds": ()}, r"config\.seeds is \(\)"),
        ({"seeds": (0, 0)}, "a seed twice"),
        ({"seeds": (0, -1)}, "-1 is not a whole number"),
        ({"seeds": (0, 1.0)}, "1.0 is not a whole number"),
        ({"reference": "b"}, r"config\.reference is 'b', which is not a row"),
        ({"metric": "ndcg@10"}, r"config\.metric is 'ndcg@10'"),
        ({"published": {"dataset": "goodbooks"}}, r"config\.published\.\w+: it is missing"),
        (
            {"published": {"dataset": "goodbooks", "table": "mane", "rows": {}}},
            "no table 'mane' of 'goodbooks'",
        ),
        (
            {"published": {"dataset": "goodbooks", "table": "main", "rows": {"a": "EASY"}}},
            "no published row 'EASY'",
        ),
    ],
)
def test_what_is_wrong_is_named_before_the_first_run(tmp_path, changes, message):
    sweep = cheap_sweep(**{"rows": ROWS, "reference": "a"} | changes)
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(sweep, tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_unknown_fields_of_the_sweep_and_of_its_base():
    sweep = cheap_sweep()
    with sweep.unlocked():
        sweep.sedes = (1,)
    with pytest.raises(InputError, match=r"config\.sedes: no such field; did you mean 'seeds'"):
        expand(sweep)
    base = tiny_base()
    with base.unlocked():
        base.train.epochs = 3
    with pytest.raises(InputError, match=r"config\.base\.train\.epochs: no such field"):
        expand(cheap_sweep(base=base))


def load(name):
    path = ROOT / "configs" / "sweeps" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_the_sweeps_of_the_repository_expand(path):
    module = load(path.stem)
    arguments = {"goodbooks": ("main", "schedule", "initial_width"), "widths": ("4096", "8192")}
    arguments |= dict.fromkeys(("ml_20m", "netflix"), arguments["goodbooks"])
    sizes = [len(expand(module.get_config(a))) for a in arguments.get(path.stem, ())]
    expected = {"smoke": 24, "schedules": 7 * 2 * 2 * 3, "methods": 3 * (4 + 12 * 3)}
    expected |= {"ablations": 22 * 2 * 2, "formats": 4 * 3 * 3, "large": 3 + 3}
    if path.stem in expected:
        assert len(expand(module.get_config())) == expected[path.stem]
    elif path.stem == "widths":
        assert sizes == [3 * 3, 5 * 3]
    else:
        assert sizes == [3 * (3 + 12 * 5), 7 * 2 * 5 * 3, 4 * 5 * 3]


def test_penalties_of_ease_are_those_given_and_nothing_of_ours_is_chosen():
    rows = paper.method_rows(16, (7.0, 8.0), {"n_final_epochs": 5})
    chosen = {name: row.get("options", {}) for name, row in rows.items()}
    for name in ("EASE", "pruned EASE", "column-pruned EASE"):
        assert chosen.pop(name) == {"l2": (7.0, 8.0)}
    assert set(chosen.pop("item k-NN")["similarity"]) == {"cosine", "bm25"}
    assert len(chosen.pop("ALS")["alpha"]) == 3
    assert not any(several(options) for options in chosen.values())
    for sweep, penalties in (
        (paper.paper_sweep("ml20m", "main"), (50.0, 100.0, 200.0, 400.0)),
        (load("methods").get_config(), (12.5, 25.0, 50.0, 100.0, 200.0)),
    ):
        assert sweep.rows["column-pruned EASE"].options.l2 == penalties


# Running.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sweep with every kind of method, and the folder it ran in."""
    workdir = tmp_path_factory.mktemp("trained")
    rows = {
        "popularity": {"method": "popularity", "once": True},
        "dense": {"method": "dense_elsa", "options": {"width": 16}, "once": True},
        "top k": {"method": "top_k"},
        "ours": {"method": "elsa"},
        "ours, float16": {"method": "elsa", "options": {"format": "float16"}},
    }
    sweep = make_sweep(
        base=tiny_base(),
        rows=rows,
        columns=paper.size_columns((32, 16)),
        seeds=(1,),
        reference="ours",
    )
    counts = run_sweep(sweep, workdir)
    assert counts == {"runs": 8, "done": 8, "failed": 0, "not_run": 0}
    return sweep, workdir


def test_a_model_is_trained_once_and_leaves_no_checkpoints(trained):
    sweep, workdir = trained
    models = {run.model_id for run in expand(sweep) if run.model_config}
    assert len(models) == 4  # dense, k = 4 and 2, and k = 8 of 4 bytes each
    assert {path.name for path in (workdir / "models").iterdir() if path.is_dir()} == models
    assert not list(workdir.rglob("checkpoints"))


def test_results_are_those_of_the_exported_models(trained):
    sweep, workdir = trained
    for run in expand(sweep):
        if run.method not in ("elsa", "dense_elsa") or "format" in run.options:
            continue
        model = workdir / "models" / run.model_id
        embeddings, item_ids = load_embeddings(model / "embeddings.npz")
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
        assert 0 < result["coverage@20"] <= 1
        assert 0 < result["popularity@20"] <= 1
    sizes = [float(row["bytes_per_item"]) for row in read_csv(workdir)]
    assert sizes[1:] == [64, *[32, 16] * 3]


def test_figures_are_written_and_show_something(trained):
    _, workdir = trained
    for name in ("quality_bytes", "schedules", "training", "churn", "factors"):
        png = (workdir / "figures" / f"{name}.png").read_bytes()
        svg = (workdir / "figures" / f"{name}.svg").read_text()
        assert png.startswith(b"\x89PNG")
        assert len(png) > 10_000
        assert svg.count("<path") > 10


def test_items_per_factor(tmp_path):
    from celsa_jax.sweeps.figures import items_per_factor

    dense = np.array([[1, 0, 2, 0], [0, 0, 3, 0], [0, 0, 1, 4]], np.float32)
    sp.save_npz(tmp_path / "embeddings.npz", sp.csc_matrix(dense))
    assert items_per_factor(tmp_path).tolist() == [1, 0, 3, 1]


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
    with pytest.raises(InputError, match="--shard=4/3"):
        run_sweep(sweep, tmp_path / "parts", shard=(4, 3))


def stable(workdir):
    """results.csv without the columns that may differ between equal runs."""
    ends = ("_seconds", "_per_s", "_path")
    return [{k: v for k, v in row.items() if not k.endswith(ends)} for row in read_csv(workdir)]


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


def test_a_compression_chooses_with_one_model(tmp_path, monkeypatch):
    def columns(dense, *, n_bytes, seed=0, first=0):
        return sp.csr_matrix(dense[:, first:])

    monkeypatch.setitem(baselines.COMPRESSIONS, "columns", columns)
    rows = {"a": {"method": "columns", "options": {"first": (15, 0, 14)}, "once": True}}
    run_sweep(cheap_sweep(rows=rows, seeds=(0,), reference="a"), tmp_path)
    (row,) = read_csv(tmp_path)
    assert row["chosen"] == '{"first": 0}'  # all columns say more than one or two
    assert float(row["bytes_per_item"]) == 8 * 16
    assert sum(path.is_dir() for path in (tmp_path / "models").iterdir()) == 1


def test_a_damaged_result_is_named(tmp_path):
    sweep = cheap_sweep(seeds=(0,))
    run_sweep(sweep, tmp_path)
    path = tmp_path / "runs" / read_csv(tmp_path)[0]["id"] / "result.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"result\.json: damaged: .*; delete it"):
        run_sweep(sweep, tmp_path)


# Tables.


def fabricate(workdir, sweep, values, users=None, chosen=None):
    """Writes results as a run does: `values`, and the others, by row, column and seed."""
    for run in expand(sweep):
        value = values.get((run.row, run.column, run.seed))
        if value is None:
            continue
        folder = workdir / "runs" / run.id
        folder.mkdir(parents=True)
        per_user = (users or {}).get((run.row, run.column, run.seed), np.full(4, value))
        np.savez(folder / "per_user.npz", **{"ndcg@100": per_user})
        result = {"error": None, "ndcg@100": value, "recall@20": 0.5, "recall@50": 0.5}
        result |= {"data": {"rows": 5_976_479}, "bytes_per_item": 8.0}
        if (run.row, run.column, run.seed) in (chosen or {}):
            result["chosen"] = chosen[run.row, run.column, run.seed]
        write_json(folder / "result.json", result)


def test_table_by_hand(tmp_path):
    rows = {"a": {"method": "pruned_ease"}, "b": {"method": "item_knn"}}
    sweep = cheap_sweep(rows=rows, seeds=(0, 1, 2), reference="a")
    values = {("a", "32", 0): 0.1, ("a", "32", 1): 0.2, ("a", "32", 2): 0.3}
    values |= {("b", "32", 0): 0.2, ("b", "32", 2): 0.3, ("b", "16", 1): 0.4}
    users = {
        ("a", "32", 0): np.array([0.1, 0.2, 0.3, np.nan]),
        ("a", "32", 2): np.array([0.5, 0.5, 0.1, 0.2]),
        ("b", "32", 0): np.array([0.2, 0.2, 0.2, 0.9]),
        ("b", "32", 2): np.array([0.9, 0.6, 0.3, 0.2]),
    }
    fabricate(tmp_path, sweep, values, users)
    runs = expand(sweep)
    results = {run.id: tables.read_result(tmp_path, run) for run in runs}
    tables.write_markdown(tmp_path / "table.md", sweep, runs, results, tmp_path)

    means = table(tmp_path, "ndcg@100")
    # The standard error of 0.1, 0.2, 0.3 is 0.1 / sqrt(3); of 0.2, 0.3 it is 0.05.
    assert means["a"] == {"32": "0.2000 ± 0.0577", "16": ""}
    assert means["b"] == {"32": "**0.2500 ± 0.0500** (2 of 3)", "16": "**0.4000** (1 of 3)"}
    difference = [0.1, 0, -0.1, 0.4, 0.1, 0.2, 0]
    p = scipy.stats.ttest_1samp(difference, 0).pvalue
    tests = table(tmp_path, "ndcg@100 against a")
    assert tests["a"] == {"32": "", "16": ""}
    stderr = np.std(difference, ddof=1) / np.sqrt(7)
    assert tests["b"] == {"32": f"+0.1000 ± {stderr:.4f} (p {p:.2g}, 7 users)", "16": ""}
    text = (tmp_path / "table.md").read_text()
    assert "12 runs: 6 done, 0 failed, 6 not run. Seeds 0, 1, 2." in text


@pytest.mark.parametrize("reference", ["sized", "whole"])
def test_a_row_of_any_size_is_compared_at_every_size(tmp_path, reference):
    rows = {"whole": {"method": "ease", "once": True}, "sized": {"method": "pruned_ease"}}
    rows["other"] = {"method": "popularity", "once": True}
    sweep = cheap_sweep(rows=rows, seeds=(0,), reference=reference)
    values = {("whole", "any size", 0): 0.5, ("other", "any size", 0): 0.4}
    values |= {("sized", "32", 0): 0.2, ("sized", "16", 0): 0.6}
    fabricate(tmp_path, sweep, values)
    runs = expand(sweep)
    results = {run.id: tables.read_result(tmp_path, run) for run in runs}
    tables.write_markdown(tmp_path / "table.md", sweep, runs, results, tmp_path)
    found = table(tmp_path, f"ndcg@100 against {reference}")
    shown = {row: [cell[:7] for cell in cells.values()] for row, cells in found.items()}
    if reference == "sized":
        assert shown["whole"] == ["", "+0.3000", "-0.1000"]
        assert shown["other"] == ["", "+0.2000", "-0.2000"]
    else:
        assert shown["sized"] == ["", "-0.3000", "+0.1000"]
        assert shown["other"] == ["-0.1000", "", ""]  # neither has a size


def test_table_says_what_was_chosen_and_where_a_grid_ends(tmp_path):
    rows = {
        "fixed": {"method": "pruned_ease"},
        "tuned": {"method": "pruned_ease", "options": {"l2": (200.0, 12.5, 50.0)}},
        "named": {"method": "item_knn", "options": {"similarity": ("cosine", "bm25")}},
        "waiting": {"method": "als", "options": {"l2": (1.0, 2.0)}},
    }
    sweep = cheap_sweep(rows=rows, reference="fixed")
    chosen = {
        ("tuned", "32", 0): {"l2": 12.5},
        ("tuned", "32", 1): {"l2": 50.0},
        ("tuned", "16", 1): {"l2": 50.0},
        ("named", "32", 0): {"similarity": "bm25"},
    }
    fabricate(tmp_path, sweep, dict.fromkeys([*chosen, ("fixed", "32", 0)], 0.1), chosen=chosen)
    runs = expand(sweep)
    results = {run.id: tables.read_result(tmp_path, run) for run in runs}
    tables.write_markdown(tmp_path / "table.md", sweep, runs, results, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.count("Chosen on validation users") == 1
    before, _, after = text.partition("\nChosen on validation users, by ndcg@100:\n\n")
    assert before.count("\n## ") == 1  # under the first table
    assert after.partition("\n\n")[0].splitlines() == [
        "- tuned: l2 50 (2 of 3 runs), 12.5 (1, at the edge of the grid); of 200, 12.5, 50",
        "- named: similarity bm25 (1 of 1 runs); of cosine, bm25",
    ]
    sweep = cheap_sweep(rows={"fixed": rows["fixed"]}, reference="fixed")
    tables.write_markdown(tmp_path / "table.md", sweep, expand(sweep), results, tmp_path)
    assert "Chosen" not in (tmp_path / "table.md").read_text()


def test_users_of_other_data_are_not_paired(tmp_path):
    rows = {"a": {"method": "pruned_ease"}, "b": {"method": "pruned_ease"}}
    rows["b"]["config"] = {"eval": {"folds": "independent"}}
    sweep = cheap_sweep(rows=rows, seeds=(0,), reference="a")
    fabricate(tmp_path, sweep, {("a", "32", 0): 0.1, ("b", "32", 0): 0.2})
    runs = expand(sweep)
    results = {run.id: tables.read_result(tmp_path, run) for run in runs}
    tables.write_markdown(tmp_path / "table.md", sweep, runs, results, tmp_path)
    assert table(tmp_path, "ndcg@100 against a")["b"] == {"32": "", "16": ""}


def test_published_figures_stand_beside_ours():
    """Values of the paper's tables, read off its pages."""
    sweep = paper.paper_sweep("goodbooks", "main")
    settings = sweep.published.to_dict()
    ours = published.values(settings, "ours", "ndcg@100")
    assert ours == {1024: 0.491, 512: 0.488, 256: 0.483, 128: 0.477, 64: 0.469}
    assert published.values(settings, "EASE", "recall@20") == {40_000: 0.337}
    assert published.values(settings, "ALS", "recall@20") == {}
    for dataset, name in itertools.product(published.DATA, ("main", "schedule", "initial_width")):
        assert len(expand(paper.paper_sweep(dataset, name)))


def test_published_figures_in_a_table_with_what_differs(tmp_path):
    rows = {"ours": {"method": "elsa"}, "EASE": {"method": "ease", "once": True}}
    ease = "EASE / None, factors=10000 (40000 B)"
    theirs = {"ours": "ELSA / Sparse training (ours)", "EASE": ease}
    base = tiny_base()
    base.model.n_factors = 64
    sweep = cheap_sweep(
        base=base,
        rows=rows,
        columns=paper.size_columns((128, 64, 32)),
        reference="ours",
        published={"dataset": "goodbooks", "table": "main", "rows": theirs},
    )
    fabricate(tmp_path, sweep, {("ours", "128", 0): 0.4})
    runs = expand(sweep)
    results = {run.id: tables.read_result(tmp_path, run) for run in runs}
    tables.write_markdown(tmp_path / "table.md", sweep, runs, results, tmp_path)
    shown = table(tmp_path, "ndcg@100")
    assert shown["*ours, published*"] == {
        "any size": "",
        "128": "*0.477*",
        "64": "*0.469*",
        "32": "",
    }
    assert shown["*EASE, published*"]["any size"] == "*0.482*"
    text = (tmp_path / "table.md").read_text()
    assert "are on the same data, the current release of Goodbooks-10k, but: 20 test users" in text


@pytest.mark.parametrize(
    ("counts", "n_users", "folds", "parts"),
    [
        (
            {"rows": 284_964},
            250,
            "disjoint",
            ["DIFFERENT DATA", "284,964", "5,976,479", "250 test"],
        ),
        ({"users": 3}, 2_500, "independent", ["DIFFERENT DATA", "made-up"]),
        ({"rows": 5_976_479}, 2_500, "independent", ["are on the same data", "Goodbooks-10k. The"]),
    ],
)
def test_what_differs_from_the_published_data_is_said(counts, n_users, folds, parts):
    text = published.statement({"dataset": "goodbooks"}, counts, n_users, folds)
    for part in (*parts, "arXiv 2602.09935", "whole catalogue"):
        assert part in text
