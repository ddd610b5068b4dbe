"""The HTTP service over a file and over an engine, asked well and badly."""

import json
import time

import numpy as np
import pytest
from asking import ask, similar
from fastapi.testclient import TestClient

from celsa_jax.engines import EngineError, open_index
from celsa_jax.engines.file import FileIndex
from celsa_jax.engines.service import create_app
from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommender, SparseEmbeddings


def model(seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(60, 16)) * (rng.random((60, 16)) < 0.3)
    return SparseEmbeddings.from_dense(dense, [f"i{i}" for i in range(60)])


@pytest.fixture
def file(tmp_path):
    model().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def client(file):
    index = FileIndex(file, every=0.02, engine="scipy")
    yield TestClient(create_app(index), raise_server_exceptions=False)
    index.close()


def test_answers_of_a_file_are_those_of_the_recommender(client):
    embeddings = model()
    recommender = Recommender(embeddings, engine="scipy")
    for wish in (
        {"history": ["i3", "i4", "x"]},
        {"history": ["i3"], "k": 3, "filter_seen": False},
        {"history": ["i3"], "candidates": ["i9", "i8", "x"]},
    ):
        wanted = ask(recommender, **{"k": 10, **wish})
        answer = client.post("/recommend", json=wish)
        assert answer.status_code == 200
        items = [{"id": i, "score": pytest.approx(s)} for i, s in zip(*wanted[:2], strict=True)]
        expected = {"items": items, "unknown": wanted.unknown, "version": embeddings.version}
        assert answer.json() == expected
    answer = client.post("/similar", json={"item_id": "i3", "k": 4}).json()
    assert [item["id"] for item in answer["items"]] == (
        similar(recommender, "i3", 4).item_ids.tolist()
    )
    health = client.get("/health").json()
    assert health == {"status": "ok", "version": embeddings.version}


def test_a_file_that_is_replaced_is_read_again(client, file):
    def wait_for(version):
        for _ in range(500):
            if client.get("/health").json()["version"] == version:
                return
            time.sleep(0.01)
        raise AssertionError("not read")

    before, after = model().version, model(1).version
    broken = file.with_name("broken")
    broken.write_bytes(file.read_bytes()[:-40])
    broken.replace(file)
    time.sleep(0.1)
    assert client.post("/recommend", json={"history": ["i3"]}).json()["version"] == before
    model(1).save(file)
    wait_for(after)
    file.unlink()
    time.sleep(0.05)
    assert client.post("/recommend", json={"history": ["i3"]}).json()["version"] == after


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ("", 422, "send a JSON object, with Content-Type: application/json"),
        ("{", 422, "body: not valid JSON at character 2"),
        ("[" * 100_000, None, ""),
        (b"\xff\xfe{}", None, ""),
        ('{"history": "i3"}', 422, "body.history: Input should be a valid list"),
        ('{"history": [null]}', 422, "body.history.0: Input should be a valid string"),
        ('{"history": ["a"], "k": 0}', 422, "body.k: Input should be greater than"),
        ('{"history": ["a"], "k": 1e9}', 422, "body.k: Input should be a valid int"),
        ('{"history": ["a"], "k": 100000}', 422, "body.k: Input should be less than"),
        ('{"history": ["a"], "k": NaN}', 422, "body.k"),
        ('{"history": ["\\ud800"]}', 422, "body.history.0: Input should be a valid string"),
        ('{"history": ["a"], "filter": 1}', 422, "body.filter: Extra inputs are not permitted"),
        ('{"history": ["a"], "where": [["year", "=", 5]]}', 400, "no column 'year'"),
        ('{"history": ["a"], "where": [["\\ud800", "=", 5]]}', 400, "no column"),
        (json.dumps({"history": ["a" * 2000]}), 422, "at most 1000 characters"),
        (json.dumps({"history": ["a"] * 20_000}), 422, "at most 10000 items"),
        (json.dumps({"history": ["a" * (5 << 20)]}), 413, "a body has at most"),
    ],
)
def test_what_does_not_fit_is_one_line(client, body, status, problem):
    answer = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status or (status is None and 400 <= answer.status_code < 500)
    (error,) = answer.json().values()
    assert problem in error
    assert "\n" not in error
    assert len(error) < 250


def test_ids_may_be_numbers(client):
    answer = client.post("/recommend", json={"history": [3, "i3"]}).json()
    assert answer["unknown"] == ["3"]
    assert answer["items"] == client.post("/recommend", json={"history": ["i3"]}).json()["items"]


def test_bodies_without_a_length_are_cut_too(client):
    def endless():
        for _ in range(1_000):
            yield b" " * (1 << 16)

    answer = client.post("/recommend", content=endless())
    assert answer.status_code == 413


def test_what_there_is_not_and_what_is_no_json_are_one_line_too(client):
    refused = client.get("/recommend")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert client.get("/docs").status_code == 404
    assert client.get("/docs").json() == {"error": "Not Found"}
    answer = client.post("/recommend", content='{"history": ["i3"]}')
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert "Content-Type: application/json" in answer.json()["error"]


def test_an_engine_is_served_with_conditions(tmp_path):
    with open_index(f"qdrant:{tmp_path}") as index:
        client = TestClient(create_app(index), raise_server_exceptions=False)
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"error": "the index does not answer"})
        version = index.load(model(), {"year": np.arange(60) + 1960})
        assert client.get("/health").json() == {"status": "ok", "version": version}
        wish = {"history": ["i3"], "where": [["year", ">=", 2010]]}
        answer = client.post("/recommend", json=wish).json()
        assert {item["id"] for item in answer["items"]} == {f"i{i}" for i in range(50, 60)}
        answer = client.post("/recommend", json={**wish, "where": [["year", ">=", "'; --"]]})
        assert answer.status_code == 400


def test_files_have_no_metadata(file):
    index = FileIndex(file, engine="scipy")
    with pytest.raises(InputError, match="no column 'year'; there are no metadata columns at all"):
        ask(index, ["i3"], where=[("year", "=", 5)])
    index.close()
    with pytest.raises(InputError, match="no such file"):
        FileIndex(file.with_name("nothing"))
    assert issubclass(EngineError, InputError)
