"""``examples/service.py`` under uvicorn on loopback: eight clients; good, hostile and broken uploads."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import uapfast
from tests.api.screen_world import CNN, MLP, RESIDUAL, World
from tests.security.corpus import build
from uapfast.models.checkpoint import load_model

pytest.importorskip("fastapi", reason="pip install 'uapfast[service]'")
uvicorn = pytest.importorskip("uvicorn")
http = pytest.importorskip("httpx2")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "service.py"
ARCHS = {"mlp": MLP, "cnn": CNN, "residual": RESIDUAL}
CLIENTS = 8


def example() -> Any:
    spec = importlib.util.spec_from_file_location("uapfast_example_service", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


service = example()


class Running:
    """A service in a thread of this process, and its address."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        config = service.Config(ARCHS, **settings)
        self.app = service.create_app(folder, config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(self.app, log_level="error", http=service.deadlines(config), ws="none")
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        until = time.monotonic() + 30
        while not self.server.started and time.monotonic() < until:
            time.sleep(0.02)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.socket.close()


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Running]:
    found = Running(world.folder, hand_out=True, upload_bytes=1 << 20, waiting=64)
    yield found
    found.stop()


def verify_url(running: Running, arch: str, reference: str = "first", more: str = "") -> str:
    return f"{running.url}/references/{reference}/verify?arch={arch}{more}"


def same(answer: dict[str, Any], verdict: uapfast.Verdict) -> bool:
    return answer == uapfast.Verdict(**answer | {"reasons": tuple(answer["reasons"])}).to_dict() and (
        answer == verdict.to_dict()
    )


def test_references_are_listed(running, world):
    found = http.get(f"{running.url}/references").json()
    assert [one["name"] for one in found] == ["first", "second"]
    assert found[0]["sha256"] == world.references["first"].sha256
    assert (
        found[0]["archs"] == sorted(ARCHS) and found[0]["queries"] == world.references["first"].plan.queries
    )


def test_eight_clients_at_once_get_what_verify_says_one_by_one(running, world, tmp_path):
    names = {
        "victim-1": "mlp",
        "pruned-1": "mlp",
        "honest-0": "mlp",
        "honest-1": "cnn",
        "honest-2": "residual",
    }
    jobs: list[tuple[str, bytes, int, object]] = []
    for name, arch in names.items():
        suspect = world.suspect(name)
        blob = Path(suspect.path).read_bytes()
        pickled = tmp_path / f"{name}.pt"
        torch.save(safetensors.torch.load_file(suspect.path), pickled)
        for reference in ("first", "second"):
            model = load_model(suspect.arch, suspect.path, name="upload")
            verdict = uapfast.verify(world.references[reference], model)
            url = verify_url(running, arch, reference)
            jobs += [(url, blob, 200, verdict), (url, pickled.read_bytes(), 200, verdict)]
    good = Path(world.suspect("honest-0").path).read_bytes()
    nan = {k: torch.full_like(v, torch.nan) for k, v in safetensors.torch.load(good).items()}
    hostile = {
        name: build(name, tmp_path).read_bytes() for name in ("call posix.system", "STACK_GLOBAL", "INST")
    }
    jobs += [(verify_url(running, "mlp"), blob, 422, "UnsafeFileError") for blob in hostile.values()]
    jobs += [
        (verify_url(running, "mlp"), good[:-100], 400, "CorruptFileError"),
        (verify_url(running, "mlp"), b"", 400, "CorruptFileError"),
        (verify_url(running, "mlp"), b"\x89HDF\r\n\x1a\n" + bytes(100), 415, "UnsupportedFileError"),
        (verify_url(running, "cnn"), good, 422, "ModelError"),
        (verify_url(running, "mlp"), bytes(2 << 20), 413, "TooLargeError"),
        (verify_url(running, "mlp"), safetensors.torch.save(nan), 200, "invalid"),
        (verify_url(running, "uapfast:mlp-small"), good, 400, "UnknownArch"),
        (verify_url(running, "/tmp/x.py:net"), good, 400, "UnknownArch"),
        (verify_url(running, "mlp", "third"), good, 404, "UnknownReference"),
        (verify_url(running, "mlp", more="&alpha=0.7"), good, 400, "InputError"),
        (verify_url(running, "mlp", more="&alpha=much"), good, 400, "InputError"),
    ]
    order = torch.randperm(2 * len(jobs), generator=torch.Generator().manual_seed(0)).tolist()

    def ask(number: int) -> None:
        url, blob, status, want = jobs[number % len(jobs)]
        answer = http.post(url, content=blob, timeout=120)
        said = answer.json()
        assert answer.status_code == status, (url, said)
        if isinstance(want, uapfast.Verdict):
            assert same(said, want), url
        elif status == 200:
            assert said["decision"] == want and "finite" in said["reasons"][0]
        else:
            assert (
                said["error"] == want and said["message"].isprintable() and "/uapfast-" not in said["message"]
            )

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, order))
    assert not (tmp_path / "code-ran").exists()


def test_answers_that_were_given_elsewhere_get_the_same_verdict(running, world):
    place = f"{running.url}/references/first"
    queries = safetensors.torch.load(http.get(f"{place}/queries").content)["queries"]
    suspect = world.suspect("honest-1")
    model = load_model(suspect.arch, suspect.path)
    plan = world.references["first"].plan
    assert torch.equal(queries, torch.cat(list(plan.chunks())))
    given = model.answers(queries).values
    blob = safetensors.torch.save({"answers": given})
    answer = http.post(f"{place}/answers", content=blob).json()
    verdict = uapfast.verify(world.references["first"], model)
    assert (answer["decision"], answer["p_value"], answer["z"]) == (
        verdict.decision, verdict.p_value, verdict.z,
    )  # fmt: skip
    labels = safetensors.torch.save({"answers": given.argmax(1)})
    assert http.post(f"{place}/answers", content=labels).json()["output"] == "labels"
    for bad in ({"answers": given[1:]}, {"other": given}, {"answers": given, "more": given + 1}):
        refused = http.post(f"{place}/answers", content=safetensors.torch.save(bad))
        assert refused.status_code == 400 and refused.json()["error"] == "InputError"


def test_the_event_loop_stays_free_and_too_many_are_turned_away(world, monkeypatch):
    started, go_on = threading.Semaphore(0), threading.Event()
    real = uapfast.verify

    def slow(*given: Any, **settings: Any) -> uapfast.Verdict:
        started.release()
        assert go_on.wait(60)
        return real(*given, **settings)

    monkeypatch.setattr(service.uapfast, "verify", slow)
    busy = Running(world.folder, workers=1, waiting=1, verify_seconds=60)
    blob, url = Path(world.suspect("honest-0").path).read_bytes(), verify_url(busy, "mlp")
    try:
        with ThreadPoolExecutor(2) as clients:
            first = [clients.submit(http.post, url, content=blob, timeout=120) for _ in range(2)]
            assert started.acquire(timeout=30)
            until, turned = time.monotonic() + 30, None
            while time.monotonic() < until and (turned is None or turned.status_code != 503):
                begin = time.monotonic()
                assert http.get(f"{busy.url}/references").status_code == 200  # while a worker works
                assert time.monotonic() - begin < 10
                turned = http.post(url, content=blob) if busy_count(busy) == 2 else None
            assert turned is not None and turned.json()["error"] == "Busy"
            go_on.set()
            assert [one.result().status_code for one in first] == [200, 200]
        assert http.get(f"{busy.url}/references/first/queries").status_code == 403
    finally:
        go_on.set()
        busy.stop()


def test_silent_and_slow_connections_close_it_for_nobody(world):
    """64 each that send nothing, half of their headers, half of their body, or a byte now and then."""
    limits = {"header_seconds": 1.0, "upload_seconds": 1.0, "body_seconds": 1.5, "connections": 100}
    found = Running(world.folder, requests=64, **limits)
    place = ("127.0.0.1", found.socket.getsockname()[1])
    head = b"POST /references/first/verify?arch=mlp HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    try:
        for sent in (b"", b"GET /references HTT", head + b"\r\nhalf of it"):
            begin = time.monotonic()
            held = [socket.create_connection(place, timeout=15) for _ in range(64)]
            for one in held:
                one.sendall(sent)
            if sent.startswith(b"POST"):  # each holds one of the 64 places until its body is due
                until = time.monotonic() + 10
                while time.monotonic() < until and http.get(f"{found.url}/references").status_code == 503:
                    time.sleep(0.1)
            assert http.get(f"{found.url}/references", timeout=10).status_code == 200
            answered = [b"".join(iter(lambda one=one: one.recv(4096), b"")) for one in held]  # all are closed
            assert time.monotonic() - begin < 15
            assert all((b"408" in a) == sent.startswith(b"POST") for a in answered)
            for one in held:
                one.close()
        with socket.create_connection(place, timeout=15) as slow:
            begin = time.monotonic()
            with pytest.raises(OSError):
                for byte in (head + b"\r\n").ljust(1000):
                    slow.sendall(bytes([byte]))
                    time.sleep(0.1)
            assert time.monotonic() - begin < 10
    finally:
        found.stop()


def test_who_is_silent_longest_makes_room(world):
    found = Running(world.folder, connections=8, header_seconds=60.0)
    place = ("127.0.0.1", found.socket.getsockname()[1])
    held = [socket.create_connection(place, timeout=10) for _ in range(8)]
    try:
        assert http.get(f"{found.url}/references", timeout=10).status_code == 200
        assert held[0].recv(1) == b"", "closed for the ninth"
        held[7].sendall(b"GET /references HTTP/1.0\r\n\r\n")
        assert held[7].recv(12) == b"HTTP/1.1 200"
    finally:
        for one in held:
            one.close()
        found.stop()


def busy_count(running: Running) -> int:
    return running.app.state.desk.under_way


def test_one_that_takes_too_long_is_told_and_its_worker_comes_back(world, monkeypatch):
    go_on, real = threading.Event(), uapfast.verify
    monkeypatch.setattr(
        service.uapfast, "verify", lambda *a, **k: real(*a, **k) if go_on.wait(60) else pytest.fail("held")
    )
    found = Running(world.folder, workers=1, verify_seconds=0.3)
    blob, url = Path(world.suspect("honest-0").path).read_bytes(), verify_url(found, "mlp")
    try:
        answer = http.post(url, content=blob, timeout=60)
        assert answer.status_code == 504 and answer.json()["error"] == "TimeLimitError"
        go_on.set()
        until = time.monotonic() + 30
        while busy_count(found) and time.monotonic() < until:
            time.sleep(0.02)
        assert busy_count(found) == 0
    finally:
        go_on.set()
        found.stop()


def test_a_folder_without_references_and_a_mistaken_spec_end_the_start(world, tmp_path):
    with pytest.raises(uapfast.errors.InputError, match="folder must be one with reference files"):
        service.create_app(tmp_path, service.Config(ARCHS))
    with pytest.raises(uapfast.errors.ModelError):
        service.create_app(world.folder, service.Config({"x": "uapfast:none-such"}))
