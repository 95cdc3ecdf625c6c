"""The record of an examination over HTTP: times, attempts and status, and no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.api.evidence_world import World
from tests.api.recording import lines, recorded, same
from uapfast.errors import EndpointError, UapfastError
from uapfast.suspects.http import open_http
from uapfast.suspects.record_writer import Recorder
from uapfast.verbs.replay import verify_record


@pytest.fixture(scope="session")
def world(evidence_world: World) -> World:
    return evidence_world


@pytest.mark.needs("httpx2", "stamina")
@pytest.mark.parametrize("form", ["oip", "v1", "face", "vendor", "flaky", "budget", "cached"])
def test_an_endpoint_is_recorded_with_time_attempt_and_status(world, form, tmp_path):
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    path, options = {
        "v1": ("/v1/models/digits", {"layout": "nhwc"}),
        "face": ("/models/digits", {"form": "huggingface"}),
        "vendor": ("/ask", {"encoding": "png", "labels": "result.class", "form": "template"}),
    }.get(form, ("/v2/models/digits", {}))
    kind = {"v1": servers.v1, "face": servers.hugging_face, "vendor": servers.vendor}.get(form, servers.oip)
    served = servers.Served(world.copy)
    if form == "flaky":
        served.spoil = lambda served, n: "500" if n % 3 == 1 else None
    if form in ("face", "vendor"):
        options["classes"] = served.labels
    if form == "budget":
        options["budget"] = 30
    if form == "cached":
        options["cache"] = tmp_path / "answers.sqlite"
    with servers.Server(kind, served) as server:
        for _ in range(2 if form == "cached" else 1):
            with open_http(
                server.url + path, batch_size=None if form in ("face", "vendor") else 8, **options
            ) as suspect:
                verdict = recorded(world, suspect, tmp_path / "r.jsonl")
    same(verdict, verify_record(world.reference, tmp_path / "r.jsonl").verdict)
    first, *rest, end = lines(tmp_path / "r.jsonl")
    rows = [row for row in rest if "i" in row]
    assert end["end"]["answers"] == len(rows)
    metadata = 2 if kind is servers.oip else 0
    assert end["end"]["spent"]["queries"] == metadata + images_sent(rest)
    if form == "cached":
        assert all(row["cached"] is True and "at" not in row for row in rows)
        return
    assert all(row["status"] == 200 and row["attempt"] >= 1 and row["at"].endswith("Z") for row in rows)
    assert (
        first["started"]
        <= min(row["at"] for row in rows)
        <= max(r["at"] for r in rows)
        <= end["end"]["ended"]
    )
    failed = [row["failed"] for row in rest if "failed" in row]
    assert bool(failed) == (form == "flaky")
    if failed:
        assert {f["status"] for f in failed} == {500} and {f["error"] for f in failed} == {"Busy"}
        assert max(row["attempt"] for row in rows) >= 2
    if form == "budget":
        assert verdict.decision == "unavailable" and "budget of 30" in verdict.reasons[0]


def images_sent(rest: list[dict[str, Any]]) -> int:
    """Images sent, as the lines of a record add up."""
    rows = [r for r in rest if "i" in r and not r.get("cached")]
    return (
        len(rows)
        + sum("again" in r for r in rest)
        + sum(r["failed"]["images"] for r in rest if "failed" in r)
    )


SECRET = "s3cret-t0ken-of-the-test"


@pytest.mark.needs("httpx2", "stamina")
def test_a_record_holds_no_secret(world, tmp_path, monkeypatch):
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    monkeypatch.setenv("UAPFAST_TEST_TOKEN", SECRET)
    labels = [f"{SECRET} {k}" if k == 4 else f"digit-{k}" for k in range(10)]  # a server that repeats it
    served = servers.Served(world.honest, labels=tuple(labels))
    with servers.Server(servers.hugging_face, served) as server:
        about = tmp_path / "endpoint.toml"
        about.write_text(
            f'url = "{server.url}/models/digits?size=8&version=hidden-{SECRET}"\nform = "huggingface"\n'
            f"classes = {json.dumps([f'digit-{k}' for k in range(10)])}\n"
            '[headers]\nAuthorization = "Bearer ${UAPFAST_TEST_TOKEN}"\n'
        )
        with open_http(about) as suspect:
            try:
                recorded(world, suspect, tmp_path / "r.jsonl")
            except UapfastError:  # a label that is none of the classes
                assert not (tmp_path / "r.jsonl").exists()
        assert any(SECRET in h.get("authorization", "") for h in served.headers)
        served.labels = tuple(f"digit-{k}" for k in range(10))
        with open_http(about) as suspect:
            recorded(world, suspect, tmp_path / "r.jsonl")
    text = (tmp_path / "r.jsonl").read_text()
    assert SECRET not in text and "Bearer" not in text
    assert lines(tmp_path / "r.jsonl")[0]["suspect"]["settings"]["headers"] == ["Authorization"]
    assert "?" not in lines(tmp_path / "r.jsonl")[0]["suspect"]["settings"]["url"]
    for url in (
        f"https://user:{SECRET}@127.0.0.1/v2/models/m",
        f"https://127.0.0.1/v2/models/m?api_key={SECRET}",
    ):
        with pytest.raises(EndpointError) as caught:  # such are refused before anything is written
            open_http(url)
        assert SECRET not in str(caught.value)


def test_what_a_server_repeats_of_a_secret_is_covered(world, tmp_path, monkeypatch):
    from uapfast.suspects.http_headers import Headers, RedactedTape

    monkeypatch.setenv("UAPFAST_TEST_TOKEN", SECRET)
    headers = Headers({"Authorization": "${UAPFAST_TEST_TOKEN}"})
    x = torch.zeros(2, 1, 8, 8)
    with Recorder(tmp_path / "r") as record:
        record.start(world.reference.sha256, {})
        record.asked(x)
        RedactedTape(record, headers).row(0, f"a {SECRET} b")
        RedactedTape(record, headers).row(1, ((f"{SECRET}", 0.5), (3, 0.25)))
        record.end((), None)
    assert SECRET not in (tmp_path / "r").read_text()
    assert [row["answer"] for row in lines(tmp_path / "r")[1:3]] == ["a *** b", [["***", 0.5], [3, 0.25]]]
