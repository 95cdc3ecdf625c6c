"""What a list does to p-values: q as SciPy has it, Holm, known copies that change nothing, lists that do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uapfast.errors import ManifestError
from uapfast.screening.listing.entry import Entry
from uapfast.screening.listing.history import says
from uapfast.screening.listing.manifest import from_manifest
from uapfast.screening.table.correction import counted, holm, q_values
from uapfast.screening.table.export import export, finished_rows, summarise
from uapfast.screening.table.population import compare_with_pool
from uapfast.screening.table.rows import About, Row
from uapfast.screening.table.store import Store

ALPHA = 1e-3
NET = "uapfast:mlp-small?size=8"
levels = st.sampled_from([1e-6, 1e-4, 5e-4, 1e-3, 2e-3, 0.04, 0.5, 1.0])  # with ties, on both sides of alpha
lists = st.lists(st.tuples(levels, st.sampled_from(["a", "b", "c", None])), min_size=1, max_size=12)


@given(st.lists(levels, min_size=1, max_size=30))
@settings(deadline=None)
def test_of_different_files_q_is_scipys(p):
    assert q_values(p, 1.0) == pytest.approx(list(stats.false_discovery_control(p)))


def test_holm_is_holms():
    # Holm (1979), by hand: .01 of 4, .02 of 3, .03 of 2 (raised to the one before it), .04
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.01, 0.01]) == pytest.approx([0.02, 0.02]) and holm([]) == []
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([0.01], references=3) == pytest.approx([0.03])


@given(lists, st.lists(levels, min_size=1, max_size=8))
@settings(deadline=None)
def test_padding_a_list_with_known_copies_changes_nobodys_numbers(rows, copies):
    p, same = [r[0] for r in rows], [r[1] for r in rows]
    padded, known = p + copies, [False] * len(p) + [True] * len(copies)
    content = same + [f"copy {i}" for i in range(len(copies))]
    assert q_values(padded, ALPHA, content, known)[: len(p)] == q_values(p, ALPHA, same)
    assert holm(padded, content, known)[: len(p)] == holm(p, same)
    assert counted(padded, content, known) == counted(p, same)


@given(lists, levels)
@settings(deadline=None)
def test_being_known_gives_no_better_number_than_a_place_on_the_list(rows, own):
    p, same = [r[0] for r in rows], [r[1] for r in rows]
    last = [*p, own], [*same, "another"], [False] * len(p) + [True]
    assert q_values(last[0], ALPHA, *last[1:])[-1] == pytest.approx(q_values(last[0], ALPHA, last[1])[-1])
    assert holm(*last)[-1] == pytest.approx(holm(*last[:2])[-1])


@given(lists, st.data())
@settings(deadline=None)
def test_rows_of_one_file_never_lower_anothers_number(rows, data):
    """Neither the same answers again nor the same file asked in further ways."""
    p, same = [r[0] for r in rows], [r[1] for r in rows]
    which = data.draw(st.integers(0, len(rows) - 1))
    what = same[which]
    if what is None:
        return
    more = data.draw(st.lists(levels.filter(lambda x: x >= min(v for v, s in rows if s == what)), max_size=6))
    longer = p + more, same + [what] * len(more)
    for now, before in (
        (q_values(longer[0], ALPHA, longer[1]), q_values(p, ALPHA, same)),
        (holm(*longer), holm(p, same)),
    ):
        assert all(a >= b - 1e-12 for a, b in zip(now, before, strict=False))
    again = p + [p[which]] * 5, same + [what] * 5
    assert q_values(again[0], ALPHA, again[1])[: len(p)] == q_values(p, ALPHA, same)


def test_of_lists_of_honest_models_as_few_as_said_have_anybody_below_holms():
    rng = np.random.default_rng(0)
    named = [min(holm(list(rng.random(200)))) <= 0.05 for _ in range(2000)]
    assert 0.03 < np.mean(named) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    # many copies beside them let q pass where Holm does not
    p = [1e-6] * 100 + list(rng.random(100)) + [0.02]
    assert q_values(p, 0.05)[-1] < 0.05 < holm(p)[-1]


# -- lists in a store ------------------------------------------------------------------------------
def made(suspect: Entry, p: float, sha256: str | None = None) -> list[Row]:
    return [
        Row(
            reference="r", reference_sha256="r", name=suspect.name, path=suspect.shown, arch=suspect.arch,
            sha256=sha256 or suspect.name, decision="piracy" if p <= ALPHA else "independent", alpha=ALPHA,
            settings="{}", versions="{}", queries_full=10, p_value=p,
        )
    ]  # fmt: skip


SUSPECTS = [Entry(f"/nowhere/{i}.pt", NET) for i in range(12)]
ABOUT = About("r", 30, ALPHA, "the victim's")


def run(path: Path, listed: list[Entry], p: dict[str, float], **how):
    """Rows by name, and what the screen came to."""
    with Store(path, {"r": "s"}, **how) as store:
        store.set_plan(listed)
        pending = [s for s, _ in store.pending()]
        store.add([(s, s.stamp(), made(s, p[s.name])) for s in pending])
        summary = summarise(store, {"r": ABOUT}, 1.0)
        rows = list(finished_rows(store, "r", ABOUT, compare_with_pool(np.zeros(0), 30), 1.0))
    return {r.name: r for r in rows}, summary


P = {s.name: 0.5 for s in SUSPECTS} | {"0.pt": 1e-4}


def test_the_list_is_fixed_before_anybody_is_asked_and_another_one_says_so(tmp_path):
    with Store(tmp_path / "s", {"r": "s"}) as store:
        store.set_plan(SUSPECTS[:8])
        (first,) = store.lists()
        assert (first.suspects, first.known, first.added, first.gone, first.counted) == (8, 0, 8, 0, None)
    _, summary = run(tmp_path / "s", SUSPECTS[7::-1], P)  # in another order: the same list
    (same,) = summary.lists
    assert same == replace(first, counted=8) and len(says(summary.lists)) == 1
    rows, summary = run(tmp_path / "s", SUSPECTS[:3] + SUSPECTS[8:], P)
    last = summary.lists[-1]
    assert len(summary.lists) == 2 and (last.added, last.gone, last.suspects) == (4, 5, 7)
    told = says(summary.lists)[1]
    assert "4 added, 5 gone" in told and "corrected for 12 suspects, 8 before" in told
    assert summary.corrections["r"].counted == 12 and summary.corrections["r"].taken_off == 5
    assert rows["0.pt"].p_holm == pytest.approx(12e-4)  # five honest rows less, and no smaller number for it
    assert "taken off the list, which count still: 5" in " ".join(summary.of_the_list())
    _, summary = run(tmp_path / "s", SUSPECTS[:2], P, resume=False)
    assert len(summary.lists) == 1 and summary.corrections["r"].counted == 2


def test_whoever_is_declared_a_copy_after_it_was_asked_counts_on(tmp_path):
    rows, _ = run(tmp_path / "s", SUSPECTS[:4], P)
    assert rows["0.pt"].p_holm == pytest.approx(4e-4)
    late = [SUSPECTS[0], *(replace(s, known_copy=True) for s in SUSPECTS[1:4])]
    rows, summary = run(tmp_path / "s", late, P)
    assert rows["0.pt"].p_holm == pytest.approx(4e-4) and summary.corrections["r"].counted == 4
    assert len(summary.lists) == 2


def test_who_is_picked_out_of_declared_copies_is_corrected_for_all_of_them(tmp_path):
    """Else honest models could be asked as copies, counted for nobody, and the nearest be named alone."""
    declared = [replace(s, known_copy=True) for s in SUSPECTS]
    _, summary = run(tmp_path / "s", declared, P)
    assert summary.corrections["r"].counted == 0
    rows, summary = run(tmp_path / "s", SUSPECTS[:1], P)  # the others leave the list
    assert rows["0.pt"].p_holm == pytest.approx(12e-4) and summary.corrections["r"].counted == 12
    rows, _ = run(tmp_path / "s", [SUSPECTS[0], *declared[1:]], P)  # or stay on it
    assert rows["0.pt"].p_holm == pytest.approx(12e-4)


def test_what_a_file_held_before_it_was_replaced_counts_on(tmp_path):
    file, counted = Entry(str(tmp_path / "0.pt"), NET), []
    for content, p in ((b"a", 0.5), (b"bb", 0.3), (b"bb", 0.3), (b"ccc", 1e-4)):
        Path(file.path).write_bytes(content)
        with Store(tmp_path / "s", {"r": "s"}) as store:
            store.set_plan([file])
            store.add([(file, file.stamp(), made(file, p, content.hex()))])
            counted.append(summarise(store, {"r": ABOUT}, 1.0).corrections["r"].counted)
            (row,) = finished_rows(store, "r", ABOUT, compare_with_pool(np.zeros(0), 30), 1.0)
    assert counted == [1, 2, 2, 3] and row.p_holm == pytest.approx(3e-4)


def again(path: Path, p: dict[str, float], settings: str, reference: str = "r"):
    """Everybody asked at another level, or for another reference, in a store that is kept."""
    with Store(path, {reference: settings}) as store:
        store.set_plan(SUSPECTS)
        assert [s for s, _ in store.pending()] == SUSPECTS
        store.add(
            [
                (s, s.stamp(), [replace(r, reference_sha256=reference) for r in made(s, p[s.name])])
                for s in SUSPECTS
            ]
        )
        summary = summarise(store, {reference: ABOUT}, 1.0)
        rows = list(finished_rows(store, reference, ABOUT, compare_with_pool(np.zeros(0), 30), 1.0))
    return rows[0], summary


def test_another_level_or_budget_is_another_try_of_whoever_it_changes(tmp_path):
    run(tmp_path / "s", SUSPECTS, P)
    row, summary = again(tmp_path / "s", P, "another level, where no p changes")
    assert summary.corrections["r"].tries == 0 and row.p_holm == pytest.approx(12e-4)
    changed = {name: 0.4 for name in P} | {"0.pt": 5e-5}
    row, summary = again(tmp_path / "s", changed, "another budget")
    found = summary.corrections["r"]
    assert (found.counted, found.tries, found.taken_off) == (24, 12, 0)
    # 24 tries, and the earlier 1e-4 of the same file supports nobody: 24 x 5e-5, of one thing
    assert row.p_holm == pytest.approx(12e-4) and row.q_value == pytest.approx(12e-4)
    assert "at another level, budget or version, which count as well: 12" in " ".join(summary.of_the_list())
    with Store(tmp_path / "s", {"r": "s"}) as store:  # back at the first one nothing is forgotten
        store.set_plan(SUSPECTS[:1])
        (row,) = finished_rows(store, "r", ABOUT, compare_with_pool(np.zeros(0), 30), 1.0)
    assert row.p_holm == pytest.approx(23e-4)


def test_tries_support_nobody():
    tried = [(1e-6, f"copy {i}") for i in range(50)]
    (q,), (more,) = q_values([1e-3], ALPHA, ["a"], None), q_values([1e-3], ALPHA, ["a"], None, tried)
    assert (q, more) == (1e-3, pytest.approx(51e-3)) and counted([1e-3], ["a"], None, tried) == 51


def test_another_reference_in_the_store_multiplies(tmp_path):
    run(tmp_path / "s", SUSPECTS, P)
    row, summary = again(tmp_path / "s", P, "s", "of another victim")
    assert summary.corrections["of another victim"].references == 2
    assert row.p_holm == pytest.approx(2 * 12e-4)


def test_declared_copies_and_the_victims_own_tensors_are_no_suspects(tmp_path):
    copies = [replace(s, known_copy=True) for s in SUSPECTS[4:8]]
    p = P | {s.name: 1e-4 for s in copies}
    with Store(tmp_path / "s", {"r": "s"}) as store:
        store.set_plan(SUSPECTS[:4] + copies + SUSPECTS[8:9])
        store.add([(s, "-", made(s, p[s.name])) for s in SUSPECTS[:4] + copies])
        store.add([(SUSPECTS[8], "-", made(SUSPECTS[8], 1e-4, ABOUT.victim))])
        summary = export(store, tmp_path / "t.parquet", {"r": ABOUT}, 0.05)
        rows = list(finished_rows(store, "r", ABOUT, compare_with_pool(np.zeros(0), 30), 0.05))
    assert [r.known_copy for r in rows] == [None] * 4 + ["declared"] * 4 + ["victim"]
    alone, _ = run(tmp_path / "alone", SUSPECTS[:4], P)
    assert [(r.q_value, r.p_holm) for r in rows[:4]] == [(r.q_value, r.p_holm) for r in alone.values()]
    assert summary.corrections["r"].counted == 4 and summary.corrections["r"].known == 5
    assert rows[4].reasons[0].startswith("the list declares it a copy") and rows[4].q_value is not None
    assert summary.corrections["r"].by_chance == pytest.approx(4e-3)
    assert "0.004 of them would be expected at or below the level 0.001" in summary.of_the_list()[1]


def test_a_manifest_declares_copies(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"path,arch,known_copy\na.pt,{NET},yes\nb.pt,{NET},\n")
    assert [s.known_copy for s in from_manifest(path)] == [True, False]
    path.write_text(f"path,arch,known_copy\na.pt,{NET},perhaps\n")
    with pytest.raises(ManifestError, match="known_copy must be yes, or empty, got 'perhaps'"):
        list(from_manifest(path))
