"""Suspects behind HTTP, asked on loopback: forms, faults, budget and cache."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import numpy as np
import pytest
import torch

import uapfast
from tests.api.http_asked import Served, images, net, serve, servers
from tests.api.screen_world import World
from uapfast.errors import EndpointError, InputError, SuspectError, UnavailableError
from uapfast.models.checkpoint import load_model
from uapfast.suspects import http_client
from uapfast.suspects.http import HttpSuspect, open_http
from uapfast.verbs.dry_run import dry_run

pytestmark = [pytest.mark.needs("httpx2", "stamina")]


FORMS = {
    "oip": (servers.oip, "/v2/models/digits", {}),
    "oip-json": (servers.oip, "/v2/models/digits/infer", {}),
    "oip-array": (servers.oip, "/v2/models/digits", {"encoding": "array"}),
    "oip-classes": (servers.oip, "/v2/models/digits", {"classification": True}),
    "oip-bytes": (servers.oip, "/v2/models/digits", {}),
    "v1": (servers.v1, "/v1/models/digits", {"layout": "nhwc"}),
    "v1-png": (servers.v1, "/v1/models/digits:predict", {"encoding": "base64"}),
    "hugging-face": (servers.hugging_face, "/models/digits", {"form": "huggingface"}),
    "hugging-face-bytes": (servers.hugging_face, "/m", {"form": "template", "encoding": "png", "scores": ""}),
    "vendor": (servers.vendor, "/ask", {"encoding": "png", "labels": "result.class"}),
    "vendor-form": (
        servers.vendor,
        "/ask",
        {"encoding": "png", "labels": "result.class", "multipart": "file"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_answers_of_the_module(form):
    kind, path, options = FORMS[form]
    served = Served(net, binary=form != "oip-json", datatype="UINT8" if form == "oip-bytes" else "FP32")
    if "face" in form or "vendor" in form:
        options = {**options, "classes": served.labels}
    x = images(30)
    with serve(kind, served, path, **options) as (_, suspect):
        answers = suspect.answers_to(iter([x[:7], x[7:]]), 10)
    want = net(x)
    assert answers.labels().tolist() == want.argmax(-1).tolist()
    if answers.kind == "logits":
        assert torch.allclose(answers.values, want, atol=1e-4)
        assert form.startswith(("oip", "v1"))
    elif form == "hugging-face":
        assert torch.allclose(answers.values, want.softmax(-1), atol=1e-5)
    else:
        assert form.startswith("vendor") == (answers.kind == "labels")


def test_the_questions_come_shuffled_and_in_batches():
    x = images(100)
    with serve(servers.oip, batch_size=10, concurrency=1) as (server, suspect):
        suspect.answers_to([x], 10)
        raw = [b[-10 * 256 :] for b in server.served.posts[:10]]
        sent = np.frombuffer(b"".join(raw), np.float32).reshape(100, -1)
        place = [int((sent == row.numpy().ravel()).all(1).argmax()) for row in x]
        assert sorted(place) == list(range(100))
        assert np.mean(np.abs(np.diff(place)) == 1) < 0.1
        assert all(len(b) < 300 + 256 for b in server.served.posts[10:])  # repeated, one by one
        assert suspect.ledger.queries == 100 + 3 + 2 and suspect.ledger.requests == 10 + 3 + 2


def test_a_second_run_costs_nothing(tmp_path):
    x, cache = images(40), tmp_path / "answers.sqlite"
    with serve(servers.v1, path="/v1/models/digits", layout="nhwc", cache=cache) as (server, suspect):
        first = suspect.answers_to([x], 10).values
        count = len(server.served.posts)
        with open_http(f"{server.url}/v1/models/digits", layout="nhwc", cache=cache, budget=0) as again:
            assert torch.equal(again.answers_to([x], 10).values, first)
        assert len(server.served.posts) == count
        assert oct(os.stat(cache).st_mode & 0o777) == "0o600"
        # another layout is another question
        with open_http(f"{server.url}/v1/models/digits", layout="nchw", cache=cache, budget=0) as other:
            with pytest.raises(UnavailableError, match="budget of 0"):
                other.answers_to([x], 10)
    with pytest.raises(InputError, match="cache"):
        (tmp_path / "other").write_text("not a data base, but long enough to look like one" * 99)
        open_http("http://127.0.0.1:1/v2/models/m", cache=tmp_path / "other")


def test_a_run_that_was_stopped_goes_on_where_it_was():
    x = images(64)
    options = {"batch_size": 8, "concurrency": 2, "budget": 42}
    with serve(servers.oip, **options) as (server, suspect):
        with pytest.raises(UnavailableError, match="the budget of 42 queries is spent"):
            suspect.answers_to([x], 10)
        assert suspect.ledger.queries <= 42 and server.served.images == 40
        suspect.ledger.budget = 1000
        answers = suspect.answers_to([x], 10)
        assert torch.allclose(answers.values, net(x), atol=1e-5)
        assert server.served.images == 64 + 3  # and what is asked again


def plan_of(suspect: HttpSuspect, x: torch.Tensor) -> Any:
    return suspect.plan([[x[:50]], [x[50:]]], 10)


def test_a_dry_run_says_at_most_what_it_will_be():
    x = images(90)
    with serve(servers.oip) as (server, suspect):
        plan = plan_of(suspect, x)
        assert not server.served.posts and plan.images == 90 and plan.cached == 0
        suspect.answers_to([x[:50]], 10)
        suspect.answers_to([x[50:]], 10)
        spent = suspect.ledger
        assert 90 < spent.queries - 2 <= plan.queries <= 98
        assert spent.requests <= plan.requests <= spent.requests + 1
        assert spent.sent <= plan.bytes <= 1.1 * spent.sent
        assert plan_of(suspect, x).queries == 0


def test_an_honest_suspect_is_let_go_early(world: World):
    reference, model = world.references["first"], world.suspect("honest-1")
    module = load_model(model.arch, model.path).module
    with serve(servers.oip, Served(module)) as (server, suspect):
        plan = dry_run(reference, suspect)
        assert plan.images == 1200 and not server.served.posts
        got = uapfast.verify(reference, suspect)
        assert got.decision != "piracy" and got.queries_used <= 300
        assert suspect.ledger.queries < got.queries_used + 30


FAULTS = {
    "500": UnavailableError, "429": UnavailableError, "hang": UnavailableError, "drip": UnavailableError,
    "503": UnavailableError, "cut": SuspectError, "large": SuspectError, "deep": SuspectError,
    "html": SuspectError, "short": SuspectError, "error": SuspectError, "401": EndpointError,
    "redirect": EndpointError,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_always_fails(fault):
    served = Served(net, spoil=lambda s, n: fault)
    seconds = 0.5 if fault in ("hang", "drip") else 30.0
    limits = {"attempts": 2, "timeout": seconds, "max_bytes": 10**6, "concurrency": 1, "batch_size": 4}
    with serve(servers.oip, served, **limits) as (_, suspect):
        start = time.monotonic()
        with pytest.raises(FAULTS[fault]) as caught:
            suspect.answers_to([images(12)], 10)
        assert time.monotonic() - start < 20
        assert type(caught.value).__name__ != "SuspectError" or FAULTS[fault] is SuspectError
        assert suspect.ledger.failed == len(served.posts) <= 2
        assert suspect.ledger.received < 3 * 10**6
        assert "token=abc" not in str(caught.value)


def test_the_wait_before_another_attempt_grows(monkeypatch):
    monkeypatch.setattr(http_client, "WAIT_FIRST", 0.1)
    with serve(servers.oip, Served(net, spoil=lambda s, n: "500"), attempts=4) as (server, suspect):
        with pytest.raises(UnavailableError):
            suspect.answers_to([images(1)], 10)
        gaps = np.diff(server.served.times)
        assert len(gaps) == 3 and (gaps >= [0.1, 0.2, 0.4]).all()


def test_nobody_there():
    with open_http("http://127.0.0.1:1/v2/models/m", attempts=2) as suspect:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            suspect.answers_to([images(3)], 10)


def test_an_unknown_model_is_the_askers_fault():
    with serve(servers.oip, path="/v2/models/other") as (_, suspect):
        with pytest.raises(EndpointError, match="404"):
            suspect.answers_to([images(3)], 10)


def test_nan_is_told_by_the_verdict():
    with serve(servers.oip, Served(lambda x: net(x) * float("nan"))) as (_, suspect):
        with pytest.raises(SuspectError, match="finite"):
            suspect.answers_to([images(20)], 10)


def test_retry_after_and_the_rate_hold():
    def busy(served: Any, n: int) -> str | None:
        return "wait" if n == 2 else None

    servers.BEFORE["wait"] = (429, {"retry-after": "1"}, b"")
    with serve(servers.oip, Served(net, spoil=busy), batch_size=4, rate="50/s", concurrency=3) as (
        server,
        suspect,
    ):
        suspect.answers_to([images(40)], 10)
        times = server.served.times
        assert len(times) == 10 + 1 + 3
        gaps = np.diff(times)
        assert gaps.max() > 0.9  # for all of them, not for one alone
        assert times[-1] - times[0] > 1 + 10 / 50


def test_no_more_under_way_than_allowed():
    served = Served(net, delay=0.1)
    with serve(servers.oip, served, batch_size=1, concurrency=3) as (_, suspect):
        suspect.answers_to([images(24)], 10)
        assert served.most == 3


def test_it_can_be_asked_where_an_event_loop_runs():
    async def inside(suspect: HttpSuspect) -> torch.Tensor:
        return suspect.answer(images(5))

    with serve(servers.oip) as (_, suspect):
        assert torch.allclose(asyncio.run(inside(suspect)).float(), net(images(5)), atol=1e-5)
