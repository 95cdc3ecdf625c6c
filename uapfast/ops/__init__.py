"""The ops: functions of tensors without state, each with a contract, a reference and its backends.

Each is registered as ``torch.ops.uapfast.<name>`` and so goes through ``torch.compile``. The fastest
backend that takes the arguments is chosen; ``backend=`` forces one; ``python -m uapfast`` lists them.
"""

from __future__ import annotations

from uapfast.ops.build_queries import build_queries
from uapfast.ops.deepfool_step import deepfool_step
from uapfast.ops.features import features
from uapfast.ops.inner_products import inner_products
from uapfast.ops.leave_one_out import Tables, leave_one_out
from uapfast.ops.project_lp import project_lp

__all__ = [
    "Tables",
    "build_queries",
    "deepfool_step",
    "features",
    "inner_products",
    "leave_one_out",
    "project_lp",
]
