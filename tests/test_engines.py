"""Indexes in PostgreSQL and Qdrant against `Recommender`, NumPy and hand-worked cases."""

import contextlib
import http.server
import threading

import numpy as np
import pytest
from asking import ask, similar

from celsa_jax.engines import EngineError, open_index
from celsa_jax.engines.items import Items
from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommender, SparseEmbeddings

pytestmark = [
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
]
ENGINES = ("postgres", "folder", "server")


def model(n=300, d=40, seed=0):
    """Signed rows of any length; the first two are equal, the third is zero."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.1)
    dense *= rng.uniform(0.2, 3, (n, 1))
    dense[1], dense[2] = dense[0], 0
    return SparseEmbeddings.from_dense(dense, [f"i{i}" for i in range(n)])


def metadata(n=300):
    return {
        "year": [None if i % 7 == 0 else 1990 + i % 30 for i in range(n)],
        "price": np.arange(n) / 4,
        "language": ["en" if i % 3 else "de" for i in range(n)],
        "genres": [["crime", "it's"][: i % 3] for i in range(n)],
        "sold_out": np.arange(n) % 2 == 0,
    }


@pytest.fixture
def opened(request, tmp_path, monkeypatch, postgres_uri):
    """Opens indexes of an engine: all of a test are of the same database, empty at first."""
    made = contextlib.ExitStack()
    name = "t" + "".join(c for c in request.node.name.lower() if c.isalnum())[-38:]

    def open_one(engine, **options):
        if engine == "postgres":
            uri = postgres_uri
        elif engine == "folder":
            uri = f"qdrant:{tmp_path / 'qdrant'}"
        else:
            import qdrant_client

            client = qdrant_client.QdrantClient(":memory:")
            monkeypatch.setattr(qdrant_client, "QdrantClient", lambda **_: client)
            uri = "http://qdrant.test:6333"
        return made.enter_context(open_index(uri, name, **options))

    with made:
        yield open_one


@pytest.fixture(params=ENGINES)
def index(request, opened):
    return opened(request.param)


def histories(n_items, n=12, seed=1):
    rng = np.random.default_rng(seed)
    for length in [1, 2, *rng.integers(3, 40, n)]:
        chosen = rng.integers(0, n_items, length)  # some twice
        yield [f"i{i}" for i in chosen] + ["unheard of"] * (length % 2)


def assert_same(found, wanted):
    """The same scores, and the same items but where scores are equal to rounding."""
    np.testing.assert_allclose(found.scores, wanted.scores, atol=2e-5)
    assert found.unknown == wanted.unknown
    score_of = dict(zip(wanted.item_ids.tolist(), wanted.scores, strict=True))
    least = wanted.scores[-1] if len(wanted.scores) else 0
    for item, score in zip(found.item_ids.tolist(), found.scores, strict=True):
        assert score_of.get(item, least) == pytest.approx(score, abs=2e-5)
    assert len(set(found.item_ids.tolist())) == len(found.item_ids)


def test_answers_are_those_of_the_recommender(index):
    embeddings = model()
    recommender = Recommender(embeddings, engine="scipy")
    index.load(embeddings, metadata())
    some = [f"i{i}" for i in range(0, 300, 5)] + ["nobody"]
    for history in histories(300, 5):
        for options in (
            {},
            {"k": 1},
            {"k": 1000},
            {"filter_seen": False},
            {"candidates": some, "k": 9},
            {"candidates": ["i3", "i4", "nobody"]},
            {"candidates": []},
        ):
            found = ask(index, history, **options)
            assert_same(found, ask(recommender, history, **options))
    for item in ("i0", "i2", "i9", "nobody"):  # two are nearest to the first; one is zero
        assert_same(similar(index, item, 7), similar(recommender, item, 7))
    nothing = ask(index, ["nobody", "no\x00body", "\ud800"], 5)
    assert nothing.unknown == ["nobody", "no\x00body", "\ud800"]
    assert len(nothing.item_ids) == len(nothing.scores) == 0
    assert ask(index, []).unknown == []


def test_equal_scores_go_to_the_lower_position_in_postgres(opened):
    embeddings = model()
    index, recommender = opened("postgres"), Recommender(embeddings, engine="scipy")
    index.load(embeddings)
    for history in histories(300):
        history = list(dict.fromkeys(history))[:3]  # many zeros, which are equal
        found, wanted = ask(index, history, 300), ask(recommender, history, 300)
        zeros = wanted.scores == 0
        assert zeros.sum() > 10
        assert found.item_ids[zeros].tolist() == wanted.item_ids[zeros].tolist()


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_compact_formats_are_loaded_as_they_decode(opened, format):
    embeddings = model().to_format(format)
    recommender = Recommender(embeddings, engine="scipy")
    for engine in ("postgres", "folder"):
        index = opened(engine)
        index.load(embeddings)
        assert_same(ask(index, ["i5", "i6"]), ask(recommender, ["i5", "i6"]))


def test_conditions_on_metadata(index):
    embeddings, columns = model(), metadata()
    index.load(embeddings, columns)
    everything = ask(Recommender(embeddings, engine="scipy"), ["i5", "i8", "i13"], 300)
    row = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    for where, meets in (
        ([("language", "=", "de")], lambda r: r["language"] == "de"),
        ([("language", "!=", "de")], lambda r: r["language"] != "de"),
        ([("language", "in", ["de", "fr"])], lambda r: r["language"] == "de"),
        ([("language", "in", [])], lambda r: False),
        ([("genres", "has", "it's")], lambda r: "it's" in r["genres"]),
        ([("sold_out", "=", True)], lambda r: r["sold_out"]),
        ([("price", "=", 2.5)], lambda r: r["price"] == 2.5),
        ([("price", "in", [2.5, 3])], lambda r: r["price"] in (2.5, 3)),
        ([("year", "=", 1994)], lambda r: r["year"] == 1994),
        ([("year", "!=", 1994)], lambda r: r["year"] not in (None, 1994)),
        ([("year", ">", 2004.5)], lambda r: r["year"] is not None and r["year"] > 2004.5),
        ([("year", ">=", 2000), ["year", "<", 2003]], lambda r: r["year"] in (2000, 2001, 2002)),
        (
            [["price", "<=", 9], ("sold_out", "!=", True)],
            lambda r: r["price"] <= 9 and not r["sold_out"],
        ),
        ([("language", "=", "de' OR true --")], lambda r: False),
    ):  # fmt: skip
        found = ask(index, ["i5", "i8", "i13"], 300, where=where)
        kept = [meets(row[int(item[1:])]) for item in everything.item_ids]
        np.testing.assert_allclose(found.scores, everything.scores[kept], atol=2e-5)
        assert all(meets(row[int(item[1:])]) for item in found.item_ids)
    found = similar(index, "i5", 300, where=[("year", ">", 2015)])
    assert len(found.item_ids) == sum(y is not None and y > 2015 for y in columns["year"])


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("year = 5", r"where is a list of \(column, operator, value\)"),
        ([("year", "=")], r"\('year', '='\) is not \(column"),
        ([("name", "=", "x")], "no column 'name'; there are year, price, language, genres"),
        ([('year" = 1; --', "=", 1)], "no column"),
        ([(["year"], "=", 1)], "no column"),
        ([("year", "like", 5)], r"'like' is no operator for 'year' \(integer\); use =, !="),
        ([("language", "<", "de")], r"'<' is no operator for 'language'"),
        ([("year", "=", "1994")], r"'1994' is no value for 'year' \(integer\)"),
        ([("year", "=", True)], "True is no value"),
        ([("year", "<", float("nan"))], "nan is no value"),
        ([("year", "<", 1 << 70)], "is no value"),
        ([("sold_out", "=", 1)], "1 is no value"),
        ([("language", "=", "d\x00e")], "is no value"),
        ([("language", "in", "de")], "takes a list of values"),
    ],
)
def test_conditions_that_do_not_fit(postgres_uri, where, problem):
    from celsa_jax.engines.items import check_where

    kinds = Items(model(3), metadata(3)).kinds
    kinds["year"] = "integer"
    with pytest.raises(InputError, match=problem):
        check_where(where, kinds)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"year": [1]}, "'year': 1 values for 3 items"),
        ({"ye ar": [1, 2, 3]}, "'ye ar': use letters"),
        ({"id": [1, 2, 3]}, "'id': engines have one of that name"),
        ({"year": [1, "x", 3]}, "'year' mixes integer and text"),
        ({"year": [1, 2, 1 << 64]}, "of item 'i2' is not integer"),
        ({"year": [1.0, 2.0, np.inf]}, "inf of item 'i2' is not real"),
        ({"title": ["a", "b", "c\x00"]}, "of item 'i2' is not text"),
        ({"genres": [["a"], "b", None]}, "mixes text and texts"),
        ({"genres": [["a"], {"b": 1}, None]}, "of item 'i1' is not texts"),
    ],
)
def test_metadata_that_does_not_fit(change, problem):
    with pytest.raises(InputError, match=problem):
        Items(model(3), change)


def test_versions_replace_each_other_whole(index):
    first, second, third = (model(seed=seed) for seed in (0, 1, 2))
    with pytest.raises(EngineError, match=r"no index 't.*' yet; load one"):
        ask(index, ["i3"])
    one = index.load(first)
    two = index.load(second, activate=False)
    assert index.versions() == {one: "current", two: "ready"}
    assert ask(index, ["i3"]).version == index.version == one
    index.activate(two)
    assert index.versions() == {one: "previous", two: "current"}
    assert_same(ask(index, ["i3"]), ask(Recommender(second), ["i3"]))
    assert index.load(first) == one  # is there already
    assert index.versions() == {one: "current", two: "previous"}
    three = index.load(third)
    assert index.versions() == {one: "previous", three: "current"}
    with pytest.raises(InputError, match=f"no version {two} to activate; there are"):
        index.activate(two)
    with pytest.raises(InputError, match=f"version {three} is current: nothing to drop"):
        index.drop(three)
    index.drop(one)
    assert index.versions() == {three: "current"}
    assert index.load(first, metadata()) not in (one, three)  # other metadata, other version


def test_items_come_and_go(index):
    embeddings, columns = model(), metadata()
    index.load(embeddings, columns)
    dense = embeddings.tocsr().toarray()
    dense[5], added = dense[7] * 2, dense[9] - dense[11]
    change = SparseEmbeddings.from_dense(np.stack([dense[5], added]), ["i5", "new 'one'"])
    new = {name: [list(cells)[5], list(cells)[3]] for name, cells in columns.items()}
    index.upsert(change, new)
    assert index.delete(["i20", "i21", "nobody", "i20"]) == 2
    kept = np.setdiff1d(np.arange(300), [20, 21])
    ids = [*(f"i{i}" for i in kept), "new 'one'"]
    after = SparseEmbeddings.from_dense(np.vstack([dense[kept], added]), ids)
    recommender = Recommender(after, engine="scipy")
    for history in (["i5", "i30"], ["new 'one'"], ["i20", "i3"]):
        assert_same(ask(index, history, 400), ask(recommender, history, 400))
    assert_same(similar(index, "i7", 3), similar(recommender, "i7", 3))

    other = SparseEmbeddings.from_dense(np.eye(3), ["a", "b", "c"])
    with pytest.raises(InputError, match=r"items of 3 factors; those of version .* have 40"):
        index.upsert(other)
    with pytest.raises(InputError, match=r"metadata columns none; version .* has year"):
        index.upsert(change)
    assert_same(ask(index, ["i5"], 400), ask(recommender, ["i5"], 400))


def test_a_killed_load_goes_on(index, monkeypatch):
    embeddings = model()
    monkeypatch.setattr(Items, "block_size", 40)
    add, sent = type(index)._add, []

    def killed(self, items, block):
        rows = list(block)
        sent.append(rows[0].position)
        if len(sent) == 4:
            raise KeyboardInterrupt
        add(self, items, iter(rows))

    monkeypatch.setattr(type(index), "_add", killed)
    with pytest.raises(KeyboardInterrupt):
        index.load(embeddings)
    (version,) = index.versions()
    assert index.versions() == {version: "loading"}
    with pytest.raises(InputError, match=f"version {version} is loading: nothing to activate"):
        index.activate(version)
    with pytest.raises(EngineError, match="no index"):
        ask(index, ["i3"])
    assert index.load(embeddings) == version
    assert sent[:4] == [0, 40, 80, 120]
    assert sent[4] >= 80  # not from the beginning
    assert sent[-1] == 280
    recommender = Recommender(embeddings, engine="scipy")
    assert_same(ask(index, ["i3"], 400), ask(recommender, ["i3"], 400))


@pytest.mark.parametrize("engine", ["postgres", "folder"])
def test_no_answer_mixes_versions_while_they_are_swapped(opened, engine):
    index = opened(engine)
    models = [model(100, seed=seed) for seed in range(3)]
    names = [index.load(embeddings) for embeddings in models[:1]]
    answers, problems, over = [], [], threading.Event()
    recommenders = [Recommender(embeddings, engine="scipy") for embeddings in models]

    def client(number):
        history = [f"i{number}", "i17", f"i{40 + number}"]
        try:
            while not over.is_set():
                answers.append((history, ask(index, history, 20)))
        except BaseException as error:
            problems.append(error)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    names += [index.load(embeddings) for embeddings in models[1:]]
    index.upsert(SparseEmbeddings.from_dense(np.ones((1, 40)) * 0, ["later"]))
    over.set()
    for client in clients:
        client.join()
    assert not problems
    by_version = dict(zip(names, recommenders, strict=True))
    assert {answer.version for _, answer in answers} >= set(names[:1])
    for history, answer in answers:
        assert_same(answer, ask(by_version[answer.version], history, 20))


def test_long_queries_are_asked_in_parts(opened, monkeypatch):
    from celsa_jax.engines import postgres

    index, embeddings = opened("postgres"), model()
    index.load(embeddings)
    monkeypatch.setattr(postgres, "_MOST_NONZEROS", 7)
    recommender = Recommender(embeddings, engine="scipy")
    for history in histories(300, 4):
        assert_same(ask(index, history), ask(recommender, history))


def test_what_engines_refuse(index, opened):
    with pytest.raises(InputError, match="a history is a list of ids, not 'i3'"):
        ask(index, "i3")
    with pytest.raises(InputError, match="candidates is a list of ids, not 'i3'"):
        ask(index, ["i3"], candidates="i3")
    for k in (0, True, 2.5, 300_000_000):
        with pytest.raises(InputError, match="give a whole number of 1 to 100000"):
            ask(index, ["i3"], k)
    with pytest.raises(InputError, match=r"item id 'a\\ud800' holds what no database stores"):
        Items(_with_ids(["a\ud800", "b"]), None)


def _with_ids(ids):
    embeddings = SparseEmbeddings.from_dense(np.eye(2))
    vars(embeddings)["item_ids"] = np.array(ids)
    return embeddings


def test_other_databases_and_names():
    for uri, problem in (
        ("mysql://host/db", "no engine for 'mysql'; give postgresql://"),
        ("postgresql://localhost:1/nothing", "PostgreSQL: .*refused"),
        ("postgresql://me:se cret@localhost/x", "the PostgreSQL URI is none; %-encode"),
        ("postgresql://me:se%20cret@localhost:1/x", "PostgreSQL: .*refused"),
        ("http://localhost:1", "http://localhost:1: .*refused"),
    ):
        with pytest.raises(InputError, match=problem) as caught:
            open_index(uri)
        assert "se cret" not in str(caught.value)
    for name in ("", "Items", "a b", 'x"; --', "x" * 50):
        with pytest.raises(InputError, match="name an index with at most 40 small letters"):
            open_index("postgresql://localhost:1/nothing", name)


def test_what_a_server_of_qdrant_says_is_one_line():
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"Must provide an API key\nor an Authorization bearer token")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(EngineError, match=r"http://127.*: .*401.*Must provide") as caught:
            open_index(f"http://me:secret@127.0.0.1:{server.server_port}")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_belongs_to_one_process(opened, tmp_path):
    opened("folder")
    with pytest.raises(EngineError, match="another process has it; a server is shared"):
        opened("folder")


def test_damaged_list_of_versions(tmp_path):
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "versions.json").write_text('{"a": {"state": "current"}}')
    with pytest.raises(EngineError, match=r"versions.json: damaged"):
        open_index(f"qdrant:{tmp_path}")


def test_a_folder_is_there_when_it_is_opened_again(tmp_path):
    embeddings = model()
    with open_index(f"qdrant:{tmp_path}") as index:
        index.load(embeddings, metadata())
    with open_index(f"qdrant:{tmp_path}") as index:
        wanted = ask(Recommender(embeddings, engine="scipy"), ["i3", "i4"])
        assert_same(ask(index, ["i3", "i4"]), wanted)


def test_postgres_that_is_not_as_it_should_be(postgres_uri, opened):
    import psycopg

    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE strange")
        connection.execute("CREATE DATABASE frozen")
        connection.execute("ALTER DATABASE frozen SET default_transaction_read_only = on")
    strange, frozen = (
        postgres_uri.replace("/postgres?", f"/{name}?") for name in ("strange", "frozen")
    )
    with (
        open_index(frozen) as index,
        pytest.raises(EngineError, match="database frozen: it is read-only"),
    ):
        index.load(model())
    with psycopg.connect(strange, autocommit=True) as connection:
        connection.execute("CREATE TABLE items_versions (version int, made date)")
    with open_index(strange) as index:
        for action in (lambda: ask(index, ["a"]), lambda: index.load(model())):
            with pytest.raises(EngineError, match="'items_versions' is no index of celsa_jax"):
                action()


def test_a_database_without_an_index(index):
    assert index.versions() == {}
    with pytest.raises(InputError, match="no version abc to activate; there are: none"):
        index.activate("abc")
    with pytest.raises(EngineError, match="yet; load one"):
        index.upsert(model(3))


def test_postgres_without_pgvector(opened, monkeypatch):
    from celsa_jax.engines import postgres

    index = opened("postgres")
    asked = postgres.PostgresEngine._prepare

    def without(self, connection, items):
        connection.execute("CREATE EXTENSION vector_of_another_world")
        asked(self, connection, items)

    monkeypatch.setattr(postgres.PostgresEngine, "_prepare", without)
    with pytest.raises(EngineError, match="it has no pgvector: install it there"):
        index.load(model())


def test_one_process_loads_at_a_time(opened, monkeypatch):
    index, other = opened("postgres"), opened("postgres", timeout=0.2)
    add = type(index)._add

    def add_slowly(self, items, block):
        with pytest.raises(EngineError, match=r"another process loads 't.*'; wait"):
            other.load(model(seed=1))
        add(self, items, block)

    monkeypatch.setattr(type(index), "_add", add_slowly)
    index.load(model())
    monkeypatch.undo()
    other.load(model(seed=1))


def test_connections_that_were_cut_are_replaced(opened, postgres_uri):
    import psycopg

    index, embeddings = opened("postgres"), model()
    index.load(embeddings)
    wanted = ask(index, ["i3"])
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
    assert_same(ask(index, ["i3"]), wanted)


def test_nothing_of_this_is_imported_by_those_who_do_not_use_it():
    import subprocess
    import sys

    code = """
import sys, celsa_jax.sparse, celsa_jax.engines
heavy = {"psycopg", "qdrant_client", "qdrant_edge", "pyspark", "fastapi", "jax"}
sys.exit(len(heavy & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
