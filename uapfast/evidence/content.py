"""What a statement says, against what comes of its record: levels, times, numbers, reasons, error rates."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from uapfast._version import __version__, versions
from uapfast.config import ALPHA
from uapfast.errors import EvidenceError
from uapfast.evidence import timestamp
from uapfast.evidence.audited import Audit, Check
from uapfast.evidence.commitment import Commitment, settings_of
from uapfast.evidence.compare import differences
from uapfast.evidence.dossier import basis_of, by_others, citation_of
from uapfast.evidence.envelope import SignedStatement
from uapfast.evidence.statement import measured_error_rates, predicate, with_their_last
from uapfast.examination.error_rates import table_of
from uapfast.examination.levels import levels_said
from uapfast.models.preprocessing import RGB
from uapfast.reference import Reference
from uapfast.suspects.record_reader import Recording
from uapfast.verbs.replay import Replayed

# Of a verdict, what another version may add or lack. Its number is the signer's word: all else is held
# against the record whatever it says.
MOST_REMARKS, LONGEST = 20, 400  # of a record that are shown, and their characters
CORE = r"decision|alpha|rank|relation|output|z|reasons|settings\.commitment|p_|reference"
NUMBER = re.compile(r"unknown|[0-9][0-9A-Za-z.+!_-]{0,39}")  # of a version, as packages have it
ADDED = re.compile(rf"verdict\.(?!{CORE})")


def maker(stated: SignedStatement) -> str:
    """What the statement says that it was made by."""
    return f"uapfast {stated.predicate['versions']['uapfast']}"


def check_level(out: Audit, stated: SignedStatement, commitment: Commitment | None) -> None:
    """The level that was used, the committed one and the default; a looser one than committed fails."""
    used = float(stated.predicate["level"])
    committed = None if commitment is None else commitment.alpha
    unseen = commitment is None and stated.predicate["commitment"] is not None
    said = levels_said(used, committed, unseen)
    if committed is not None and used > committed:
        error = EvidenceError(stated.where, "level", f"at most {committed:g}, as committed", f"{used:g}")
        out.checks.append(Check("FAILED", "level", f"{error} ({said})", error))
        return
    out.add("ok" if used == ALPHA and committed in (None, ALPHA) else "note", "level", said)


def check_raw(out: Audit, recording: Recording) -> None:
    """Whether an endpoint's answers were read again from what it sent."""
    bodies, cached, what = recording.bodies, recording.cached, "responses"
    if recording.suspect["replay"] != "endpoint":
        return
    if bodies.read:
        out.add("ok", what, f"{bodies.read} answers were read again from them, and are the same")
    if bodies.withheld:
        said = "answers stand in responses that are not kept: they repeat a secret, or are too large"
        out.add("not checked", what, f"{bodies.withheld} {said}")
    if cached:
        said = "answers were known before the examination: how they came is not in its record"
        out.add("note", what, f"{cached} {said}")


def remarked(out: Audit, recording: Recording) -> None:
    """What the record remarks on the asking: it is among the reasons, and nothing else says it."""
    notes = [*_besides(recording), *recording.end["notes"]]
    for text in notes[:MOST_REMARKS]:
        out.add("note", "remark of the record", f"the accuser's word: {text[:LONGEST]}")
    if len(notes) > MOST_REMARKS:
        out.add("note", "remark of the record", f"and {len(notes) - MOST_REMARKS} more")


def _besides(recording: Recording) -> list[str]:
    """Other words of a record that become reasons: how earlier answers were read, and why it ended."""
    read, error = recording.suspect["settings"].get("read"), recording.end.get("error")
    found = []
    if isinstance(read, dict):
        found.append(f"its answers are read as earlier ones were: {', '.join(map(str, read.values()))}")
    if error is not None:
        found.append(f"it ended by {error['class']}: {' '.join(error['args'])}")
    return found


def chosen(out: Audit, recording: Recording, reference: Reference, commitment: Commitment | None) -> None:
    """What of the answers may have been chosen once they were known, which no check can tell."""
    first, views = recording.first, reference.plan.views
    if by_others(recording):
        out.add("note", "answers", "recorded by others, the accuser says: no file tells who asked, or when")
    if recording.suspect["output"] != "auto":
        out.add("note", "answers", f"read as {recording.suspect['output']}: the accuser said so")
    settings = recording.suspect["settings"]
    if (tried := settings.get("tried")) is not None:
        said = f"it follows from the answers to a few query points in {len(tried['ways'])} ways"
        out.add("ok", "preprocessing", said)
    elif _preprocessing(settings) not in ({}, reference.preprocessing):
        out.add("note", "preprocessing", "other than the victim's: the accuser said so")
    if first["class_order"] is not None:
        out.add("note", "class order", "the one that the accuser gave")
    if first["answered"] is not None:
        said = f"{len(recording.lines)} answers were judged, of {reference.plan.queries} that a whole"
        out.add("note", "answers", f"{said} examination asks for: no file tells who chose them")
    elif commitment is None and first["looks"] not in settings_of(reference, ALPHA)["looks"].values():
        out.add("note", "looks", f"after {first['looks']} of {views} views: no commitment says so")


def _preprocessing(settings: dict[str, Any]) -> Any:
    """What a record says of how images were prepared, as a reference says it; empty for not at all."""
    found = settings.get("preprocessing") or settings
    if not isinstance(found, dict):
        return found
    named = {name: found.get(name) for name in ("mean", "std", "channel_order")}
    return {name: value for name, value in named.items() if value not in (None, RGB)}


def check_times(
    stated: SignedStatement,
    recording: Recording,
    commitment: Commitment | None,
    stamp: timestamp.Stamp | None,
) -> tuple[bool, str]:
    """Whether everything happened in its order."""
    where, first, end = stated.where, recording.first, recording.end
    line = [] if commitment is None else [("the commitment", commitment.time)]
    responses = [] if recording.bodies.first is None else [("first", recording.bodies.first)]
    responses += [] if recording.bodies.last is None else [("last", recording.bodies.last)]
    line += [
        ("the examination's begin", timestamp.told_time(first["started"], recording.where, "started")),
        *((f"its {name} response", timestamp.told_time(at, recording.where, "at")) for name, at in responses),
        ("the examination's end", timestamp.told_time(end["ended"], recording.where, "ended")),
        ("the statement", timestamp.told_time(stated.predicate["evaluatedAt"], where, "evaluatedAt")),
    ]
    line += [] if stamp is None else [("its time stamp", stamp.time)]
    before = commitment is not None and stated.predicate["commitment"].get("began") == "before"
    for (earlier, a), (later, b) in zip(line, line[1:], strict=False):
        slack = timestamp.SKEW if later == "its time stamp" else timedelta(0)  # two clocks
        if a > b + slack and not (before and earlier == "the commitment"):
            raise EvidenceError(where, later, f"not before {earlier}, {timestamp.said(a)}", timestamp.said(b))
    return True, "in order: " + ", ".join(f"{name} {timestamp.said(at)}" for name, at in line)


def check_content(
    out: Audit, stated: SignedStatement, replayed: Replayed, commitment: Commitment | None
) -> None:
    """Everything that is stated, against what comes of the record."""
    cited = stated.predicate["commitment"]
    citation = None if commitment is None else citation_of(commitment, replayed.recording)
    reference_file = stated.predicate["reference"]["fileSha256"]  # which the file was found to have
    basis = basis_of(replayed.recording, reference_file, citation)
    verdict = replayed.verdict if citation is None else citation.cite(replayed.verdict)
    made = predicate(verdict, basis, stated.predicate["evaluatedAt"], stated.key)
    skipped = {"measured", "versions", "verdict.settings.versions"}
    if commitment is None and cited is not None:  # said to be not checked already
        skipped |= {"commitment", "verdict.settings.commitment"}
        made = with_their_last(made, stated.predicate)
    theirs, ours = stated.predicate["versions"]["uapfast"], __version__
    found, alone = differences(stated.predicate, made, skipped)
    others = [path for path in alone if theirs != ours and ADDED.match(path)]
    for path in others:
        out.add("not checked", path, f"only one of uapfast {theirs} and {ours} knows it")
    found += [f"{path}: stated by one side only" for path in alone if path not in others]
    settings = stated.predicate["verdict"].get("settings")
    if not isinstance(settings, dict) or settings.get("versions") != stated.predicate["versions"]:
        found.append("verdict.settings.versions: other versions than the statement's")
    found += _no_versions(stated.predicate["versions"])

    def same() -> tuple[bool, str]:
        if found:
            rule = "what the record comes to"
            by = "" if theirs == ours else f" (stated by uapfast {theirs}, decided anew by {ours})"
            raise EvidenceError(stated.where, found[0].partition(":")[0], rule, "; ".join(found[:4]) + by)
        return True, "decision, numbers (to 1e-6) and reasons are what the record comes to"

    out.step("what is stated", same)
    if cited is not None and cited.get("began") == "after":
        said = "by the accuser's clock it was begun after the commitment: no file tells whether the suspect"
        out.add("note", "examination", f"{said} was asked before that, too")
    elif cited is not None:
        said = {"before": "before the commitment"}.get(str(cited.get("began")), "nobody knows when")
        out.add("note", "examination", f"it was begun {said}: the commitment proves nothing of it")


def _no_versions(told: dict[str, Any]) -> list[str]:
    """What stands among the versions and is none: nothing is held against them, so that anything could."""
    strange = [name for name in told if name not in versions()]
    found = [f"versions.{name[:40]}: of nothing that a verdict depends on" for name in strange]
    known = [name for name in told if name not in strange]
    good = {name: isinstance(told[name], str) and NUMBER.fullmatch(told[name]) for name in known}
    return found + [
        f"versions.{name}: no version, {str(told[name])[:80]}" for name in known if not good[name]
    ]


def check_rates(out: Audit, stated: SignedStatement) -> None:
    """Whether the error rates are those that the version shipped which the statement says made it."""
    predicate, theirs = stated.predicate, stated.predicate["versions"]["uapfast"]
    table, what = table_of(theirs), "measured error rates"
    if theirs != __version__:
        said = f"stated by uapfast {theirs}, audited by {__version__}, which reads the same formats"
        out.add("note", "version", said)
    if table is None:
        said = f"uapfast {__version__} does not know what {theirs} shipped: audit with uapfast {theirs}"
        out.add("not checked", what, said)
    elif predicate["measured"] != measured_error_rates(predicate["verdict"], table):
        error = EvidenceError(stated.where, "measured", f"those that uapfast {theirs} shipped", "others")
        out.checks.append(Check("FAILED", what, str(error), error))
    else:
        out.add("ok", what, f"those that uapfast {theirs} shipped")
        if predicate["measured"] != measured_error_rates(predicate["verdict"]):
            out.add("note", what, f"uapfast {__version__} states others: they were measured anew since")


__all__ = [
    "check_content",
    "check_level",
    "check_rates",
    "check_raw",
    "check_times",
    "chosen",
    "maker",
    "remarked",
]
