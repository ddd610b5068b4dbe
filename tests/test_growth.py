"""The program that judges what a model makes of new items and new users."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from launch import program

from celsa_jax import load_dataset
from experiments.growth import recall


def test_recall_is_of_the_hidden_items_alone():
    history = sp.csr_matrix(np.array([[1, 0], [0, 1], [0, 0], [1, 1]], np.float32))
    hidden = np.zeros((4, 30), np.float32)
    hidden[0, [0, 29]] = hidden[1, 3] = hidden[2, 4] = 1  # nobody knows the third, or finds 29
    result = recall(
        lambda x: np.tile(-np.arange(30.0), (x.shape[0], 1)), history, sp.csr_matrix(hidden)
    )
    assert result == {"recall@20": 0.75, "stderr": 0.25, "n_users": 2}


@pytest.mark.slow
def test_growth(tmp_path):
    sizes = {"n_users": 600, "n_items": 90, "n_segments": 6}
    data = load_dataset("synthetic", synthetic=sizes)
    lines = [
        f'{item},"{title}"'
        for item, title in zip(data.interactions.item_ids, data.titles, strict=True)
    ]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *lines]), encoding="utf-8")
    done = program(
        "growth",
        "--config=configs/file.py",
        "--config.data.name=synthetic",
        *(f"--config.data.synthetic.{name}={n}" for name, n in sizes.items()),
        "--config.data.n_val_users=50",
        "--config.data.n_test_users=100",
        "--config.sparsity.start_nnz=8",
        "--config.sparsity.target_nnz=4",
        "--config.train.n_epochs=2",
        "--config.train.n_final_epochs=1",
        f"--metadata={tmp_path / 'items.csv'}",
        "--text_columns=title",
        "--n_hidden=45",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["new_items"]["n_known"] == 45
    found = {name: r["recall@20"] for name, r in report["new_items"]["test"].items()}
    assert found["users"] > report["new_items"]["chance"] + 0.1
    assert set(report["new_users"]["test"]) > {"half", "half, then others", "all"}
