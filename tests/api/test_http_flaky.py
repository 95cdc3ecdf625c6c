"""Endpoints that fail now and then, that repeat secrets, and that are used from several threads."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import uapfast
from tests.api.screen_world import World
from uapfast.errors import EndpointError, InputError, OutputError, SuspectError, UnavailableError
from uapfast.models.checkpoint import load_model
from uapfast.suspects.callable import open_callable
from uapfast.suspects.http import open_http

pytestmark = [pytest.mark.needs("httpx2", "stamina")]
servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
Served = servers.Served

ROOT = Path(__file__).resolve().parents[2]
SECRET = 'k3y\\"<0123456789abcdef>'  # JSON and URLs write it in other ways
VARIABLE = "UAPFAST_TEST_TOKEN"
HEADERS = {"Authorization": "Bearer ${UAPFAST_TEST_TOKEN}", "X-Key": "${UAPFAST_TEST_TOKEN}"}


def net(x: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(x[0].numel(), 10, generator=torch.Generator().manual_seed(3))
    return x.flatten(1) @ weights


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def some(share: float, *kinds: str) -> Any:
    """The faults, in a share of requests that is drawn."""

    def spoil(served: Any, n: int) -> str | None:
        draw = random.Random(n)
        return draw.choice(kinds) if draw.random() < share else None

    return spoil


def asked(posts: list[bytes]) -> int:
    """Images in these requests; one that was broken off has no body."""
    heads = (json.JSONDecoder().raw_decode(body.decode("latin-1"))[0] for body in posts if body)
    return sum(head["inputs"][0]["shape"][0] for head in heads)


# -- failures ------------------------------------------------------------------------------------------
QUICK = ("500", "429", "cut", "short", "error", "html", "deep", "wrong")
SLOW = (*("hang", "drip", "large") * 2, "wait")  # who is asked to wait does so for a whole second at least


@pytest.mark.parametrize("faults", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
@pytest.mark.parametrize("name", ["pruned-1", "honest-1"])
def test_with_three_requests_in_ten_failing_the_verdict_is_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, faults: tuple[str, ...]
) -> None:
    monkeypatch.setitem(servers.BEFORE, "wait", (429, {"retry-after": "1"}, b""))
    shape = json.dumps(
        {"outputs": [{"name": "scores", "datatype": "FP32", "shape": [17, 3], "data": [1, 2, 3] * 17}]}
    )
    monkeypatch.setitem(servers.ANSWERS, "wrong", lambda body: shape.encode())
    module = load_model(world.suspect(name).arch, world.suspect(name).path).module
    assert module is not None
    reference = world.references["first"]
    want = uapfast.verify(reference, open_callable(lambda x: module(x), output="logits", costly=True))
    assert want.decision == ("piracy" if name == "pruned-1" else "independent")
    budget = 2 * want.queries_used
    limits: dict[str, Any] = {
        "batch_size": 16,
        "timeout": 0.5 if faults == SLOW else 30.0,
        "max_bytes": 10**6,
    }
    seen: set[str] = set()

    def spoil(served: Any, n: int) -> str | None:
        found: str | None = some(0.3, *faults)(served, n)
        seen.update([found] if found else [])
        return found

    served = Served(module, spoil=spoil)
    with servers.Server(servers.oip, served) as server:
        url = f"{server.url}/v2/models/digits"
        with open_http(url, budget=budget, **limits) as suspect:
            got = uapfast.verify(reference, suspect)
            assert (got.decision, got.queries_used) == (want.decision, want.queries_used), got.reasons
            assert got.similarity == pytest.approx(want.similarity, abs=1e-4)
            assert asked(served.posts) < suspect.ledger.queries <= budget
            assert suspect.ledger.failed >= 3 and len(seen) >= 2
        sent = len(served.posts)
        with open_http(url, budget=want.queries_used // 2, **limits) as suspect:
            got = uapfast.verify(reference, suspect)
            assert got.decision == "unavailable" and got.exit_code == 5
            assert suspect.ledger.queries <= want.queries_used // 2
            assert asked(served.posts[sent:]) <= want.queries_used // 2


# -- secrets -------------------------------------------------------------------------------------------
def echoing(status: int, body: str) -> Any:
    """A form that answers metadata well, and questions with what it was sent as headers."""

    def form(served: Any, path: str, asked: bytes, headers: dict[str, str]) -> Any:
        if path.endswith("/infer"):
            said = body.replace("HEADERS", json.dumps(headers)).replace("KEY", headers["x-key"])
            return status, {"content-type": "text/plain"}, said.encode()
        return servers.oip(served, path, asked, headers)

    return form


LABEL = '{"outputs": [{"name": "scores", "datatype": "BYTES", "shape": [1, 1], "data": [HEADERS]}]}'
ECHOES: dict[str, tuple[int, str, type[Exception]]] = {
    "refused": (403, "no: HEADERS", EndpointError),
    "refused at length": (403, "KEY" * 3000, EndpointError),
    "busy": (500, '{"error": HEADERS}', UnavailableError),
    "no JSON": (200, "cannot do that with HEADERS", SuspectError),
    "cut in the middle": (200, "x" * 60 + "KEY", SuspectError),
    "another object": (200, '{"error": HEADERS}', SuspectError),
    "a datatype": (200, LABEL.replace('"BYTES"', "HEADERS"), SuspectError),
    "labels": (200, LABEL.replace("HEADERS", json.dumps(SECRET)), OutputError),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_a_server_that_repeats_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, echo: str
) -> None:
    status, body, error = ECHOES[echo]
    monkeypatch.setenv(VARIABLE, SECRET)
    with servers.Server(echoing(status, body), Served(net)) as server, caplog.at_level(logging.DEBUG):
        url = f"{server.url}/v2/models/digits"
        with open_http(url, headers=HEADERS, attempts=2, concurrency=1, batch_size=1) as suspect:
            with pytest.raises(error) as caught:
                suspect.answers_to([images(3)], 10)
            shown = [str(caught.value), repr(caught.value), caplog.text, repr(suspect), repr(suspect.source)]
            shown += [repr(vars(r)) for r in caplog.records] + list(suspect.notes)
            assert server.served.headers[-1]["x-key"] == SECRET
    for text in shown:
        for start in range(0, len(SECRET) - 8):
            assert SECRET[start : start + 8] not in text
    if status != 200:
        assert str(status) in str(caught.value)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, where nobody has set up logging."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "tests.api.run_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=200)


TOML = """
url = "{url}"
[headers]
Authorization = "Bearer ${{UAPFAST_TEST_TOKEN}}"
X-Key = "${{UAPFAST_TEST_TOKEN}}"
"""


def test_the_command_line_shows_neither_retries_nor_secrets(world: World, tmp_path: Path) -> None:
    module = load_model(world.suspect("honest-1").arch, world.suspect("honest-1").path).module
    reference, file = str(world.folder / "first.uapref"), tmp_path / "suspect.toml"
    with servers.Server(servers.oip, Served(module, spoil=some(0.3, "500"))) as server:
        file.write_text(TOML.format(url=f"{server.url}/v2/models/digits"))
        found = run("verify", reference, str(file), "--json", **{VARIABLE: SECRET})
        assert json.loads(found.stdout)["decision"] == "independent"
        said = [line for line in found.stderr.splitlines() if not line.startswith("[")]  # progress, if slow
        assert not said and found.returncode == 0
    with servers.Server(echoing(403, "no: HEADERS"), Served(module)) as server:
        file.write_text(TOML.format(url=f"{server.url}/v2/models/digits"))
        found = run("verify", reference, str(file), "--debug", **{VARIABLE: SECRET})
        assert found.returncode == 2 and "403" in found.stderr and "***" in found.stderr
        assert "attempt 1" in found.stderr and "retry_scheduled" not in found.stderr
        assert SECRET[:8] not in found.stdout + found.stderr


# -- threads, and who it is ----------------------------------------------------------------------------
def in_a_thread(work: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(60)
    return found[0]


def test_it_is_opened_asked_and_closed_in_different_threads(tmp_path: Path) -> None:
    x = images(20)
    with servers.Server(servers.oip, Served(net)) as server:
        url = f"{server.url}/v2/models/digits"
        suspect = in_a_thread(lambda: open_http(url, cache=tmp_path / "answers.sqlite"))
        for part in (x[:10], x[10:]):
            answers = in_a_thread(lambda part=part: suspect.answers_to([part], 10))
            assert torch.allclose(answers.values, net(part), atol=1e-5)
        in_a_thread(lambda: (suspect.close(), True))
        suspect.close()
        assert suspect.source["queries"] == suspect.ledger.queries


def test_several_suspects_share_a_cache_and_a_process(tmp_path: Path) -> None:
    x, found = images(60), dict[int, Any]()
    with servers.Server(servers.oip, Served(net)) as server:
        url = f"{server.url}/v2/models/digits"

        def ask(number: int) -> None:
            with open_http(url, cache=tmp_path / "answers.sqlite", seed=number, batch_size=7) as suspect:
                found[number] = suspect.answers_to([x], 10).values

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(found) == 4
    assert all(torch.allclose(values, net(x), atol=1e-5) for values in found.values())


def test_what_identifies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(url: str = "http://127.0.0.1:1/v2/models/m", **options: Any) -> str:
        with open_http(url, **options) as suspect:
            json.dumps(suspect.source)
            return str(suspect.source["endpoint_sha256"])

    first = identity()
    assert first == identity(name="another name", batch_size=3, budget=7, seed=1)
    others = [
        {"url": "http://127.0.0.1:1/v2/models/m?version=2"},
        {"url": "http://127.0.0.1:1/v2/models/n"},
        {"encoding": "array"},
        {"headers": {"X-Tenant": "7"}},
        {"headers": HEADERS},
    ]
    assert len({first, *(identity(**other) for other in others)}) == 6
    for value in ("one", "two"):
        monkeypatch.setenv(VARIABLE, value)
        assert identity(headers=HEADERS) == identity(**others[-1])


def test_a_closed_suspect_says_so() -> None:
    with servers.Server(servers.oip, Served(net)) as server:
        with open_http(f"{server.url}/v2/models/digits") as suspect:
            pass
        with pytest.raises(InputError, match="closed"):
            suspect.answers_to([images(2)], 10)
        assert not server.served.posts
