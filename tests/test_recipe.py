"""What the data decide, by hand, on both sides of every threshold."""

import numpy as np
import pytest
import scipy.sparse as sp

from celsa_jax import recipe
from celsa_jax.config import default_config
from celsa_jax.errors import InputError
from celsa_jax.recipe import choices, chosen, filled


def users_of(n_users, n_items, length):
    """Users of so many interactions each, items of nearly equally many."""
    items = np.arange(n_users * length) % n_items
    indptr = np.arange(n_users + 1) * length
    return sp.csr_matrix((np.ones(len(items), np.float32), items, indptr), (n_users, n_items))


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        # n_users, n_items, interactions a user; items have n_users * length / n_items.
        ((1000, 1250, 20), ("learned", 64, 0.02, 20, 10, 0.8)),  # 16 an item, small data
        ((1000, 1280, 20), ("unit", 64, 0.02, 10, 10, 0.7)),  # 15.6 an item, short histories
        ((1000, 4000, 50), ("learned", 64, 0.02, 10, 10, 0.5)),  # 12.5 an item, long ones
        ((1000, 4000, 35), ("learned", 64, 0.02, 10, 10, 0.7)),  # 8.75 an item, long enough
        ((1000, 4000, 34), ("unit", 64, 0.02, 10, 10, 0.7)),
        ((1000, 800, 14), ("learned", 56, 0.02, 20, 10, 0.6)),  # small data, shorter ones
        ((10_000, 4000, 15), ("learned", 264, 0.02, 10, 10, 0.5)),  # 150,000 are not small
        ((9000, 9000, 14), ("unit", 560, 0.02, 10, 10, 0.5)),
        ((1000, 1000, 5), ("unit", 64, 0.013, 10, 10, 0.75)),
        ((3000, 500, 5), ("learned", 96, 0.02, 20, 10, 0.75)),
        ((20_000, 4000, 10), ("learned", 400, 0.02, 10, 10, 0.5)),  # 50 an item, 200,000
        ((200, 1000, 5), ("unit", 24, 0.0048, 10, 10, 0.75)),  # the least batch
        ((100_000, 1000, 2), ("learned", 496, 0.02, 10, 10, 0.9)),
    ],
)
def test_rules(sizes, rule):
    fields = ("model.norms", "train.batch_size", "train.learning_rate", "train.n_epochs")
    fields += ("train.n_final_epochs", "train.input_dropout")
    found = choices(users_of(*sizes))
    assert found.pop("train.n_negatives") == 0
    assert found == dict(zip(fields, rule, strict=True))


@pytest.mark.parametrize(
    ("n_items", "n_negatives", "batch"), [(100_000, 0, 1024), (100_001, 2_500, 64)]
)
def test_of_many_items_some_are_sampled_for_smaller_batches(n_items, n_negatives, batch):
    found = choices(users_of(100_001, n_items, 1))
    assert found["train.n_negatives"] == n_negatives
    assert found["train.batch_size"] == batch


def test_batches_are_smaller_where_outputs_are_sampled_by_hand():
    few, many = users_of(100_001, 100_000, 1), users_of(100_001, 100_001, 1)
    assert choices(few, n_negatives=500)["train.batch_size"] == 64
    assert choices(many, n_negatives=0)["train.batch_size"] == 1024


def test_the_rate_follows_a_batch_that_is_chosen_by_hand():
    matrix = users_of(1000, 1250, 20)  # batches of 64, which bring an item 1.02 interactions
    assert choices(matrix, batch_size=16)["train.batch_size"] == 16
    assert choices(matrix, batch_size=16)["train.learning_rate"] == 0.01  # 0.256 of an item
    assert choices(matrix, batch_size=16, by_row=False)["train.learning_rate"] == 0.0026
    assert choices(matrix, batch_size=512)["train.learning_rate"] == 0.02


def test_items_without_interactions_do_not_count():
    matrix = users_of(1000, 1250, 20)
    wider = sp.hstack([sp.csr_matrix((1000, 3000)), matrix], format="csr")
    assert choices(wider) == choices(matrix)


def test_what_is_given_stays_and_what_was_chosen_is_told():
    config, matrix = default_config(), users_of(200, 100, 30)
    config.train.update(learning_rate=0.5, n_epochs=3)
    config.sparsity.target_nnz = 40
    full = filled(config, matrix)
    assert (full.train.learning_rate, full.train.n_epochs) == (0.5, 3)
    assert full.sparsity.start_nnz == 80  # twice the target
    assert full.model.n_factors == 100
    assert config.train.batch_size is None
    told = chosen(config, full)
    assert told["sparsity.start_nnz"] == 80
    assert not {"train.learning_rate", "train.n_epochs"} & told.keys()


@pytest.mark.parametrize(
    ("width", "nnz", "n_epochs"), [(4096, 16, 70), (4096, 8, 80), (4096, 128, 40), (64, 64, 0)]
)
def test_a_random_start_takes_what_the_paper_does(width, nnz, n_epochs):
    config = default_config()
    config.model.update(start="random", n_factors=width)
    config.sparsity.target_nnz = nnz
    full = filled(config, users_of(200, 100, 30))
    assert full.model.norms == "unit"
    assert full.sparsity.start_nnz == width
    assert (full.train.n_epochs, full.train.n_final_epochs) == (n_epochs, 10)
    assert full.train.input_dropout == 0


def test_steps_of_weights_are_shorter_than_those_of_rows():
    matrix = users_of(1000, 1250, 20)  # batches of 64, which bring an item 1.02 interactions
    for start, as_published, rate in (
        ("neighbours", False, 0.02),
        ("clusters", False, 0.02),
        ("neighbours", True, 0.01),
        ("random", False, 0.01),
    ):
        config = default_config()
        config.model.update(start=start, n_factors=0 if start == "neighbours" else 64)
        config.train.as_published = as_published
        assert filled(config, matrix).train.learning_rate == rate
        warm = filled(config, matrix, going_on=True)
        assert warm.train.learning_rate == pytest.approx(0.3 * rate)


def test_more_non_zeros_than_items():
    with pytest.raises(InputError, match=r"target_nnz is 16, and the training users have 10 items"):
        filled(default_config(), users_of(20, 10, 3))


def test_more_factors_than_a_model_may_have(monkeypatch):
    monkeypatch.setattr(recipe, "MOST_FACTORS", 99)
    config, users = default_config(), users_of(200, 100, 30)
    with pytest.raises(InputError, match=r"100 factors are more .* may have, 99; .*start=clusters"):
        filled(config, users)
    config.model.update(start="clusters", n_factors=99)
    assert filled(config, users).model.n_factors == 99


def test_going_on_keeps_what_was_learned():
    """At a lower rate, and with whatever items the new users have."""
    config, matrix = default_config(), users_of(20, 10, 3)
    wider = sp.hstack([matrix, sp.csr_matrix((20, 30))], format="csr")
    rate = choices(wider)["train.learning_rate"]
    full = filled(config, wider, going_on=True)
    assert full.train.learning_rate == pytest.approx(0.3 * rate)
    config.train.learning_rate = 0.5
    assert filled(config, wider, going_on=True).train.learning_rate == 0.5
