"""The publishers' files, as they ship them, beside readings by hand."""

import datetime
import gzip
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celsa_jax.config import default_config
from celsa_jax.data import dataset_of, netflix
from celsa_jax.data.tables import unzipped
from celsa_jax.errors import InputError


def config_for(path, name, **fields):
    config = default_config().data
    config.update(path=str(path), name=name, min_user_interactions=1, **fields)
    return config


def triples(dataset):
    """(user, item, time) of every interaction."""
    data = dataset.interactions
    users = np.repeat(data.user_ids, np.diff(data.matrix.indptr)).tolist()
    items = data.item_ids[data.matrix.indices].tolist()
    return set(zip(users, items, data.times.tolist(), strict=True))


FLAGS = "|".join(["0"] * 5 + ["1"] + ["0"] * 13)
FILES = {
    "ml-100k": {
        "u.data": "1\t10\t5\t100\n1\t20\t4\t200\n2\t10\t1\t300\n",
        "u.item": f"10|Am\xe9lie (2001)||||{FLAGS}\n20|Mission: x|||| {FLAGS}\n".replace(" 0", "0"),
    },
    "ml-1m": {
        "ratings.dat": "1::10::5::100\n1::20::4::200\n2::10::1::300\n",
        "movies.dat": "10::Am\xe9lie (2001)::Comedy\n20::Mission: x::Comedy\n",
    },
    "ml-20m": {
        "ratings.csv": "userId,movieId,rating,timestamp\n"
        "1,10,4.5,100\n1,20,4.0,200\n2,10,3.5,300\n",
        "movies.csv": 'movieId,title,genres\n10,Am\xe9lie (2001),Comedy\n20,"Mission: x",Comedy\n',
    },
    "netflix": {
        "combined_data_1.txt": "10:\n1,5,1970-01-02\n2,1,1970-01-03\n",
        "combined_data_2.txt": "20:\n1,4,1970-01-04\n",
        "combined_data_3.txt": "30:\n",
        "combined_data_4.txt": "40:\n2,3,1970-01-02",
        "movie_titles.csv": "10,2001,Am\xe9lie (2001)\n20,NULL,Mission: x\n30,1999,A, B and C\n",
    },
}
FILES["ml-25m"] = FILES["ml-20m"]
DAY = 86_400


@pytest.fixture(params=sorted(FILES))
def published(request, tmp_path):
    name = request.param
    folder = tmp_path / "source" / name
    folder.mkdir(parents=True)
    encoding = "utf-8" if name in ("ml-20m", "ml-25m") else "latin-1"
    for file, text in FILES[name].items():
        (folder / file).write_text(text, encoding=encoding)
    return name, folder


def expected(name):
    times = (DAY, 3 * DAY) if name == "netflix" else (100, 200)
    return {("1", "10", times[0]), ("1", "20", times[1])}


def test_a_folder_an_archive_and_the_ratings_file_are_read_alike(published, tmp_path):
    name, folder = published
    archive = shutil.make_archive(tmp_path / "archive", "zip", folder.parent, name)
    flat = shutil.make_archive(tmp_path / "flat", "zip", folder)
    paths = [folder, archive, flat, folder / next(iter(FILES[name]))]
    for number, path in enumerate(paths):  # each with a data folder of its own, or one is read
        dataset = dataset_of(config_for(path, name, data_dir=str(tmp_path / f"data{number}")))
        assert triples(dataset) == expected(name)
        assert dataset.metadata["title"].tolist()[:2] == ["Amélie (2001)", "Mission: x"]
        if name != "netflix":
            assert dataset.metadata["genres"].tolist() == ["Comedy", "Comedy"]
        assert dataset.counts["dropped_below_min_rating"] == dataset.counts["rows"] - 2


def test_any_file_of_netflix_is_the_whole_of_it(tmp_path):
    for file, text in FILES["netflix"].items():
        (tmp_path / file).write_text(text, encoding="latin-1")
    first = dataset_of(config_for(tmp_path / "combined_data_2.txt", "netflix"))
    assert triples(first) == expected("netflix")
    (tmp_path / "combined_data_1.txt").write_text("10:\n1,5,1970-01-09\n")
    second = dataset_of(config_for(tmp_path / "combined_data_2.txt", "netflix"))
    assert ("1", "10", 8 * DAY) in triples(second)


def test_goodbooks_as_a_folder_and_as_a_file_are_kept_apart(tmp_path):
    (tmp_path / "ratings.csv").write_text("book_id,user_id,rating\n1,9,5\n")
    (tmp_path / "to_read.csv").write_text("user_id,book_id\n7,2\n")
    (tmp_path / "books.csv").write_text("id,title,authors\n1,One,A\n")
    for _ in range(2):  # read, then mapped
        whole = dataset_of(config_for(tmp_path, "goodbooks"))
        alone = dataset_of(config_for(tmp_path / "ratings.csv", "goodbooks"))
        assert (whole.interactions.nnz, alone.interactions.nnz) == (2, 1)
        assert (len(whole.metadata["title"]), alone.metadata) == (1, {})
    (tmp_path / "to_read.csv").unlink()  # not read, so of no account
    again = dataset_of(config_for(tmp_path / "ratings.csv", "goodbooks"))
    assert again.folder == alone.folder


def test_goodbooks_in_the_zips_of_its_release(tmp_path):
    for name, text in (
        ("ratings", "book_id,user_id,rating\n1,9,5\n"),
        ("to_read", "user_id,book_id\n7,2\n"),
        ("books", "id,title,authors\n1,One,A\n"),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}.csv", text)
    dataset = dataset_of(config_for(tmp_path, "goodbooks"))
    assert dataset.interactions.nnz == 2
    assert dataset.metadata["title"].tolist() == ["One"]


def test_an_archive_put_into_the_data_folder_is_found(published, tmp_path):
    name, folder = published
    shutil.make_archive(tmp_path / name / "download", "zip", folder)
    assert triples(dataset_of(config_for("", name, data_dir=str(tmp_path)))) == expected(name)


def test_compressed_files_in_a_folder_are_read(tmp_path):
    for file, text in FILES["ml-20m"].items():
        with gzip.open(tmp_path / f"{file}.gz", "wt") as stream:
            stream.write(text)
    assert triples(dataset_of(config_for(tmp_path, "ml-20m"))) == expected("ml-20m")


def test_goodbooks_brings_its_genres(tmp_path):
    (tmp_path / "ratings.csv").write_text("book_id,user_id,rating\n1,9,5\n2,9,4\n")
    (tmp_path / "books.csv").write_text("id,title,authors\n1,One,A\n2,Two,B\n")
    (tmp_path / "book_genres.csv").write_text('book_id,genres\n2,"x,y"\n7,z\n')
    metadata = dataset_of(config_for(tmp_path, "goodbooks")).metadata
    assert metadata["genres"].tolist() == ["", "x,y"]


_NOT_NETFLIX = "combined_data_1.txt: not in the form of the Netflix Prize"


@pytest.mark.parametrize(
    ("name", "file", "text", "parts"),
    [
        ("ml-100k", "u.data", "1\t10\t5\t0\n1\t20\n", ["u.data: line 2: 2 fields"]),
        ("ml-100k", "u.data", "1\t10\tfive\t0\n", ["u.data: line 1: the rating 'five'"]),
        ("ml-100k", "u.item", "10|Title\n", ["u.item: line 1: not 24 fields"]),
        ("ml-100k", "u.data", None, ["no u.data"]),
        ("ml-1m", "ratings.dat", "1::2::3::4\n1::2::3\n", ["ratings.dat: line 2: 5 fields"]),
        ("ml-1m", "ratings.dat", "1::2::3::late\n", ["ratings.dat: line 1: the time 'late'"]),
        ("ml-1m", "movies.dat", "1:Title\n", ["movies.dat: line 1: not 3 fields"]),
        (
            "ml-20m",
            "ratings.csv",
            "user,movie\n",
            ["no column 'userId' and 'movieId' and 'timestamp' (columns: user, movie)"],
        ),
        ("ml-20m", "movies.csv", None, ["no movies.csv"]),
        ("netflix", "combined_data_2.txt", None, ["no combined_data_2.txt"]),
        ("netflix", "combined_data_1.txt", "1,5,2000-01-01\n", [_NOT_NETFLIX]),
        ("netflix", "combined_data_1.txt", "1:\n\n1,5,2000-01-01\n", [_NOT_NETFLIX]),
        ("netflix", "combined_data_1.txt", "1:\n1,5,2000-01-01\n1,6\n", [_NOT_NETFLIX]),
        ("netflix", "combined_data_1.txt", "1:\n1,5,2000-13-01\n", [_NOT_NETFLIX]),
        ("netflix", "combined_data_1.txt", "x:\n1,5,2000-01-01\n", [_NOT_NETFLIX]),
        ("netflix", "combined_data_1.txt", "1:\n1,7,2000-01-01\n", [_NOT_NETFLIX]),
        ("netflix", "movie_titles.csv", "1,2000\n", ["movie_titles.csv: line 1: not 3 fields"]),
        ("netflix", "movie_titles.csv", "", ["movie_titles.csv: the file is empty"]),
        ("ml-100k", "u.item", "", ["u.item: the file is empty"]),
        ("ml-100k", "u.data", "", ["u.data: "]),
        ("ml-1m", "movies.dat", "", ["movies.dat: the file is empty"]),
        (
            "ml-1m",
            "ratings.dat",
            "1::2::3::4\n1:x:3::5::3\n",
            ["ratings.dat: line 2: not 4 fields"],
        ),
    ],
)
def test_faults_are_named(tmp_path, name, file, text, parts):
    for other, content in FILES[name].items():
        encoding = "utf-8" if name == "ml-20m" else "latin-1"
        (tmp_path / other).write_text(content, encoding=encoding)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError) as caught:
        dataset_of(config_for(tmp_path, name))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"combined_data_1\.txt: not in .*: Empty CSV"),
        ("1:\n", r"combined_data_\*\.txt: no ratings"),
    ],
)
def test_empty_files_of_netflix(tmp_path, text, problem):
    for name in netflix.FILES:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=problem):
        dataset_of(config_for(tmp_path, "netflix"))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_titles_with_bytes_that_some_take_for_line_ends(tmp_path, newline):
    """0x85 is an ellipsis in Windows' encoding."""
    lines = ["10::Wait\x85 (2001)::Comedy", "20::A\x1cB\x0cC::Drama"]
    (tmp_path / "movies.dat").write_bytes((newline.join(lines) + newline).encode("latin-1"))
    (tmp_path / "ratings.dat").write_text(FILES["ml-1m"]["ratings.dat"])
    metadata = dataset_of(config_for(tmp_path, "ml-1m")).metadata
    assert metadata["title"].tolist() == ["Wait\x85 (2001)", "A\x1cB\x0cC"]
    assert metadata["genres"].tolist() == ["Comedy", "Drama"]
    for name in netflix.FILES:
        (tmp_path / name).write_text("10:\n1,5,2000-01-01\n")
    title = f"10,2001,Wait\x85 what{newline}".encode("latin-1")
    (tmp_path / netflix.TITLES).write_bytes(title)
    metadata = dataset_of(config_for(tmp_path, "netflix")).metadata
    assert metadata["title"].tolist() == ["Wait\x85 what"]


def test_paths_that_are_not_the_publishers(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        dataset_of(config_for(tmp_path / "nowhere", "ml-20m"))
    (tmp_path / "other.csv").write_text("a\n")
    with pytest.raises(InputError, match=r"other\.csv: not ratings\.csv"):
        dataset_of(config_for(tmp_path / "other.csv", "ml-20m"))
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"broken\.zip: damaged archive"):
        dataset_of(config_for(tmp_path / "broken.zip", "ml-20m"))


rows = st.tuples(
    st.integers(1, 99), st.integers(1, 5), st.dates(min_value=np.datetime64(0, "D").item())
)


@given(
    movies=st.lists(st.lists(rows, max_size=8), min_size=1, max_size=12),
    block=st.integers(20, 80),  # bytes, of which the longest line takes 17
    newline=st.sampled_from(["\n", "\r\n"]),
    ends=st.booleans(),
)
@settings(max_examples=40)
def test_netflix_blocks_give_what_a_loop_gives(tmp_path_factory, movies, block, newline, ends):
    folder = tmp_path_factory.mktemp("netflix")
    lines, wanted = [], []
    for movie, ratings in enumerate(movies, 1):
        lines.append(f"{movie}:")
        for user, rating, day in ratings:
            lines.append(f"{user},{rating},{day}")
            wanted.append((str(movie), str(user), rating, np.datetime64(day, "s").astype(int)))
    text = newline.join(lines) + newline * ends
    (folder / "combined_data_1.txt").write_bytes(text.encode())
    for part in (2, 3, 4):
        (folder / f"combined_data_{part}.txt").write_text("100:\n1,1,2000-01-01\n")
        wanted.append(("100", "1", 1, 946_684_800))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(netflix, "BLOCK", block)
        ratings, _ = netflix.read_netflix(folder)
    found = zip(
        ratings.item_ids[ratings.items].tolist(),
        ratings.user_ids[ratings.users].tolist(),
        ratings.ratings.tolist(),
        ratings.times.tolist(),
        strict=True,
    )
    assert list(found) == wanted


def test_a_zip_of_one_file_is_a_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "r.csv.zip", "w") as archive:
        archive.writestr("r.csv", "user_id,item_id\na,b\n")
    assert unzipped(tmp_path / "r.csv.zip").at == "r.csv"
    assert dataset_of(config_for(tmp_path / "r.csv.zip", "file")).interactions.nnz == 1


def test_a_zip_of_several_files_is_no_file_of_your_own(tmp_path):
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("a.csv", "user_id,item_id\na,b\n")
        archive.writestr("b.csv", "user_id,item_id\na,b\n")
    with pytest.raises(InputError, match=r"r\.zip: holds 2 files; give a zip with one"):
        dataset_of(config_for(tmp_path / "r.zip", "file"))


def own_file(tmp_path, header, *rows):
    (tmp_path / "r.csv").write_text("\n".join([header, *rows]) + "\n")
    return config_for(tmp_path / "r.csv", "file", split="temporal")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("86400", DAY),
        ("-1", -1),
        ("1.5", 1),
        ("1970-01-02", DAY),
        ("1970-01-02 00:00:01", DAY + 1),
        ("1970-01-02T00:00:01", DAY + 1),
    ],
)
def test_times_of_your_own_file(tmp_path, text, seconds):
    config = own_file(tmp_path, "user_id,item_id,timestamp", f"a,b,{text}")
    assert triples(dataset_of(config)) == {("a", "b", seconds)}


def test_of_a_repeated_pair_the_earliest_time_counts(tmp_path):
    rows = ["a,x,30", "b,y,5", "a,x,10", "a,y,7", "a,x,20"]
    dataset = dataset_of(own_file(tmp_path, "user_id,item_id,timestamp", *rows))
    assert triples(dataset) == {("a", "x", 10), ("a", "y", 7), ("b", "y", 5)}
    assert dataset.counts["dropped_repeated_pairs"] == 2


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (["a,b,1", "a,c,x"], "line 3: the time 'x' is no whole number of seconds"),
        (["a,b,1", "a,c,1.5"], "line 3: the time '1.5' is no whole number"),
        (["a,b,1.5", "a,c,x"], "line 3: the time 'x' is no number of seconds"),
        (["a,b,yesterday"], "line 2: the time 'yesterday' is no number of seconds and no ISO date"),
        (["a,b,"], "line 2: the time '' is no"),
        (["a,b,1.5", "a,c,1e30"], "line 3: the time '1e30' is no number of seconds"),
        (["a,b,2015-03-31", "a,c,2015-02-30"], "line 3: the time '2015-02-30' is no"),
        (["a,b,2015-03-31 23:59:59", "a,c,x"], "line 3: the time 'x' is no number of seconds and"),
    ],
)
def test_times_that_cannot_be_read(tmp_path, rows, part):
    with pytest.raises(InputError) as caught:
        dataset_of(own_file(tmp_path, "user_id,item_id,timestamp", *rows))
    assert part in str(caught.value)


def test_times_in_parquet(tmp_path):
    moment = datetime.datetime(1970, 1, 2, 0, 0, 1)
    for column, seconds in (
        (pa.array([moment], pa.timestamp("ns")), DAY + 1),
        (pa.array([moment.date()]), DAY),
        (pa.array([7], pa.uint32()), 7),
        (pa.array([7.9]), 7),
    ):
        table = pa.table({"user_id": ["a"], "item_id": ["b"], "timestamp": column})
        pa.parquet.write_table(table, tmp_path / "r.parquet")
        config = config_for(tmp_path / "r.parquet", "file", split="temporal")
        assert triples(dataset_of(config)) == {("a", "b", seconds)}
    for column, part in (
        (pa.array(["x"]), "times are seconds or dates"),
        (pa.array([None], pa.int64()), "row 1: column 'timestamp' is null"),
        (pa.array([np.nan]), "row 1: the time is not finite"),
        (pa.array([1e30]), "row 1: the time is out of range"),
    ):
        table = pa.table({"user_id": ["a"], "item_id": ["b"], "timestamp": column})
        pa.parquet.write_table(table, tmp_path / "r.parquet")
        with pytest.raises(InputError, match=part):
            dataset_of(config_for(tmp_path / "r.parquet", "file", split="temporal"))
