"""``verify --report``: the page of one suspect, with whatever evidence lies beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uapfast.cli.shell import one_line

if TYPE_CHECKING:
    from uapfast.evidence.dossier import Dossier
    from uapfast.method.decision import Assessment
    from uapfast.types import Verdict


@dataclass
class PageRequest:
    """A page that is to be written.

    Args:
        path: where it goes; None for no page.
        name: of the suspect, as the command was given it.
        replayed: the record that the verdict comes from, where it is one.
    """

    path: Path | None
    name: str
    replayed: Path | None = None
    dossier: Dossier | None = field(init=False, default=None)
    assessed: Assessment | None = field(init=False, default=None)

    def begins(self, dossier: Dossier) -> None:
        """Before anybody is asked: what is known of the evidence, and whether the page can be written."""
        from uapfast.files import require_writable

        self.dossier = dossier
        if self.path is not None:
            require_writable(self.path, "page")
            dossier.require_apart("page", self.path)

    def see(self, assessed: Assessment) -> None:
        """What the verdict rests on."""
        self.assessed = assessed

    def write(self, verdict: Verdict) -> list[str]:
        """Write the page, if one is wanted; what is said of it."""
        if self.path is None:
            return []
        from uapfast.report.evidence import attach
        from uapfast.report.suspect import collect_suspect
        from uapfast.report.suspect_page import write_suspect_page

        assert self.dossier is not None
        wanted, signed, recording = self.dossier.wanted, self.dossier.signed, self.dossier.recording
        evidence = attach(
            self.path,
            alpha=verdict.alpha,
            keyid=None if signed is None else signed.key.keyid,
            commitment_told=verdict.settings.get("commitment"),
            reference=self.dossier.path,
            record=wanted.record or self.replayed,
            statement=None if signed is None else wanted.statement,
            commitment=wanted.commitment,
        )
        report = collect_suspect(
            self.dossier.reference,
            verdict,
            name=self.name,
            victim=Path(self.dossier.path).name,
            assessed=self.assessed,
            evidence=evidence,
            spent={} if recording is None else _spent(recording.first, recording.end),
        )
        write_suspect_page(report, self.path)
        return [f"wrote {one_line(self.path)}"]


def _spent(first: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, str]:
    """What asking cost, as the record has it."""
    out = {"from": str(first["started"]), "to": str(end["ended"])}
    spent = end.get("spent")
    if isinstance(spent, Mapping):
        out |= {f"spent, {k}": f"{v:,}" for k, v in spent.items() if type(v) is int}
    return out


__all__ = ["PageRequest"]
