"""An endpoint as its owner describes it: secrets, templates, metadata."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
import torch

from tests.api.http_asked import Served, images, net, serve, servers
from uapfast.errors import EndpointError, InputError, OutputError, SuspectError
from uapfast.suspects.http import open_http

pytestmark = [pytest.mark.needs("httpx2", "stamina")]


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
