"""A conviction as a CycloneDX 1.7 ML-BOM: an accusation under ``declarations``, never a settled pedigree.

Only what a verdict supports is written. A model that is not convicted is not named: a bill that sets it
beside a victim would insinuate what no verdict says, and ``independent`` is no certificate.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uapfast._version import __version__
from uapfast.errors import InputError
from uapfast.examination.levels import committed_level, levels_said
from uapfast.files import write_text
from uapfast.reference import Reference
from uapfast.report.alternatives import Alternative, unexcluded
from uapfast.report.page import p_text
from uapfast.report.screened import escaped_text

SPEC = "1.7"
SPACE = uuid.UUID("5f0b3e52-6a5f-5d0c-9a34-6f6d1f1f0c17")  # of our serial numbers
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
TOLD = (
    *("decision", "p_value", "p_is_bound", "alpha", "p_holm", "q_value", "z", "rank", "relation"),
    *("p_candidate", "p_candidate_exact", "p_candidate_floor"),
    *("p_suspect", "p_suspect_exact", "p_suspect_floor"),
    *("p_joint", "p_joint_exact", "p_joint_floor"),
    *("queries_used", "views_used", "output", "reference_sha256", "suspect_sha256"),
)
READS = (
    "an accusation under declarations, with its evidence and what is not excluded; pedigree is left out "
    "because nothing is settled"
)


@dataclass(frozen=True, slots=True)
class Accused:
    """One convicted suspect.

    Attributes:
        name: of the suspect.
        victim: what the reference is called.
        verdict: fields of the verdict (or of the row) that it was convicted by; JSON types.
        file_sha256: of its file's bytes, where that is known.
        statement: file name of the signed statement, and SHA-256 of its bytes; or None.
        reference: for what the owner declared of the victim's training; or None.
    """

    name: str
    victim: str
    verdict: Mapping[str, Any]
    file_sha256: str | None = None
    statement: tuple[str, str] | None = None
    reference: Reference | None = None

    @property
    def key(self) -> str:
        """Which victim it is held against."""
        return f"{self.verdict.get('reference_sha256')} {self.victim}"

    @property
    def levels(self) -> str:
        """Which level was used, which was committed to, and the default."""
        settings = self.verdict.get("settings")
        cited = settings.get("commitment") if isinstance(settings, Mapping) else None
        return levels_said(float(self.verdict["alpha"]), committed_level(cited))

    @property
    def claim(self) -> str:
        """What is claimed, in a sentence."""
        v = self.verdict
        p = f"p {'at most' if v.get('p_is_bound') else '='} {p_text(v['p_value'])}"
        q = ""
        if v.get("p_holm") is not None:
            q = f"; corrected for its whole list by Holm {p_text(v['p_holm'])}, for tries elsewhere not"
        return (
            f"The answers of this model are closer to those of the victim of {escaped_text(self.victim)} "
            f"than those of the reference's honest models are "
            f"({p} at level {v['alpha']:g}{q}; {self.levels})"
        )


def base_model_line(accused: Accused, base_model: str) -> str | None:
    """The line that a hub's model card would have: a suggestion, with its p-value.

    None for a model that looks trained on the victim's answers: a hub means by ``base_model`` what weights
    were made from.
    """
    v = accused.verdict
    if v.get("relation") == "extraction":
        return None
    sign = "<=" if v.get("p_is_bound") else "="
    said = f"suggested by uapfast {__version__}, not settled"
    return f"base_model: {base_model}  # {said}: p {sign} {p_text(v['p_value'])} at level {v['alpha']:g}"


def make_bom(accused: Sequence[Accused], *, base_model: str | None = None) -> dict[str, Any]:
    """The bill as JSON types; the same input gives the same bill.

    Args:
        accused: at least one, each convicted.
        base_model: what a hub calls the victim (``ORG/NAME``); with it each suspect gets a suggested line.

    Raises:
        InputError: nobody, somebody who is not convicted, or a ``base_model`` that no hub would take.
    """
    if base_model is not None and not HUB_NAME.fullmatch(base_model):
        raise InputError("report", "--base-model", "a hub's name, ORG/NAME", repr(base_model))
    if not accused:
        raise InputError("report", "--bom", "given for a conviction (nothing else is claimed)", "none")
    for one in accused:
        if one.verdict.get("decision") != "piracy" or one.verdict.get("p_value") is None:
            got = f"{one.verdict.get('decision')} for {escaped_text(one.name)}"
            raise InputError("report", "--bom", "given for a conviction (nothing else is claimed)", got)
    first = {one.key: one for one in reversed(accused)}
    if base_model is not None and len(first) > 1:
        rule = "left out where suspects are held against several victims"
        raise InputError("report", "--base-model", rule, f"{len(first)} victims")
    refs = {key: f"victim-{i}" for i, key in enumerate(sorted(first), 1)}
    parts = [_parts(i, one, refs[one.key], base_model) for i, one in enumerate(accused, 1)]
    bom: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "uapfast", "version": __version__}]},
            "properties": _properties({"reads": READS}),
        },
        "components": [
            *(p["component"] for p in parts),
            *(_victim(ref, first[key], base_model) for key, ref in refs.items()),
        ],
        "declarations": {
            "assessors": [{"bom-ref": "accuser", "thirdParty": False}],
            "claims": [p["claim"] for p in parts],
            "evidence": [e for p in parts for e in p["evidence"]],
        },
    }  # fmt: skip
    content = json.dumps(bom, sort_keys=True)
    return bom | {"serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, content)}"}


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"uapfast:{k}", "value": str(v)} for k, v in values.items() if v is not None]


def _victim(ref: str, one: Accused, base_model: str | None) -> dict[str, Any]:
    """The victim: known by its reference, and by its hub name where that is given."""
    name = one.victim
    told = {
        "role": "victim of the reference",
        "reference": escaped_text(name),
        "reference-sha256": one.verdict.get("reference_sha256"),
        "tensors-sha256": None if one.reference is None else one.reference.settings.get("victim_sha256"),
    }
    called = base_model or f"victim of {escaped_text(name)}"
    return {"type": "machine-learning-model", "bom-ref": ref, "name": called, "properties": _properties(told)}


def _parts(number: int, one: Accused, victim: str, base_model: str | None) -> dict[str, Any]:
    """Component, claim and evidence of one suspect."""
    ref = f"suspect-{number}"
    line = None if base_model is None else base_model_line(one, base_model)
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": escaped_text(one.name),
        "modelCard": {"modelParameters": {"task": "image classification"}},
        "properties": _properties({
            "role": "suspect",
            # of tensors, or of answers: CycloneDX's own hashes are of files
            "suspect-sha256": one.verdict.get("suspect_sha256"),
            "suggested-base-model": line,
            "levels": one.levels,
        }),
    }  # fmt: skip
    if one.file_sha256:
        component["hashes"] = [{"alg": "SHA-256", "content": one.file_sha256}]
    evidence = [_verdict(f"{ref}-verdict", one)]
    if one.statement is not None:
        evidence.append(_statement(f"{ref}-statement", *one.statement))
    against = [_open(f"{ref}-open-{i}", row) for i, row in enumerate(unexcluded(one.reference), 1)] + [
        _floor(f"{ref}-rank", one)
    ]
    claim = {
        "bom-ref": f"{ref}-claim",
        "target": ref,
        "predicate": one.claim,
        "reasoning": _reasoning(one, victim),
        "evidence": [e["bom-ref"] for e in evidence],
        "counterEvidence": [e["bom-ref"] for e in against],
    }
    return {"component": component, "claim": claim, "evidence": [*evidence, *against]}


def _reasoning(one: Accused, victim: str) -> str:
    reasons = " ".join(f"({i}) {escaped_text(r)}." for i, r in enumerate(one.verdict.get("reasons") or (), 1))
    return (
        f"The victim is the component {victim}. {reasons} p is how often an honest model would give such "
        "answers; it is not the chance that this one is honest. Nothing is said of how that came about, or "
        "whether that was allowed."
    )


def _attached(name: str, kind: str, content: str) -> dict[str, Any]:
    return {"name": name, "contents": {"attachment": {"contentType": kind, "content": content}}}


def _verdict(ref: str, one: Accused) -> dict[str, Any]:
    told = {name: one.verdict[name] for name in TOLD if one.verdict.get(name) is not None}
    text = json.dumps(told, sort_keys=True, allow_nan=False)
    data = [_attached("verdict", "application/json", text)]
    return {"bom-ref": ref, "propertyName": "uapfast:verdict", "description": one.claim, "data": data}


def _statement(ref: str, path: str, sha256: str) -> dict[str, Any]:
    said = f"signed in-toto statement, SHA-256 {sha256}; uapfast audit checks it"
    data = [_attached("file", "text/plain", escaped_text(path)), _attached("sha256", "text/plain", sha256)]
    return {"bom-ref": ref, "propertyName": "uapfast:statement", "description": said, "data": data}


def _open(ref: str, row: Alternative) -> dict[str, Any]:
    said = f"{row.what}: {row.out}. {row.by}"
    return {"bom-ref": ref, "propertyName": "uapfast:not-excluded", "description": said}


def _floor(ref: str, one: Accused) -> dict[str, Any]:
    v = one.verdict
    exact = v.get("p_joint_exact") if v.get("p_joint_exact") is not None else v.get("p_suspect_exact")
    said = (
        f"By rank alone, free of assumptions on scores, the p-value is {p_text(exact)}; what lies below that "
        "assumes that scores are normal, or nearly so."
    )
    return {"bom-ref": ref, "propertyName": "uapfast:assumption", "description": said}


def write_bom(bom: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the bill, whole or not at all.

    Raises:
        StorageError: the folder is missing or unwritable, or the disk is full.
    """
    write_text(path, json.dumps(bom, indent=2, ensure_ascii=True, allow_nan=False) + "\n")


__all__ = ["Accused", "base_model_line", "make_bom", "write_bom"]
