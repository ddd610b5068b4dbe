r"""Runs a sweep: a grid of methods, sizes and seeds, with tables and figures.

    python -m experiments.sweep --config=configs/sweeps/NAME.py --workdir=runs/NAME \
        [--config.base.data.path=FILE] [--shard=i/n] [--retry_failed]

docs/sweeps.md has what it leaves. Machines that share it by --shard need the same paths of data;
bring their folders `runs` together and start it once more. The last line printed is one JSON
object.
"""

from __future__ import annotations

import json

from absl import flags

from celsa_jax.errors import InputError
from celsa_jax.sweeps import run_sweep
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_run()
_SHARD = flags.DEFINE_string("shard", "1/1", "Which part of the runs: 2/3 is the second of three.")
_RETRY_FAILED = flags.DEFINE_boolean("retry_failed", False, "Try runs again that failed.")


def main() -> None:
    try:
        part, n_parts = map(int, _SHARD.value.split("/"))
    except ValueError:
        raise InputError(f"--shard={_SHARD.value}: give a part and how many, as 1/4") from None
    counts = run_sweep(
        FLAGS.config, FLAGS.workdir, shard=(part, n_parts), retry_failed=_RETRY_FAILED.value
    )
    print(json.dumps({**counts, "table": f"{FLAGS.workdir}/table.md"}))


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"), resumable=True)
