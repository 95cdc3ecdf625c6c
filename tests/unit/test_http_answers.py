"""Answers of servers that are damaged, or made to do harm: typed errors, nothing else."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from uapfast.errors import OutputError, SuspectError
from uapfast.suspects.http_client import Response
from uapfast.suspects.http_endpoint import described
from uapfast.suspects.http_forms import JsonForm, at
from uapfast.suspects.http_oip import OpenInference
from uapfast.suspects.http_rows import decode_row, encode_row, row_of, table


def form(url, **given):
    endpoint, _ = described(url, {"name": "server", **given})
    return OpenInference(endpoint) if endpoint.form == "oip" else JsonForm(endpoint)


OIP = form("http://h/v2/models/m")
V1 = form("http://h/v1/models/m", layout="nchw")
FACE = form("http://h/x", form="huggingface")
TENSOR = {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4.5, 5, 6]}
HEAD = json.dumps({"outputs": [{**TENSOR, "data": None, "parameters": {"binary_data_size": 24}}]}).encode()
TEXTS = {"name": "y", "datatype": "BYTES", "shape": [2, 2], "data": ["0.9:1:a", "0.1:0:b", "0.8:0", "0.2:1"]}
SIZE = "inference-header-content-length"
GOOD = {
    "json": (OIP, json.dumps({"outputs": [TENSOR]}).encode(), {}),
    "binary": (OIP, HEAD + np.arange(6, dtype="<f4").tobytes(), {SIZE: str(len(HEAD))}),
    "classification": (OIP, json.dumps({"outputs": [TEXTS], "parameters": None}).encode(), {}),
    "v1": (V1, b'{"predictions": [[1, 2, 3], [4, 5, 6]]}', {}),
    "v1-named": (V1, b'{"predictions": [{"scores": [1, 2]}, {"scores": [3, 4]}]}', {}),
    "labels": (FACE, b'[{"label": "LABEL_1", "score": 0.9}, {"label": "LABEL_0", "score": 0.1}]', {}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_damaged_answers_give_typed_errors(kind):
    read, body, headers = GOOD[kind]
    count = 1 if kind == "labels" else 2
    assert len(table(read.rows(Response(body, headers), count), None, None, "server")) == count
    draw, wrong = random.Random(kind), 0
    for _ in range(300):
        changed = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(changed))
            changed[place : place + draw.randint(0, 3)] = draw.choice(
                [
                    b"",
                    b"9" * 30,
                    b"-",
                    b"null",
                    b"[",
                    b"]",
                    b'"',
                    b"1e999",
                    b"{}",
                    bytes([draw.randrange(256)]),
                ]
            )
        try:
            table(read.rows(Response(bytes(changed), headers), count), None, None, "server")
        except (SuspectError, OutputError):
            wrong += 1
    assert wrong > 100


@pytest.mark.parametrize(
    "value",
    [
        [10**400],
        [None],
        [[1, 2], [3]],
        {"label": 1.5, "score": 2},
        [{"label": "a", "score": 10**400}],
        None,
        True,
    ],
)
def test_what_is_no_answer(value):
    with pytest.raises((SuspectError, OutputError)):
        table([row_of(value, "server")], None, None, "server")


@pytest.mark.parametrize("label", [-1, 10**30, "LABEL_999999999"])
def test_labels_that_cannot_be(label):
    with pytest.raises(SuspectError):
        table([((label, 0.5),)], None, None, "server")
    with pytest.raises(SuspectError):
        table([label], None, None, "server")


def test_rows_of_top_k_are_filled_where_they_are_probabilities():
    rows = [(("b", 0.7), ("c", 0.2)), (("a", 0.6), ("b", 0.3))]
    assert table(rows, ("a", "b", "c"), None, "server").tolist() == [[0, 0.7, 0.2], [0.6, 0.3, 0]]
    with pytest.raises(OutputError, match="top_k"):
        table([(("a", -3.0), ("b", 2.0))], ("a", "b", "c"), None, "server")
    with pytest.raises(SuspectError, match="of one number"):
        table([np.zeros(3), np.zeros(4)], None, None, "server")
    with pytest.raises(SuspectError, match="all of one kind"):
        table([np.zeros(3), 1], None, None, "server")


def test_paths():
    value = {"a": [{"b": [1, 2]}, {"b": [3, 4]}]}
    assert at(value, "a.*.b", "x") == at(value, "$.a[*].b", "x") == [[1, 2], [3, 4]]
    assert at(value, "a.1.b.0", "x") == 3 and at(value, "", "x") is value
    with pytest.raises(SuspectError, match="it has no 'c'"):
        at(value, "a.0.c", "x")


def test_rows_come_back_from_the_cache_as_they_were():
    for row in (np.array([0.1, 1 / 3]), 7, "cat", (("cat", 0.9), (3, 1 / 3))):
        again = decode_row(*encode_row(row))
        assert type(again) is type(row) and np.all(np.asarray(again, object) == np.asarray(row, object))
