"""From a signed statement to the suspect that a bill of materials names."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uapfast.errors import EvidenceError, InputError
from uapfast.evidence.envelope import SignedStatement
from uapfast.evidence.statement import p_values, read_statement
from uapfast.reference import Reference
from uapfast.report.bom import Accused
from uapfast.suspects.record_reader import HASH
from uapfast.types import Verdict

NUMBERS = tuple(f.name for f in dataclasses.fields(Verdict) if "float" in str(f.type))

P_VALUES = tuple(name for name in NUMBERS if name.startswith("p_") and name != "p_view")


def stated(
    path: str | os.PathLike[str], reference: Reference | None = None, called: str | None = None
) -> Accused:
    """What a statement says of its suspect, its signature checked by its own key.

    Args:
        path: of the statement.
        reference: that it is about, for what the owner declared of the victim's training; or None.
        called: what that reference is called.

    Raises:
        EvidenceError: it cannot be read, or does not say what a verdict says.
        SignatureError: its signature does not hold.
        InputError: another reference than its own.
    """
    signed = read_statement(path)
    told: Mapping[str, Any] = signed.predicate["verdict"]
    (subject,) = signed.statement["subject"]
    sha256 = told.get("reference_sha256")
    if reference is not None and reference.sha256 != sha256:
        raise InputError(
            "report", "--reference", f"the statement's ({str(sha256)[:12]})", reference.sha256[:12]
        )
    try:
        verdict = dict(told) | {n: _number(told[n]) for n in NUMBERS if told.get(n) is not None}
        verdict["alpha"] = _number(told["alpha"])
        reasons, _ = told["reasons"], (verdict["p_value"], verdict["decision"])
        named, digest = str(subject["name"]), subject["digest"].get("sha256")
        good = isinstance(reasons, list) and all(isinstance(r, str) for r in reasons)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise EvidenceError(signed.where, "verdict", "that of an examination", str(exc)[:120]) from exc
    if not good:
        raise EvidenceError(signed.where, "verdict", "one whose reasons are sentences", "others")
    _check_itself(signed, verdict, digest)
    return Accused(
        name=named,
        victim=called or f"reference {str(sha256)[:12]}",
        verdict=verdict,
        file_sha256=digest,
        statement=(Path(path).name, signed.sha256),
        reference=reference,
    )


def _check_itself(signed: SignedStatement, verdict: Mapping[str, Any], digest: Any) -> None:
    """Raise ``EvidenceError`` for a statement that contradicts itself: no record is needed to see that."""
    told, made, where = signed.predicate, signed.predicate["verdict"], signed.where
    for name, other in (("decision", "decision"), ("alpha", "level"), ("reasons", "reasons")):
        if made[name] != told[other]:
            raise EvidenceError(where, f"verdict.{name}", f"the {other} that is stated", str(made[name])[:80])
    if p_values({**dict.fromkeys((*P_VALUES, "p_is_bound")), **made}) != told["pValues"]:
        raise EvidenceError(where, "pValues", "those of the verdict", "others")
    for name in ("alpha", *P_VALUES):
        if verdict.get(name) is not None and not 0 < verdict[name] <= 1:
            raise EvidenceError(where, f"verdict.{name}", "in (0, 1]", verdict[name])
    if verdict["decision"] == "piracy" and not (verdict["p_value"] or 1) <= verdict["alpha"] < 0.5:
        rule = f"at or below the level, {verdict['alpha']:g}, which is below 0.5"
        raise EvidenceError(where, "verdict.p_value", rule, verdict["p_value"])
    for name, value in (("digest", digest), ("suspect_sha256", verdict.get("suspect_sha256"))):
        if value is not None and not (isinstance(value, str) and HASH.fullmatch(value)):
            raise EvidenceError(where, name, "a SHA-256 in hex", str(value)[:80])


def _number(text: Any) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(text)
    return found


__all__ = ["stated"]
