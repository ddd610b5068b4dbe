"""Item metadata from tables of all kinds, in the order of a catalogue."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from celsa_jax.data.metadata import read_metadata
from celsa_jax.data.tables import read_text_columns
from celsa_jax.errors import InputError

IDS = np.array(["7", "007", "b", "c"])


def test_columns_come_in_the_order_of_the_catalogue(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(
        'id,year,title,authors\nb,-8,"Say ""hi"", twice\nnow",\n007,,戦争と平和,Лев\nz,1,Else,E\n'
        "7,3,Seven,S\n"
    )
    metadata = read_metadata([str(path)], ["id"], ["title", "authors", "year"], IDS)
    assert metadata.columns["title"].tolist() == ["Seven", "戦争と平和", 'Say "hi", twice now', ""]
    assert metadata.columns["authors"].tolist() == ["S", "Лев", "", ""]
    assert metadata.columns["year"].tolist() == ["3", "", "-8", ""]
    assert metadata.counts == {
        "metadata_rows_outside_catalogue": 1,
        "metadata_rows_repeated": 0,
        "items_by_table": {str(path): 3},
        "items_with_metadata": 3,
        "items_without_metadata": 1,
    }
    assert metadata.shown(IDS) == ["Seven", "戦争と平和", 'Say "hi", twice now', "c"]


def test_several_tables_each_with_its_own_id_column(tmp_path):
    (tmp_path / "a.csv").write_text("id,book_id,title\n7,1,Seven\nb,2,Bee\n")
    with gzip.open(tmp_path / "b.tsv.gz", "wt") as stream:
        stream.write("book_id\tgenres\n7\tx,y\nc\tz\n")
    paths = [str(tmp_path / "a.csv"), str(tmp_path / "b.tsv.gz")]
    metadata = read_metadata(paths, ["id", "book_id"], ["title", "genres"], IDS)
    assert metadata.columns["title"].tolist() == ["Seven", "", "Bee", ""]
    assert metadata.columns["genres"].tolist() == ["x,y", "", "", "z"]
    with pytest.raises(InputError, match="3 id columns for 2 metadata files"):
        read_metadata(paths, ["a", "b", "c"], ["title"], IDS)
    with pytest.raises(InputError, match="several metadata files have the column 'book_id'"):
        read_metadata(paths, ["id", "book_id"], ["book_id"], IDS)
    with pytest.raises(InputError, match="no metadata file has the column 'authors'"):
        read_metadata(paths, ["id", "book_id"], ["authors"], IDS)
    with pytest.raises(InputError, match=r"a\.csv: no column 'item'"):
        read_metadata(paths, ["item", "book_id"], ["title"], IDS)


def test_parquet_brings_numbers_nulls_and_lists(tmp_path):
    table = pa.table(
        {
            "id": ["c", "b", "7"],
            "year": [1999, None, None],
            "genres": [["a", "b c"], None, ["x", None, "y"]],
            "raw": [{}, {}, {}],
        },
        schema=pa.schema(
            [
                ("id", pa.string()),
                ("year", pa.int64()),
                ("genres", pa.list_(pa.string())),
                ("raw", pa.struct([("x", pa.int8())])),
            ]
        ),
    )
    pa.parquet.write_table(table, tmp_path / "items.parquet")
    path = str(tmp_path / "items.parquet")
    metadata = read_metadata([path], ["id"], ["year", "genres"], IDS)
    assert metadata.columns["genres"].tolist() == ["x|y", "", "", "a|b c"]
    assert metadata.columns["year"].tolist() == ["", "", "", "1999"]
    with pytest.raises(InputError, match="column 'raw' is no text"):
        read_metadata([path], ["id"], ["raw"], IDS)


def test_parquet_lists_lose_nothing_but_nulls(tmp_path):
    rng = np.random.default_rng(0)
    words = [None, "", "a", "b c", "é"]
    lists = [None if n > 4 else [words[i] for i in rng.integers(0, 5, n)] for n in range(6)] * 9
    table = pa.table({"genres": pa.array(lists, pa.large_list(pa.string()))})
    pa.parquet.write_table(table, tmp_path / "items.parquet", row_group_size=7)
    read = read_text_columns(tmp_path / "items.parquet", ["genres"])["genres"]
    assert read.tolist() == ["|".join(e for e in cell or [] if e is not None) for cell in lists]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_read_when_named_and_refused_otherwise(tmp_path, encoding):
    path = tmp_path / "items.csv"
    path.write_bytes("id,title\nb,Élan\n".encode(encoding))
    with pytest.raises(
        InputError,
        match=r"items\.csv: is not UTF-8.*; save it as UTF-8 or, .* say latin-1",
    ):
        read_metadata([str(path)], ["id"], ["title"], IDS)
    metadata = read_metadata([str(path)], ["id"], ["title"], IDS, encoding)
    assert metadata.columns["title"].tolist() == ["", "", "Élan", ""]
    with pytest.raises(InputError, match="unknown encoding 'latin-99'"):
        read_metadata([str(path)], ["id"], ["title"], IDS, "latin-99")


def test_a_repeated_row_is_counted_and_a_contradiction_refused(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("id,title,other\nb,Bee,1\nc,Sea,2\nb,Bee,3\n")
    metadata = read_metadata([str(path)], ["id"], ["title"], IDS)
    assert metadata.counts["metadata_rows_repeated"] == 1
    with pytest.raises(InputError, match=r"rows 1 and 3 are both of item 'b' but differ in column"):
        read_metadata([str(path)], ["id"], ["title", "other"], IDS)


def test_only_rows_of_the_catalogue_must_agree_and_blanks_make_no_difference(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(
        "id,title\n,No id\nz,Else\nb,Bee  hive\nz,Else again\n,None\nb, Bee hive \nc,Sea\n"
    )
    metadata = read_metadata([str(path)], ["id"], ["title"], IDS)
    assert metadata.columns["title"].tolist() == ["", "", "Bee hive", "Sea"]
    assert metadata.counts["items_by_table"] == {str(path): 2}
    assert metadata.counts["metadata_rows_repeated"] == 1
    assert metadata.counts["metadata_rows_outside_catalogue"] == 4
    path.write_text("id,title\nz,Else\nb,Bee\nz,Else again\nb,Wasp\n")
    with pytest.raises(InputError, match="rows 2 and 4 are both of item 'b'"):
        read_metadata([str(path)], ["id"], ["title"], IDS)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_named_twice_is_read_once(tmp_path, suffix):
    path = tmp_path / f"items.{suffix}"
    path.write_text("id,title\n7,Seven\n")
    if suffix == "parquet":
        pa.parquet.write_table(pa.table({"id": ["7"], "title": ["Seven"]}), path)
    metadata = read_metadata([str(path)], ["id"], ["title", "title"], IDS)
    assert {n: c.tolist() for n, c in metadata.columns.items()} == {"title": ["Seven", "", "", ""]}


def test_no_metadata_is_no_error():
    metadata = read_metadata([], ["item_id"], [], IDS)
    assert metadata.columns == {}
    assert metadata.shown(IDS) == IDS.tolist()
    assert metadata.counts["items_without_metadata"] == 4


def test_text_columns_must_be_named(tmp_path):
    with pytest.raises(InputError, match="text columns title,genres: no metadata file"):
        read_metadata([], ["id"], ["title", "genres"], IDS)
    (tmp_path / "a.csv").write_text("id,title\n7,Seven\n")
    with pytest.raises(InputError, match="name those to read"):
        read_metadata([str(tmp_path / "a.csv")], ["id"], [], IDS)
