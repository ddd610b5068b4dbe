r"""Writes a run's embeddings for serving, in a compact format or for another engine.

    python -m experiments.export --workdir=runs/mine --format=int8 --output=mine.int8 [--nnz=8]
    python -m experiments.export --workdir=runs/mine --format=parquet --output=mine.parquet

`float32`, `float16`, `int8` and `int4` are files of celsa_jax.sparse.SparseEmbeddings (6, 4, 3
and about 2 bytes a non-zero, more for factors by the ten thousand, and 2 bytes an item for its norm
in the last two, unless all rows are of unit length: `celsa_jax.sparse.formats`): ids, the items of
the factors if the run has them, non-zeros, the run's configuration and results, and a checksum in
one safetensors file. (The run's own `embeddings.npz` is a SciPy CSC matrix.)

`parquet` is for engines that index sparse vectors: item_id, indices (list of uint32), values (list
of float32). Half of the values are negative; --positive writes `positive_items` of
celsa_jax.sparse.rows instead, for engines without negative values (Milvus; docs/engines.md), whose
queries need the weights of `positive_queries`.

--nnz keeps so many of the largest non-zeros of each item (`SparseEmbeddings.cut`). The last line
printed is one JSON object. JAX is not needed.
"""

from __future__ import annotations

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet
from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.files import atomic_path, read_json
from celsa_jax.sparse import FORMATS, SparseEmbeddings
from celsa_jax.sparse.rows import positive_items
from experiments import cli, inputs

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.")
_FORMAT = flags.DEFINE_enum("format", "float32", [*FORMATS, "parquet"], "What to write.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write.")
_NNZ = flags.DEFINE_integer("nnz", None, "Cut to so many non-zeros an item.", lower_bound=1)
_POSITIVE = flags.DEFINE_boolean("positive", False, "For parquet: vectors of no negative value.")


def main() -> None:
    output = pathlib.Path(_OUTPUT.value)
    workdir = pathlib.Path(_WORKDIR.value)
    files = ("embeddings.npz", "items.txt", "factors.txt")
    files += ("config.json", "results.json", "split.npz")
    inputs.check_output(output, *(workdir / name for name in files))
    if _POSITIVE.value and _FORMAT.value != "parquet":
        raise InputError("--positive is for --format=parquet alone")
    embeddings = read_run(workdir)
    if _NNZ.value is not None:
        embeddings = embeddings.cut(_NNZ.value)
    if _FORMAT.value == "parquet":
        write_vectors(output, embeddings, positive=_POSITIVE.value)
    else:
        embeddings = embeddings.to_format(_FORMAT.value)
        embeddings.save(output)
    report = {
        "format": _FORMAT.value,
        "n_items": embeddings.n_items,
        "n_factors": embeddings.n_factors,
        "nnz": embeddings.nnz,
        "stored_bytes_per_item": embeddings.stored_bytes_per_item,
        "output": str(output),
        "file_bytes": output.stat().st_size,
    }
    print(json.dumps(report))


def read_run(workdir: pathlib.Path) -> SparseEmbeddings:
    """The exported embeddings of a run, with its configuration and results as metadata."""
    path = workdir / "embeddings.npz"
    if not workdir.is_dir():
        raise InputError(f"--workdir={workdir}: no such folder")
    if not path.is_file():
        raise InputError(f"--workdir={workdir}: no embeddings.npz; has the run finished?")
    embeddings = SparseEmbeddings.load(path)
    metadata = {}
    for name in ("config", "results"):
        file = workdir / f"{name}.json"
        try:
            if file.is_file():
                metadata[name] = read_json(file)
        except ValueError as error:
            raise InputError(f"{file}: damaged: {error}") from None
    return embeddings.with_metadata(metadata)


def write_vectors(path: pathlib.Path, embeddings: SparseEmbeddings, *, positive: bool) -> None:
    """A parquet table of item_id, indices and values, one row an item."""
    rows, metadata = embeddings.tocsr(), {}
    if positive:
        rows, largest = positive_items(rows)
        metadata["largest_sum"] = repr(largest)
    starts = pa.array(rows.indptr, pa.int32())
    table = pa.table(
        {
            "item_id": pa.array(embeddings.item_ids, pa.string()),
            "indices": pa.ListArray.from_arrays(starts, pa.array(rows.indices, pa.uint32())),
            "values": pa.ListArray.from_arrays(starts, pa.array(rows.data, pa.float32())),
        },
        metadata={"n_dimensions": str(rows.shape[1]), **metadata},
    )
    with atomic_path(path) as temporary:
        pa.parquet.write_table(table, temporary)


if __name__ == "__main__":
    cli.run(main, required=("workdir", "output"))
