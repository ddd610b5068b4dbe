"""The tables of a sweep."""

import csv
import importlib.resources

import numpy as np
import pytest
import scipy.stats
from test_sweeps import cheap_sweep, table

from celsa_jax.files import write_json
from celsa_jax.sweeps import expand, paper, published, tables
from celsa_jax.sweeps.results import Results


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


def write_table(workdir, sweep):
    tables.write_markdown(workdir / "table.md", Results(sweep, expand(sweep), workdir))


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
    write_table(tmp_path, sweep)

    means = table(tmp_path, "ndcg@100")
    # The standard error of 0.1, 0.2, 0.3 is 0.1 / sqrt(3); of 0.2, 0.3 it is 0.05.
    assert means["a"] == {"32": "**0.2000 ± 0.0577**", "16": ""}
    assert means["b"] == {"32": "0.2500 ± 0.0500 (2 of 3)", "16": "0.4000 (1 of 3)"}
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
    write_table(tmp_path, sweep)
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
    write_table(tmp_path, sweep)
    text = (tmp_path / "table.md").read_text()
    assert text.count("Chosen on validation users") == 1
    before, _, after = text.partition("\nChosen on validation users, by ndcg@100:\n\n")
    assert before.count("\n## ") == 1  # under the first table
    assert after.partition("\n\n")[0].splitlines() == [
        "- tuned: l2 50 (2 of 3 runs), 12.5 (1, at the edge of the grid); of 200, 12.5, 50",
        "- named: similarity bm25 (1 of 1 runs); of cosine, bm25",
    ]
    sweep = cheap_sweep(rows={"fixed": rows["fixed"]}, reference="fixed")
    write_table(tmp_path, sweep)
    assert "Chosen" not in (tmp_path / "table.md").read_text()


def test_users_of_other_data_are_not_paired(tmp_path):
    rows = {"a": {"method": "pruned_ease"}, "b": {"method": "pruned_ease"}}
    rows["b"]["config"] = {"eval": {"folds": "independent"}}
    sweep = cheap_sweep(rows=rows, seeds=(0,), reference="a")
    fabricate(tmp_path, sweep, {("a", "32", 0): 0.1, ("b", "32", 0): 0.2})
    write_table(tmp_path, sweep)
    assert table(tmp_path, "ndcg@100 against a")["b"] == {"32": "", "16": ""}


def test_published_figures_stand_beside_ours():
    """Values of the paper's tables, read off its pages."""
    table = paper.paper_sweep("goodbooks", "main").published
    ours = published.values(table, "random start", "ndcg@100")
    assert ours == {1024: 0.491, 512: 0.488, 256: 0.483, 128: 0.477, 64: 0.469}
    assert published.values(table, "EASE", "recall@20") == {40_000: 0.337}
    assert published.values(table, "ALS", "recall@20") == {}


@pytest.mark.parametrize("dataset", published.DATA)
@pytest.mark.parametrize("name", ["main", "schedule", "initial_width"])
def test_all_published_figures_have_a_row(dataset, name):
    sweep = paper.paper_sweep(dataset, name)
    with (importlib.resources.files("celsa_jax.sweeps") / "published_results.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    ours = {row["ours"] for row in rows if (row["dataset"], row["table"]) == (dataset, name)}
    assert ours
    assert ours <= set(sweep.rows)


def test_published_figures_in_a_table_with_what_differs(tmp_path):
    rows = {"random start": {"method": "elsa"}, "EASE": {"method": "ease", "once": True}}
    sweep = cheap_sweep(
        rows=rows,
        columns=paper.size_columns((128, 64, 32)),
        reference="random start",
        published="goodbooks/main",
    )
    fabricate(tmp_path, sweep, {("random start", "128", 0): 0.4})
    write_table(tmp_path, sweep)
    shown = table(tmp_path, "ndcg@100")
    assert shown["*random start, published*"] == {
        "any size": "",
        "128": "*0.477*",
        "64": "*0.469*",
        "32": "",
    }
    assert shown["*EASE, published*"]["any size"] == "*0.482*"
    text = (tmp_path / "table.md").read_text()
    assert "on the same data: the current release of Goodbooks-10k, 5,976,479 ratings, 2,5" in text
    assert "; ours 5,976,479 ratings, 20 test users, disjoint folds." in text


@pytest.mark.parametrize(
    ("counts", "parts"),
    [
        ({"rows": 284_964}, ["DIFFERENT DATA", "5,976,479", "2,500 test", "ours 284,964 ratings"]),
        ({"users": 3}, ["DIFFERENT DATA", "ours made-up"]),
        ({"rows": 5_976_479}, ["are on the same data: the current release of Goodbooks-10k"]),
    ],
)
def test_what_differs_from_the_published_data_is_said(counts, parts):
    text = published.statement("goodbooks/main", counts, 250, "disjoint")
    for part in (*parts, "250 test users, disjoint folds", "arXiv 2602.09935", "whole catalogue"):
        assert part in text
