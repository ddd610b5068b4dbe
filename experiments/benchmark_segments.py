r"""Time and memory of experiments.segments on a synthetic catalogue.

    python -m experiments.benchmark_segments --n_items=1000000

Items belong to planted segments: an item's strongest factor is mostly its segment's, its other
factors are random. Title, author and genres follow, with noise, a theme that three segments share.
The program runs as a user would run it, in a process of its own. The last line printed is one JSON
object.
"""

from __future__ import annotations

import json
import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import scipy.sparse as sp
from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.sparse import SparseEmbeddings
from experiments import cli

_ITEMS = flags.DEFINE_integer("n_items", 1_000_000, "Items.", lower_bound=10)
_FACTORS = flags.DEFINE_integer("n_factors", 4096, "d.", lower_bound=2)
_NNZ = flags.DEFINE_integer("nnz", 16, "k.", lower_bound=1)
_GENRES = flags.DEFINE_integer("n_genres", 400, "Genres to draw from.", lower_bound=8)
_SHOWN = ("n_items", "levels", "wall_seconds", "peak_gb")


def main() -> None:
    if _NNZ.value > _FACTORS.value:
        raise InputError(f"--nnz={_NNZ.value} is more than --n_factors={_FACTORS.value}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_catalogue(folder, np.random.default_rng(0))
        report = cli.measured(
            "segments",
            f"--embeddings={folder / 'embeddings'}",
            f"--metadata={folder / 'items.parquet'}",
            "--text_columns=title,authors,genres",
            f"--output={folder / 'segments'}",
        )
    print(json.dumps({name: report[name] for name in _SHOWN}))


def write_catalogue(folder: pathlib.Path, rng: np.random.Generator) -> None:
    """Embeddings and a table of items."""
    n, d, k = _ITEMS.value, _FACTORS.value, _NNZ.value
    segment = rng.integers(0, 2 * d, n)  # one planted segment a (factor, sign)
    width = d // k  # the j-th factor is from the j-th block, so that none repeats
    factors = rng.integers(0, width, (n, k)) + width * np.arange(k)
    values = rng.normal(0, 0.15, (n, k)).astype(np.float32)
    own = np.minimum(segment // 2 // width, k - 1)
    rows = np.arange(n)
    factors[rows, own] = segment // 2
    values[rows, own] = (1 - 2 * (segment % 2)) * rng.uniform(0.5, 1, n)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    starts = np.arange(n + 1) * k
    matrix = sp.csr_matrix((values.ravel(), factors.ravel(), starts), (n, d))
    item_ids = np.char.mod("i%07d", rows)
    SparseEmbeddings.from_scipy(matrix, item_ids).save(folder / "embeddings")

    theme = rng.permutation(2 * d)[segment] // 3  # three segments are of one theme
    n_genres = _GENRES.value
    genres = np.array([f"{a}-{b}" for a in _PLACES for b in range(n_genres // len(_PLACES))])
    of_theme = rng.integers(0, len(genres), (2 * d, 3))
    picked = np.concatenate([of_theme[theme], rng.integers(0, len(genres), (n, 2))], axis=1)
    author = np.where(rng.random(n) < 0.7, theme, rng.integers(0, 20_000, n))
    words = rng.integers(0, 5_000, (n, 2))
    table = {
        "item_id": item_ids,
        "title": [f"Word{a} Word{b}: Saga{t}" for (a, b), t in zip(words, theme, strict=True)],
        "authors": [f"Author {a}" for a in author],
        "genres": ["|".join(row) for row in genres[picked]],
    }
    pa.parquet.write_table(pa.table(table), folder / "items.parquet")


_PLACES = ("nordic", "desert", "harbour", "mountain", "midnight", "island", "orchard", "winter")

if __name__ == "__main__":
    cli.run(main)
