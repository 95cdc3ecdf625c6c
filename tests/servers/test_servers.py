"""Real servers, each in a venv of its own, give the verdicts of the model that they serve.

``make servers`` makes the venvs and runs all of this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import uapfast
from tests.api.screen_world import World
from tests.servers import start
from uapfast.cli import main
from uapfast.models.checkpoint import load_model
from uapfast.suspects.callable import open_callable
from uapfast.suspects.http import open_http
from uapfast.testing import servers_dir

pytestmark = [pytest.mark.servers, pytest.mark.needs("httpx2", "stamina"), pytest.mark.timeout(600)]
http_servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")

Served = Callable[[str], start.Model]
LITSERVE = """
url = "{url}"
name = "LitServe"
batch_size = 32
[image]
encoding = "array"
layout = "nchw"
[request]
body = {{ images = "{{images}}" }}
[answer]
scores = "scores"
output = "logits"
"""
OIP_FORMS: dict[str, dict[str, Any]] = {
    "binary": {}, "json": {"encoding": "array"}, "classification": {"classification": True},
}  # fmt: skip


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def module_of(world: World, name: str) -> torch.nn.Module:
    found = load_model(world.suspect(name).arch, world.suspect(name).path).module
    assert found is not None
    return found


def in_the_process(world: World, name: str) -> uapfast.Verdict:
    """The verdict on the module, asked look by look as an endpoint is."""
    module = module_of(world, name)
    suspect = open_callable(lambda x: module(x), output="logits", costly=True)
    return uapfast.verify(world.references["first"], suspect)


def same_verdict(world: World, name: str, target: Any, capfd: Any, **options: Any) -> None:
    """In Python and, where no options are needed, on the command line."""
    want = in_the_process(world, name)
    with open_http(target, **options) as suspect:
        got = uapfast.verify(world.references["first"], suspect)
    assert got.decision == want.decision, got.reasons
    assert got.similarity == pytest.approx(want.similarity, abs=1e-3)
    assert got.queries_used == want.queries_used
    if options:
        return
    reference = next(world.folder.glob("first.uapref"))
    capfd.readouterr()
    assert main(["verify", str(reference), str(target), "--json"]) == want.exit_code
    shown = capfd.readouterr()
    said = json.loads(shown.out)
    assert said["decision"] == want.decision and not shown.err
    assert said["similarity"] == pytest.approx(want.similarity, abs=1e-3)


def test_the_suspects_of_these_tests_differ(world: World) -> None:
    assert in_the_process(world, "pruned-1").decision == "piracy"
    assert in_the_process(world, "honest-0").decision == "independent"


@pytest.mark.needs("tritonserver")
@pytest.mark.parametrize("name", ["pruned-1", "honest-0"])
def test_triton(world: World, served: Served, tmp_path: Path, capfd: Any, name: str) -> None:
    with start.triton(served(name), tmp_path / "triton") as url:
        for options in OIP_FORMS.values():
            same_verdict(world, name, url, capfd, **options)


@pytest.mark.needs("tritonserver")
def test_triton_tells_its_own_client_the_same(world: World, served: Served, tmp_path: Path) -> None:
    x = images(40)
    with start.triton(served("honest-0"), tmp_path / "triton") as url:
        want = tritonclient(url, x, tmp_path, "binary")
        for name, options in OIP_FORMS.items():
            with open_http(url, **options) as suspect:
                got = suspect.answers_to([x], 10)
                assert suspect.ledger.failed == 0
            assert got.kind == "logits" and not suspect.notes
            near = 2e-6 if name == "classification" else 1e-6
            assert np.allclose(got.values.numpy(), want, rtol=0, atol=near)


@pytest.mark.needs("tritonserver")
@pytest.mark.parametrize("how", ["binary", "json"])
def test_the_tensors_are_those_of_tritons_client(tmp_path: Path, how: str) -> None:
    x = images(5)
    answered = http_servers.Served(module, binary=how == "binary")
    with http_servers.Server(http_servers.oip, answered) as server:
        url = f"{server.url}/v2/models/digits"
        tritonclient(url, x, tmp_path, how)
        with open_http(url, seed=3) as suspect:
            suspect.answers_to([x], 10)
    posts = zip(answered.posts[:2], [h for h in answered.headers if "content-length" in h], strict=False)
    (theirs, theirs_tail), (ours, ours_tail) = (parts_of(body, headers) for body, headers in posts)
    order = np.random.default_rng([3, 0]).permutation(5)
    sent = x.numpy()[order]
    if how == "binary":
        assert theirs_tail == x.numpy().tobytes() and ours_tail == sent.tobytes()
    else:
        assert not theirs_tail and not ours_tail
        mine = np.float32(ours["inputs"][0].pop("data"))
        assert np.array_equal(mine, sent.ravel())
        assert np.array_equal(np.float32(theirs["inputs"][0].pop("data")), x.numpy().ravel())
    assert ours["inputs"] == theirs["inputs"]
    assert ours["outputs"][0]["name"] == theirs["outputs"][0]["name"] == "scores"
    wanted = [o["outputs"][0].get("parameters", {}).get("binary_data", False) for o in (ours, theirs)]
    assert wanted == [how == "binary"] * 2


def module(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, :10]


def parts_of(body: bytes, headers: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    size = int(headers.get("inference-header-content-length", len(body)))
    return json.loads(body[:size]), body[size:]


def tritonclient(url: str, x: torch.Tensor, folder: Path, how: str) -> np.ndarray:
    np.save(folder / "x.npy", x.numpy())
    client("tritonserver", "triton_client.py", url, folder / "x.npy", folder / "y.npy", how)
    return np.load(folder / "y.npy")


def client(venv: str, script: str, *arguments: object) -> str:
    """What a client that runs in a venv of its own prints."""
    command = [servers_dir() / venv / "bin" / "python", start.APPS / script, *arguments]
    found = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.needs("mlserver")
@pytest.mark.parametrize("name", ["pruned-1", "honest-0"])
def test_mlserver(world: World, served: Served, tmp_path: Path, capfd: Any, name: str) -> None:
    with start.mlserver(served(name), tmp_path / "mlserver") as url:
        same_verdict(world, name, url, capfd)
        x = images(20)
        with open_http(url) as suspect:
            got = suspect.answers_to([x], 10)
        want = module_of(world, name)(x).detach()
        assert torch.allclose(got.values, want, atol=1e-5) and not suspect.notes


@pytest.mark.needs("litserve")
@pytest.mark.parametrize("name", ["pruned-1", "honest-0"])
def test_litserve(world: World, served: Served, tmp_path: Path, capfd: Any, name: str) -> None:
    with start.litserve(served(name), tmp_path / "litserve") as url:
        file = tmp_path / "litserve.toml"
        file.write_text(LITSERVE.format(url=url))
        same_verdict(world, name, file, capfd)


# -- Hugging Face: its client fixes the form -----------------------------------------------------------
@pytest.mark.needs("huggingface-hub")
def test_the_request_is_that_of_hugging_faces_client(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (1, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float() / 255
    answered = http_servers.Served(module)
    with http_servers.Server(http_servers.hugging_face, answered) as server:
        options: dict[str, Any] = {"form": "huggingface", "classes": answered.labels}
        with open_http(f"{server.url}/models/digits", **options) as suspect:
            answers = suspect.answers_to([image], 10)
            file = tmp_path / "image.png"
            file.write_bytes(suspect._form.images.encode(image)[0])
        said = client("huggingface-hub", "hugging_face_client.py", f"{server.url}/models/digits", file, 10)
    ours, theirs = json.loads(answered.posts[0]), json.loads(answered.posts[-1])
    assert ours == theirs
    kinds = {h["content-type"] for h in answered.headers}
    assert kinds == {"application/json"}
    told = sorted(json.loads(said), key=lambda pair: answered.labels.index(pair[0]))
    assert np.allclose([score for _, score in told], answers.values[0].numpy(), atol=1e-6)


# -- servers end, whatever happens ---------------------------------------------------------------------
ENDLESS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); "
                          "time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_server_ends_with_its_owner() -> None:
    command = [sys.executable, str(start.HERE / "guard.py"), sys.executable, "-c", ENDLESS]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert owner.stdin is not None and owner.stdout is not None
    grandchild = int(owner.stdout.readline())
    os.kill(grandchild, 0)
    owner.stdin.close()  # as the kernel does when a process dies
    owner.wait(30)
    until = time.monotonic() + 10
    while alive(grandchild) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(grandchild)
    owner.stdout.close()


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
