"""An endpoint's record holds what it sent; whoever reads it gets the same rows from that, or an error."""

from __future__ import annotations

import base64
import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uapfast
from tests.api.evidence_case import Case
from tests.api.evidence_world import World
from uapfast.cli import main
from uapfast.errors import RecordError, UapfastError
from uapfast.evidence.audit import Files, audit
from uapfast.suspects import record_bodies
from uapfast.suspects.http import HttpSuspect, open_http
from uapfast.suspects.record_bodies import MOST_BODY, PLAIN, decode_body, encode_body
from uapfast.suspects.record_reader import read_record
from uapfast.suspects.record_writer import Recorder, line_of
from uapfast.verbs.replay import verify_record

pytestmark = [pytest.mark.needs("httpx2", "stamina")]
SECRET = "s3cret/t0ken-of-the-test"
Lines = list[dict[str, Any]]


def recorded(world: World, suspect: HttpSuspect, path: Path) -> Lines:
    with suspect, Recorder(path) as record:
        uapfast.verify(world.reference, suspect, record=record)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def served(evidence_world: World, tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """The lines of a record: v1, eight images a request, the first two of which fail."""
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    about = servers.Served(evidence_world.copy, spoil=lambda served, n: {0: "500", 1: "html"}.get(n))
    with servers.Server(servers.v1, about) as server:
        suspect = open_http(server.url + "/v1/models/digits", layout="nhwc", batch_size=8, concurrency=1)
        return recorded(evidence_world, suspect, tmp_path_factory.mktemp("served") / "r.jsonl")


def only(lines: Lines, name: str) -> Lines:
    return [line[name] for line in lines if name in line]


def test_every_row_stands_in_a_response_that_is_kept(served: Lines) -> None:
    responses = {one["request"]: one for one in only(served, "response")}
    rows = [line for line in served if "i" in line]
    assert {row["request"] for row in rows} <= set(responses) and len(rows) == served[-1]["end"]["answers"]
    for row in [*rows, *only(served, "again")]:
        body = decode_body(responses[row["request"]])
        assert body is not None and json.loads(body)["predictions"][row["row"]] == row["answer"]
    assert sum(one["images"] for one in responses.values()) == len(rows) + len(only(served, "again"))
    assert len(only(served, "reading")) == 1
    first, second = only(served, "failed")[:2]
    assert first["status"] == 500 and "body" not in first  # what is no answer is not read whole
    assert second["status"] == 200 and second["body"] == "<html>please sign in</html>"


@pytest.mark.parametrize("form", ["binary", "plain", "classified", "face", "vendor"])
def test_every_form_is_read_again(evidence_world: World, form: str, tmp_path: Path) -> None:
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    about = servers.Served(evidence_world.copy, binary=form == "binary")
    path, options = {
        "face": ("/models/digits", {"form": "huggingface"}),
        "vendor": ("/ask", {"encoding": "png", "labels": "result.class", "form": "template"}),
        "classified": ("/v2/models/digits", {"classification": True, "batch_size": 50}),
    }.get(form, ("/v2/models/digits", {"batch_size": 50}))
    if form in ("face", "vendor"):
        options["classes"] = about.labels
    kind = {"face": servers.hugging_face, "vendor": servers.vendor}.get(form, servers.oip)
    with servers.Server(kind, about) as server:
        lines = recorded(evidence_world, open_http(server.url + path, **options), tmp_path / "r.jsonl")
    bodies = verify_record(evidence_world.ref, tmp_path / "r.jsonl").recording.bodies
    assert bodies.read == lines[-1]["end"]["answers"] + len(only(lines, "again")) and not bodies.withheld
    how = {"binary": "base64", "face": "body", "vendor": "body"}
    kept = {name for one in only(lines, "response") for name in ("body", "base64", "gzip") if name in one}
    assert how.get(form, "gzip") in kept, kept


# -- what was changed ------------------------------------------------------------------------------
def spoilt(lines: Lines, change: Callable[[Lines, int], Any], path: Path) -> Path:
    changed = copy.deepcopy(lines)
    nth = next(n for n, line in enumerate(changed) if "response" in line)
    change(changed, nth)
    path.write_bytes(b"".join(map(line_of, changed)))
    return path


def other_body(text: str) -> Callable[[Lines, int], Any]:
    def change(lines: Lines, nth: int) -> None:
        lines[nth]["response"].pop("gzip", None)
        lines[nth]["response"]["body"] = text

    return change


def bomb(lines: Lines, nth: int) -> None:
    lines[nth]["response"].pop("body", None)
    data = gzip.compress(bytes(MOST_BODY + 1), 9, mtime=0)
    lines[nth]["response"]["gzip"] = base64.b64encode(data).decode()


def swapped(lines: Lines, nth: int) -> None:
    other = next(n for n, line in enumerate(lines) if n > nth and "response" in line)
    one, two = lines[nth]["response"], lines[other]["response"]
    one["request"], two["request"] = two["request"], one["request"]


def rows_exchanged(lines: Lines, nth: int) -> None:
    """The rows of a response in another order: each stands in it, and none where it says."""
    one, two = lines[nth + 1], lines[nth + 2]
    one["answer"], two["answer"] = two["answer"], one["answer"]


def to(**values: Any) -> Callable[[Lines, int], Any]:
    return lambda lines, nth: lines[nth]["response"].update(values)


CHANGES: dict[str, Callable[[Lines, int], Any]] = {
    "a row": lambda lines, nth: lines[nth + 1]["answer"].__setitem__(0, 0.25),
    "rows exchanged": rows_exchanged,
    "a body": other_body('{"predictions": [[0,0,0,0,0,0,0,0,0,1]]}'),
    "no json": other_body("<html>"),
    "deep json": other_body("[" * 100_000),
    "a huge number": other_body('{"predictions": [[' + "9" * 5000 + "]]}"),
    "a bomb": bomb,
    "no gzip": to(body=None, gzip="AAAA"),
    "no base64": lambda lines, nth: lines[nth].update(response={**to_plain(lines[nth]), "base64": "?"}),
    "two bodies": to(withheld="it repeats a secret", body="x"),
    "no body": lambda lines, nth: lines[nth].update(response=to_plain(lines[nth])),
    "swapped": swapped,
    "no response": lambda lines, nth: lines.pop(nth),
    "twice": lambda lines, nth: lines.insert(nth, copy.deepcopy(lines[nth])),
    "images": to(images=10**12),
    "no image": to(images=0),
    "true": to(request=True),
    "reading": lambda lines, nth: lines[nth - 1]["reading"].update(usual="outputs"),
    "no reading": lambda lines, nth: lines.pop(nth - 1),
    "form": lambda lines, nth: lines[nth - 1]["reading"].update(form="pickle"),
    "path": lambda lines, nth: lines[nth - 1]["reading"].update(scores="*." * 50_000),
    "row number": lambda lines, nth: lines[nth + 1].update(row=-1),
    "a model's row": lambda lines, nth: lines[nth + 1].update(dtype="float32", kind=None),
    "left out": lambda lines, nth: (lines.pop(nth + 1), lines[-1]["end"].update(answers=0)),
    "another line": lambda lines, nth: lines.insert(nth, {"note": 1}),
}


def to_plain(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line["response"].items() if k not in ("body", "base64", "gzip")}


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_stand_in_a_response_is_refused(
    served: Lines, evidence_world: World, tmp_path: Path, what: str
) -> None:
    path = spoilt(served, CHANGES[what], tmp_path / "bad.jsonl")
    with pytest.raises(RecordError, match=r"record bad.jsonl: .* must be .*, got"):
        verify_record(evidence_world.reference, path)


def test_a_line_has_one_form(served: Lines, evidence_world: World, tmp_path: Path) -> None:
    """Another reader of JSON would see another answer in it."""
    path = spoilt(served, lambda lines, nth: None, tmp_path / "r.jsonl")
    assert verify_record(evidence_world.reference, path).verdict.decision == "piracy"
    whole = path.read_bytes()
    for before, after in (
        (b'"row":1,', b'"row":1, '),
        (b'"row":1}', b'"row":0,"row":1}'),
        (b'"kind":"scores"', b'"kind":"\\u0073cores"'),
        (b'"status":200', b'"status":2e2'),
        (b'"status":200', b'"status":NaN'),
    ):
        if before not in whole:
            continue
        path.write_bytes(whole.replace(before, after, 1))
        with pytest.raises(RecordError, match="line .* must be (written as uapfast writes it|a JSON object)"):
            verify_record(evidence_world.reference, path)


def test_a_body_is_kept_as_it_is() -> None:
    for body in (b"", b"{}", b"\xff\x00", "häßlich \u2028".encode(), b"x" * (PLAIN + 1), bytes(PLAIN + 1)):
        told = json.loads(line_of(encode_body(body)))
        assert decode_body(told) == body and len(told) == 1
        assert len(line_of(told)) < 2 * PLAIN
    assert decode_body(encode_body(None)) is None and "secret" in encode_body(None)["withheld"]
    assert "gzip" not in encode_body(bytes(MOST_BODY + 1))


# -- secrets ---------------------------------------------------------------------------------------
def escaped(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in text)


REPEATS: dict[str, Callable[[], str]] = {
    "as it is": lambda: SECRET,
    "a slash escaped": lambda: SECRET.replace("/", "\\/"),
    "letters escaped": lambda: escaped(SECRET),
    "in base64": lambda: base64.b64encode(SECRET.encode()).decode(),
    "in hex": lambda: SECRET.encode().hex(),
}


@pytest.mark.parametrize("how", REPEATS)
def test_no_secret_is_kept_with_a_response(
    evidence_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A server that echoes the header beside its answers: these count, what it sent is not kept."""
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    monkeypatch.setenv("UAPFAST_TEST_TOKEN", SECRET)
    asked = []

    def echoing(about: Any, path: str, body: bytes, headers: dict[str, str]) -> Any:
        status, more, answer = servers.v1(about, path, body, headers)
        asked.append(headers["authorization"])
        if len(asked) == 2:
            answer = answer[:-1] + f', "you": "{REPEATS[how]()}"}}'.encode()
        return status, more, answer

    with servers.Server(echoing, servers.Served(evidence_world.honest)) as server:
        suspect = open_http(
            server.url + "/v1/models/digits", layout="nhwc", batch_size=8, concurrency=1,
            headers={"Authorization": "Bearer ${UAPFAST_TEST_TOKEN}"},
        )  # fmt: skip
        lines = recorded(evidence_world, suspect, tmp_path / "r.jsonl")
    assert set(asked) == {f"Bearer {SECRET}"}
    text = (tmp_path / "r.jsonl").read_text()
    assert not any(make() in text for make in REPEATS.values()) and "Bearer" not in text
    assert sum("withheld" in one for one in only(lines, "response")) == 1
    found = verify_record(evidence_world.ref, tmp_path / "r.jsonl")
    assert found.verdict.decision == "independent" and found.recording.bodies.withheld == 8


def test_a_server_that_pads_its_answers_makes_a_record_that_can_be_read(
    evidence_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be refused for what its bodies unpack to, after the suspect was asked."""
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    monkeypatch.setattr(record_bodies, "MOST_ALL", 1 << 18)

    def padding(about: Any, path: str, body: bytes, headers: dict[str, str]) -> Any:
        status, more, answer = servers.v1(about, path, body, headers)
        return status, more, answer + b" " * (1 << 17)

    with servers.Server(padding, servers.Served(evidence_world.honest)) as server:
        suspect = open_http(
            server.url + "/v1/models/digits", layout="nhwc", batch_size=8, concurrency=1
        )  # fmt: skip
        lines = recorded(evidence_world, suspect, tmp_path / "r.jsonl")
    sent = only(lines, "response")
    assert 0 < sum(one.get("withheld") == record_bodies.MANY for one in sent) < len(sent)
    found = verify_record(evidence_world.ref, tmp_path / "r.jsonl")
    assert found.verdict.decision == "independent" and found.recording.bodies.withheld


# -- the audit -------------------------------------------------------------------------------------
@pytest.mark.needs("cryptography", "rfc8785", "openssl")
def test_the_audit_reads_the_responses(case: Case, served: Lines, tmp_path: Path) -> None:
    asked = ["verify", str(case.world.ref), "--answers", "", "--statement", "", "--key", str(case.key)]

    def stated(path: Path) -> Files:
        statement = path.with_suffix(".json")
        asked[3], asked[5] = str(path), str(statement)
        assert main(asked) == 1
        return Files(statement, case.world.ref, path, any_key=True)

    whole = audit(stated(spoilt(served, lambda lines, nth: None, tmp_path / "r.jsonl")))
    count = served[-1]["end"]["answers"] + len(only(served, "again"))
    assert whole.holds and f"{count} answers were read again" in str(whole.checks)

    def withheld(lines: Lines, nth: int) -> None:
        lines[nth]["response"] = to_plain(lines[nth]) | {"withheld": "it repeats a secret", "headers": {}}

    part = audit(stated(spoilt(served, withheld, tmp_path / "part.jsonl")))
    assert not part.failed and part.exit_code == 3 and [c.what for c in part.unchecked] == ["responses"]


HOSTILE = [None, True, -1, 7, 1e300, "", "x" * 50, [], [None], {}, {"a": 1}]


def test_hostile_lines_of_an_endpoint_are_typed_errors(
    served: Lines, evidence_world: World, tmp_path: Path
) -> None:
    refused = 0
    nth = next(n for n, line in enumerate(served) if "response" in line)
    for number in (nth - 1, nth, nth + 1, served.index(next(line for line in served if "again" in line))):
        (first, told), *_ = served[number].items()
        names = list(told) if isinstance(told, dict) else list(served[number])
        for name in names:
            for value in HOSTILE:
                changed = copy.deepcopy(served)
                (changed[number][first] if isinstance(told, dict) else changed[number])[name] = value
                (tmp_path / "bad.jsonl").write_bytes(b"".join(map(line_of, changed)))
                try:
                    read_record(tmp_path / "bad.jsonl", evidence_world.reference.most_asked)
                except UapfastError as exc:
                    refused += isinstance(exc, RecordError)
    assert refused > 100
