"""What programs share: one-line errors, readable logs, tables, a port to listen on."""

from __future__ import annotations

import importlib
import io
import logging
import pathlib
import socket
import sys
from collections.abc import Callable, Iterable, Sequence

from absl import app, flags
from absl import logging as absl_logging

from celsa_jax import stopping
from celsa_jax.errors import InputError

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def run(
    main: Callable[..., None],
    required: tuple[str, ...] = (),
    default_config: str = "",
    arguments: tuple[str, ...] = (),
    resumable: bool = False,
) -> None:
    """Parses flags and runs `main`; bad input ends in one line and exit status 1.

    Args:
      main: the program, called with the values of `arguments`.
      required: flags that must be given.
      default_config: what --config is where it is not given.
      arguments: names of what stands on the command line without a flag.
      resumable: SIGTERM and Ctrl-C end it where it can go on later (`celsa_jax.stopping`).
    """
    # Not as the flag's default: ml_collections would read that at import, outside of _parse.
    if default_config and not any(a.startswith(("--config=", "-config=")) for a in sys.argv):
        sys.argv.insert(1, f"--config={default_config}")

    def parse(arguments: list[str]) -> list[str]:
        rest = _parse(arguments)
        missing = [name for name in required if flags.FLAGS[name].value in (None, "")]
        if missing:
            wanted = " and ".join(f"--{name}=..." for name in missing)
            _fail(f"give {wanted} (--help shows the flags)")
        return rest

    def guarded(given: list[str]) -> None:
        values = given[1:]
        if len(values) > len(arguments):
            _fail(f"unexpected argument '{values[len(arguments)]}'; flags are --NAME=VALUE")
        if len(values) < len(arguments):
            _fail(f"give {' and '.join(arguments[len(values) :])} (--help shows how)")
        _show_log()
        if isinstance(sys.stdout, io.TextIOWrapper):  # titles on a terminal that has ASCII alone
            sys.stdout.reconfigure(errors="backslashreplace")
        if resumable:
            stopping.install()
        try:
            main(*values)
        except InputError as error:
            _fail(str(error))
        except OSError as error:  # a full disk, no permission
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except MemoryError as error:
            _fail(f"more memory is needed than there is: {error or 'take less data at once'}")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=parse)


def bind(host: flags.FlagHolder, port: flags.FlagHolder) -> socket.socket:
    """A socket of the two, which does not listen yet; InputError where it cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.value, port.value, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        given = f"--{host.name}={host.value} --{port.name}={port.value}"
        raise InputError(f"{given}: {error.strerror}; give another one") from None
    return bound


def call(module: str, function: str, *arguments: object) -> None:
    """Calls a function in a process that alone is to import its module."""
    getattr(importlib.import_module(module), function)(*arguments)


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    lines.insert(1, f"|---{'|---:' * (len(header) - 1)}|")
    return "\n".join(lines)


def _show_log() -> None:
    """The project's own log on stderr; other libraries only warn."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("celsa_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        lines = str(error).replace("\\n", "\n").strip().splitlines()
        # What goes wrong inside a configuration file comes with its traceback.
        if isinstance(error, flags.UnrecognizedFlagError):
            fields = (
                "; fields of celsa_jax/config.py are --config.…" if "config" in flags.FLAGS else ""
            )
            lines[0] += f" (--help shows the flags{fields})"
        _fail(f"--config: {lines[-1]}" if "Traceback" in str(error) else " ".join(lines))
    except InputError as error:  # of the code in a configuration file
        _fail(str(error))
    except (OSError, ImportError) as error:
        _fail(f"--config cannot be read: {error}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections reports an unknown field of a locked configuration like this.
        text = str(error).replace("\\n", " ").replace("\\", "").strip("\"'")
        if ' Did you mean "' in text:
            text = "no field '" + text.replace(' Did you mean "', '; did you mean "', 1)
        _fail(f"a --config flag does not fit the configuration: {text}")


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(1)
