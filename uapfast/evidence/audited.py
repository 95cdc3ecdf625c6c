"""What came of an audit, line by line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from uapfast.errors import UapfastError

State = Literal["ok", "note", "not checked", "FAILED"]
T = TypeVar("T")
HOLDS, FAILS, INCOMPLETE = 0, 1, 3  # exit codes; 2 is an error


@dataclass(frozen=True)
class Check:
    """One line of an audit.

    Attributes:
        state: ``ok``; ``note``, which a reader has to know; ``not checked``, for want of a file, a key or a
            version; ``FAILED``.
        what: was looked at: a file, or what is said in it.
        said: what came of it.
        error: of a check that failed.
    """

    state: State
    what: str
    said: str
    error: UapfastError | None = None

    def __str__(self) -> str:
        return f"{self.state:<11}  {self.what}: {self.said}"


@dataclass
class Audit:
    """What an audit came to.

    Attributes:
        checks: in their order.
        decision: that the statement makes; None where it cannot be read.
    """

    checks: list[Check] = field(default_factory=list)
    decision: str | None = None

    @property
    def failed(self) -> list[Check]:
        """What does not hold."""
        return [check for check in self.checks if check.state == "FAILED"]

    @property
    def unchecked(self) -> list[Check]:
        """What the statement rests on and could not be checked."""
        return [check for check in self.checks if check.state == "not checked"]

    @property
    def holds(self) -> bool:
        """Whether all of it was checked, and nothing failed."""
        return bool(self.checks) and not self.failed and not self.unchecked

    @property
    def exit_code(self) -> int:
        """0 if all of it holds, 1 if anything does not, 3 if nothing failed and not all was checked."""
        return HOLDS if self.holds else INCOMPLETE if self.checks and not self.failed else FAILS

    @property
    def sentence(self) -> str:
        """The last line."""
        names = ", ".join(check.what for check in self.failed)
        left = ", ".join(check.what for check in self.unchecked)
        if names:
            return f"DOES NOT HOLD: {names}" + (f"; NOT CHECKED: {left}" if left else "")
        if left:
            return f"NOT ALL WAS CHECKED: {left}; what was checked holds: {self.decision}"
        return f"ALL HOLDS: {self.decision}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        rows = [{"state": c.state, "what": c.what, "said": c.said} for c in self.checks]
        for row, check in zip(rows, self.checks, strict=True):
            if check.error is not None:
                row["error"] = type(check.error).__name__
        told = {name: [c.what for c in getattr(self, name)] for name in ("failed", "unchecked")}
        return {"holds": self.holds, **told, "decision": self.decision, "checks": rows}

    def add(self, state: State, what: str, said: str) -> None:
        """One more line."""
        self.checks.append(Check(state, what, said))

    def step(self, what: str, work: Callable[[], tuple[T, str]]) -> T | None:
        """Do a check, and say what came of it; None where it failed."""
        try:
            found, said = work()
        except UapfastError as exc:
            self.checks.append(Check("FAILED", what, str(exc), exc))
            return None
        self.add("ok", what, said)
        return found


__all__ = ["Audit", "Check", "State"]
