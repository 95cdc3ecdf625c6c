"""The files beside a suspect's page, their hashes, and the commands that check them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uapfast.errors import InputError
from uapfast.suspects.subject import file_sha256

AUDIT = (
    "The statement holds: everything is computed again. Add --trust PUBKEY, the accuser's public key, and "
    "where it is time-stamped --tsa-root CERTIFICATE.pem, the authority's, both come by otherwise: without "
    "them it ends with 3, since nobody knows who signed, or stamped"
)
ROLES = ("reference", "record", "statement", "commitment", "trust")


@dataclass(frozen=True, slots=True)
class Attached:
    """One file: what it is, its path as commands in the page's folder have it, and its SHA-256."""

    role: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """What a command does, and the command for a POSIX shell; None where a file's name cannot be typed."""

    says: str
    line: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a second party gets besides the page.

    Attributes:
        files: there are, in the order of ``ROLES``.
        commitment: what the statement says of it (``began``, ``committedAt``, ``stampedAt``), or None.
        signed: whether there is a statement.
        keyid: of the key that signed it.
        alpha: level of the decision.
        listed: the decision on the page is corrected for a list, which a record alone knows nothing of.
    """

    files: tuple[Attached, ...] = ()
    commitment: Mapping[str, Any] | None = None
    signed: bool = False
    keyid: str | None = None
    alpha: float | None = None
    listed: bool = False

    def beside(self, page: str | os.PathLike[str], role: str, path: str | os.PathLike[str]) -> Evidence:
        """The same with one more file; raises as :func:`attach`."""
        files = (*self.files, _attached(page, role, path))
        return replace(self, files=tuple(sorted(files, key=lambda f: ROLES.index(f.role))))

    def path(self, role: str) -> str | None:
        """Of the file with this role."""
        return next((f.path for f in self.files if f.role == role), None)

    @property
    def commands(self) -> tuple[ShellCommand, ...]:
        """How to check it, in order; they run in the folder of the page."""
        found = (
            [ShellCommand("The files are those that this page speaks of", self._hashes())]
            if self.files
            else []
        )
        reference, record = self.path("reference"), self.path("record")
        if self.signed and reference and record:
            found.append(ShellCommand(AUDIT, self._audit()))
        if reference and record:
            level = [] if self.alpha is None else ["--alpha", f"{self.alpha:g}"]
            line = _line(["uapfast", "verify", reference, "--answers", record, *level])
            alone = ", as that of one suspect: the list is not corrected for" if self.listed else ""
            found.append(ShellCommand(f"The verdict again, from the recorded answers alone{alone}", line))
        return tuple(found)

    def _hashes(self) -> str | None:
        pairs = [part for f in self.files for part in (f.sha256, f.path)]
        line = _line(["printf", r"%s  %s\n", *pairs])
        bad = any("\\" in f.path for f in self.files)  # sha256sum reads a backslash as an escape
        return None if line is None or bad else f"{line} | sha256sum -c"

    def _audit(self) -> str | None:
        words = ["uapfast", "audit", str(self.path("statement"))]
        for role in ("reference", "record", "commitment", "trust"):
            found = self.path(role)
            words += [] if found is None else [f"--{role}", found]
        return _line(words)


def _line(words: list[str]) -> str | None:
    """A command line that can be pasted; None where a word holds what no terminal shows."""
    return shlex.join(words) if all(word.isprintable() for word in words) else None


def attach(
    page: str | os.PathLike[str],
    *,
    alpha: float | None = None,
    keyid: str | None = None,
    commitment_told: Mapping[str, Any] | None = None,
    **files: str | os.PathLike[str] | None,
) -> Evidence:
    """What lies beside a page.

    Args:
        page: where the page goes; paths are told from its folder.
        alpha: level of the decision.
        keyid: of the key that signed the statement.
        commitment_told: what the statement says of the commitment.
        **files: by role (``reference``, ``record``, ``statement``, ``commitment``, ``trust``: the public
            key); None for those that are not there.

    Raises:
        InputError: another role, or a file that cannot be read.
    """
    strange = files.keys() - set(ROLES)
    if strange:
        raise InputError("report", "file", f"one of {', '.join(ROLES)}", sorted(strange)[0])
    found = [_attached(page, role, path) for role in ROLES if (path := files.get(role)) is not None]
    signed = any(f.role == "statement" for f in found)
    return Evidence(tuple(found), commitment_told, signed, keyid, alpha)


def _attached(page: str | os.PathLike[str], role: str, path: str | os.PathLike[str]) -> Attached:
    told = os.path.relpath(os.path.abspath(path), Path(page).absolute().parent)
    told = f"./{told}" if told.startswith("-") else told  # not an option
    return Attached(role, told, file_sha256(path, "report", role))


__all__ = ["Attached", "Evidence", "ShellCommand", "attach"]
