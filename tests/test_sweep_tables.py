"""The tables of a sweep."""

import numpy as np
import pytest
import scipy.stats
from test_sweeps import cheap_sweep, table

from celsa_jax.errors import InputError
from celsa_jax.files import write_json
from celsa_jax.sweeps import expand, paper, published, tables
from celsa_jax.sweeps.results import Results
from celsa_jax.sweeps.rows import size_columns


def fabricate(workdir, sweep, values, users=None, chosen=None):
    """Writes results as a run does: `values`, and the others, by row, column and seed."""
    for run in expand(sweep):
        value = values.get((run.row, run.column, run.seed))
        if value is None:
            continue
        per_user = (users or {}).get((run.row, run.column, run.seed), np.full(4, value))
        write_result(
            workdir, run, value, per_user, (chosen or {}).get((run.row, run.column, run.seed))
        )


def write_result(workdir, run, value, per_user, chosen=None):
    folder = workdir / "runs" / run.id
    folder.mkdir(parents=True)
    ids = np.arange(len(per_user)) + run.seed  # seeds share users
    np.savez(folder / "per_user.npz", **{"user_ids": ids.astype(str), "ndcg@100": per_user})
    result = {"error": None, "ndcg@100": value, "recall@20": 0.5, "recall@50": 0.5}
    result |= {"data": {"rows": 5_976_479}, "data_sha256": "", "bytes_per_item": 8.0}
    write_json(folder / "result.json", result | ({"chosen": chosen} if chosen else {}))


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
    # Users 0 to 2 of one seed, of the other 2 to 5: user 2 counts once, with (-0.1 + 0.4) / 2.
    difference = [0.1, 0, 0.15, 0.1, 0.2, 0]
    p = scipy.stats.ttest_1samp(difference, 0).pvalue
    tests = table(tmp_path, "ndcg@100 against a")
    assert tests["a"] == {"32": "", "16": ""}
    mean, stderr = np.mean(difference), np.std(difference, ddof=1) / np.sqrt(6)
    assert tests["b"] == {"32": f"{mean:+.4f} ± {stderr:.4f} (p {p:.2g}, 6 users)", "16": ""}
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


def test_p_values_are_corrected_for_their_number(tmp_path):
    rows = {name: {"method": "pruned_ease"} for name in "abc"}
    rows["b"]["options"], rows["c"]["options"] = {"l2": 1.0}, {"l2": 2.0}
    sweep = cheap_sweep(rows=rows, seeds=(0,), reference="a")
    values = {(row, column, 0): 0.1 for row in "abc" for column in ("32", "16")}
    users = {("a", c, 0): np.zeros(4) for c in ("32", "16")}
    users |= {("b", "32", 0): np.arange(1.0, 5), ("b", "16", 0): np.array([1.0, -1, 2, -1])}
    users |= {("c", "32", 0): np.array([3.0, 1, 1, 1]), ("c", "16", 0): np.ones(4) / 9}
    fabricate(tmp_path, sweep, values, users)
    write_table(tmp_path, sweep)
    found = table(tmp_path, "ndcg@100 against a")
    low, high, p = (scipy.stats.ttest_1samp(users[at], 0).pvalue for at in list(users)[2:5])
    assert 0 < low < p < high  # and 0, of equal differences, is the lowest
    shown = [found[row][column] for row, column in (("b", "32"), ("c", "32"), ("b", "16"))]
    for cell, value in zip(shown, (3 * low, 2 * p, high), strict=True):
        assert f"(p {value:.2g}, 4 users)" in cell


def test_spread_of_splits_and_of_trainings(tmp_path):
    """By hand: within a split 0.14^2 / 2, between the means 0.1 and 0.5 0.4^2 / 2 - 0.14^2 / 4."""
    rows = {"ours": {"method": "elsa"}, "EASE": {"method": "ease", "once": True}}
    sweep = cheap_sweep(rows=rows, columns=size_columns((32,)), trainings=2, reference="ours")
    runs = expand(sweep)
    assert [(run.row, run.seed, run.training) for run in runs] == [
        *(("ours", seed, training) for seed in (0, 1) for training in (0, 1)),
        *(("EASE", seed, 0) for seed in (0, 1)),
    ]
    once = cheap_sweep(rows=rows, columns=size_columns((32,)), reference="ours")
    assert runs[0].id == expand(once)[0].id
    for training in (0, 1):
        seeds = [runs[training].config.seeds[part] for part in ("split", "folds")]
        assert (runs[training].config.seed, seeds) == (0, [None, None])
    assert runs[0].config.seeds.training is None
    assert len({run.model_id for run in runs[:4]}) == 4
    for run, value in zip(runs, (0.03, 0.17, 0.43, 0.57, 0.2, 0.3), strict=True):
        write_result(tmp_path, run, value, np.full(4, value))
    write_table(tmp_path, sweep)
    assert table(tmp_path, "ndcg@100")["ours"]["32"] == "**0.3000 ± 0.2000**"
    spread = table(tmp_path, "spread of ndcg@100")
    assert spread["ours"] == {"any size": "", "32": "split 0.2740, training 0.0990"}
    assert spread["EASE"] == {"any size": "", "32": ""}
    # Users 0 and 4 are in one seed, with 0.2 - 0.1 and 0.3 - 0.5, the others in both.
    difference = [0.1, -0.05, -0.05, -0.05, -0.2]
    shown = table(tmp_path, "ndcg@100 against ours")["EASE"]["32"]
    assert shown.startswith(f"{np.mean(difference):+.4f} ± {scipy.stats.sem(difference):.4f} (p ")


def test_published_figures_of_the_paper():
    """Values of the paper's tables, read off its pages, and one of its files of data."""
    figures = published.figures("goodbooks/main", "ndcg@100")
    ours = {1024: "0.491", 512: "0.488", 256: "0.483", 128: "0.477", 64: "0.469"}
    assert figures["ELSA / Sparse training (ours)"] == ours
    widths = published.figures("goodbooks/initial_width", "ndcg@100")
    assert widths["16 kB (2048 factors)"][128] == "0.459"
    assert published.figures("goodbooks/main", "bytes_per_item") == {}


@pytest.mark.parametrize("dataset", published.DATA)
def test_what_was_published_has_a_row_that_is_trained_as_there(dataset):
    for name in ("schedule", "initial_width"):
        rows = paper.paper_sweep(dataset, name).rows
        assert set(published.figures(f"{dataset}/{name}", "recall@20")) == set(rows)
        assert all(row.config.train.as_published for row in rows.values())
    with pytest.raises(InputError, match=f"no data 'movies'; choose one of .*{dataset}"):
        paper.preset("movies")


def test_published_figures_in_a_table_with_what_differs(tmp_path):
    rows = {"Constant": {"method": "elsa"}, "EASE": {"method": "ease", "once": True}}
    sweep = cheap_sweep(
        rows=rows,
        columns=size_columns((128, 64, 32)),
        reference="Constant",
        published="goodbooks/schedule",
    )
    fabricate(tmp_path, sweep, {("Constant", "128", 0): 0.4})
    write_table(tmp_path, sweep)
    shown = table(tmp_path, "ndcg@100")
    assert list(shown)[:3] == ["Constant", "*Constant*", "EASE"]  # then what has no row here
    theirs = published.figures("goodbooks/schedule", "ndcg@100")["Constant"]
    expected = {"any size": "", "128": f"*{theirs[128]}*", "64": f"*{theirs[64]}*", "32": ""}
    assert shown["*Constant*"] == expected
    text = (tmp_path / "table.md").read_text()
    assert "on the current release of Goodbooks-10k: 5,976,479 ratings, 2,500 test users" in text
    assert "Ours: the same data, 20 other test users, disjoint folds" in text
    sweep.published = "goodbooks/main"
    write_table(tmp_path, sweep)
    ease = table(tmp_path, "ndcg@100")["*EASE / None, factors=10000 (40000 B)*"]
    assert ease == {"any size": "*0.482*", "128": "", "64": "", "32": ""}


@pytest.mark.parametrize("counts", [{"rows": 284_964}, {"users": 3}])
def test_other_data_than_the_published_are_named(counts):
    text = published.statement("goodbooks/main", counts, 250, "disjoint")
    assert "OTHER DATA, not to be compared, 250 other test users, disjoint folds" in text
