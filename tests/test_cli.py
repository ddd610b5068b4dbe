"""The programs, driven as a user drives them."""

import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp
from launch import ROOT, WITHOUT_JAX, program

from experiments.quickstart import print_table, titles_of


def assert_fails(done, *parts):
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[-1]


@pytest.fixture
def served(tmp_path):
    """Embeddings of two kinds, items and interactions that agree."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(30, 5)).astype(np.float32)
    mask = rng.random((30, 5)) < 0.5
    sp.save_npz(tmp_path / "E.npz", sp.csc_matrix(np.where(mask, dense, 0)))
    np.save(tmp_path / "E.npy", np.where(mask, dense, 0))
    (tmp_path / "items.txt").write_text("".join(f"i{i}\n" for i in range(30)))
    rows = [f"u{u},i{i},{rng.integers(1, 6)}" for u in range(8) for i in rng.permutation(40)[:12]]
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows))
    return tmp_path


def evaluate_flags(folder, embeddings="E.npz"):
    return (
        f"--embeddings={folder / embeddings}",
        f"--items={folder / 'items.txt'}",
        f"--interactions={folder / 'r.csv'}",
    )


def test_evaluate_runs_without_jax_and_formats_agree(served):
    results = []
    for embeddings in ("E.npz", "E.npy"):
        done = program("evaluate", *evaluate_flags(served, embeddings), code=WITHOUT_JAX)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    sparse, dense = results
    assert sparse["n_users"] == 8
    assert sparse["rows"] == sparse["interactions"] == 96
    assert sparse["bytes_per_item"] == 8 * sp.load_npz(served / "E.npz").nnz / 30
    assert dense["bytes_per_item"] == 20
    for name in ("recall@20", "recall@50", "ndcg@100"):
        assert sparse[name] == pytest.approx(dense[name], abs=1e-9)
        assert 0 < sparse[name] <= 1


def test_evaluate_filters_by_rating_only_when_asked(served):
    done = program("evaluate", *evaluate_flags(served), "--min_rating=4")
    counts = json.loads(done.stdout.splitlines()[-1])
    ratings = [line.split(",")[2] for line in (served / "r.csv").read_text().splitlines()[1:]]
    assert counts["interactions"] == sum(float(r) >= 4 for r in ratings)
    assert counts["dropped_below_min_rating"] == sum(float(r) < 4 for r in ratings)


def test_evaluate_normalizes_only_when_asked(served):
    lengths = np.linspace(0.1, 9, 30)[:, None]
    unscaled = np.load(served / "E.npy")
    norms = np.linalg.norm(unscaled, axis=1, keepdims=True)
    np.save(served / "unit.npy", unscaled / np.where(norms > 0, norms, 1))
    sp.save_npz(served / "long.npz", sp.csc_matrix(unscaled * lengths))
    outputs = [
        program("evaluate", *evaluate_flags(served, name), *flags).stdout.splitlines()[-1]
        for name, flags in (
            ("unit.npy", ()),
            ("long.npz", ("--normalize",)),
            ("long.npz", ()),
        )
    ]
    unit, normalized, taken_as_given = (json.loads(o)["ndcg@100"] for o in outputs)
    assert normalized == pytest.approx(unit, abs=1e-6)
    assert abs(taken_as_given - unit) > 1e-4


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--embeddings=missing.npz", ["missing.npz", "no such file"]),
        ("--items={folder}/short.txt", ["short.txt", "29 ids for the 30 rows"]),
        ("--items={folder}/twice.txt", ["'i0' is there twice"]),
        ("--interactions={folder}/other.csv", ["no item of", "are these the same ids?"]),
        ("--embeddings={folder}/nan.npy", ["nan.npy", "not finite"]),
        ("--embeddings={folder}/r.csv", ["r.csv", "damaged, or not embeddings"]),
        ("--folds=three", ["folds", "three"]),
        ("--foldz=disjoint", ["foldz"]),
        ("--user_column=who", ["no column 'who'"]),
        ("--split={folder}/r.csv", ["not a split file"]),
        ("--split={folder}/others.npz", ["others.npz: none of its test users is in"]),
        ("--embeddings={folder}/cut.npz", ["cut.npz", "damaged, or neither a SciPy sparse .npz"]),
        ("--embeddings={folder}/huge.npy", ["scores that are not finite"]),
        ("--items={folder}/latin.txt", ["latin.txt: not UTF-8"]),
        ("stray", ["unexpected argument 'stray'"]),
    ],
)
def test_evaluate_names_what_is_wrong(served, flag, parts):
    ids = (served / "items.txt").read_text()
    (served / "short.txt").write_text(ids.partition("\n")[2])
    (served / "twice.txt").write_text(ids.replace("i1\n", "i0\n", 1))
    (served / "other.csv").write_text("user_id,item_id\nu,x\n")
    np.save(served / "nan.npy", np.full((30, 2), np.nan))
    np.save(served / "huge.npy", np.full((30, 2), 3e38))
    (served / "cut.npz").write_bytes((served / "E.npz").read_bytes()[:-40])
    (served / "latin.txt").write_bytes(b"\xff\n" * 30)
    nobody = np.array([], np.str_)
    np.savez(served / "others.npz", train=nobody, val=nobody, test=np.array(["stranger"]))
    flags = [*evaluate_flags(served), flag.format(folder=served)]
    assert_fails(program("evaluate", *flags, code=WITHOUT_JAX), *parts)


def test_serving_and_evaluating_import_no_jax():
    modules = [
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for folder in ("data", "evaluation", "sparse", "segments", "baselines")
        for path in (ROOT / "celsa_jax" / folder).rglob("*.py")
        if path.name not in ("batches.py", "autoencoder.py")
    ]
    modules += ["celsa_jax", "celsa_jax.starts"]
    code = WITHOUT_JAX + "import importlib, sys\n"
    code += "".join(f"importlib.import_module({name!r})\n" for name in modules)
    assert len(modules) > 10
    done = program("none", code=code + "sys.exit(0)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config=configs/synthetic.py", "--config.train.lerning_rate=1"], ["lerning_rate"]),
        (["--config=configs/synthetic.py", "--config.train.n_epochs=many"], ["n_epochs", "many"]),
        (["--config=configs/nowhere.py"], ["configs/nowhere.py"]),
        (["--config=configs/synthetic.py", "--workdir="], ["give --workdir=..."]),
        (["--config=configs/synthetic.py", "--config.model.n_factors=512"], ["512", "neighbours"]),
        (["--config=configs/file.py"], ["config.data.path is empty"]),
        (["--config=configs/file.py", "--config.data.path=no.csv"], ["no.csv: no such file"]),
        ([], ["--config"]),
    ],
)
def test_train_names_what_is_wrong_and_writes_nothing(tmp_path, flags, parts):
    assert_fails(program("train", f"--workdir={tmp_path / 'w'}", *flags), *parts)
    assert not (tmp_path / "w").exists()


def test_ctrl_c_is_no_traceback(served):
    code = "from celsa_jax.data import readers\ndef interrupt(*_):\n    raise KeyboardInterrupt\n"
    code += "readers.read_ratings = interrupt"
    done = program("evaluate", *evaluate_flags(served), code=code)
    assert done.returncode == 130
    assert done.stderr.endswith("interrupted\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("--config.data.nam=x", "no field 'nam'; did you mean \"name\" instead"),
        ("--config.data.n_test_users=1", "config.data.n_test_users must be at least 2"),
        ("--config.data.split=temporal", "this takes config.data.split=users"),
    ],
)
def test_quickstart_names_what_is_wrong(tmp_path, flag, part):
    assert_fails(program("quickstart", f"--workdir={tmp_path / 'w'}", flag), part)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["defaults", "growth"])
def test_users_to_judge_are_those_that_nobody_trained_on(tmp_path, name):
    flags = ("--config=configs/synthetic.py", "--config.train.init_from=before")
    flags += (f"--workdir={tmp_path / 'w'}",) * (name == "defaults")
    assert_fails(program(name, *flags), "and no config.train.init_from")


def test_quickstart_shows_nothing_that_a_terminal_obeys():
    items = types.SimpleNamespace(item_ids=["a", "b"])
    titles = ["\x1b[2JEvil\u202e", "Les Misérables"]
    assert titles_of(types.SimpleNamespace(interactions=items, titles=titles)) == {
        "a": " [2JEvil ",
        "b": "Les Misérables",
    }


def test_quickstart_shows_where_a_metric_is_undefined(capsys):
    test = {"recall@20": 0.25, "recall@50": None, "ndcg@100": 0.5, "recall@20_stderr": 0.125}
    test |= {"recall@50_stderr": None, "ndcg@100_stderr": None}
    print_table([{"nnz_per_row": 4, "n_factors": 16, "test": test}])
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown == "| 4 of 16 | 32 | 0.250 ± 0.125 | - ± - | 0.500 ± - |"


@pytest.mark.parametrize(("given", "taken"), [("None", None), ("0.25", 0.25)])
def test_an_open_field_takes_a_number_or_none(given, taken):
    show = "import celsa_jax.train as t\n"
    show += "t.train_and_evaluate = lambda config, workdir: config.to_dict()\n"
    flags = ["--config=configs/synthetic.py", f"--config.train.input_dropout={given}"]
    done = program("train", *flags, "--workdir=unused", code=show)
    assert json.loads(done.stdout.splitlines()[-1])["train"]["input_dropout"] == taken


def test_a_run_from_the_command_line(tmp_path):
    """Trains on a file, evaluates the export on the run's own test users, without JAX."""
    rng = np.random.default_rng(1)
    rows = [
        f"{u:03d},{(u % 4) * 15 + rng.integers(15)},{rng.integers(3, 6)}"
        for u in range(120)
        for _ in range(14)
    ]
    (tmp_path / "r.tsv").write_text("who\twhat\tstars\n" + "\n".join(rows).replace(",", "\t"))
    run = tmp_path / "run"
    # The one launch of these tests that is not forked from a process that has imported everything.
    command = [sys.executable, "-m", "experiments.train", "--config=configs/file.py"]
    command += [
        f"--workdir={run}",
        f"--config.data.path={tmp_path / 'r.tsv'}",
        "--config.data.user_column=who",
        "--config.data.item_column=what",
        "--config.data.rating_column=stars",
        "--config.data.n_val_users=10",
        "--config.data.n_test_users=30",
        "--config.sparsity.target_nnz=2",
        "--config.train.n_epochs=2",
        "--config.train.n_final_epochs=1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch ") == 3  # one plain line an epoch, without a terminal
    trained = json.loads(done.stdout.splitlines()[-1])
    assert sorted(trained["recipe"]) == [
        "model.norms",
        "sparsity.start_nnz",
        "train.batch_size",
        "train.input_dropout",
        "train.learning_rate",
        "train.n_negatives",
    ]
    done = program(
        "evaluate",
        f"--embeddings={run / 'embeddings.npz'}",
        f"--items={run / 'items.txt'}",
        f"--interactions={tmp_path / 'r.tsv'}",
        "--user_column=who",
        "--item_column=what",
        "--rating_column=stars",
        "--min_rating=4",
        "--min_user_interactions=5",
        f"--split={run / 'split.npz'}",
        code=WITHOUT_JAX,
    )
    evaluated = json.loads(done.stdout.splitlines()[-1])
    assert evaluated["n_users"] == trained["test"]["n_users"] == 30
    assert evaluated["bytes_per_item"] == trained["bytes_per_item"] == 16
    for name in ("recall@20", "recall@50", "ndcg@100"):
        assert evaluated[name] == pytest.approx(trained["test"][name], abs=5e-3)


def test_quickstart_compares_models_of_several_sizes(tmp_path):
    done = program(
        "quickstart",
        f"--workdir={tmp_path}",
        "--config.data.name=synthetic",
        "--config.data.synthetic.n_users=200",
        "--config.data.synthetic.n_items=100",
        "--config.data.synthetic.n_segments=5",
        "--config.data.n_val_users=10",
        "--config.data.n_test_users=20",
        "--config.train.n_epochs=1",
        "--config.train.n_final_epochs=1",
        code="import sys\nsys.stdout.reconfigure(encoding='ascii')",
    )
    assert done.returncode == 0, done.stderr
    assert "0. \\xb1 0." in re.sub(r"\d{3}", "", done.stdout)
    table = [line.split("|")[1:3] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row] for row in table] == [
        ["model", "bytes per item"],
        ["dense, 256", "1,024"],
        *([f"{nnz} of 100", str(8 * nnz)] for nnz in (32, 16, 8)),
    ]
    assert done.stdout.count("recommends:") == 3
    assert "--text_columns=title,genres" in done.stdout
    assert (tmp_path / "items.csv").read_text().startswith('"item_id","title","genres"\n')
    assert " No. " in done.stdout  # titles, not ids
    for name, nnz, n_epochs in (("dense", 256, 0), ("nnz_32", 32, 1), ("nnz_8", 8, 1)):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["sparsity"]["target_nnz"], config["train"]["n_epochs"]) == (nnz, n_epochs)
        assert set(sp.load_npz(tmp_path / name / "embeddings.npz").getnnz(axis=1)) == {nnz}
