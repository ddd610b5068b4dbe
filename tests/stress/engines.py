"""Does to an index what a bad day does to it, and counts what that breaks.

    python -m tests.stress.engines --uri=postgresql://localhost/test --seconds=60 --clients=8
    python -m tests.stress.engines --uri=qdrant:/tmp/index --kills=20 --requests=2000

--seconds: clients ask all the time while one version after the other is loaded and made current;
every answer must be that of `Recommender` over the version that it names. --kills ends loads by
SIGKILL at random times and starts them again; in the end the index must answer as `Recommender`.
--requests asks what nobody should ask, of the index and of the HTTP service over it: each is
answered, or refused with one line. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from celsa_jax.engines import Engine, open_index
from celsa_jax.errors import InputError
from celsa_jax.sparse import Recommendation, Recommender, SparseEmbeddings
from experiments.random_data import random_embeddings, random_histories

_NAME = "stress"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--uri", required=True, help="of the database; its index 'stress' is used")
    parser.add_argument("--n_items", type=int, default=100_000, help="of the models")
    parser.add_argument("--seconds", type=float, default=0, help="how long clients ask")
    parser.add_argument("--clients", type=int, default=8, help="that ask at once")
    parser.add_argument("--kills", type=int, default=0, help="how often a load is killed")
    parser.add_argument("--requests", type=int, default=0, help="how many strange requests")
    parser.add_argument("--seed", type=int, default=0, help="of kills and requests")
    parser.add_argument("--load", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load is not None:
        with open_index(given.uri, _NAME) as index:
            index.load(model(given.load, given.n_items))
        return
    if not (given.seconds or given.kills or given.requests):
        parser.error("give --seconds, --kills or --requests")
    report: dict[str, object] = {"engine": given.uri.partition(":")[0], "n_items": given.n_items}
    if given.seconds:
        report["swaps"] = swap(given.uri, given.n_items, given.clients, given.seconds)
    if given.kills:
        report["kills"] = kill(given.uri, given.n_items, given.kills, given.seed)
    if given.requests:
        report["requests"] = ask_strangely(given.uri, given.requests, given.seed)
    print(json.dumps(report))


def model(number: int, n_items: int) -> SparseEmbeddings:
    """Embeddings that differ by their number, with items in another order."""
    embeddings = random_embeddings(n_items, 4096, 16).tocsr()
    order = np.random.default_rng(number).permutation(n_items)
    return SparseEmbeddings.from_scipy(embeddings[order] * (1 + number / 7))


def is_right(found: Recommendation, wanted: Recommendation) -> bool:
    """Whether scores are the same to rounding, and items but for ties at the end."""
    if len(found.item_ids) != len(wanted.item_ids) or found.unknown != wanted.unknown:
        return False
    firm = wanted.scores > wanted.scores[-1] + 1e-4
    near = np.allclose(found.scores, wanted.scores, atol=1e-4)
    return near and set(wanted.item_ids[firm]) <= set(found.item_ids.tolist())


def swap(uri: str, n_items: int, n_clients: int, seconds: float) -> dict:
    models = [model(number, n_items) for number in range(3)]
    recommenders = [Recommender(embeddings) for embeddings in models]
    for recommender in recommenders:
        recommender.warm_up()
    histories = random_histories(64, n_items, 20).indices.reshape(64, -1).astype(str).tolist()
    wanted = [r.recommend_ids(histories, 50) for r in recommenders]
    over = threading.Event()
    counts: collections.Counter = collections.Counter()
    times: list[float] = []
    with open_index(uri, _NAME) as index:
        numbers = {index.load(models[0]): 0}

        def client(number: int) -> None:
            chosen = random.Random(number)
            while not over.is_set():
                at = chosen.randrange(len(histories))
                started = time.perf_counter()
                try:
                    [found] = index.recommend_ids([histories[at]], 50)
                except Exception as error:
                    counts[f"error: {error}"] += 1
                    continue
                times.append(time.perf_counter() - started)
                answers.append((at, found))

        answers: list[tuple[int, Recommendation]] = []
        clients = [threading.Thread(target=client, args=(n,)) for n in range(n_clients)]
        started = time.monotonic()
        for thread in clients:
            thread.start()
        n_swaps = 0
        while time.monotonic() - started < seconds:
            n_swaps += 1
            version = index.load(models[n_swaps % 3])
            numbers[version] = n_swaps % 3
            time.sleep(1)
        over.set()
        for thread in clients:
            thread.join()
    for at, found in answers:
        right = is_right(found, wanted[numbers[found.version]][at])
        counts["right" if right else "wrong"] += 1
    p50, p99 = 1e3 * np.quantile(times, [0.5, 0.99])
    milliseconds = {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}
    return {"seconds": seconds, "clients": n_clients, "swaps": n_swaps, **counts, **milliseconds}


def kill(uri: str, n_items: int, n_kills: int, seed: int) -> dict:
    chosen = random.Random(seed)
    embeddings = model(0, n_items)
    recommender = Recommender(embeddings)
    histories = random_histories(20, n_items, 20).indices.reshape(20, -1).astype(str).tolist()
    command = [sys.executable, "-m", "tests.stress.engines", f"--uri={uri}"]
    command += [f"--n_items={n_items}", "--load=0"]

    started = time.perf_counter()
    subprocess.run(command, check=True)
    whole = time.perf_counter() - started
    counts: collections.Counter = collections.Counter()
    while counts["kills"] < n_kills:
        with open_index(uri, _NAME) as index:  # from the beginning
            for version, state in list(index.versions().items()):
                if state == "current":
                    index.load(SparseEmbeddings.from_dense(np.eye(2)))
                    index.load(SparseEmbeddings.from_dense(2 * np.eye(2)))
                elif state == "loading":
                    index.drop(version)
        for _ in range(3):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            time.sleep(chosen.uniform(0.2, 1) * whole)
            if process.poll() is None:
                counts["kills"] += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, check=True)
        with open_index(uri, _NAME) as index:
            for history in histories:
                [found] = index.recommend_ids([history], 50)
                [wanted] = recommender.recommend_ids([history], 50)
                counts["right" if is_right(found, wanted) else "wrong"] += 1
    return dict(counts)


def ask_strangely(uri: str, n_requests: int, seed: int) -> dict:
    """Counts answers, refusals, and what must not be: tracebacks, and errors of the server."""
    from fastapi.testclient import TestClient

    from celsa_jax.engines.service import create_app

    chosen = random.Random(seed)
    counts: collections.Counter = collections.Counter()
    headers = {"Content-Type": "application/json"}
    columns = {"year": [1990 + i % 30 for i in range(500)], "tag": ["a'b"] * 500}
    with open_index(uri, _NAME) as index:
        index.load(random_embeddings(500, 100, 8), columns)
        client = TestClient(create_app(index), raise_server_exceptions=False)
        for _ in range(n_requests):
            wish: dict = {"history": ["1", "2"], "k": 10, "where": [["year", ">", 2000]]}
            wish["candidates"] = chosen.choice([None, ["5", "7"]])
            for name in chosen.sample(sorted(wish), chosen.randrange(3)):
                wish[name] = strange(chosen)
            counts[_ask(index, wish)] += 1
            try:
                body = json.dumps(wish, default=repr)
            except ValueError:
                body = repr(wish)
            if chosen.random() < 0.3:
                at = chosen.randrange(len(body) + 1)
                body = body[:at] + chosen.choice(["\x00", "{", '"', "\\ud800", ""]) + body[at + 3 :]
            sent = {"content": body.encode("utf-8", "replace"), "headers": headers}
            answer = client.post("/recommend", **sent)
            counts[f"HTTP {answer.status_code}"] += 1
        [found] = index.recommend_ids([["1", "2"]], 10)
        assert len(found.item_ids) == 10, "it does not answer any more"
    return dict(counts)


def _ask(index: Engine, wish: dict) -> str:
    try:
        index.recommend_ids([wish["history"]], **{k: v for k, v in wish.items() if k != "history"})
        return "answered"
    except InputError as error:
        return "refused" if len(str(error).splitlines()) == 1 else "refused in several lines"
    except Exception as error:
        print(f"{wish!r}: {error!r}", file=sys.stderr)
        return f"traceback: {type(error).__name__}"


def strange(chosen: random.Random, depth: int = 0) -> object:
    """A value that some argument may not expect."""
    texts = [
        "1",
        "year",
        "tag",
        "=",
        ">=",
        "in",
        "has",
        "",
        "\x00",
        "\ud800",
        "'; DROP TABLE x; --",
    ]
    texts += ["%s", "%(q)s", "{}", "$1", "a'b", "é" * 500, "-1", "\u202e", "NaN"]
    numbers = [0, -1, 1, 7, 10**6, 10**30, 1e308, float("nan"), float("inf"), -0.0, True, None]
    kind = chosen.randrange(6 if depth < 3 else 2)
    if kind == 0:
        return chosen.choice(texts)
    if kind == 1:
        return chosen.choice(numbers)
    if kind == 2:
        return [
            [chosen.choice(["year", "tag", "x"]), chosen.choice(texts), strange(chosen, depth + 1)]
            for _ in range(chosen.randrange(3))
        ]
    if kind == 3:
        return {chosen.choice(texts): strange(chosen, depth + 1)}
    if kind == 4:
        return [chosen.choice(texts) for _ in range(chosen.randrange(300))]
    return [strange(chosen, depth + 1) for _ in range(chosen.randrange(5))]


if __name__ == "__main__":
    main()
