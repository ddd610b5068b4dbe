"""The grid of a sweep, its checks, and the sweeps of the repository."""

import importlib.util
import itertools
import pathlib

import pytest
from test_sweeps import WIDTH_32, cheap_sweep, tiny_base

from celsa_jax.errors import InputError
from celsa_jax.sweeps import expand, paper, run_sweep
from celsa_jax.sweeps.rows import method_rows

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "sweeps").glob("*.py"))


def test_runs_are_the_product_of_rows_columns_and_seeds_in_their_order():
    rows = {"z": {"method": "pruned_ease"}, "a": {"method": "elsa"}, "m": {"method": "ease"}}
    sweep = cheap_sweep(rows=rows, seeds=(5, 0, 2), reference="a")
    runs = expand(sweep)
    wanted = list(itertools.product("zam", ("32", "16"), (5, 0, 2)))
    assert [(run.row, run.column, run.seed) for run in runs] == wanted
    assert [run.config.seed for run in runs] == [seed for _, _, seed in wanted]
    assert [run.n_bytes for run in runs] == [int(column) for _, column, _ in wanted]
    assert len({run.id for run in runs}) == len(runs)
    assert [run.id for run in expand(sweep)] == [run.id for run in runs]


def test_overrides_reach_the_configuration_and_change_the_id_of_their_runs_alone():
    before = expand(cheap_sweep())
    rows = cheap_sweep().rows.to_dict()
    rows["mild"]["config"] = {"model": {"alpha": 0.3}, "sparsity": {"start_nnz": 32}}
    rows["mild"]["config"]["train"] = {"learning_rate": 1}
    after = expand(cheap_sweep(rows=rows))
    mild = [run for run in after if run.row == "mild"]
    assert all(run.config.model.alpha == 0.3 for run in mild)
    assert all(run.config.sparsity.start_nnz == 32 for run in mild)
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
        "wide": {"method": "dense_elsa", "options": {"width": 32}, "once": True},
        "top k": {"method": "top_k", "config": WIDTH_32},
        "EASE": {"method": "ease", "once": True},
    }
    runs = {
        (r.row, r.column): r for r in expand(cheap_sweep(rows=rows, seeds=(3,), reference="ours"))
    }

    def shape(row, column):
        config = runs[row, column].model_config
        return config.sparsity.target_nnz, config.model.n_factors, config.train.n_epochs

    assert shape("ours", "32") == (4, 0, 2)
    assert shape("half", "16") == (4, 0, 2)  # 16 bytes of 4 a non-zero
    assert runs["half", "16"].model_id == runs["ours", "32"].model_id
    assert shape("dense", "32") == (8, 8, 0)
    assert shape("wide", "any size") == shape("top k", "16") == (32, 32, 0)
    assert runs["top k", "32"].model_id == runs["top k", "16"].model_id
    assert runs["wide", "any size"].model_id == runs["top k", "16"].model_id
    assert runs["EASE", "any size"].model_config is None
    nested = tiny_base()
    nested.sparsity.nested_nnz = 1
    for run in expand(cheap_sweep(base=nested, rows=rows, seeds=(3,), reference="ours")):
        if run.model_config is not None:
            assert run.model_config.sparsity.nested_nnz == (run.method == "elsa")


ROWS = {"a": {"method": "pruned_ease"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {}}, "config.rows is empty"),
        ({"columns": {}}, "config.columns is empty"),
        ({"rows": {"a": {"method": "easy"}}}, "row 'a', column '32': method is 'easy'; choose one"),
        ({"rows": {"a": {}}}, "row 'a', column '32': method is ''; choose one of"),
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
            "row 'a', column '32': unknown format 'int3'",
        ),
        (
            {"rows": {"a": {"method": "top_k"}}},
            "row 'a', column '32': a dense model of width 0: .* config.model.start to random",
        ),
        (
            {"rows": {"a": {"method": "dense_elsa", "options": {"width": "wide"}}}},
            "a dense model of width 'wide': set options.width",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"n_epoch": 1}}}}},
            r"config\.rows\.a\.config\.train\.n_epoch: no such field; did you mean 'n_epochs'",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"b1": "3"}}}}},
            r"config\.rows\.a\.config\.train\.b1 is '3'",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"n_negatives": True}}}}},
            r"row 'a', column '32': config\.train\.n_negatives is True",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"n_epochs": "3"}}}}},
            r"config\.rows\.a\.config\.train\.n_epochs is '3'; it takes a value like 2",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": 3}}}},
            r"config\.rows\.a\.config\.train is 3; give its fields",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"train": {"init_from": "before"}}}}},
            r"row 'a', column '32': config\.train\.init_from: a sweep trains all",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"seed": 3}}}},
            "row 'a', column '32': the seeds are those of config.seeds",
        ),
        (
            {"columns": {"b": {"config": {"seeds": {"split": 3}}}}},
            "row 'a', column 'b': the seeds are those",
        ),
        (
            {"rows": {"a": {"method": "elsa", "config": {"sparsity": {"target_nnz": 3}}}}},
            r"row 'a' and column '32' both set sparsity\.target_nnz",
        ),
        (
            {"columns": {"wide": {"config": {"sparsity": {"target_nnz": 17, "start_nnz": 16}}}}},
            r"row 'a', column 'wide': config\.sparsity\.start_nnz is 16, less than",
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
            {"rows": {"a": {"method": "pruned_ease", "options": {"l2": ()}}}},
            r"options\.l2 is \(\): nothing to choose from",
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
            r"options\.l2 is \(5\.0, 9\.0\), .*: set config\.data\.n_val_users",
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
            r"options\.l2 is .*: set .* \(of a split by time, val_from as well\)",
        ),
        (
            {"columns": {"b": {"config": {}}, "c": {"config": {}}}},
            "row 'a', column 'c' is the same run as row 'a', column 'b'",
        ),
        (
            {"rows": {**ROWS, "b": {"method": "pruned_ease"}}},
            "row 'b', column '32' is the same run as row 'a', column '32'",
        ),
        ({"columns": {"b": {"conf": {}}}}, r"config\.columns\.b\.conf: no such field"),
        ({"columns": {"any size": {}}}, r"config\.columns\.any size: a name without"),
        ({"seeds": ()}, r"config\.seeds is \(\)"),
        ({"seeds": (0, 0)}, r"config\.seeds is \(0, 0\); give one or more, each once"),
        ({"seeds": (0, -1)}, r"\(0, -1\); choose a whole number from 0"),
        ({"seeds": (0, 1.5)}, r"\(0, 1\.5\); choose a whole number from 0"),
        ({"trainings": 0}, r"config\.trainings is 0; it must be a whole number from 1 on"),
        ({"reference": "b"}, r"config\.reference is 'b', which is not a row"),
        (
            {"published": "goodbooks/mane"},
            "'goodbooks/mane'; choose one of goodbooks/initial_width",
        ),
    ],
)
def test_what_is_wrong_is_named_before_the_first_run(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        run_sweep(cheap_sweep(**{"rows": ROWS, "reference": "a"} | changes), tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_unknown_fields_of_the_sweep_and_of_its_base():
    sweep = cheap_sweep()
    with sweep.unlocked():
        sweep.sedes = (1,)
    with pytest.raises(InputError, match="none of a sweep"):
        expand(sweep)
    with pytest.raises(InputError, match="none of a sweep"):
        expand(tiny_base())
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
    expected = {"smoke": 24, "methods": 3 * (12 + 13 * 3), "ablations": 34 * 3}
    expected |= {"baselines": 5 + 5 * 3, "first_release": 3 * (3 + 4 * 2), "spread": 2 * 3 * 3}
    if path.stem == "first_release":
        assert len(expand(module.get_config("dense"))) == 3 * (5 + 5)
    if path.stem in expected:
        assert len(expand(module.get_config())) == expected[path.stem]
        return
    names = ("goodbooks/main", "ml20m/schedule", "netflix/initial_width")
    tables = [expand(module.get_config(name)) for name in names]
    assert [len(runs) for runs in tables] == [3 * (6 + 13 * 5), 7 * 5 * 3, 4 * 5 * 3]


def test_penalties_of_ease_are_those_given_and_nothing_of_ours_is_chosen():
    rows = method_rows(16, (7.0, 8.0), {"n_final_epochs": 5})
    chosen = {name: row.get("options", {}) for name, row in rows.items()}
    for name in ("EASE", "pruned EASE", "column-pruned EASE"):
        assert chosen.pop(name) == {"l2": (7.0, 8.0)}
    assert chosen.pop("EDLAE") == chosen.pop("column-pruned EDLAE")
    assert set(chosen.pop("discounted EDLAE")) == {"l2", "dropout", "discount"}
    assert set(chosen.pop("user k-NN")) == {"n_neighbours", "locality"}
    assert set(chosen.pop("item k-NN")["similarity"]) == {"cosine", "bm25"}
    assert len(chosen.pop("ALS")["alpha"]) == 3
    values = [value for options in chosen.values() for value in options.values()]
    assert not any(isinstance(value, list | tuple) for value in values)
    for sweep, penalties in (
        (paper.paper_sweep("ml20m", "main"), (50.0, 100.0, 200.0, 400.0)),
        (load("methods").get_config(), (12.5, 25.0, 50.0, 100.0, 200.0)),
    ):
        assert sweep.rows["column-pruned EASE"].options.l2 == penalties
