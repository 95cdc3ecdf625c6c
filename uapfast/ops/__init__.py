"""The ops: functions of tensors without state, each with a contract, a reference and its backends.

Each is registered as ``torch.ops.uapfast.<name>`` and so goes through ``torch.compile``. The fastest
backend that takes the arguments is chosen; ``backend=`` forces one; ``python -m uapfast`` lists them.
"""

from __future__ import annotations

from uapfast.ops.build_queries import build_queries
from uapfast.ops.deepfool_step import deepfool_step
from uapfast.ops.fingerprint_rows import FingerprintRows, fingerprint_rows
from uapfast.ops.project_lp import project_lp
from uapfast.ops.rescale import rescale
from uapfast.ops.similarity_moments import similarity_moments

__all__ = [
    "FingerprintRows",
    "build_queries",
    "deepfool_step",
    "fingerprint_rows",
    "project_lp",
    "rescale",
    "similarity_moments",
]
