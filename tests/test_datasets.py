import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from conftest import planted_segments

from celsa_jax.config import default_config
from celsa_jax.data import dataset_of, split_users
from celsa_jax.errors import InputError


def config_for(path="", **fields):
    config = default_config()
    config.data.path = str(path)
    config.data.min_user_interactions = 1
    config.data.update(fields)
    return config.data


def pairs(dataset):
    data = dataset.interactions
    users = np.repeat(data.user_ids, np.diff(data.matrix.indptr))
    return set(zip(users.tolist(), data.item_ids[data.matrix.indices].tolist(), strict=True))


def test_ratings_are_filtered_before_pairs_are_made_unique(tmp_path):
    rows = ["a,x,5", "a,x,2", "a,y,4", "a,y,4", "b,x,3.9", "c,x,4", "c,z,1", "d,x,5", "d,y,5"]
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows))
    dataset = dataset_of(config_for(tmp_path / "r.csv", min_user_interactions=2))
    assert pairs(dataset) == {("a", "x"), ("a", "y"), ("d", "x"), ("d", "y")}
    assert dataset.counts == {
        "rows": 9,
        "dropped_below_min_rating": 3,
        "dropped_repeated_pairs": 1,
        "dropped_users_with_too_few": 1,
        "dropped_rows_of_those_users": 1,
        "dropped_rows_of_items_with_too_few": 0,
        "users": 2,
        "items": 2,
        "interactions": 4,
    }
    assert dataset.interactions.item_ids.tolist() == ["x", "y"]
    assert (dataset.interactions.matrix.data == 1).all()


def test_users_and_items_are_left_out_until_nothing_changes(tmp_path):
    """x goes, so c goes, so y has two; z and a, b, d with it have two of each."""
    rows = ["a,z,5", "a,w,5", "b,z,5", "b,w,5", "b,y,5", "c,y,5", "c,x,5", "d,y,5", "d,z,5"]
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows))
    config = config_for(tmp_path / "r.csv", min_user_interactions=2, min_item_interactions=2)
    dataset = dataset_of(config)
    expected = {("a", "z"), ("a", "w"), ("b", "z"), ("b", "w"), ("b", "y"), ("d", "y"), ("d", "z")}
    assert pairs(dataset) == expected
    assert dataset.counts["dropped_rows_of_items_with_too_few"] == 1
    assert dataset.counts["dropped_rows_of_those_users"] == 1
    config.min_item_interactions = 3  # z alone is left, and nobody has two
    with pytest.raises(InputError, match="no users with 2 and items with 3 of these"):
        dataset_of(config)


def test_the_order_of_rows_does_not_matter(tmp_path):
    rows = [f"u{u},i{i},5" for u in range(9) for i in range(u + 1)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / f"{name}.csv").write_text("user_id,item_id,rating\n" + "\n".join(order))
    first, second = (dataset_of(config_for(tmp_path / f"{n}.csv")).interactions for n in "ab")
    assert first.user_ids.tolist() == second.user_ids.tolist()
    assert (first.matrix != second.matrix).nnz == 0


def test_a_matrix_keeps_its_columns_and_their_order(tmp_path):
    """Users with too few interactions go; columns stay, though nobody has them."""
    rng = np.random.default_rng(0)
    dense = rng.random((25, 23)) < 0.4
    dense[:, [0, 4, 22]] = dense[11] = False
    sp.save_npz(tmp_path / "m.npz", sp.csr_matrix(dense, dtype=np.int8))
    config = config_for(tmp_path / "m.npz", data_dir=str(tmp_path / "cache"))
    for _ in range(2):  # read, and from its prepared form
        dataset = dataset_of(config)
        data = dataset.interactions
        assert dataset.folder is not None
        assert data.item_ids.tolist() == [str(i) for i in range(23)]
        assert data.user_ids.tolist() == [str(u) for u in range(25) if u != 11]
        np.testing.assert_array_equal(data.matrix.toarray(), np.delete(dense, 11, axis=0))
        split = split_users(data, 3, 4, seed=0)
        for part in (split.train, split.val, split.test):
            rows = part.user_ids.astype(int)
            np.testing.assert_array_equal(part.matrix.toarray(), dense[rows])


def test_no_rows_left(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\na,x,3\n")
    with pytest.raises(InputError, match=r"no rows left: of 1 ratings the largest is 3; lower"):
        dataset_of(config_for(tmp_path / "r.csv"))
    few = r"r\.csv: no rows left: 1 read, 1 of them positives, no users with 5 of these; ask for"
    with pytest.raises(InputError, match=few):
        dataset_of(config_for(tmp_path / "r.csv", min_rating=3.0, min_user_interactions=5))


def test_values_of_a_matrix_are_counts_unless_they_are_said_to_be_ratings(tmp_path):
    values = np.array([[1, 0, 9], [0, 2, 4], [0.5, 5, 0]])
    sp.save_npz(tmp_path / "m.npz", sp.csr_matrix(values))

    def matrix(**fields):
        data = dataset_of(config_for(tmp_path / "m.npz", **fields)).interactions
        return data.matrix.toarray()

    np.testing.assert_array_equal(matrix(), values > 0)
    np.testing.assert_array_equal(matrix(min_rating=4.0), values >= 4)
    np.testing.assert_array_equal(matrix(min_rating=2.0), values[[0, 1, 2]] >= 2)
    np.testing.assert_array_equal(matrix(min_rating=4.0, rating_column=""), values > 0)
    values[1, 2] = -3
    sp.save_npz(tmp_path / "m.npz", sp.csr_matrix(values))
    with pytest.raises(InputError, match=r"m\.npz: row 1, column 2: the count -3 is below 0; if"):
        matrix()
    np.testing.assert_array_equal(matrix(min_rating=0.5), values > 0)


def test_a_column_of_ratings_can_be_ignored(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,item_id,rating\na,x,1\nb,y,5\nb,x,none\n")
    dataset = dataset_of(config_for(tmp_path / "r.csv", rating_column=""))
    assert pairs(dataset) == {("a", "x"), ("b", "y"), ("b", "x")}
    table = pa.table({"user_id": ["a", "b"], "item_id": ["x", "y"], "rating": [1, 5]})
    pq.write_table(table, tmp_path / "r.parquet")
    for fields, kept in (
        ({}, {("b", "y")}),
        ({"rating_column": ""}, {("a", "x"), ("b", "y")}),
        ({"min_rating": 1.0}, {("a", "x"), ("b", "y")}),
    ):
        assert pairs(dataset_of(config_for(tmp_path / "r.parquet", **fields))) == kept


def test_a_mistyped_column_of_ratings_is_no_file_without_ratings(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,item_id,stars\na,x,1\nb,y,5\n")
    with pytest.raises(InputError, match=r"r\.csv: no column 'star' .*stars\); say which"):
        dataset_of(config_for(tmp_path / "r.csv", rating_column="star"))
    dataset = dataset_of(config_for(tmp_path / "r.csv", rating_column="stars"))
    assert pairs(dataset) == {("b", "y")}


def test_goodbooks_first_release_adds_to_read_marks(tmp_path):
    (tmp_path / "ratings.csv").write_text("book_id,user_id,rating\n1,9,5\n2,9,3\n2,8,4\n")
    (tmp_path / "to_read.csv").write_text("user_id,book_id\n9,2\n7,10\n9,1\n")
    (tmp_path / "books.csv").write_text("id,book_id,title,authors\n1,77,One,A\n2,78,Two,B\n")
    dataset = dataset_of(config_for(tmp_path, name="goodbooks"))
    assert pairs(dataset) == {("9", "1"), ("9", "2"), ("8", "2"), ("7", "10")}
    assert dataset.counts["dropped_repeated_pairs"] == 1
    assert dataset.metadata["title"].tolist() == ["One", "Two"]
    assert dataset.metadata["item_id"].tolist() == ["1", "2"]


def test_goodbooks_current_release_is_its_ratings_alone(tmp_path):
    (tmp_path / "ratings.csv").write_text("user_id,book_id,rating\n9,1,5\n9,2,3\n8,2,4\n")
    (tmp_path / "to_read.csv").write_text("user_id,book_id\n9,2\n")
    (tmp_path / "books.csv").write_text("book_id,title,authors\n1,One,A\n")
    expected = {("9", "1"), ("8", "2")}
    from_folder = dataset_of(config_for(tmp_path, name="goodbooks"))
    assert pairs(from_folder) == expected
    assert from_folder.metadata["title"].tolist() == ["One"]
    assert pairs(dataset_of(config_for(tmp_path / "ratings.csv", name="goodbooks"))) == expected


def test_titles_of_a_table_without_rows_are_the_ids(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,item_id\nu,b\nu,a\n")
    (tmp_path / "i.csv").write_text("item_id,title\n")
    config = config_for(tmp_path / "r.csv", items_path=str(tmp_path / "i.csv"))
    config.min_user_interactions = 1
    assert dataset_of(config).titles.tolist() == ["a", "b"]
    (tmp_path / "i.csv").write_text("item_id,name\na,A\n")
    with pytest.raises(InputError, match=r"no column 'title'.*title_column"):
        dataset_of(config)


def test_unknown_data_set_and_missing_path():
    with pytest.raises(InputError, match="choose one of file, goodbooks, ml-100k, ml-1m"):
        dataset_of(config_for(name="netflicks"))
    with pytest.raises(InputError, match=r"config\.data\.path is empty"):
        dataset_of(config_for(name="file"))


def test_synthetic_data_have_their_planted_structure():
    config = config_for(name="synthetic")
    config.synthetic.n_users = 1500
    dataset = dataset_of(config)
    data, (names, membership, _) = dataset.interactions, planted_segments(dataset.metadata)
    assert (data.n_users, data.n_items) == (1500, 2000)
    assert len(names) == 40
    sizes = membership.sum(axis=1)
    assert (sizes == 2).mean() == 0.2
    assert sizes.max() == 2
    # Three segments hold about 3/40 * 1.2 of the items but most of a user's interactions.
    per_user = data.matrix @ membership.astype(np.float32)
    top = np.sort(per_user, axis=1)[:, -3:].sum(axis=1) / data.matrix.getnnz(axis=1)
    assert np.median(top) > 0.75
    again, other = (dataset_of(config, seed).interactions.matrix for seed in (0, 1))
    assert (again != data.matrix).nnz == 0
    assert other.shape != data.matrix.shape or (other != data.matrix).nnz


def test_item_metadata_where_none_are_read(tmp_path):
    with pytest.raises(InputError, match="items_path is not used with"):
        dataset_of(config_for(name="synthetic", items_path="items.csv"))
