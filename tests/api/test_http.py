"""Suspects behind HTTP, asked on loopback: forms, faults, budget, cache, and what is noticed."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import uapfast
from tests.api.screen_world import World
from uapfast.errors import EndpointError, InputError, OutputError, SuspectError, UnavailableError
from uapfast.models.checkpoint import load_model
from uapfast.suspects import http_client
from uapfast.suspects.http import HttpSuspect, open_http
from uapfast.verbs.dry_run import dry_run

pytestmark = [pytest.mark.needs("httpx2", "stamina")]
servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
Served = servers.Served


def net(x: torch.Tensor) -> torch.Tensor:
    """A network: answers depend on every pixel."""
    draw = torch.Generator().manual_seed(3)
    weights = torch.randn(x[0].numel(), 10, generator=draw)
    return x.flatten(1) @ weights


def images(count: int, seed: int = 0) -> torch.Tensor:
    """On the grid of 8 bits."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=draw).float() / 255


@contextmanager
def serve(kind: Any, served: Any = None, path: str = "/v2/models/digits", **options: Any) -> Any:
    served = served or Served(net)
    with servers.Server(kind, served) as server, open_http(server.url + path, **options) as suspect:
        yield server, suspect


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


# -- what is noticed -----------------------------------------------------------------------------------
def test_answers_that_change_are_named():
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return net(x) + 0.3 * torch.randn(len(x), 10)

    with serve(servers.oip, Served(noisy)) as (_, suspect):
        suspect.answers_to([images(60)], 10)
        assert suspect.notes[0].startswith("its answers change between equal questions")


def test_answers_that_do_not_depend_on_the_question_are_refused():
    with serve(servers.oip, Served(lambda x: torch.randn(len(x), 10))) as (_, suspect):
        with pytest.raises(SuspectError, match="the same for equal questions"):
            suspect.answers_to([images(60)], 10)


def test_a_server_that_shuffles_a_batch_is_named():
    with serve(servers.oip, Served(lambda x: net(x).roll(1, 0))) as (_, suspect):
        with pytest.raises(
            SuspectError, match=r"in the order of the images of a batch.*those of other images"
        ):
            suspect.answers_to([images(60)], 10)
    with serve(servers.oip, Served(lambda x: net(x).roll(1, 0)), batch_size=1) as (_, suspect):
        assert torch.allclose(suspect.answers_to([images(9)], 10).values, net(images(9)), atol=1e-5)
        assert not suspect.notes


def test_a_server_that_drops_items_is_named():
    with serve(servers.oip, Served(lambda x: net(x)[:-1] if len(x) > 1 else net(x)), attempts=1) as (
        _,
        suspect,
    ):
        with pytest.raises(SuspectError, match="20 rows, one an image"):
            suspect.answers_to([images(20)], 10)


def test_answers_that_depend_on_the_batch_are_named():
    def batchy(x: torch.Tensor) -> torch.Tensor:
        return net(x) + 0.1 * net(x).mean(0)

    with serve(servers.oip, Served(batchy)) as (_, suspect):
        suspect.answers_to([images(60)], 10)
        assert suspect.notes[0].startswith("its answers depend on what else is in a batch")


def test_the_verdict_repeats_what_was_noticed(world: World):
    module = load_model(world.suspect("honest-0").arch, world.suspect("honest-0").path).module

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return module(x) + 0.2 * torch.randn(len(x), 10)

    with serve(servers.oip, Served(noisy)) as (_, suspect):
        verdict = uapfast.verify(world.references["first"], suspect)
    assert verdict.decision != "piracy" and any("equal questions" in r for r in verdict.reasons)


def test_eight_bits_are_said():
    x = torch.rand(10, 1, 8, 8)
    with serve(servers.oip, Served(net, datatype="UINT8")) as (_, suspect):
        suspect.answers_to([x], 10)
        assert any("8 bits" in n for n in suspect.notes)


def test_it_can_be_asked_where_an_event_loop_runs():
    async def inside(suspect: HttpSuspect) -> torch.Tensor:
        return suspect.answer(images(5))

    with serve(servers.oip) as (_, suspect):
        assert torch.allclose(asyncio.run(inside(suspect)).float(), net(images(5)), atol=1e-5)


# -- secrets -------------------------------------------------------------------------------------------
SECRET = "s3cr3t-0123456789"


def test_secrets_are_seen_by_the_server_alone(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("UAPFAST_TEST_TOKEN", SECRET)
    servers.BEFORE["echo"] = (403, {}, f"bad token {SECRET}".encode())
    cache = tmp_path / "answers.sqlite"
    headers = {"Authorization": "Bearer ${UAPFAST_TEST_TOKEN}"}
    shown = io.StringIO()
    with caplog.at_level(logging.DEBUG):
        served = Served(net, spoil=lambda s, n: "echo" if n > 8 else "500" if n == 0 else None)
        with serve(servers.oip, served, headers=headers, cache=cache, batch_size=8) as (_, suspect):
            suspect.answers_to([images(20)], 10)
            assert served.headers[-1]["authorization"] == f"Bearer {SECRET}"
            with pytest.raises(EndpointError) as caught:
                suspect.answers_to([images(200, seed=1)], 10)
            parts = (suspect, suspect.endpoint, suspect.source, suspect.notes, vars(suspect), caught.value)
            print(*map(repr, parts), file=shown)
    # with the server's thread gone: CPython 3.11 cannot parse sources in two threads at once (gh-106905)
    print(caught.getrepr(showlocals=True), file=shown)
    assert "***" in str(caught.value)
    assert SECRET not in shown.getvalue() and SECRET not in caplog.text
    assert not any(SECRET in repr(vars(r)) for r in caplog.records)
    assert SECRET.encode() not in cache.read_bytes()


@pytest.mark.parametrize(
    "given",
    [
        {"target": "http://user:s3cr3t@127.0.0.1/v2/models/m"},
        {"target": "http://127.0.0.1/v2/models/m?api_key=s3cr3t"},
        {"target": "http://127.0.0.1/${TOKEN}/v2/models/m"},
        {"target": "http://127.0.0.1/v2/models/m", "headers": {"Authorization": "Bearer s3cr3t"}},
        {"target": "http://127.0.0.1/v2/models/m", "headers": {"X-Api-Key": "s3cr3t"}},
        {"target": "http://models.example/v2/models/m", "headers": {"X-Api-Key": "${KEY}"}},
    ],
)
def test_secrets_stand_nowhere_but_in_the_environment(given):
    with pytest.raises(EndpointError) as caught:
        open_http(given.pop("target"), **given)
    assert "s3cr3t" not in str(caught.value)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("UAPFAST_NOT_SET", raising=False)
    headers = {"X-Key": "${UAPFAST_NOT_SET}"}
    with open_http("http://127.0.0.1:1/v2/models/m", headers=headers) as suspect:
        with pytest.raises(EndpointError, match="UAPFAST_NOT_SET"):
            suspect.answers_to([images(3)], 10)


# -- descriptions --------------------------------------------------------------------------------------
TEMPLATE = """
url = "{url}/v1/models/digits:predict"
form = "template"
batch_size = 5
name = "a vendor"
[headers]
X-Tenant = "7"
[image]
encoding = "array"
layout = "nhwc"
[request]
body = {{ instances = "{{images}}", model = "m" }}
[answer]
scores = "predictions.*"
output = "logits"
[conduct]
budget = 100
rate = "1000/s"
"""


def test_a_template(tmp_path):
    with servers.Server(servers.v1, Served(net)) as server:
        file = tmp_path / "vendor.toml"
        file.write_text(TEMPLATE.format(url=server.url))
        with open_http(file) as suspect:
            assert suspect.name == "a vendor" and suspect.batch_size == 5
            answers = suspect.answers_to([images(12)], 10)
            assert answers.kind == "logits" and torch.allclose(answers.values, net(images(12)), atol=1e-4)
            assert server.served.headers[0]["x-tenant"] == "7"
            assert json.loads(server.served.posts[0])["model"] == "m"
        file.write_text(TEMPLATE.format(url=server.url).replace("predictions.*", "results.*"))
        with open_http(file, attempts=1) as suspect, pytest.raises(EndpointError, match="results"):
            suspect.answers_to([images(5)], 10)  # the description is wrong, not the suspect


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("layout =", "layuot ="), "layuot"),
        (("batch_size", "batchsize"), "batchsize"),
        (("[conduct]", "[conduct]\nspeed = 3"), "speed"),
        (("1000/s", "often"), "rate"),
        (("budget = 100", "budget = -1"), "budget"),
        (('layout = "nhwc"', ""), "layout"),
        (('"array"', '"webp"'), "encoding"),
        (("{{images}}", "here"), "body"),
        (("url =", "urn ="), "urn"),
        (('"{url}', '"ftp://127.0.0.1'), "url"),
        (("[answer]", "[answer"), "TOML"),
    ],
)
def test_a_wrong_template_is_refused_by_name(tmp_path, change, message):
    file = tmp_path / "wrong.toml"
    file.write_text(TEMPLATE.replace(*change).format(url="http://127.0.0.1:1"))
    with pytest.raises(InputError, match=message):
        open_http(file)


def test_label_strings_need_a_list_of_classes():
    options = {"encoding": "png", "labels": "result.class"}
    with serve(servers.vendor, path="/ask", **options) as (_, suspect):
        with pytest.raises(OutputError, match="classes"):
            suspect.answers_to([images(5)], 10)
    with serve(servers.vendor, path="/ask", classes=["a", "b"], **options) as (_, suspect):
        with pytest.raises(SuspectError, match="labels out of `classes`"):
            suspect.answers_to([images(5)], 10)


@pytest.mark.parametrize(
    ("metadata", "options", "message"),
    [
        ({"inputs": None}, {}, "input"),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 1]}]}, {}, "datatype"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 32, 32]}]}, {}, "1 x 8 x 8"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4, 1, 8, 8]}]}, {}, "batch size"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1, -1, -1]}]}, {}, "layout"),
        ({"outputs": [{"name": "a"}, {"name": "b"}]}, {}, "output_name"),
        ({}, {"input": "y"}, "input"),
        ({}, {"layout": "nhwc"}, "layout"),
        ({"inputs": [{"name": "x", "datatype": {"a": 1}, "shape": 7}]}, {}, "datatype"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": 7}]}, {}, "layout"),
    ],
)
def test_metadata_that_leaves_something_open_is_asked_about(metadata, options, message):
    with serve(servers.oip, Served(net, metadata=metadata), **options) as (_, suspect):
        with pytest.raises(EndpointError, match=message):
            suspect.answers_to([images(3)], 10)


def test_metadata_of_nulls_and_a_fixed_batch_of_one():
    metadata = {"inputs": None, "outputs": None}
    options = {"input": "x", "output_name": "scores", "layout": "nchw", "datatype": "FP32"}
    with serve(servers.oip, Served(net, metadata=metadata, binary=False), **options) as (_, suspect):
        assert torch.allclose(suspect.answers_to([images(3)], 10).values, net(images(3)), atol=1e-4)
    one = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 8, 8]}]}
    with serve(servers.oip, Served(net, metadata=one)) as (server, suspect):
        suspect.answers_to([images(6)], 10)
        assert len(server.served.posts) == 6 + 3


def test_jpeg_is_warned_of(tmp_path: Path):
    with open_http("http://127.0.0.1:1/x", encoding="jpeg", labels="label") as suspect:
        assert "JPEG" in suspect.notes[0]
