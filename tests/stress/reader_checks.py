"""A check for every reader: it makes a sound file, breaks it, reads it, and knows what is in it."""

from __future__ import annotations

import collections
import csv
import io
import json
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import scipy.sparse as sp
from absl import flags

from celsa_jax.config import default_config
from celsa_jax.data import dataset_of, datasets, prepared, splits
from celsa_jax.data.metadata import read_metadata
from celsa_jax.data.readers import Ratings, read_ratings
from celsa_jax.data.tables import read_text_columns
from celsa_jax.errors import InputError
from celsa_jax.estimator import CompressedELSA
from celsa_jax.segments import load_segments
from celsa_jax.sparse import (
    FORMATS,
    Recommender,
    SparseEmbeddings,
    load_embeddings,
    save_embeddings,
)
from celsa_jax.sparse.tensors import read_tensors, write_tensors
from celsa_jax.workdir import Workdir
from experiments import inputs

from .broken_files import BOMB, mutate, pack, unpacked, zipped


class Lost(Exception):
    """A result that is not what the file holds."""


def plain_rows(content: bytes, delimiter: str = ",", encoding: str = "utf-8-sig") -> list[list]:
    """The rows of a text, but for empty lines, by `csv`; Lost where a quote stays open."""
    text = io.StringIO(content.decode(encoding, "surrogateescape"), newline="")
    rows = [row for row in csv.reader(text, delimiter=delimiter) if row]
    text.seek(0)
    try:
        collections.deque(csv.reader(text, delimiter=delimiter, strict=True), 0)
    except csv.Error as error:
        if "end of data" in str(error):
            raise Lost("a quote that never closes was passed over") from None
    return rows


def check_ratings(ratings: Ratings, rows: list[list[str]], columns: list[int]) -> None:
    """Lost unless these are the rows, in their order, and all are accounted for."""
    user, item, rating = columns
    users = ratings.user_ids[ratings.users].tolist()
    items = ratings.item_ids[ratings.items].tolist()
    values = ratings.ratings.tolist() if ratings.ratings is not None else []
    wanted = [(row[user], row[item], float(row[rating])) for row in rows]
    if list(zip(users, items, values, strict=True)) != wanted:
        raise Lost(f"{len(users)} rows of {len(wanted)}, or others")
    check_counts(datasets.filter_ratings(ratings, -np.inf, 1, "file")[1], len(wanted))


def check_counts(counts: dict[str, int], n_rows: int) -> None:
    dropped = sum(count for name, count in counts.items() if name.startswith("dropped"))
    dropped -= counts["dropped_users_with_too_few"]  # users, not rows
    if counts["rows"] != n_rows or n_rows != dropped + counts["interactions"]:
        raise Lost(f"{n_rows} rows: {counts}")


def _table(rng: np.random.Generator, delimiter: str = ",", header: str = "") -> bytes:
    """Users, items, ratings and, in a column that is not read, text."""
    lines = [header] if header else []
    for _ in range(rng.integers(1, 30)):
        user, item = rng.integers(0, 20, 2)
        text = ("", "fine", "Ž", '"in, quotes"', '"two\nlines"')[rng.integers(5)]
        cells = [f"u{user}", f"{item:03d}", f"{rng.integers(1, 11) / 2}", text]
        lines.append(delimiter.join(cells))
    return ("\n".join(lines) + "\n").encode()


def _csv(rng: np.random.Generator, folder: pathlib.Path) -> None:
    delimiter, suffix = ((",", ".csv"), ("\t", ".tsv"))[rng.integers(2)]
    header = delimiter.join(["user_id", "item_id", "rating", "note"])
    path = pack(rng, folder / f"r{suffix}", mutate(rng, _table(rng, delimiter, header)))
    ratings = read_ratings(path)
    names, *rows = plain_rows(unpacked(path), delimiter)
    if "rating" in names:
        check_ratings(ratings, rows, [names.index(n) for n in ("user_id", "item_id", "rating")])
    elif len(ratings.users) != len(rows):
        raise Lost(f"{len(ratings.users)} rows of {len(rows)}")


def _users_file(rng: np.random.Generator, folder: pathlib.Path) -> None:
    """`experiments.inputs.read_users`, whose flags are as they are by default."""
    inputs.define_users()
    if not flags.FLAGS.is_parsed():
        flags.FLAGS([""])
    path = folder / "r.csv"
    path.write_bytes(mutate(rng, _table(rng, ",", "user_id,item_id,rating,note")))
    _, counts = inputs.read_users(np.array([f"{i:03d}" for i in range(20)]), str(path))
    check_counts(counts, len(plain_rows(path.read_bytes())) - 1)


def _parquet_bytes(rng: np.random.Generator) -> tuple[pa.Table, bytes]:
    n_rows = int(rng.integers(1, 40))
    text = rng.integers(0, 9, n_rows).astype(str).tolist()
    kinds = [
        pa.array(text),
        pa.array(text).dictionary_encode(),
        pa.array([int(t) - 3 for t in text]),
        pa.array([*text[1:], None]),
        pa.array([float(t) for t in text]),
        pa.array(["x" * 400, *text[1:]]),
        pa.array([b"\xff" + t.encode() for t in text]).view(pa.string()),
    ]
    values = [
        pa.array([float(t) for t in text]),
        pa.array(text),
        pa.array(["x", *text[1:]]),
        pa.array([None, *map(float, text[1:])], pa.float64()),
        pa.array(np.arange(n_rows).astype("datetime64[D]")),
        pa.array([2**70] * n_rows, pa.decimal128(38, 0)),
    ]
    chosen = [0 if rng.random() < 0.6 else int(rng.integers(len(kinds))) for _ in range(2)]
    rated = values[0 if rng.random() < 0.6 else int(rng.integers(len(values)))]
    columns = {"user_id": kinds[chosen[0]], "item_id": kinds[chosen[1]], "rating": rated}
    table, stream = pa.table(columns), io.BytesIO()
    pa.parquet.write_table(table, stream, row_group_size=int(rng.integers(1, 50)))
    return table, stream.getvalue()


def _parquet(rng: np.random.Generator, folder: pathlib.Path) -> None:
    table, content = _parquet_bytes(rng)
    changed = mutate(rng, content) if rng.random() < 0.5 else content
    ratings = read_ratings(pack(rng, folder / "r.parquet", changed))
    if changed == content:
        rows = [
            [str(cell) for cell in row] for row in zip(*table.to_pydict().values(), strict=True)
        ]
        check_ratings(ratings, rows, [0, 1, 2])


def _npz(rng: np.random.Generator, folder: pathlib.Path) -> None:
    path = folder / "r.npz"
    matrix, kind = _matrix(rng, path)
    ratings = read_ratings(path)
    if kind == "sound":
        values = np.ones(matrix.nnz) if ratings.ratings is None else ratings.ratings
        users = ratings.user_ids[ratings.users].astype(int)
        items = ratings.item_ids[ratings.items].astype(int)
        if (sp.coo_matrix((values, (users, items)), matrix.shape) != matrix.tocoo()).nnz:
            raise Lost("another matrix")


def _matrix(rng: np.random.Generator, path: pathlib.Path) -> tuple[sp.spmatrix, str]:
    """Writes a sparse matrix: sound, with unsound arrays, a pickle, a bomb, or bytes changed."""
    made = sp.random(6, 8, 0.3, ("csr", "csc", "coo", "bsr")[rng.integers(4)], random_state=rng)
    made.data[:] += 0.1
    sp.save_npz(path, made)
    kind = ("sound", "arrays", "pickle", "bomb", "bytes", "bytes")[rng.integers(6)]
    if kind == "bytes":
        changed = mutate(rng, path.read_bytes(), int(rng.integers(1, 4)))
        path.write_bytes(changed)
    if kind in ("arrays", "pickle", "bomb"):
        with np.load(path) as stored:
            arrays = dict(stored)
        name = list(arrays)[rng.integers(len(arrays))]
        array = arrays[name]
        if kind == "pickle":
            arrays[name] = np.array([_Pickled()], object)
        elif kind == "bomb":
            arrays[name] = np.zeros(BOMB // 8)
        elif array.ndim and array.size:
            values = (-1, 2**31 - 1, 2**62, 10**6, 0)
            array = array.astype(np.int64) if array.dtype.kind in "iu" else array
            if array.dtype.kind == "f":
                values = (np.nan, np.inf, -1e300)
            array.flat[rng.integers(array.size)] = values[rng.integers(len(values))]
            if rng.random() < 0.3:
                array = array[: rng.integers(array.size + 1)]
            arrays[name] = array
        np.savez_compressed(path, **arrays)
    return made, kind


class _Pickled:
    """Leaves a file outside the target when it is unpickled."""

    def __reduce__(self):
        return (open, ("../unpickled", "w"))


def _text(rng: np.random.Generator, folder: pathlib.Path) -> None:
    delimiter, suffix = ((",", ".csv"), ("\t", ".tsv"))[rng.integers(2)]
    header = delimiter.join(["id", "title", "x", "note"])
    path = pack(rng, folder / f"m{suffix}", mutate(rng, _table(rng, delimiter, header)))
    encoding, known = (("utf-8", "utf-8-sig"), ("latin-1", "latin-1"))[int(rng.random() < 0.2)]
    table = read_text_columns(path, ["id", "title", "note"], encoding)
    names, *rows = plain_rows(unpacked(path), delimiter, known)
    for name, column in table.items():
        if column.tolist() != [row[names.index(name)] for row in rows]:
            raise Lost(f"{len(column)} rows of {len(rows)}, or others")


def _metadata(rng: np.random.Generator, folder: pathlib.Path) -> None:
    if rng.random() < 0.5:
        path = folder / "m.parquet"
        path.write_bytes(mutate(rng, _parquet_bytes(rng)[1]))
        names = ["user_id", "item_id"]
    else:
        path = folder / "m.csv"
        path.write_bytes(mutate(rng, _table(rng, ",", "id,title,x,note")))
        names = ["id", "note"]
    read_metadata([str(path)], names[:1], names[1:], np.array(["u1", "u2", "u3", "1", "2"]))


def _folder(rng: np.random.Generator, folder: pathlib.Path, files: dict[str, bytes]) -> str:
    """Writes files, one of them changed, as a folder or a zip of it; its path."""
    changed = list(files)[rng.integers(len(files))]
    files = files | {changed: mutate(rng, files[changed])}
    if rng.random() < 0.7:
        (folder / "d").mkdir()
        for name, content in files.items():
            (folder / "d" / name).write_bytes(content)
        return str(folder / "d")
    top = ("", "d/", "../", "/", "a/../../")[rng.integers(5)]
    content = zipped({top + name: text for name, text in files.items()})
    (folder / "d.zip").write_bytes(mutate(rng, content, 1) if rng.random() < 0.3 else content)
    return str(folder / "d.zip")


def _load(folder: pathlib.Path, name: str, path: str) -> datasets.Dataset:
    config = default_config().data
    config.update(name=name, path=path, data_dir=str(folder / "data"))
    config.update(min_rating=1.0, min_user_interactions=1)
    return dataset_of(config)


def _content(path: str, name: str) -> bytes:
    """A file of a folder or of a zip of it."""
    if not path.endswith(".zip"):
        return (pathlib.Path(path) / name).read_bytes()
    with zipfile.ZipFile(path) as archive:
        (member,) = (n for n in archive.namelist() if n.endswith("/" + name) or n == name)
        return archive.read(member)


def _published(name: str, make: Callable, n_rows: Callable[[bytes], int], *ratings: str):
    """A reader of a publisher's files: data set, files, rows in the content of those of ratings."""

    def read(rng: np.random.Generator, folder: pathlib.Path) -> None:
        path = _folder(rng, folder, make(rng))
        data = _load(folder, name, path)
        check_counts(data.counts, sum(n_rows(_content(path, file)) for file in ratings))
        again = _load(folder, name, path)  # the prepared form
        if again.interactions.digest() != data.interactions.digest():
            raise Lost("the prepared form is another")

    return read


def _numbers(rng: np.random.Generator, delimiter: str, form: str = "{}") -> str:
    rows = [[*rng.integers(1, 9, 2), rng.integers(1, 6), 10**9] for _ in range(rng.integers(1, 30))]
    return "\n".join(form.format(delimiter.join(map(str, row))) for row in rows) + "\n"


def _ml_100k(rng: np.random.Generator) -> dict[str, bytes]:
    items = "".join(f"{i}|Film Ž{i}|1995||url|{'|'.join('01' * 9)}|0\n" for i in range(1, 9))
    return {
        "u.data": _numbers(rng, "\t").encode(),
        "u.item": items.replace("Ž", "é").encode("latin-1"),
    }


def _ml_1m(rng: np.random.Generator) -> dict[str, bytes]:
    items = "".join(f"{i}::Film é{i}::Drama|War\n" for i in range(1, 9))
    return {
        "ratings.dat": _numbers(rng, "::").encode(),
        "movies.dat": items.encode("latin-1"),
    }


def _ml_20m(rng: np.random.Generator) -> dict[str, bytes]:
    items = "".join(f'{i},"Film, {i}",Drama\n' for i in range(1, 9))
    return {
        "ratings.csv": b"userId,movieId,rating,timestamp\n" + _numbers(rng, ",").encode(),
        "movies.csv": b"movieId,title,genres\n" + items.encode(),
    }


_NETFLIX_FILES = tuple(f"combined_data_{part}.txt" for part in range(1, 5))


def _netflix(rng: np.random.Generator) -> dict[str, bytes]:
    files = {}
    for movie, name in enumerate(_NETFLIX_FILES, 1):
        rows = [f"{u},{rng.integers(1, 6)},2005-09-0{u}" for u in range(1, rng.integers(3, 9))]
        files[name] = "\n".join([f"{movie}:", *rows, ""]).encode()
    return files | {"movie_titles.csv": "1,2003,Dinosaur é, Planet\n2,NULL,X\n".encode("latin-1")}


def _goodbooks(rng: np.random.Generator) -> dict[str, bytes]:
    return {
        "ratings.csv": _table(rng, ",", "user_id,book_id,rating,note"),
        "books.csv": b'book_id,title,authors\n001,"A, B",C\n002,"Two\nlines",\n',
    }


def _filled_lines(content: bytes) -> int:
    """Lines that are not empty; \\r ends one, too."""
    return sum(bool(line) for line in content.replace(b"\r", b"\n").split(b"\n"))


def _netflix_rows(content: bytes) -> int:
    lines = (line.strip() for line in content.split(b"\n"))
    return sum(bool(line) and not line.endswith(b":") for line in lines)


def _table_rows(content: bytes) -> int:
    return len(plain_rows(content)) - 1


def _prepared(rng: np.random.Generator, folder: pathlib.Path) -> None:
    """What is damaged counts as not there; bits within the arrays are not compared."""
    config = default_config().data
    config.synthetic.update(n_users=20, n_items=10, n_segments=2)
    config.name = "synthetic"
    made = dataset_of(config)
    place = folder / f"file-{'0' * 16}"
    prepared.save(place, made.interactions, {"item_id": np.array(["a"])}, made.counts)
    files = sorted(place.iterdir())
    changed = files[rng.integers(len(files))]
    content = changed.read_bytes()
    changed.write_bytes(mutate(rng, content, int(rng.integers(1, 4))))
    if stored := prepared.load(place):
        interactions = stored[0]
        if interactions.nnz != made.interactions.nnz:
            raise Lost(f"{interactions.nnz} of {made.interactions.nnz}")
        interactions.drop_unused_items()
        (interactions.matrix @ np.ones(interactions.n_items)).sum()


def _split(rng: np.random.Generator, folder: pathlib.Path) -> None:
    path = folder / "split.npz"
    arrays = {name: np.array(["a", "b", "ž"]) for name in ("train", "val", "test")}
    arrays |= {"digest": np.array("0" * 64)}
    if rng.random() < 0.5:
        strange = (np.array([_Pickled()], object), np.arange(3), np.array("x"), np.zeros((2, 2)))
        name = ("train", "digest", "from")[rng.integers(3)]
        arrays[name] = strange[rng.integers(len(strange))]
    np.savez_compressed(path, **arrays)
    path.write_bytes(mutate(rng, path.read_bytes()))
    stored = splits.read_split(path)
    splits.trained_users(stored)
    splits.same_data(stored, "")
    if any(stored[name].tolist() != ["a", "b", "ž"] for name in ("train", "val", "test")):
        raise Lost("other users")


def _embeddings(rng: np.random.Generator, folder: pathlib.Path) -> None:
    path, items = folder / "embeddings.npz", folder / "items.txt"
    if rng.random() < 0.4:
        path = folder / "embeddings.npy"
        strange = (np.ones((6, 2)), np.array([_Pickled()], object), np.ones(6), np.array("x"))
        np.save(path, strange[rng.integers(len(strange))])
        path.write_bytes(mutate(rng, path.read_bytes()))
    else:
        _matrix(rng, path)
    content = "a\nb\nc\nd\ne\nž\n".encode()
    items.write_bytes((mutate(rng, content) if rng.random() < 0.5 else b"") or content)
    matrix, ids, _ = load_embeddings(path)
    lines = items.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    if ids.tolist() != (lines[:-1] if not lines[-1] else lines):
        raise Lost("other ids")
    (matrix @ np.ones(matrix.shape[1])).sum()


def _compact(rng: np.random.Generator, folder: pathlib.Path) -> None:
    """Two fifths of the files have a fitting checksum, as if someone had made them so."""
    path = folder / "e"
    matrix = sp.random(7, 16, 0.3, "csr", np.float32, random_state=rng)
    form = FORMATS[rng.integers(len(FORMATS))]
    made = SparseEmbeddings.from_scipy(matrix, np.array(list("abcdefž")), format=form)
    made.save(path)
    change = ("none", "bytes", "bytes", "tensors", "tensors")[rng.integers(5)]
    if change == "bytes":
        path.write_bytes(mutate(rng, path.read_bytes(), int(rng.integers(1, 4))))
    elif change == "tensors":
        _change_tensors(rng, path)
    loaded = SparseEmbeddings.load(path)
    ids, rows = loaded.item_ids.tolist(), loaded.tocsr()
    rows.sum()
    if change == "none" and (ids != made.item_ids.tolist() or (rows != made.tocsr()).nnz):
        raise Lost("other embeddings")


def compile_all() -> None:
    """What `_served` would compile, for each format once."""
    made = SparseEmbeddings.from_dense(np.eye(30))
    for form in FORMATS:
        Recommender(made.to_format(form)).warm_up()


def _served(rng: np.random.Generator, folder: pathlib.Path) -> None:
    """A file that is overwritten in place while it is served, then histories of unsound arrays."""
    path = folder / "e"
    matrix = sp.random(30, 16, 0.3, "csr", np.float32, random_state=rng)
    SparseEmbeddings.from_scipy(matrix, format=FORMATS[rng.integers(len(FORMATS))]).save(path)
    engine = ("scipy", "numba")[rng.integers(2)]
    recommender = Recommender(SparseEmbeddings.load(path), engine=engine)
    sound = sp.random(int(rng.integers(1, 12)), 30, 0.2, "csr", np.float32, random_state=rng)
    before = recommender.recommend(sound, 5)
    path.write_bytes(mutate(rng, path.read_bytes(), int(rng.integers(1, 6))))
    after = recommender.recommend(sound, 5)
    if any((a != b).any() for a, b in zip(before, after, strict=True)):
        raise Lost("other recommendations")
    history = sound.asformat(("csr", "csc", "coo", "bsr", "lil", "dok", "dia")[rng.integers(7)])
    names = [n for n in ("indptr", "indices", "data", "row", "col") if hasattr(history, n)]
    if history.format in ("csr", "csc", "coo", "bsr") and history.nnz:
        name = names[rng.integers(len(names))]
        array = np.array(getattr(history, name))
        if rng.random() < 0.7:
            values = (-1, 2**31 - 1, 10**6, 0)
            array.flat[rng.integers(array.size)] = values[rng.integers(len(values))]
        if rng.random() < 0.5:
            array = array[: rng.integers(len(array) + 1)]
        setattr(history, name, array)
    try:
        items, _ = recommender.recommend(history, int(rng.integers(1, 40)))
        recommender.encode(history)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if items.min(initial=0) < -1 or items.max(initial=0) > 29:
        raise Lost("an item outside of the catalogue")


def _estimator(rng: np.random.Generator, folder: pathlib.Path) -> None:
    """A model whose notes someone wrote, and the folder of a run with odd results."""
    ids = ["7", "42", "8"] if rng.random() < 0.5 else ["a", "b", "ž"]
    made = SparseEmbeddings.from_dense(np.eye(3), ids)
    notes: dict = {"version": 1, "params": {"nnz": 4}, "recipe": {}, "history": []}
    notes["integer_ids"] = ids[0] == "7"
    strange = (None, [], {}, "x", -1, 1e400, [[]], {"nnz": "x"}, {"who": 1}, True)
    if rng.random() < 0.8:
        name = list(notes)[rng.integers(len(notes))]
        notes[name] = strange[rng.integers(len(strange))]
    if rng.random() < 0.2:
        del notes[list(notes)[rng.integers(len(notes))]]
    if rng.random() < 0.5:
        path = folder / "model"
        values = notes if rng.random() < 0.9 else strange[rng.integers(len(strange))]
        made.with_metadata({"estimator": values, "celsa_jax": "0.1.0"}).save(path)
    else:
        path, workdir = folder, Workdir(folder)
        workdir.start(default_config())
        save_embeddings(folder, made.tocsr().tocsc(), made.item_ids)
        workdir.log_metrics({"step": 1, "epoch": 1})
        (folder / "results.json").write_text(json.dumps(notes))
    model = CompressedELSA.load(path)
    if model.item_ids_.astype(str).tolist() != ids:
        raise Lost("other ids")
    model.recommend(sp.csr_matrix([[1.0, 0, 0]]), 2)
    repr(model)


def _change_tensors(rng: np.random.Generator, path: pathlib.Path) -> None:
    tensors, fields = read_tensors(path)
    tensors = {name: array.copy() for name, array in tensors.items()}
    if rng.random() < 0.5:
        name = list(tensors)[rng.integers(len(tensors))]
        tensors[name].reshape(-1).view(np.uint8)[rng.integers(tensors[name].nbytes)] ^= 0xFF
    else:
        name = list(fields)[rng.integers(len(fields))]
        values = ("", "-1", 10**30, -1, 0.5, [[]], {}, None, True)
        fields[name] = values[rng.integers(len(values))]
    write_tensors(path, tensors, fields)


def _segments(rng: np.random.Generator, folder: pathlib.Path) -> None:
    entries = [
        {"level": 1, "parent": None, "name": "A", "terms": ["t"], "items": ["a", "ž"]},
        {"level": 2, "parent": 0, "name": "B", "terms": [], "items": ["ž"]},
    ]
    strange = (None, [], {}, "x", 1, [[[]]], [1], float("inf"), 10**400, [["a"]], [[0, 1, 2]])
    if rng.random() < 0.6:
        name = list(entries[0])[rng.integers(5)]
        entries[rng.integers(2)][name] = strange[rng.integers(len(strange))]
    text = json.dumps(entries, ensure_ascii=False).encode()
    if rng.random() < 0.05:
        text = b"[" * 100_000
    (folder / "segments.json").write_bytes(mutate(rng, text) if rng.random() < 0.5 else text)
    path = folder / "segment_vectors.npz"
    sp.save_npz(path, sp.random(2, 4, 0.5, "csr", random_state=rng))
    if rng.random() < 0.4:
        path.write_bytes(mutate(rng, path.read_bytes(), 1))
    tree = load_segments(folder, np.array(["a", "b", "c", "ž"]))
    if sum(map(len, tree.levels)) != 2:
        raise Lost(f"{tree} of 2")


def _workdir(rng: np.random.Generator, folder: pathlib.Path) -> None:
    workdir, config = Workdir(folder), default_config()
    workdir.start(config)
    workdir.finish({"test": {"ndcg": 0.5}})
    for step in range(5):
        workdir.log_metrics({"step": step, "epoch": step + 1, "loss": 0.5})
    name = ("config.json", "results.json", "metrics.jsonl")[rng.integers(3)]
    path = folder / name
    path.write_bytes(b"[" * 100_000 if rng.random() < 0.05 else mutate(rng, path.read_bytes(), 2))
    workdir.cut_metrics(3, 4)
    for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        json.loads(line)
    workdir.results()
    workdir.stored_config()
    workdir.check(config)


READERS: dict[str, Callable[[np.random.Generator, pathlib.Path], None]] = {
    "csv": _csv,
    "users_file": _users_file,
    "parquet": _parquet,
    "npz": _npz,
    "text_columns": _text,
    "metadata": _metadata,
    "ml-100k": _published("ml-100k", _ml_100k, lambda text: len(plain_rows(text, "\t")), "u.data"),
    "ml-1m": _published("ml-1m", _ml_1m, _filled_lines, "ratings.dat"),
    "ml-20m": _published("ml-20m", _ml_20m, _table_rows, "ratings.csv"),
    "goodbooks": _published("goodbooks", _goodbooks, _table_rows, "ratings.csv"),
    "netflix": _published("netflix", _netflix, _netflix_rows, *_NETFLIX_FILES),
    "prepared": _prepared,
    "split": _split,
    "embeddings": _embeddings,
    "compact": _compact,
    "served": _served,
    "estimator": _estimator,
    "segments": _segments,
    "workdir": _workdir,
}
