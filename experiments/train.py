r"""Trains one configuration, evaluates it and exports its embeddings.

    python -m experiments.train --config=configs/goodbooks.py --workdir=runs/goodbooks \
        --config.data.path=FOLDER_OR_FILE [--config.SECTION.FIELD=VALUE ...]

Started again on the same --workdir it resumes, or only reports a finished run.
"""

from __future__ import annotations

import json

from absl import flags
from ml_collections import config_flags

from celsa_jax.errors import InputError
from experiments import cli

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Configuration file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")


def main() -> None:
    # JAX is imported after the flags are parsed, so that a typo fails at once.
    from celsa_jax.train import train_and_evaluate

    if not _WORKDIR.value:
        raise InputError("--workdir is empty; give a folder")
    results = train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    print(json.dumps(results))


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"), resumable=True)
