"""Whether one network answers for suspect after suspect as a new network would: proven, and tried again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from uapfast.threads import is_abandoned

NetworkUse = Literal["reused", "both", "own"]
ONE_IN = 50  # later suspects that are asked on a new network as well
ROUNDING = {"float32": 1e-3, "bf16": 5e-2}  # of the largest answer, where two forwards may differ


def is_sampled(sha256: str) -> bool:
    """Whether tensors with this hash are among the 2 %; the same in every run."""
    return int(hashlib.sha256(f"uapfast screen {sha256}".encode()).hexdigest()[:8], 16) % ONE_IN == 0


def agree(a: Sequence[Tensor], b: Sequence[Tensor], device: str = "cpu", precision: str = "float32") -> bool:
    """Whether answers of two networks are the same: bit for bit for float32 on a CPU, else up to rounding.

    Args:
        a: answers stage by stage.
        b: the same of the other. Where rounding is allowed one may have stopped earlier.
        device: of both.
        precision: of both.
    """
    exact = device == "cpu" and precision == "float32"
    if len(a) != len(b) and (exact or not a or not b):
        return False
    return all(same_answers(x, y, None if exact else ROUNDING[precision]) for x, y in zip(a, b, strict=False))


def same_answers(x: Tensor, y: Tensor, rounding: float | None) -> bool:
    """Whether answers of two networks are the same: bit for bit, or up to a share of the largest answer."""
    rows = min(len(x), len(y)) if rounding is not None and x.ndim and y.ndim else None
    x, y = x[:rows] if rows is not None else x, y[:rows] if rows is not None else y
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if rounding is None or not x.is_floating_point():
        return torch.equal(x, y) or torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0))
    largest = float(x.abs().nan_to_num(0.0, 0.0, 0.0).max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=rounding, atol=rounding * largest, equal_nan=True)


class Proof:
    """What is known of one network (:attr:`Described.network`) in this process. For all threads.

    Args:
        refuted: known from an earlier pass.
    """

    def __init__(self, refuted: bool = False) -> None:
        self.refuted, self._proven = refuted, False
        self._lock = threading.Lock()
        self._under_way: threading.Thread | None = None

    def begin(self, sha256: str, before: str | None) -> NetworkUse:
        """How a suspect is asked for whom a used network is there.

        Args:
            sha256: of its tensors.
            before: of those that the network had last.

        Returns:
            ``reused``: on that network; ``both``: on a new one as well, :meth:`end` follows; ``own``: on a
            new one alone (refuted; or a proof is under way, or these tensors would prove nothing).
        """
        with self._lock:
            if self.refuted:
                return "own"
            if self._proven:
                return "both" if is_sampled(sha256) else "reused"
            other = self._under_way
            if before == sha256 or (other is not None and other.is_alive() and not is_abandoned(other)):
                return "own"
            self._under_way = threading.current_thread()
            return "both"

    def end(self, agreed: bool | None) -> None:
        """What came of asking on both; None if it was broken off."""
        with self._lock:
            if self._under_way is threading.current_thread():
                self._under_way = None
            self._proven = self._proven or bool(agreed)
            self.refuted = self.refuted or agreed is False

    def refute(self) -> bool:
        """Every suspect gets a network of its own from now on; returns whether that is new."""
        with self._lock:
            known, self.refuted = self.refuted, True
            return not known


__all__ = ["ONE_IN", "NetworkUse", "Proof", "agree", "is_sampled", "same_answers"]
