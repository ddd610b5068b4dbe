"""Runs on data and at sizes at the edge of what is possible."""

import json

import numpy as np
import pytest
import scipy.sparse as sp

from celsa_jax.sparse import Recommender, SparseEmbeddings
from celsa_jax.train import train_and_evaluate


def histories(random_matrix):
    """Users of one item and of all, an item of nobody and one of everybody."""
    matrix = random_matrix(60, 20, density=0.3).toarray()
    matrix[::3] = 0
    matrix[1::3] = 1
    matrix[:, 7], matrix[:, 8] = 0, 1
    return matrix


EDGES = {
    "odd histories, k = 1": (histories, {"sparsity.start_nnz": 4, "sparsity.target_nnz": 1}),
    "one item, which is one factor": (lambda _: np.ones((60, 1)), {"sparsity.target_nnz": 1}),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges(small_config, tmp_path, edge, random_matrix):
    draw, changes = EDGES[edge]
    matrix = draw(random_matrix)
    sp.save_npz(tmp_path / "x.npz", sp.csr_matrix(matrix.astype(np.float32)))
    small_config.data.update(name="file", path=str(tmp_path / "x.npz"), min_user_interactions=1)
    small_config.data.update(n_val_users=5, n_test_users=10)
    small_config.train.n_epochs = 1
    small_config.update_from_flattened_dict(changes)
    train_and_evaluate(small_config, tmp_path / "w")
    embeddings = sp.load_npz(tmp_path / "w" / "embeddings.npz")
    items = (tmp_path / "w" / "items.txt").read_text().splitlines()
    assert items == [str(column) for column in range(matrix.shape[1])]
    assert embeddings.shape == (len(items), len(items))
    assert set(embeddings.getnnz(axis=1)) == {changes["sparsity.target_nnz"]}
    assert (sp.linalg.norm(embeddings, axis=1) > 0.1).all()
    lines = (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 2
    assert all(0 <= loss <= 4 for loss in losses)


@pytest.mark.parametrize(("start", "norms"), [("neighbours", "learned"), ("clusters", "unit")])
def test_a_matrix_of_training_is_a_history(small_config, tmp_path, start, norms):
    """Its columns are the model's; those that nobody has are not recommended."""
    rng, unused = np.random.default_rng(0), [0, 11, 23]
    alike = (np.add.outer(np.arange(90), np.arange(24)) % 2 == 0).astype(np.float32)
    alike[:, unused] = 0
    dense = alike.copy()
    for row in dense:
        row[rng.choice(np.flatnonzero(row), 3, replace=False)] = 0
    matrix = sp.csr_matrix(dense)
    sp.save_npz(tmp_path / "x.npz", matrix)
    small_config.data.update(name="file", path=str(tmp_path / "x.npz"), min_user_interactions=1)
    small_config.data.update(n_val_users=5, n_test_users=5)
    small_config.model.update(start=start, n_factors=8 * (start == "clusters"), norms=norms)
    small_config.sparsity.start_nnz = 8
    train_and_evaluate(small_config, tmp_path / "w")
    embeddings = SparseEmbeddings.load(tmp_path / "w" / "embeddings.npz")
    items, _ = Recommender(embeddings).recommend(matrix, k=3)
    withheld = alike - dense
    assert withheld[np.arange(90)[:, None], items].mean() > 0.95
    assert not np.isin(items, unused).any()
