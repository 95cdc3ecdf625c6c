"""From a signed statement to the suspect that a bill of materials names."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uapfast.errors import EvidenceError, InputError
from uapfast.evidence.statement import read_statement
from uapfast.reference import Reference
from uapfast.report.bom import Accused
from uapfast.types import Verdict

NUMBERS = tuple(f.name for f in dataclasses.fields(Verdict) if "float" in str(f.type))


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
    return Accused(
        name=named,
        victim=called or f"reference {str(sha256)[:12]}",
        verdict=verdict,
        file_sha256=digest,
        statement=(Path(path).name, signed.sha256),
        reference=reference,
    )


def _number(text: Any) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(text)
    return found


__all__ = ["stated"]
