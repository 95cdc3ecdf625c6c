"""The record of an examination: what is in it, and the same verdict from it alone, bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import uapfast
from tests.api.evidence_world import MLP, World
from uapfast.cli import main
from uapfast.errors import EndpointError, RecordError, UapfastError
from uapfast.models.model import Model
from uapfast.suspects.callable import open_callable
from uapfast.suspects.http import open_http
from uapfast.suspects.record_reader import is_record, read_record
from uapfast.suspects.record_writer import Recorder, line_of, query_sha256
from uapfast.types import Verdict
from uapfast.verbs.queries import write_queries
from uapfast.verbs.recorded import verify_recorded
from uapfast.verbs.replay import verify_record

NAMES = [f"digit {i}" for i in range(10)]


@pytest.fixture(scope="session")
def world(evidence_world: World) -> World:
    return evidence_world


def softmax(x: torch.Tensor, net: nn.Module) -> torch.Tensor:
    return net(x).softmax(-1)


class Broken(nn.Module):
    """Gives NaN, or fails, from the second batch on."""

    def __init__(self, net: nn.Module, how: str) -> None:
        super().__init__()
        self.net, self.how, self.calls = net, how, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.net(x)
        if self.how == "nan":
            return torch.where(out == out.amax(), torch.nan, out)
        if self.how == "fails" and len(x) > 4:
            raise RuntimeError("it broke")
        return out


KINDS: dict[str, Callable[[World], Any]] = {
    "module": lambda w: w.copy,
    "double": lambda w: Model(copy.deepcopy(w.copy).double(), name="double"),
    "bfloat16": lambda w: Model(copy.deepcopy(w.copy).bfloat16(), name="half"),
    "honest": lambda w: w.honest,
    "labels": lambda w: lambda x: w.copy(x).argmax(-1),
    "numpy": lambda w: Model(lambda x: w.copy(torch.as_tensor(x)).numpy(), numpy=True),
    "percent": lambda w: lambda x: (100 * softmax(x, w.copy)).round(),
    "costly": lambda w: open_callable(lambda x: softmax(x, w.honest), costly=True, batch_size=7),
    "names": lambda w: open_callable(
        lambda x: [NAMES[k] for k in w.copy(x).argmax(-1).tolist()], class_names=NAMES, batch_size=9
    ),
    "nan": lambda w: Model(Broken(w.copy, "nan"), name="nan"),
    "fails": lambda w: Model(Broken(w.copy, "fails"), name="fails"),
    "constant": lambda w: lambda x: torch.zeros(len(x), 10).index_fill(1, torch.tensor([3]), 5.0),
    "asked wrongly": lambda w: lambda x: w.copy(1 - x).roll(1, -1),  # probes are asked
}


def recorded(world: World, suspect: Any, path: Path, **how: Any) -> Verdict:
    with Recorder(path) as record:
        return uapfast.verify(world.reference, suspect, record=record, **how)


def same(first: Verdict, second: Verdict) -> None:
    a, b = first.to_dict(), second.to_dict()
    assert {k: v for k, v in a.items() if v != b[k]} == {}
    assert first.to_json() == second.to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_alone_gives_the_same_verdict_bit_for_bit(world, kind, tmp_path):
    verdict = recorded(world, KINDS[kind](world), tmp_path / "r.jsonl")
    replayed = verify_record(world.ref, tmp_path / "r.jsonl")
    same(verdict, replayed.verdict)
    wanted = {"module": "piracy", "honest": "independent", "nan": "invalid", "fails": "invalid"}
    assert verdict.decision == wanted.get(kind, verdict.decision)
    assert is_record(tmp_path / "r.jsonl")
    if kind == "asked wrongly":
        assert verdict.queries_used > world.reference.plan.queries


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_holds_queries_by_hash_and_answers_as_they_came(world, tmp_path):
    for dtype, name in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16"), (torch.int32, "int32")):
        asked = []

        def answer(x: torch.Tensor, dtype: torch.dtype = dtype, asked: list = asked) -> torch.Tensor:
            asked.append(x.clone())
            out = world.honest(x)
            return (out.argmax(-1) if dtype == torch.int32 else out).to(dtype)

        recorded(world, answer, tmp_path / "r.jsonl")
        first, *rows, end = lines(tmp_path / "r.jsonl")
        images = torch.cat(asked)
        assert [row["query"] for row in rows] == [query_sha256(x) for x in images]
        assert [row["i"] for row in rows] == list(range(len(images)))
        assert {row["dtype"] for row in rows} == {name}
        was = world.honest(images)
        was = (was.argmax(-1) if dtype == torch.int32 else was).to(dtype)
        # the same in every bit, although another batch may round the last one of float32
        got = torch.tensor([row["answer"] for row in rows], dtype=torch.float64).to(dtype)
        assert got.dtype == dtype and torch.allclose(got.double(), was.double(), atol=0.05)
        assert first["reference_sha256"] == world.reference.sha256 and first["alpha"] == 0.001
        assert end["end"]["answers"] == len(rows) and end["end"]["error"] is None


def test_a_part_of_recorded_answers_is_recorded_as_that_part(world, tmp_path):
    write_queries(world.reference, tmp_path / "q")
    with np.load(tmp_path / "q" / "queries.npz") as found:
        ids, x = found["id"], torch.as_tensor(found["x"])
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    draw = np.random.default_rng(0).permutation(len(ids))[: int(len(ids) * 0.8)]
    np.savez(tmp_path / "a.npz", id=ids[draw], logits=world.copy(x[draw]).numpy())
    with Recorder(tmp_path / "r.jsonl") as record:
        verdict = verify_recorded(world.reference, tmp_path / "a.npz", record=record)
    assert "are not answered" in " ".join(verdict.reasons)
    same(verdict, verify_record(world.reference, tmp_path / "r.jsonl").verdict)


def test_a_class_order_is_kept(world, tmp_path):
    order = [(3 * k + 1) % 10 for k in range(10)]
    verdict = recorded(
        world, lambda x: world.copy(x)[:, np.argsort(order)], tmp_path / "r.jsonl", class_order=order
    )
    assert verdict.decision == "piracy"
    same(verdict, verify_record(world.reference, tmp_path / "r.jsonl").verdict)


# -- endpoints -------------------------------------------------------------------------------------
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
    from uapfast.suspects.http_headers import Covered, Headers

    monkeypatch.setenv("UAPFAST_TEST_TOKEN", SECRET)
    headers = Headers({"Authorization": "${UAPFAST_TEST_TOKEN}"})
    x = torch.zeros(2, 1, 8, 8)
    with Recorder(tmp_path / "r") as record:
        record.start(world.reference.sha256, {})
        record.asked(x)
        Covered(record, headers).row(0, f"a {SECRET} b")
        Covered(record, headers).row(1, ((f"{SECRET}", 0.5), (3, 0.25)))
        record.end((), None)
    assert SECRET not in (tmp_path / "r").read_text()
    assert [row["answer"] for row in lines(tmp_path / "r")[1:3]] == ["a *** b", [["***", 0.5], [3, 0.25]]]


# -- bad input -------------------------------------------------------------------------------------
def test_a_record_that_is_cut_short_or_changed_is_refused_and_named(world, tmp_path):
    whole = tmp_path / "whole.jsonl"
    recorded(world, world.honest, whole)
    data = whole.read_bytes()
    rows = data.splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    for size in (
        0,
        1,
        len(rows[0]) - 1,
        len(rows[0]),
        len(data) // 2,
        len(data) - len(rows[-1]),
        len(data) - 1,
    ):
        cut.write_bytes(data[:size])
        with pytest.raises(RecordError, match=r"record cut.jsonl: .* must be .*, got"):
            verify_record(world.reference, cut)
    bad = {
        "one answer less": b"".join([*rows[:5], *rows[6:]]),
        "twice": b"".join([*rows[:6], rows[5], *rows[6:]]),
        "more after the end": data + b"{}\n",
        "no object": b"".join([rows[0], b"[1]\n", *rows[1:]]),
        "version": data.replace(b'"version":2', b'"version":3', 1),
        "looks": data.replace(b'"looks":[6]', b'"looks":[7]', 1),
        "replay": data.replace(b'"replay":"model"', b'"replay":"eval"', 1),
        "dtype": data.replace(b'"dtype":"float32"', b'"dtype":"load"', 1),
        "swapped": b"".join([*rows[:3], swapped(rows[3], 3), swapped(rows[4], 2), *rows[5:]]),
        "ragged": data.replace(b'"answer":[', b'"answer":[1.0,', 1),
    }
    for what, changed in bad.items():
        assert changed != data, what
        cut.write_bytes(changed)
        with pytest.raises(RecordError, match=r"record cut.jsonl: "):
            verify_record(world.reference, cut)
    with pytest.raises(RecordError, match="existing plain file"):
        verify_record(world.reference, tmp_path)


def swapped(row: bytes, place: int) -> bytes:
    """The row with another place."""
    one = json.loads(row)
    return json.dumps(one | {"i": place}, separators=(",", ":")).encode() + b"\n"


def test_answers_to_another_reference_are_refused(world, tmp_path):
    import dataclasses

    recorded(world, world.honest, tmp_path / "r.jsonl")
    other = dataclasses.replace(world.reference, settings={"another": 1}, _cache={})
    with pytest.raises(RecordError, match="reference must be .* as it was asked for, got"):
        verify_record(other, tmp_path / "r.jsonl")


def test_another_level_decides_on_the_same_answers(world, tmp_path):
    recorded(world, world.copy, tmp_path / "r.jsonl")
    verdict = verify_record(world.reference, tmp_path / "r.jsonl", alpha=1e-6).verdict
    assert verdict.decision == "inconclusive" and verdict.alpha == 1e-6


def test_nothing_is_left_of_an_examination_that_breaks_off(world, tmp_path):
    def answer(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(world, answer, tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(uapfast.errors.StorageError, match="existing one"):
        recorded(world, world.honest, tmp_path / "none" / "r.jsonl")


def test_on_the_command_line(world, tmp_path, capsys):
    record = tmp_path / "r.jsonl"
    arguments = ["verify", str(world.ref), str(world.files["copy"]), "--arch", MLP, "--json"]
    assert main([*arguments, "--record", str(record)]) == 1
    first = json.loads(capsys.readouterr().out)
    assert main(["verify", str(world.ref), "--answers", str(record), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == first
    probes = world.reference.probes
    found = read_record(record, world.reference.plan.queries + (0 if probes is None else len(probes)))
    assert (
        found.suspect["subject"]["name"] == "copy.safetensors"
        and len(found.suspect["subject"]["digest"]) == 2
    )
    assert main(["verify", str(world.ref), "--answers", str(record), "--class-order", "1,0"]) == 2
    assert "--class-order must be left out with a record" in capsys.readouterr().err
    assert main([*arguments, "--record", str(world.ref)]) == 2  # never over another file
    assert "of the record alone, got the place of the reference" in capsys.readouterr().err
    bad = tmp_path / "nan.safetensors"
    from safetensors.torch import save_file

    save_file({k: torch.full_like(v, torch.nan) for k, v in world.copy.state_dict().items()}, bad)
    asked = ["verify", str(world.ref), str(bad), "--arch", MLP, "--json", "--record", str(record)]
    assert main([*asked, "--overwrite"]) == 4
    first = json.loads(capsys.readouterr().out)
    assert main(["verify", str(world.ref), "--answers", str(record), "--json"]) == 4
    assert json.loads(capsys.readouterr().out) == first


# -- screens ---------------------------------------------------------------------------------------
def test_a_screen_records_every_suspect_it_asks(world, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder, records = tmp_path / "suspects", tmp_path / "records"
    folder.mkdir()
    for name in ("copy", "honest"):
        shutil.copy(world.files[name], folder / f"{name}.safetensors")
    shutil.copy(world.files["copy"], folder / "again.safetensors")  # asked once
    huge = {k: 1e38 * torch.ones_like(v) for k, v in world.copy.state_dict().items()}
    save_file(huge, folder / "nan answers.safetensors")  # weights are finite, its answers are not
    screening = uapfast.screen(
        world.ref, folder, arch=MLP, out=tmp_path / "t.parquet", record=records, workers=2
    )
    with screening:
        rows = {Path(row.name).stem: row for row in screening}
        screening.finish()
    made = sorted(records.iterdir())
    assert len(made) == 3 and all(is_record(path) for path in made)
    for path in made:
        verdict, recording = verify_record(world.ref, path)
        row = rows[Path(recording.suspect["name"]).stem]
        for name in ("decision", "p_value", "similarity", "z", "views_used", "queries_used", "agreement"):
            assert getattr(row, name) == getattr(verdict, name), name
        assert row.sha256 == verdict.suspect_sha256 == recording.suspect["subject"]["digest"]["tensorsSha256"]
    assert {rows[n].decision for n in ("copy", "again")} == {"piracy"} and rows["honest"].views_used < 6
    assert rows["nan answers"].decision == "invalid"
    with pytest.raises(uapfast.errors.InputError, match="record must be left out with another engine"):
        uapfast.screen(world.ref, folder, arch=MLP, record=records, engine="ray")


@pytest.mark.needs("httpx2", "stamina", "onnx", "onnxruntime")
def test_a_screen_records_endpoints_as_verify_does(world, tmp_path):
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    with servers.Server(servers.oip, servers.Served(world.copy)) as server:
        url = f"{server.url}/v2/models/digits"
        manifest = tmp_path / "m.csv"
        manifest.write_text(f"path,kind,name\n{url},endpoint,served\n")
        out, records = tmp_path / "t.parquet", tmp_path / "records"
        assert main(["screen", str(world.ref), "--manifest", str(manifest), "--endpoints", "--out", str(out),
                     "--record", str(records), "--workers", "1"]) == 1  # fmt: skip
    (path,) = records.iterdir()
    verdict, recording = verify_record(world.ref, path)
    assert verdict.decision == "piracy" and path.name.startswith("served-")
    assert set(recording.suspect["subject"]["digest"]) == {"urlSha256", "endpointSha256"}


HOSTILE = [None, True, -1, 7, 1e300, "", "x" * 50, [], [None], [[]], {}, {"a": 1}, [-1, 5, 5]]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of everything in a JSON value."""
    below = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    return [path, *(p for key, one in below for p in places(one, (*path, key)))]


def with_value(whole: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    out = copy.deepcopy(whole)
    at = out
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return out


def test_a_hostile_record_is_a_typed_error_or_a_verdict(world, tmp_path):
    """Whatever stands in it; it is the other side that hands it in."""
    recorded(world, lambda x: (100 * softmax(x, world.honest)).round(), tmp_path / "r.jsonl")
    rows, bad = lines(tmp_path / "r.jsonl"), tmp_path / "bad.jsonl"
    refused = 0
    for number in (0, 3, len(rows) - 1):
        for path in places(rows[number]):
            for value in HOSTILE:
                changed = [*rows]
                changed[number] = with_value(rows[number], path, value)
                text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in changed)
                bad.write_text(text)
                try:
                    verify_record(world.reference, bad)
                except UapfastError:
                    refused += 1
    assert refused > 100


@pytest.mark.parametrize("output", ["probabilities", "labels", "logits"])
def test_a_suspect_that_was_asked_before_is_read_as_it_was_then(world, output, tmp_path):
    """A screen asks one suspect for several references: how its first answers are read holds for all."""

    def answer(x: torch.Tensor) -> torch.Tensor:
        out = softmax(x, world.copy)
        return {"probabilities": (100 * out).round(), "labels": out.argmax(-1), "logits": out.log()}[output]

    suspect = open_callable(answer)
    uapfast.verify(world.reference, suspect)
    verdict = recorded(world, suspect, tmp_path / "r.jsonl")
    assert lines(tmp_path / "r.jsonl")[0]["suspect"]["settings"]["read"]["kind"] == output
    same(verdict, verify_record(world.reference, tmp_path / "r.jsonl").verdict)


def test_a_record_with_more_than_such_answers_is_refused(world, tmp_path):
    recorded(world, world.honest, tmp_path / "r.jsonl")
    rows = (tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)
    more, bad = json.loads(rows[1]), tmp_path / "bad.jsonl"
    extra = [line_of({**more, "i": 1000 + i}) for i in range(400)]
    bad.write_bytes(b"".join([*rows[:-1], *extra, rows[-1]]))
    with pytest.raises(RecordError, match="answers must be at most"):
        verify_record(world.reference, bad)
    wide = json.dumps({**more, "answer": [0.5] * 3_000_000}).encode() + b"\n"
    bad.write_bytes(b"".join([rows[0], wide, *rows[2:]]))
    with pytest.raises(RecordError, match="line 2 must be at most"):
        verify_record(world.reference, bad)
    failed = b'{"failed":{"request":1,"attempt":1,"at":"","status":500,"images":1}}\n'
    bad.write_bytes(b"".join([*rows[:-1], failed * 5000, rows[-1]]))  # a server that often failed
    assert verify_record(world.reference, bad).recording.failed == 5000
