"""The table of silent wrong verdicts as Markdown: one column, or before and after."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.field.causes import COPIES, Row, counts, known_copies, names_cause, wrong
from benchmarks.field.ways import WAYS
from benchmarks.field.worlds import EPOCHS, FURTHER, HOMOLOGOUS, POOLS

COMMAND = "python -m benchmarks.field --out DIR"
GROUPS: dict[str, tuple[str, ...]] = {
    "exact copies acquitted": COPIES[:1],
    "other copies acquitted": COPIES[1:],
    "honest models accused": ("honest",),
    "honest fine-tunings, and the backbone itself, accused": ("sibling", "backbone"),
    "garbage convicted": ("garbage",),
}
ACQUITTED = {"copy": "C", "tuned": "T", "pruned": "P", "soft student": "S", "hard student": "H"}
ACCUSED = {"i": ("honest",), "f": ("sibling", "backbone"), "g": ("garbage",)}
OUTCOMES = ("piracy", "inconclusive", "independent", "invalid", "refused", "raised", "crashed")
WHAT = """
**Silent and wrong** is: an honest model or garbage gets `piracy`, whatever the reasons say; or an exact copy,
or another copy that some sound pool of the same victim convicts when asked rightly, gets `independent` and no
reason names the cause (by the words listed in `causes.py`). `invalid`, `inconclusive` and errors are not
silent. One task, two victims: the table finds faults, it does not measure rates for other tasks.
"""
RIGHTLY = "What the repair must not cost: verdicts on suspects that were asked as they should be."
LETTERS = """
Silent and wrong are: acquitted C the exact copy, T fine-tuned, P pruned, S soft student, H hard student;
accused i honest models, f honest fine-tunings of the victim's backbone and the backbone, g garbage, with
their number.{arrow} Garbage is asked in the {garbage} ways that do not need a network.
"""
EXPECTED = """
Expected `right`: nothing is lost, so the verdict should be that of a right question. `raises`: the asker's
own failure must come back to him. Shown is the reason that names the cause, or the first.
"""
Pick = Callable[[Row], bool]


class Run:
    """One run's rows, and what they count for."""

    def __init__(self, name: str, found: dict[str, Any], known: set[tuple[str, str]]) -> None:
        self.name, self.found, self.known = name, found, known
        self.rows: list[Row] = found["rows"]

    def share(self, pick: Pick) -> str:
        """``n of N (x %)`` silent wrong verdicts among the rows picked that can be one."""
        rows = [r for r in self.rows if pick(r) and counts(r, self.known)]
        count = sum(wrong(r, self.known) for r in rows)
        return f"{count} of {len(rows)} ({100 * count / len(rows):.1f} %)" if rows else "none asked"

    def outcomes(self, pick: Pick) -> dict[str, int]:
        """How often each outcome was reached, commonest sorts of outcome first."""
        found = [r["outcome"] for r in self.rows if pick(r)]
        return {o: found.count(o) for o in OUTCOMES if o in found}

    def codes(self, pool: str, way: str) -> str:
        """Who was judged wrongly in silence, by letters."""
        bad = [r for r in self.rows if r["pool"] == pool and r["way"] == way and wrong(r, self.known)]
        kinds = [r["kind"] for r in bad]
        out = ["".join(letter for kind, letter in ACQUITTED.items() if kind in kinds)]
        for letter, members in ACCUSED.items():
            count = sum(k in members for k in kinds)
            out += [f"{letter}{count}"] if count else []
        return " ".join(o for o in out if o) or "."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False) + "\n"


def _overall(runs: list[Run]) -> list[str]:
    rows = [
        [name, *(run.share(lambda r, kinds=kinds: r["kind"] in kinds) for run in runs)]  # type: ignore[misc]
        for name, kinds in GROUPS.items()
    ]
    rows.append(["**all**", *(f"**{run.share(lambda r: True)}**" for run in runs)])
    return _table(["silent wrong verdicts", *(run.name for run in runs)], rows)


def _by_pool(runs: list[Run]) -> list[str]:
    rows = []
    for pool in POOLS:
        for run in runs:
            made = run.found["pools"].get(pool.name)
            cells = [
                run.share(lambda r, p=pool.name, kinds=kinds: r["pool"] == p and r["kind"] in kinds)  # type: ignore[misc]
                for kinds in GROUPS.values()
            ]
            if made is None or "refused" in made:
                cells = ["not asked" if made is None else "no reference"] * len(GROUPS)
            rows.append([f"{pool.name}: {pool.says}", run.name, *cells])
    return _table(["pool", "", *GROUPS], rows)


def _made(runs: list[Run]) -> list[str]:
    """What ``generate`` said of each pool."""
    lines = []
    for run in runs:
        for pool, made in run.found["pools"].items():
            said = [f"refused: {made['refused']}"] if "refused" in made else []
            said += [f"limited: {line}" for line in made.get("limits", [])]
            lines += [f"* {run.name}, {pool}: {line}" for line in said]
    none = "No pool was refused, and no reference limited."
    return [*(lines or [none]), ""]


def _asked_rightly(runs: list[Run]) -> list[str]:
    def cell(run: Run, pool: str, kinds: tuple[str, ...]) -> str:
        found = run.outcomes(lambda r: r["pool"] == pool and r["way"] == WAYS[0].name and r["kind"] in kinds)
        return ", ".join(f"{n} {o}" for o, n in found.items()) or "-"

    rows = []
    for pool in POOLS:
        for run in runs:
            cells = [cell(run, pool.name, kinds) for kinds in GROUPS.values()]
            rows.append([pool.name, run.name, *cells])
    head = ["pool", "", "exact copy", "other copies", "honest", "fine-tunings, backbone", "garbage"]
    return _table(head, rows)


def _by_way(runs: list[Run]) -> list[str]:
    rows = []
    for way in WAYS:
        cells = [" → ".join(run.codes(p.name, way.name) for run in runs).replace(". → .", ".") for p in POOLS]
        rows.append([way.name.replace("|", "\\|"), *cells])
    return _table(["way", *(p.name for p in POOLS)], rows)


def _copy(runs: list[Run]) -> list[str]:
    """What an exact copy gets for each way with 12 twins."""
    rows = []
    for way in WAYS:
        cells = []
        for run in runs:
            found = [
                r
                for r in run.rows
                if r["pool"] == "12 twins" and r["way"] == way.name and r["kind"] == "copy"
            ]
            cells += [] if found else ["-", "-"]
            for r in found:
                z = "" if r.get("z") is None else f", z {r['z']:.1f}"
                cells += [f"{r['outcome']}{z}", (names_cause(r) or r["reasons"][0]).replace("|", "\\|")[:150]]
        rows.append([way.name, way.expects, *cells])
    head = ["way", "expected"]
    for run in runs:
        head += [run.name, f"reason, {run.name}"]
    return _table(head, rows)


def page(found: dict[str, Any], earlier: dict[str, Any] | None) -> str:
    """The whole page.

    Args:
        found: what ``run`` returned, with ``versions``.
        earlier: the same of other code, or None.
    """
    given = {"before": earlier, "after": found} if earlier else {"now": found}
    known: set[tuple[str, str]] = set()  # of all runs, so that both count the same copies
    for one in given.values():
        known |= known_copies(one["rows"])
    runs = [Run(name, one, known) for name, one in given.items()]
    said = {run.name: ", ".join(f"{k} {v}" for k, v in run.found["versions"].items() if v) for run in runs}
    alike = len(set(said.values())) == 1
    versions = said[runs[-1].name] if alike else "; ".join(f"{name}: {v}" for name, v in said.items())
    cpu = " and ".join(f"{run.found['cpu_seconds']} s" for run in runs)
    asked = len(runs[-1].rows)
    command = COMMAND + (" --before FILE" if earlier else "")
    made = (
        f"Made by `{command}`, {cpu} of CPU on one thread; {versions}. scikit-learn's 8x8 digits; "
        f"{len(WAYS)} ways to ask (`ways.py`), {len(POOLS)} pools of {HOMOLOGOUS} innocents, {asked} "
        f"verdicts. Networks learned for {EPOCHS} epochs, fine-tunings for {FURTHER}; all seeds are in "
        "`worlds.py`."
    )
    letters = LETTERS.format(
        arrow=" Before → after." if earlier else "", garbage=sum(w.garbage for w in WAYS)
    )
    lines = ["# Asked wrongly: silent wrong verdicts\n", _paragraph(made), _paragraph(WHAT), *_overall(runs)]
    lines += ["## By pool\n", *_by_pool(runs), *_made(runs)]
    lines += ["## Asked rightly\n", RIGHTLY + "\n", *_asked_rightly(runs)]
    lines += ["## By way\n", _paragraph(letters), *_by_way(runs)]
    lines += ["## The exact copy, way by way, with 12 twins\n", _paragraph(EXPECTED), *_copy(runs)]
    return "\n".join(lines).rstrip() + "\n"
