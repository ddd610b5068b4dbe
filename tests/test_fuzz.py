"""Broken files: a sound result or one line that names the file and the row, and no row is lost."""

import csv
import gzip
import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stress.readers import READERS, outcome

from celsa_jax.data import netflix
from celsa_jax.data.metadata import read_metadata
from celsa_jax.data.readers import read_ratings
from celsa_jax.data.splits import read_split
from celsa_jax.data.tables import read_text_columns, unzipped
from celsa_jax.errors import InputError
from celsa_jax.segments import load_segments
from celsa_jax.sparse import SparseEmbeddings, load_embeddings, save_embeddings
from celsa_jax.sparse.npz import read_item_ids
from celsa_jax.workdir import Workdir

HEAD = "user_id,item_id,rating,note\n"
ROWS = HEAD + "u,i,1,x\nv,j,2,y\nw,k,3,z\n"
TRIPLES = [("u", "i", 1.0), ("v", "j", 2.0), ("w", "k", 3.0)]
BOMB = gzip.compress(bytes(1 << 20)) * 257  # gzip members follow one another


def triples(ratings):
    users, items = ratings.user_ids[ratings.users], ratings.item_ids[ratings.items]
    return list(zip(users.tolist(), items.tolist(), ratings.ratings.tolist(), strict=True))


def written(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def assert_refused(read, path, problem):
    with pytest.raises(InputError, match=problem) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + ROWS,
        ROWS.replace("\n", "\r"),
        ROWS.replace("\n", "\r\n", 2),
        "\n\n" + ROWS.replace("\n", "\n\n"),
        ROWS.replace("x", '"two\nlines"'),
        ROWS.replace("x", "5\" pipe"),
        ROWS.replace("x", "\x00"),
        ROWS.encode().replace(b"x", b"\xff"),
        ROWS.replace("x", "y" * (10 << 20)),
        ROWS.replace(",1,", ", +1 ,").replace(",3,", ",3e0,"),
    ],
    ids=[
        "byte order mark", "CR", "mixed line ends", "empty lines", "lines in quotes",
        "a lone quote", "NUL elsewhere", "Latin-1 elsewhere", "a line of 10 MB", "numbers",
    ],
)  # fmt: skip
def test_odd_tables_are_read_right(tmp_path, content):
    assert triples(read_ratings(written(tmp_path / "r.csv", content))) == TRIPLES


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (ROWS.replace("x", '"x'), "line 2: a quote that never closes"),
        (ROWS.replace("z", '"z'), "line 4: a quote that never closes"),
        (ROWS.replace("x", '"x').replace("z", 'z"z'), "line 2: ',' expected after '\"'"),
        (ROWS.replace("user_id", '"user_id'), "line 1: a quote that never closes"),
        (ROWS.replace("v,", "v\x00,"), "line 3: the user id has a NUL byte in it"),
        (ROWS.replace(",2,", ",2\x00,"), r"line 3: the rating '2\\x00' is not"),
        (ROWS.replace(",2,", ",2015-01-01,"), "line 3: the rating '2015-01-01' is not"),
        (ROWS.replace(",2,", ",1e400,"), "line 3: the rating '1e400' is not a finite"),
        (ROWS.replace(",2,", ",٢,"), "line 3: the rating '٢' is not"),
        (ROWS.replace("y", "y" * (40 << 20)), "line 3: field larger than field limit"),
        (
            ROWS.replace("x", '"' + "line\n" * (5 << 20) + '"'),
            "line 2: field larger than field limit",
        ),
        (ROWS.encode("utf-16"), "is not UTF-8"),
        (ROWS.replace("note", '"a\nb"').replace("user_id", "who"), "no column 'user_id'"),
    ],
)
def test_faults_of_tables_are_named_with_their_line(tmp_path, content, problem):
    assert_refused(read_ratings, written(tmp_path / "r.csv", content), problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('id,title\n1,"a\n2,b\n3,c\n', "line 2: a quote that never closes"),
        ("id,title\n1,a\n2\n", "line 3: 1 fields where there should be 2"),
        (b"id,title\n1,a\n2,\xe9\n", r"is not UTF-8 \(line 3\); save it"),
    ],
)
def test_faults_of_metadata_are_named_with_their_line(tmp_path, content, problem):
    path = written(tmp_path / "m.csv", content)
    assert_refused(lambda path: read_text_columns(path, ["id", "title"]), path, problem)


@pytest.mark.parametrize("name", ["r.csv", "r.parquet", "r.npz"])
def test_what_unpacks_to_too_much_is_refused(tmp_path, name):
    path = written(tmp_path / f"{name}.gz", BOMB)
    assert_refused(read_ratings, path, "unpacks to more than 200 times")


def test_archives_that_hold_a_bomb_two_of_a_name_or_ways_out(tmp_path):
    path = tmp_path / "r.csv.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("ratings.csv", "w", force_zip64=True) as member,
    ):
        for _ in range(257):
            member.write(bytes(1 << 20))
    assert_refused(read_ratings, path, "unpacks to more than 200 times .* give the unpacked file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", ROWS)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.csv", HEAD)
    assert_refused(read_ratings, path, "holds 2 files called a.csv")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../u.data", "")
        archive.writestr("u.item", "")
    assert_refused(unzipped, path, r"holds '\.\./u\.data', which leads out of it")


class Unpickled:
    """Would tell that it was unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("read", [read_ratings, read_split, load_embeddings])
def test_pickles_are_never_loaded(tmp_path, read):
    arrays = {"format": np.array("csr"), "data": np.array([Unpickled()], object)}
    np.savez(tmp_path / "r.npz", **arrays, train=np.array([Unpickled()], object))
    assert_refused(read, tmp_path / "r.npz", "r.npz: ")


@pytest.mark.parametrize(
    ("name", "at", "value"), [("indices", 0, 99), ("indices", 0, -1), ("indptr", 1, 10**6)]
)
def test_indices_outside_of_a_matrix_are_refused(tmp_path, name, at, value):
    sp.save_npz(tmp_path / "r.npz", sp.csr_matrix(np.eye(3)))
    arrays = dict(np.load(tmp_path / "r.npz"))
    arrays[name][at] = value
    np.savez(tmp_path / "r.npz", **arrays)
    for read in (read_ratings, load_embeddings):
        assert_refused(read, tmp_path / "r.npz", "r.npz: ")


def test_a_matrix_of_any_shape_costs_what_its_entries_do(tmp_path):
    matrix = sp.coo_matrix(([2.0], ([2**30], [5])), shape=(2**31 - 1, 10))
    sp.save_npz(tmp_path / "r.npz", matrix)
    assert triples(read_ratings(tmp_path / "r.npz")) == [(str(2**30), "5", 2.0)]
    sp.save_npz(tmp_path / "r.npz", matrix.T)
    assert_refused(read_ratings, tmp_path / "r.npz", "has 2147483647 columns")
    assert_refused(load_embeddings, tmp_path / "r.npz", r"its shape is \(10, 2147483647\)")


def test_item_ids_as_windows_writes_them_and_faults_of_them(tmp_path):
    path = written(tmp_path / "items.txt", "\ufeffa\r\nb\r\n")
    assert read_item_ids(path).tolist() == ["a", "b"]
    assert_refused(read_item_ids, written(path, "a\n\nb\n"), "line 2: the item id is empty")
    assert_refused(read_item_ids, written(path, "a\nb\x00\n"), "line 2: the item id has a NUL")


def test_a_runaway_id_is_refused(tmp_path):
    """As an element of a NumPy array of text it would take its length for each of them."""
    runaway, problem = "x" * 150_000, "longer than 256 characters"
    ids = written(tmp_path / "items.txt", f"a\n{runaway}\n")
    assert_refused(read_item_ids, ids, f"line 2: the item id is {problem}")
    table = written(tmp_path / "m.csv", f"id,title\na,A\n{runaway},B\n")
    assert_refused(
        lambda path: read_metadata([path], ["id"], ["title"], np.array(["a"])),
        table,
        f"column 'id': number 2 is {problem}",
    )
    segment = {"level": 1, "parent": None, "name": "A", "terms": [], "items": ["a", runaway]}
    path = written(tmp_path / "segments.json", json.dumps([segment]))
    sp.save_npz(tmp_path / "segment_vectors.npz", sp.csr_matrix(np.eye(1)))
    assert_refused(lambda path: load_segments(path.parent, np.array(["a"])), path, problem)


def test_an_id_that_begins_with_a_byte_order_mark_is_kept(tmp_path):
    ids, factors = np.array(["\ufeffa", "b"]), np.array(["\ufeff\ufeffc", "d"])
    save_embeddings(tmp_path, sp.csc_matrix(np.eye(2)), ids, factors)
    loaded = SparseEmbeddings.load(tmp_path / "embeddings.npz")
    assert loaded.item_ids.tolist() == ids.tolist()
    assert loaded.factor_ids.tolist() == factors.tolist()
    Workdir(tmp_path).keep_factors(factors)
    assert Workdir(tmp_path).kept_factors().tolist() == factors.tolist()


@pytest.mark.parametrize(
    ("n_rows", "length", "kind"),
    [
        (1 << 23, 1, "text"),
        (1 << 23, 1, "list"),
        (1 << 20, 200, "text"),
        (1 << 20, 200, "dictionary"),
        (1 << 20, 200, "list"),
        (1 << 17, 1 << 16, "text"),
        (1 << 17, 1 << 16, "dictionary"),
    ],
)
def test_a_column_of_one_value_can_be_too_long_for_its_file(tmp_path, n_rows, length, kind):
    """Some kB of parquet whose texts would take gigabytes."""
    path, rows = tmp_path / "r.parquet", pa.array(np.zeros(n_rows, np.int32))
    column = pa.DictionaryArray.from_arrays(rows, ["x" * length])
    if kind == "list":
        column = pa.ListArray.from_arrays([0, n_rows], column)
    schema = None
    if kind != "dictionary":  # what readers make of it is written in the file
        text = pa.list_(pa.string()) if kind == "list" else pa.string()
        schema = pa.schema({"user_id": text, "item_id": text})
    pa.parquet.write_table(
        pa.table({"user_id": column, "item_id": column}),
        path,
        compression="zstd",
        store_schema=schema is None,
    )
    assert path.stat().st_size < 100_000
    read_columns = lambda path: read_text_columns(path, ["user_id", "item_id"])  # noqa: E731
    for read in (read_ratings, read_columns):
        assert_refused(read, path, "unpacks to more than 200 times")


def test_netflix_in_other_bytes(tmp_path):
    for part in range(1, 5):
        written(tmp_path / f"combined_data_{part}.txt", f"{part}:\nu,3,2005-09-06\n")
    path = written(tmp_path / "combined_data_1.txt", "\ufeff1:\nu,3,2005-09-06\n")
    assert netflix.read_netflix(tmp_path)[0].item_ids.tolist() == ["1", "2", "3", "4"]
    written(path, b"1:\n\xff,3,2005-09-06\n")
    with pytest.raises(InputError, match=r"combined_data_1\.txt: not in the form"):
        netflix.read_netflix(tmp_path)


def test_json_that_is_nested_too_deeply(tmp_path):
    workdir = Workdir(tmp_path)
    written(workdir.config, "[" * 100_000)
    with pytest.raises(InputError, match=r"config\.json: damaged: nested too deeply"):
        workdir.stored_config()
    written(tmp_path / "segments.json", "[" * 100_000)
    with pytest.raises(InputError, match=r"segments\.json: damaged: nested too deeply"):
        load_segments(tmp_path, np.array(["a"]))


def test_broken_lines_of_metrics_are_dropped(tmp_path):
    sound = '{"step": 1, "epoch": 1}\n'
    lines = b"\xff\n", b"[]\n", b'{"step": "x"}\n', b"[" * 100_000 + b"\n", b'{"step": 2}'
    marked = "\ufeff" + sound  # which `json.loads` takes as bytes, and not as text
    for broken in (*lines, marked.encode()):
        written(tmp_path / "metrics.jsonl", sound.encode() + broken + sound.encode())
        Workdir(tmp_path).cut_metrics(5, 1)
        # Without a line end it breaks the line after it, too.
        n_sound = 2 if broken.endswith(b"\n") else 1
        assert (tmp_path / "metrics.jsonl").read_text() == n_sound * sound


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), min_size=1, max_size=9)
cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=9)
numbers = st.floats(-1e6, 1e6)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(texts, texts, numbers, cells), min_size=1, max_size=9),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.sampled_from(["", "\ufeff"]),
    kind=st.sampled_from([(".csv", ","), (".tsv", "\t")]),
)
def test_every_spelling_of_a_table_is_read_exactly(tmp_path, rows, end, quoting, mark, kind):
    if any("\n" in row[3] or "\r" in row[3] for row in rows):
        quoting = csv.QUOTE_ALL  # Python 3.11 quotes no line break but the one it ends lines with
    text = io.StringIO()
    writer = csv.writer(text, delimiter=kind[1], lineterminator=end, quoting=quoting)
    writer.writerows([HEAD.strip().split(","), *rows])
    path = written(tmp_path / f"r{kind[0]}", mark + text.getvalue())
    assert triples(read_ratings(path)) == [row[:3] for row in rows]
    names = ["user_id", "note"]
    table = read_text_columns(path, names)
    assert [table[name].tolist() for name in names] == [[row[at] for row in rows] for at in (0, 3)]


@pytest.mark.parametrize("name", READERS)
def test_broken_files_end_in_a_sound_result_or_in_one_line(tmp_path, name):
    """A few of the files of `tests/stress/readers.py`."""
    for at in range(6):
        folder = tmp_path / str(at)
        folder.mkdir()
        kind, detail = outcome(name, np.random.default_rng([7, at]), folder)
        assert kind in ("read", "errors"), detail
