"""The store: whole rows or none, resumed after a kill at any point, typed errors for a full disk."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uapfast.errors import ManifestError, StorageError
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import SCHEMA_VERSION, Row
from uapfast.screening.table.store import Store

NET = "uapfast:mlp-small?size=8"
REFERENCES = {"r1": "s", "r2": "s"}


def suspects(count: int, folder: str = "/nowhere") -> list[Entry]:
    return [Entry(f"{folder}/{i}.pt", NET) for i in range(count)]


def rows(suspect: Entry, **fields) -> list[Row]:
    given = {"sha256": suspect.name, "decision": "independent", "alpha": 0.001, "p_value": 0.5} | fields
    return [
        Row(
            reference=r, reference_sha256=r, name=suspect.name, path=suspect.shown, arch=suspect.arch,
            settings="{}", versions="{}", queries_full=10, **given,
        )
        for r in REFERENCES
    ]  # fmt: skip


def open_store(path: Path, **given) -> Store:
    return Store(path, REFERENCES, **given)


def test_rows_come_back_as_they_were(tmp_path):
    some = suspects(3)
    with open_store(tmp_path / "s") as store:
        assert store.set_plan(some) == 3
        kept = {
            s.name: rows(s, z=float(i), reasons=("a", "b"), p_value=0.1 + 1e-17) for i, s in enumerate(some)
        }
        store.add([(s, s.stamp(), kept[s.name]) for s in reversed(some)])
        assert [r for r in store.rows("r2")] == [kept[s.name][1] for s in some]
        assert store.counts() == (3, 3)
        assert [n.position for n in store.numbers("r1")] == [0, 1, 2]


def test_no_query_reads_or_sorts_all_rows_for_one_suspect(tmp_path):
    """What costs a scan for each suspect is quadratic in the end; a sort holds what should stream."""
    some, asked = suspects(4), set()
    with open_store(tmp_path / "s") as store:
        store.set_plan(some)
        store._db.set_trace_callback(asked.add)
        store.add([(some[0], "-", rows(some[0]))])
        list(store.pending()), list(store.numbers("r1")), list(store.rows("r2"))
        assert store.same_tensors(some[0], "0.pt") is not None and store.same_tensors(some[0], "x") is None
        store._db.set_trace_callback(None)
        selects = [q for q in asked if q.startswith("SELECT")]
        plans = {q: store._db.execute(f"EXPLAIN QUERY PLAN {q}").fetchall() for q in selects}
    assert len(selects) >= 6
    for query, plan in plans.items():
        said = "; ".join(step[3] for step in plan)
        assert "B-TREE" not in said and "SCAN rows" not in said, (query, said)
        if "sha256 =" in query:
            assert "by_content (sha256=? AND network=? AND reference=? AND settings=?)" in said
        elif "rows" in query:
            assert "rows USING PRIMARY KEY (reference=? AND suspect=? AND settings=?)" in said, (query, said)


def test_only_what_is_missing_is_pending(tmp_path):
    some = suspects(600)  # more than one page
    with open_store(tmp_path / "s") as store:
        store.set_plan(some)
        store.add([(s, "-", rows(s)) for s in some[::2]])
    with open_store(tmp_path / "s") as store:
        store.set_plan(some)
        assert [s for s, _ in store.pending()] == some[1::2]
        assert store.counts() == (600, 300)
    with Store(tmp_path / "s", REFERENCES | {"r2": "other settings"}) as store:
        assert len(list(store.pending())) == 600
    with Store(tmp_path / "s", REFERENCES | {"r3": "s"}) as store:
        assert len(list(store.pending())) == 600
    with open_store(tmp_path / "s", resume=False) as store:
        store.set_plan(some)
        assert len(list(store.pending())) == 600


def test_a_replaced_file_is_asked_again(tmp_path):
    (tmp_path / "0.pt").write_bytes(b"x")
    (one,) = suspects(1, str(tmp_path))
    with open_store(tmp_path / "s") as store:
        store.set_plan([one])
        store.add([(one, one.stamp(), rows(one))])
        assert not list(store.pending())
        (tmp_path / "0.pt").write_bytes(b"other")
        assert [s for s, _ in store.pending()] == [one]
        store.add([(one, one.stamp(), rows(one, z=2.0))])
        assert [r.z for r in store.rows("r1")] == [2.0]


def test_a_suspect_listed_twice_is_asked_once_and_shown_twice(tmp_path):
    one = Entry("/nowhere/0.pt", NET)
    twin = replace(one, name="again")
    with open_store(tmp_path / "s") as store:
        store.set_plan([one, twin])
        assert [s.name for s, _ in store.pending()] == ["0.pt"]
        store.add([(one, "-", rows(one))])
        assert [r.name for r in store.rows("r1")] == ["0.pt", "again"]
        assert store.counts() == (2, 2)


def test_the_same_tensors_are_found_for_every_reference_or_not_at_all(tmp_path):
    one, other = suspects(2)
    with open_store(tmp_path / "s") as store:
        store.add([(one, "-", rows(one, sha256="abc")[:1])])
        assert store.same_tensors(other, "abc") is None
        store.add([(one, "-", rows(one, sha256="abc"))])
        found = store.same_tensors(other, "abc")
        assert found is not None and [r.reference for r in found] == list(REFERENCES)
        assert store.same_tensors(replace(other, arch="uapfast:cnn-small"), "abc") is None
        store.add([(one, "-", rows(one, sha256="bad", error_class="ModelError", decision="invalid"))])
        assert store.same_tensors(other, "bad") is None


def test_a_plan_that_breaks_off_leaves_the_old_one(tmp_path):
    def broken():
        yield from suspects(5)
        raise ManifestError("screen", "manifest", "whole", "half of one")

    with open_store(tmp_path / "s") as store:
        store.set_plan(suspects(2))
        with pytest.raises(ManifestError):
            store.set_plan(broken())
        assert store.counts() == (2, 0)


def test_a_store_in_use_is_refused(tmp_path):
    with open_store(tmp_path / "s"), pytest.raises(StorageError, match="another process"):
        open_store(tmp_path / "s")
    open_store(tmp_path / "s").close()


def test_foreign_damaged_and_newer_files_are_refused_and_left_alone(tmp_path):
    foreign = tmp_path / "foreign"
    with closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE mine(x)")
    with pytest.raises(StorageError, match="another database"):
        open_store(foreign, resume=False)
    with closing(sqlite3.connect(foreign)) as db:
        assert db.execute("SELECT count(*) FROM mine").fetchone() == (0,)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign"]
    (tmp_path / "text").write_text("no database at all" * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_store(tmp_path / "text")
    open_store(tmp_path / "newer").close()
    with closing(sqlite3.connect(tmp_path / "newer")) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StorageError, match=f"version {SCHEMA_VERSION}, got 99"):
        open_store(tmp_path / "newer")
    with pytest.raises(StorageError):
        open_store(tmp_path / "no folder" / "s")


def test_a_full_disk_is_a_typed_error_and_what_was_written_stays(tmp_path):
    some = suspects(2000)
    with open_store(tmp_path / "s") as store:
        store.set_plan(some)
        store.add([(s, "-", rows(s)) for s in some[:10]])
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count={pages + 4}")
        with pytest.raises(StorageError, match="full"):
            store.add([(s, "-", rows(s)) for s in some])
        assert store.counts() == (2000, 10)
        store._db.execute("PRAGMA max_page_count=1000000")
        store.add([(s, "-", rows(s)) for s in some[:20]])
    with open_store(tmp_path / "s") as store:
        assert store.counts() == (2000, 20)


def write(path: Path, started: Any, limit: int | None = None) -> None:
    """What a run does to its store, in a process of its own."""
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    some = suspects(400)
    try:
        with open_store(path) as store:
            store.set_plan(some)
            todo = [s for s, _ in store.pending()]
            started.set()
            for i in range(0, len(todo), 5):
                store.add([(s, "-", rows(s, z=float(s.name[:-3]))) for s in todo[i : i + 5]])
    except StorageError:
        os._exit(2)
    os._exit(0)


def writer(path: Path, limit: int | None = None) -> tuple[Any, Any]:
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    process = fork.Process(target=write, args=(path, started, limit))
    process.start()
    assert started.wait(30)
    return process, started


def finish(path: Path, limit: int | None = None) -> int:
    process, _ = writer(path, limit)
    process.join(60)
    assert process.exitcode is not None
    return int(process.exitcode)


def test_killed_at_random_points_no_row_is_lost_double_or_half(tmp_path):
    chance = random.Random(0)
    kills = 0
    for _ in range(40):
        process, _ = writer(tmp_path / "s")
        time.sleep(chance.uniform(0.0, 0.006))  # all of it takes some 50 ms
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        kills += 1
    assert kills >= 5
    assert finish(tmp_path / "s") == 0
    with open_store(tmp_path / "s") as store:
        assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.counts() == (400, 400)
        for reference in REFERENCES:
            assert [r.z for r in store.rows(reference)] == [float(i) for i in range(400)]


def test_a_file_size_limit_is_a_typed_error_and_a_rerun_goes_on(tmp_path):
    assert finish(tmp_path / "s", 400_000) == 2
    with open_store(tmp_path / "s") as store:
        total, done = store.counts()
        assert total == 400 and 0 < done < 400
    assert finish(tmp_path / "s") == 0
    with open_store(tmp_path / "s") as store:
        assert store.counts() == (400, 400)


def test_names_that_are_no_text_are_kept(tmp_path):
    odd = Entry(os.fsdecode(b"/nowhere/\xff.pt"), NET)
    with open_store(tmp_path / "s") as store:
        store.set_plan([odd])
        assert [s for s, _ in store.pending()] == [odd]
        store.add([(odd, "-", rows(odd))])
        assert [r.name for r in store.rows("r1")] == ["\\udcff.pt"]


def test_what_rests_on_a_refuted_network_goes_with_its_copies_and_is_known_ever_after(tmp_path):
    some = suspects(4)
    other = Entry("/nowhere/x.pt", "uapfast:cnn-small?size=8")
    with open_store(tmp_path / "s") as store:
        store.set_plan([*some, other])
        network = next(s for s, _ in store.pending()).network
        kept = [(s, s.stamp(), rows(s, sha256="same" if i > 1 else s.name)) for i, s in enumerate(some)]
        store.add([*kept[:3], (other, other.stamp(), rows(other, sha256="same"))], [(network, "same")])
        store.add(kept[3:])  # the same tensors, adopted later
        assert store.counts() == (5, 5) and store.refuted() == frozenset()
        assert store.refute(network) == 2 * len(REFERENCES)
        assert [s.name for s, _ in store.pending()] == ["2.pt", "3.pt"]
        assert store.refute(network) == 0
    with open_store(tmp_path / "s") as store:
        assert store.refuted() == {network}
    with open_store(tmp_path / "s", resume=False) as store:
        store.set_plan(some)
        assert store.refuted() == frozenset()


def test_rows_of_other_code_are_pending_and_counted(tmp_path):
    (one, two) = suspects(2)
    with open_store(tmp_path / "s") as store:
        store.set_plan([one, two])
        store.add((s, s.stamp(), rows(s)) for s in (replace(one, code="old"), two))
        assert [s for s, _ in store.pending()] == [one] and store.recoded == len(REFERENCES)
        assert store.same_tensors(two, two.name) and store.same_tensors(one, one.name) is None
