"""Records that are cut short, changed, of another reference or hostile."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.api.evidence_world import World
from tests.api.recording import lines, recorded, softmax
from uapfast.errors import RecordError, UapfastError
from uapfast.suspects.record_writer import line_of
from uapfast.verbs.replay import verify_record


@pytest.fixture(scope="session")
def world(evidence_world: World) -> World:
    return evidence_world


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
