r"""Times preparing a file of ratings as large as the publishers', on made-up ratings.

    python -m experiments.benchmark_data --form=ml-20m --n_ratings=20000000
    python -m experiments.benchmark_data --form=netflix --n_ratings=100000000

Ratings have the shape of the real ones: items by a power law with a long tail, users' activity
log-normal, nobody rates an item twice, and as many users and items as the publisher has for that
many ratings. The files are
written into --folder (a temporary one by default: 0.5 GB for MovieLens-20M, 2.5 GB for Netflix),
then `experiments.prepare_data` runs twice in processes of their own. The last line printed is one
JSON object; memory is the largest resident set of the process.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
from absl import flags

from experiments import cli

_FORM = flags.DEFINE_enum("form", "ml-20m", ["ml-20m", "netflix"], "Whose files to imitate.")
_N_RATINGS = flags.DEFINE_integer("n_ratings", 20_000_000, "Rows.", lower_bound=50_000)
_FOLDER = flags.DEFINE_string("folder", None, "Where to write; temporary by default.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the ratings.", lower_bound=0)
# Ratings, users and items of the publishers; and the day of the first rating.
_SHAPES = {
    "ml-20m": (20_000_263, 138_493, 27_278, "1995-01-09"),
    "netflix": (100_480_507, 480_189, 17_770, "1999-11-11"),
}
_CONFIGS = {"ml-20m": "ml_20m.py", "netflix": "netflix.py"}
_SECONDS_A_DAY = 86_400


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FOLDER.value or temporary)
        source, data = folder / _FORM.value, folder / "data"
        source.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        n_bytes = WRITERS[_FORM.value](source, _N_RATINGS.value, _SEED.value)
        made = time.perf_counter() - started
        print(f"{n_bytes / 1e6:.0f} MB of ratings written in {made:.0f} s", flush=True)
        given = [f"--config={cli.CONFIGS / _CONFIGS[_FORM.value]}"]
        given += [f"--config.data.path={source}", f"--config.data.data_dir={data}"]
        first, second = (cli.measured("prepare_data", *given) for _ in range(2))
    print(json.dumps({"form": _FORM.value, "bytes": n_bytes, "first": first, "second": second}))


def _ratings(form: str, n_ratings: int, seed: int) -> tuple[np.ndarray, ...]:
    """Users from 0, ascending; items from 0; ratings 1 to 5; days since the first."""
    full, n_users, n_items, _ = _SHAPES[form]
    rng = np.random.default_rng(seed)
    n_users = max(int(n_users * n_ratings / full), 10)
    n_items = max(int(n_items * min(1, (n_ratings / full) ** 0.5)), 10)
    activity = np.exp(rng.normal(0, 1.2, n_users))
    popularity = 1 / (np.arange(n_items) + 20.0) ** 1.1
    edges = np.cumsum(popularity / popularity.sum())
    pairs, n_drawn = np.empty(0, np.int64), n_ratings
    while len(pairs) < n_ratings:
        n_drawn = int(1.3 * n_drawn)
        lengths = np.ceil(activity / activity.sum() * n_drawn).astype(np.int64)
        pairs = np.minimum(np.searchsorted(edges, rng.random(lengths.sum())), n_items - 1)
        pairs += n_items * np.repeat(np.arange(n_users), lengths)
        pairs = np.unique(pairs)
    pairs = np.sort(rng.choice(pairs, n_ratings, replace=False))
    users, items = (part.astype(np.int32) for part in np.divmod(pairs, n_items))
    ratings = rng.choice(
        np.arange(1, 6, dtype=np.int8), n_ratings, p=[0.06, 0.11, 0.26, 0.35, 0.22]
    )
    return users, items, ratings, rng.integers(0, 2000, n_ratings, np.int32)


def _write_movielens(folder: pathlib.Path, n_ratings: int, seed: int) -> int:
    users, items, ratings, days = _ratings("ml-20m", n_ratings, seed)
    first = np.datetime64(_SHAPES["ml-20m"][3], "s").astype(np.int64)
    halves = np.random.default_rng(seed + 1).integers(0, 2, n_ratings) / 2
    table = pa.table(
        {
            "userId": users + 1,
            "movieId": items + 1,
            "rating": ratings - halves,
            "timestamp": first + _SECONDS_A_DAY * days.astype(np.int64),
        }
    )
    path = folder / "ratings.csv"
    options = pa.csv.WriteOptions(quoting_style="none")
    pa.csv.write_csv(table, path, options)
    titles = [f'{i + 1},"Film {i + 1} (1995)",Drama|Comedy' for i in range(items.max() + 1)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]) + "\n")
    return path.stat().st_size


def _write_netflix(folder: pathlib.Path, n_ratings: int, seed: int) -> int:
    """Four files of movies, each movie a line `ID:` above its `user,rating,day` lines."""
    users, items, ratings, days = _ratings("netflix", n_ratings, seed)
    order = np.argsort(items, kind="stable")
    users, items, ratings, days = (column[order] for column in (users, items, ratings, days))
    first = np.datetime64(_SHAPES["netflix"][3], "D")
    starts = np.searchsorted(items, np.arange(items[-1] + 2))
    quarters = np.linspace(0, items[-1] + 1, 5).astype(int)
    for at in range(4):
        with (folder / f"combined_data_{at + 1}.txt").open("wb") as stream:
            for movie in range(quarters[at], quarters[at + 1]):
                rows = slice(*starts[movie : movie + 2])
                table = pa.table(
                    {
                        "user": 6 + 5 * users[rows],  # ids with gaps, as theirs
                        "rating": ratings[rows],
                        "day": pa.array(first + days[rows].astype("timedelta64[D]")),
                    }
                )
                stream.write(b"%d:\n" % (movie + 1))
                options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
                pa.csv.write_csv(table, stream, options)
    titles = "".join(f"{i + 1},2000,Film, no. {i + 1}\n" for i in range(items[-1] + 1))
    (folder / "movie_titles.csv").write_text(titles, encoding="latin-1")
    return sum(path.stat().st_size for path in folder.glob("combined_data_*.txt"))


WRITERS = {"ml-20m": _write_movielens, "netflix": _write_netflix}


if __name__ == "__main__":
    cli.run(main)
