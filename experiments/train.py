r"""Trains one configuration, evaluates it and exports its embeddings.

    python -m experiments.train --config=configs/goodbooks.py --workdir=runs/goodbooks \
        --config.data.path=FOLDER_OR_FILE [--config.SECTION.FIELD=VALUE ...]

Started again on the same --workdir it resumes, or only reports a finished run. On several hosts it
is started on each of them with a --workdir that all see; docs/scaling.md has the command lines.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from absl import flags

from celsa_jax.config import DETERMINISTIC
from celsa_jax.errors import InputError
from experiments import cli, inputs

FLAGS = flags.FLAGS
inputs.define_run()
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "Several processes: HOST:PORT of process 0, or auto on a known cluster."
)
_PROCESSES = flags.DEFINE_integer("processes", -1, "How many, unless --coordinator=auto.")
_PROCESS = flags.DEFINE_integer("process", -1, "Which this is, from 0, unless --coordinator=auto.")


def main() -> None:
    # JAX is imported after the flags are parsed, so that a typo fails at once.
    import jax

    from celsa_jax import sharding
    from celsa_jax.train import train_and_evaluate

    if _COORDINATOR.value:
        sharding.start_processes(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    elif _PROCESSES.value != -1 or _PROCESS.value != -1:
        raise InputError("--processes and --process need --coordinator=HOST:PORT")
    if FLAGS.config.train.deterministic:  # read when JAX starts a GPU
        flags_of_xla = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags_of_xla} {DETERMINISTIC}"
    try:
        results = train_and_evaluate(FLAGS.config, FLAGS.workdir)
    except Exception as error:
        if jax.process_count() == 1:
            raise
        # At its usual end this process would wait for the others, which wait for this one.
        if isinstance(error, InputError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        os._exit(1)
    if sharding.is_first_process():
        print(json.dumps(results))


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"), resumable=True)
