import gzip
import logging
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from celsa_jax.arrays import LONGEST_ID
from celsa_jax.data.readers import Columns, read_ratings
from celsa_jax.data.tables import read_text_columns
from celsa_jax.errors import InputError

CSV = "user_id,item_id,rating\n007,b,4.5\n7,a,3\n007,a,5\n"
TRIPLES = [("007", "b", 4.5), ("7", "a", 3.0), ("007", "a", 5.0)]


def triples(ratings):
    values = [None] * len(ratings.users) if ratings.ratings is None else ratings.ratings.tolist()
    users, items = ratings.user_ids[ratings.users], ratings.item_ids[ratings.items]
    return list(zip(users.tolist(), items.tolist(), values, strict=True))


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(path.stem, data)
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zip"])
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet"])
def test_formats_keep_ids_as_written(tmp_path, kind, suffix):
    content = CSV if kind == ".csv" else CSV.replace(",", "\t")
    if kind == ".parquet":
        users, items, ratings = zip(*TRIPLES, strict=True)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"rating": ratings, "user_id": users, "item_id": items}), sink)
        content = sink.getvalue().to_pybytes()
    path = write(tmp_path / f"ratings{kind}{suffix}", content)
    assert triples(read_ratings(path)) == TRIPLES


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffuser_id,item_id,rating\n007,b,4.5\n7,a,3\n007,a,5\n",
        "user_id,item_id,rating\r\n007,b,4.5\r\n7,a,3\r\n007,a,5\r\n",
        'user_id,item_id,rating\n"007","b",4.5\n\n7,a,3\n007,a,5',
        "rating,x,item_id,user_id\n4.5,?,b,007\n3,?,a,7\n5,?,a,007\n",
    ],
    ids=["byte order mark", "CRLF", "quotes and an empty line", "other order"],
)
def test_spellings_of_the_same_table(tmp_path, content):
    assert triples(read_ratings(write(tmp_path / "r.csv", content))) == TRIPLES


def test_ids_of_any_script_and_with_delimiters_in_quotes(tmp_path):
    path = write(tmp_path / "r.csv", 'user_id,item_id\n"a,b",Ž\n" x ","say ""hi"""\n')
    assert triples(read_ratings(path)) == [("a,b", "Ž", None), (" x ", 'say "hi"', None)]


def test_other_column_names(tmp_path):
    path = write(tmp_path / "r.csv", "who,what,stars\nu,i,2\n")
    assert triples(read_ratings(path, Columns("who", "what", "stars"))) == [("u", "i", 2.0)]


@pytest.mark.parametrize("name", ["r.csv", "r.parquet"])
def test_without_a_rating_column(tmp_path, caplog, name):
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "stars": [2]}), path)
    else:
        write(path, "user_id,item_id,stars\nu,i,2\n")
    with caplog.at_level(logging.INFO, logger="celsa_jax"):
        assert read_ratings(path).ratings is None
    said = "no column 'rating' (columns: user_id, item_id, stars); every row counts"
    assert f"{name}: {said}" in caplog.text
    with pytest.raises(InputError, match=r"no column 'star' \(columns: user_id, item_id, stars\)"):
        read_ratings(path, Columns(rating="star"))
    caplog.clear()
    assert triples(read_ratings(path, Columns(rating="stars"))) == [("u", "i", 2.0)]
    assert not caplog.text


def test_integer_parquet_ids_become_decimal_text(tmp_path):
    table = pa.table({"user_id": pa.array([7, -1], pa.int64()), "item_id": ["07", "7"]})
    pq.write_table(table, tmp_path / "r.parquet")
    assert triples(read_ratings(tmp_path / "r.parquet")) == [("7", "07", None), ("-1", "7", None)]


def test_csr_npz_with_and_without_ratings(tmp_path):
    matrix = sp.csr_matrix(np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]]))
    sp.save_npz(tmp_path / "r.npz", matrix)
    assert triples(read_ratings(tmp_path / "r.npz")) == [
        ("0", "1", None),
        ("0", "2", None),
        ("2", "0", None),
    ]
    sp.save_npz(tmp_path / "r.npz", matrix * 3.5)
    assert triples(read_ratings(tmp_path / "r.npz"))[0] == ("0", "1", 3.5)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "the file is empty"),
        ("user_id,item_id,rating\n", "no rows"),
        ("user,item_id,rating\nu,i,1\n", r"no column 'user_id' \(columns: user, item_id, rating"),
        ("user_id,user_id,item_id\nu,i,1\n", "more than one column 'user_id'"),
        ("user_id,item_id,rating\nu,i,1\nu,i\n", "line 3: 2 fields where there should be 3"),
        ("user_id,item_id,rating\nu,i,1,9\n", "line 2: 4 fields where there should be 3"),
        ("user_id,item_id,rating\nu,i,1\nu,j,good\n", "line 3: the rating 'good'"),
        ("user_id,item_id,rating\nu,i,nan\n", "line 2: the rating 'nan'"),
        ("user_id,item_id,rating\nu,i,1_0\n", "line 2: the rating '1_0'"),
        ("x" * 200_000 + "\nu\n", "no column 'user_id'"),
        ("user_id,item_id,rating\nu,i,1\nu,i,inf\n", "line 3: the rating 'inf'"),
        ("user_id,item_id,rating\nu,i,1\n\nu,i,\n", "line 4: the rating is empty"),
        ("user_id,item_id,rating\n,i,1\n", "line 2: the user id is empty"),
        (
            "user_id,item_id,rating\n,i,1\nu,i,1\nu,i,x\nu,i\n",
            "line 2: the user id is empty; also at fault: 4, 5; correct or remove",
        ),
        (
            "user_id,item_id,rating\n" + ",i,1\n" * 10,
            "line 2: the user id is empty; also at fault: 3, 4, 5, 6, 7, 8, 9, 10, 11, [.]{3};",
        ),
        ('user_id,item_id,rating\n,i,1\nu,"i\n', "line 2: the user id is empty"),
        ('user_id,item_id,rating\nu,"",1\n', "line 2: the item id is empty"),
        ('user_id,item_id,rating\nu,"a\nb",1\n', "line 3: the item id has a line break"),
        (b"user_id,item_id,rating\nu,\xff,1\n", "line 2: the item id is not UTF-8"),
        (f"user_id,item_id\nu,{'x' * (LONGEST_ID + 1)}\n", "line 2: the item id is longer"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path, content, problem):
    path = write(tmp_path / "r.csv", content)
    with pytest.raises(InputError, match=rf"r\.csv: {problem}") as caught:
        read_ratings(path)
    assert "\n" not in str(caught.value)


def test_faults_of_parquet_files(tmp_path):
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"user_id": ["u", None], "item_id": ["i", "j"]}), path)
    with pytest.raises(InputError, match="row 2: column 'user_id' is null"):
        read_ratings(path)
    pq.write_table(pa.table({"user_id": [1.5], "item_id": ["i"]}), path)
    with pytest.raises(InputError, match="column 'user_id' is double; ids must be text"):
        read_ratings(path)
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "rating": [None]}), path)
    with pytest.raises(InputError, match="row 1: the rating is not a finite number"):
        read_ratings(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"r\.parquet: "):
        read_ratings(path)


def test_faults_of_archives_and_paths(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_ratings(tmp_path / "missing.csv")
    with pytest.raises(InputError, match=r"unknown kind of file '\.xlsx'"):
        read_ratings(write(tmp_path / "r.xlsx", "x"))
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(CSV.encode())[:-9])
    with pytest.raises(InputError, match="damaged archive"):
        read_ratings(tmp_path / "r.csv.gz")
    (tmp_path / "r.csv.zip").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match="damaged archive"):
        read_ratings(tmp_path / "r.csv.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", CSV)
        archive.writestr("b.csv", CSV)
    with pytest.raises(InputError, match="holds 2 files"):
        read_ratings(tmp_path / "two.zip")
    (tmp_path / "r.npz").write_bytes(b"no matrix")
    with pytest.raises(InputError, match="not a SciPy sparse matrix"):
        read_ratings(tmp_path / "r.npz")


def test_explicit_zeros_are_no_interactions_and_complex_values_an_error(tmp_path):
    matrix = sp.csr_matrix((np.array([1.0, 0.0, 1.0]), ([0, 0, 1], [0, 1, 2])), shape=(2, 3))
    sp.save_npz(tmp_path / "r.npz", matrix)
    (tmp_path / "r.npz.gz").write_bytes(gzip.compress((tmp_path / "r.npz").read_bytes()))
    for name in ("r.npz", "r.npz.gz"):
        assert triples(read_ratings(tmp_path / name)) == [("0", "0", None), ("1", "2", None)]
    sp.save_npz(tmp_path / "r.npz", matrix * 1j)
    with pytest.raises(InputError, match="not a matrix of real numbers"):
        read_ratings(tmp_path / "r.npz")


def test_metadata_with_line_breaks_and_empty_fields(tmp_path):
    path = write(tmp_path / "m.csv.zip", 'id,title\n1,"two\nlines, ""quoted"""\n02,\n')
    table = read_text_columns(path, ["id", "title"])
    assert table["id"].tolist() == ["1", "02"]
    assert table["title"].tolist() == ['two\nlines, "quoted"', ""]
