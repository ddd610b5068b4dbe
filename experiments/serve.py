r"""Serves recommendations over HTTP, from a file or from a database.

    pip install -e ".[http]"
    python -m experiments.serve --embeddings=runs/mine/embeddings.npz
    python -m experiments.serve --uri=postgresql://user@host/shop
    curl localhost:8000/recommend -H 'Content-Type: application/json' \
        -d '{"history": ["17", "42"], "k": 10}'

docs/engines.md has what can be asked. --host=0.0.0.0 lets others in: there is no authentication.
Several processes: start several, on --port of their own.
"""

from __future__ import annotations

import contextlib
import logging

from absl import flags

from celsa_jax.engines import open_index
from celsa_jax.engines.file import FileIndex
from celsa_jax.errors import InputError
from experiments import cli

_EMBEDDINGS = flags.DEFINE_string("embeddings", None, "A file of experiments.export, or .npz.")
_URI = flags.DEFINE_string("uri", None, "Of a database, as for experiments.index.")
_NAME = flags.DEFINE_string("name", "items", "Of the index in the database.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on.", lower_bound=0, upper_bound=65535)
_log = logging.getLogger("celsa_jax.serve")


def main() -> None:
    if bool(_EMBEDDINGS.value) == bool(_URI.value):
        raise InputError("give --embeddings=... or --uri=...")
    from celsa_jax.engines.service import create_app

    try:
        import uvicorn
    except ImportError as error:
        raise InputError(f"pip install -e '.[http]' ({error})") from None
    with cli.bind(_HOST, _PORT) as address:  # nobody else gets it while the model is read
        if _EMBEDDINGS.value:  # a URI may hold a password
            _log.info("reading %s; compiling may take seconds, once", _EMBEDDINGS.value)
            index = FileIndex(_EMBEDDINGS.value)
        else:
            index = open_index(_URI.value, _NAME.value)
        with contextlib.closing(index), contextlib.suppress(KeyboardInterrupt):
            host, port = address.getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            _log.info("serving version %s on http://%s:%d", index.version, host, port)
            config = uvicorn.Config(
                create_app(index), log_level="warning", timeout_keep_alive=5, limit_concurrency=200
            )
            uvicorn.Server(config).run(sockets=[address])


if __name__ == "__main__":
    cli.run(main)
