"""Programs in processes of their own, forked from one that has imported what takes seconds."""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).parent.parent
# Makes importing any of these fail, as in an environment without them.
WITHOUT_JAX = """
import sys, runpy
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""
_IMPORTS = {
    WITHOUT_JAX: ["celsa_jax.baselines", "celsa_jax.segments", "jinja2", "scipy.stats"],
    "": [
        "celsa_jax.train",
        "celsa_jax.fitting",
        "celsa_jax.sweeps.runner",
        "celsa_jax.sparse.kernels",
    ],
}
_IMPORTS[WITHOUT_JAX] += ["celsa_jax.engines", "celsa_jax.evaluation.paired", "celsa_jax.config"]
_IMPORTS[WITHOUT_JAX] += ["sklearn.cluster", "pyarrow.csv", "pyarrow.parquet", "numba", "pdb"]
_TAKE_JAX = ("train", "quickstart", "sweep", "accelerator_report", "growth", "defaults")
_SECONDS = 300  # that a program may take
_servers: dict[str, "_Server"] = {}


def program(name, *flags, code=""):
    """The outcome of `python -m experiments.NAME FLAGS`, after some code in its process.

    Without JAX, where the program says that it needs none or the code begins with WITHOUT_JAX.
    """
    process = start(name, *flags, code=code)
    output, log = process.communicate()
    return subprocess.CompletedProcess([name, *flags], process.returncode, output, log)


def start(name, *flags, code="", environment=None):
    """The process of a program, which has begun."""
    first = "" if name in _TAKE_JAX and not code.startswith(WITHOUT_JAX) else WITHOUT_JAX
    if first not in _servers:
        _servers[first] = _Server(first)
    request = {"name": name, "flags": [*map(str, flags)], "code": code.removeprefix(WITHOUT_JAX)}
    request["environment"] = {**os.environ, **(environment or {})}
    return Process(_servers[first].control, request)


class _Server:
    def __init__(self, first):
        self.control, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno()), first, *_IMPORTS[first]]
        subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()


class Process:
    """What of `subprocess.Popen` the tests use."""

    def __init__(self, control, request):
        reading, writing = zip(os.pipe(), os.pipe(), strict=True)
        self._answers, theirs = socket.socketpair()
        socket.send_fds(control, [b"."], [*writing, theirs.fileno()])
        for fd in writing:
            os.close(fd)
        theirs.close()
        self._answers.sendall(json.dumps(request).encode() + b"\n")
        self._lines = self._answers.makefile()
        self.pid, self.returncode = int(self._lines.readline()), None
        self.stdout, self.stderr = (os.fdopen(fd) for fd in reading)

    def poll(self):
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self):
        if self.returncode is None:
            self.returncode = int(self._lines.readline())
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def communicate(self):
        log = []
        reader = threading.Thread(target=lambda: log.append(self.stderr.read()))
        reader.start()
        too_long = threading.Timer(_SECONDS, self.send_signal, [signal.SIGKILL])
        too_long.start()
        output = self.stdout.read()
        reader.join()
        self.wait()
        too_long.cancel()
        return output, log[0]


def _serve(control, first, *modules):
    """Forks for every request; returns in the new processes alone, with what they are to do."""
    exec(first, {})
    sys.path.insert(0, str(ROOT))
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or the first collection of every process would copy all of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=int(control))
    while True:
        asked, fds, *_ = socket.recv_fds(control, 1, 3)
        if not asked:
            os._exit(0)
        if not os.fork():
            break
        for fd in fds:
            os.close(fd)
    control.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=fds.pop()) as answers, answers.makefile() as lines:
        request = json.loads(lines.readline())
        if process := os.fork():
            for fd in fds:
                os.close(fd)
            answers.sendall(b"%d\n" % process)
            _, status = os.waitpid(process, 0)
            answers.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    for fd, standard in zip(fds, (1, 2), strict=True):
        os.dup2(fd, standard)
        os.close(fd)
    sys.stdout = os.fdopen(1, "w", closefd=False)  # the one from before knows another kind of file
    os.environ.clear()
    os.environ.update(request["environment"])
    return request


def _leave():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)


if __name__ == "__main__":
    # Called last, as it is registered first: Python would take half a second of a processor to
    # tear down what was imported.
    _status = 1
    atexit.register(_leave)
    request = _serve(*sys.argv[1:])
    sys.argv = [request["name"], *request["flags"]]
    try:
        exec(request["code"], {"__name__": "__main__"})
        runpy.run_module(f"experiments.{request['name']}", run_name="__main__")
        _status = 0
    except SystemExit as end:
        _status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
