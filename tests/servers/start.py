"""Starts real servers on loopback, on a free port; each ends with the block, whatever happens in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.make import triton_in
from uapfast.testing import servers_dir

HERE = Path(__file__).parent
APPS = HERE / "apps"
WAIT = 120.0  # seconds until a server is ready


@dataclass(frozen=True)
class Model:
    """What is served as ``digits``.

    Attributes:
        weights: a file; the classifier finds it by the variable ``CLASSIFIER``.
        code: modules; the first becomes ``classifier.py``, whose ``Classifier`` answers ``[n,C,H,W]``.
        shape: of an image.
        labels: K of them.
    """

    weights: Path
    code: Sequence[Path] = (APPS / "classifier.py",)
    shape: tuple[int, int, int] = (1, 8, 8)
    labels: Sequence[str] = tuple(f"digit-{k}" for k in range(10))

    def put(self, folder: Path, *more: Path) -> None:
        """Copy the modules, and others as ``model.py``."""
        folder.mkdir(parents=True)
        for number, path in enumerate(self.code):
            shutil.copy(path, folder / ("classifier.py" if number == 0 else path.name))
        for path in more:
            shutil.copy(path, folder / "model.py")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def triton(model: Model, folder: Path) -> Iterator[str]:
    """Triton with its python backend; yields the URL of the model."""
    place, port = servers_dir() / "tritonserver", free_port()
    server, library = triton_in(place), sysconfig.get_config_var("LIBDIR")
    model.put(folder / "digits" / "1", APPS / "triton_model.py")
    (folder / "digits" / "labels.txt").write_text("\n".join(model.labels))
    dims = ", ".join(map(str, model.shape))
    (folder / "digits" / "config.pbtxt").write_text(
        'name: "digits"\nbackend: "python"\nmax_batch_size: 64\n'
        f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{dims}] }}]\n'
        f'output [{{ name: "scores" data_type: TYPE_FP32 dims: [{len(model.labels)}] '
        'label_filename: "labels.txt" }]\ninstance_group [{ kind: KIND_CPU count: 1 }]\n'
    )
    command = [server / "bin" / "tritonserver", f"--model-repository={folder}"]
    command += [f"--backend-directory={place / 'backends'}", "--http-address=127.0.0.1"]
    command += [f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    libraries = f"{server.parents[1] / 'nvidia_pytriton.libs'}:{library}"
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    url = f"http://127.0.0.1:{port}/v2"
    with running(command, folder, model, f"{url}/health/ready", LD_LIBRARY_PATH=libraries, PATH=path):
        yield f"{url}/models/digits"


@contextmanager
def mlserver(model: Model, folder: Path) -> Iterator[str]:
    """MLServer without workers of its own; yields the URL of the model."""
    ports = {f"{name}_port": free_port() for name in ("http", "grpc", "metrics")}
    model.put(folder, APPS / "mlserver_model.py")
    about = {"host": "127.0.0.1", "parallel_workers": 0, "metrics_endpoint": None, "debug": False}
    (folder / "settings.json").write_text(json.dumps({**about, **ports}))
    x = {"name": "x", "datatype": "FP32", "shape": [-1, *model.shape]}
    scores = {"name": "scores", "datatype": "FP32", "shape": [-1, len(model.labels)]}
    one = {"name": "digits", "implementation": "model.Digits", "inputs": [x], "outputs": [scores]}
    (folder / "model-settings.json").write_text(json.dumps(one))
    command = [servers_dir() / "mlserver" / "bin" / "mlserver", "start", folder]
    url = f"http://127.0.0.1:{ports['http_port']}/v2"
    with running(command, folder, model, f"{url}/health/ready"):
        yield f"{url}/models/digits"


@contextmanager
def litserve(model: Model, folder: Path) -> Iterator[str]:
    """LitServe with a request and an answer of its own; yields the URL to ask at."""
    port = free_port()
    model.put(folder, APPS / "litserve_app.py")
    command = [servers_dir() / "litserve" / "bin" / "python", folder / "model.py", str(port)]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder, model, f"{url}/health"):
        yield f"{url}/predict"


@contextmanager
def running(
    command: Sequence[object], folder: Path, model: Model, ready: str, **environment: str
) -> Iterator[None]:
    """A command that serves, from when ``ready`` answers to the end of the block."""
    guarded = [sys.executable, HERE / "guard.py", *command]
    variables = {**os.environ, "CLASSIFIER": str(model.weights), "OMP_NUM_THREADS": "1", **environment}
    variables.pop("PYTHONPATH", None)
    log = folder / "server.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(c) for c in guarded],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )
    try:
        _wait(process, ready, log)
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(30)
        finally:
            _kill(process.pid)


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    until = time.monotonic() + WAIT
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until and process.poll() is None:
        try:
            with opener.open(ready, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    said = log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"{ready} does not answer; its log ends with\n{said}")


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of them are gone


SERVERS: Mapping[str, object] = {"tritonserver": triton, "mlserver": mlserver, "litserve": litserve}
