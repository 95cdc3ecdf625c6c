"""Weights that were quantised, told by the names of what lies beside them, and refused by that name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from uapfast.errors import ModelError
from uapfast.safeload.refusal import shown

RULE = (
    "real numbers (dequantise them where they were made and export those; if the quantised network is the "
    "suspect, ask it where it runs: as ONNX, or by its recorded answers)"
)
# The last parts of names, most telling first, and who writes them.
LAYOUTS: tuple[tuple[str, str], ...] = (
    (r"SCB|weight_format", "by bitsandbytes to 8 bits"),
    (r"(nested_)?(absmax|quant_map)|quant_state(\..+)?", "by bitsandbytes to 4 bits"),
    (r"qweight|qzeros", "by GPTQ or AWQ"),
    (r"W_q", "by HQQ"),
    (r"(.*_)?qdata", "by torchao"),
    (r"_data", "by optimum-quanto"),
    (r"weight_packed", "by compressed-tensors"),
    (r"weight_scales", "by EETQ"),
    (r"weight_scale(_inv)?|weight_zero_point|(input|output)_scale(_ub)?|scale_(weight|input)",
     "with scales beside them"),
    (r"zero_point", "by torch's quantised modules"),
)  # fmt: skip
# Names that tell it only beside weights of these types.
BESIDE_NARROW = r"_?scales?|zeros?"
NARROW = (
    torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)  # fmt: skip


def refuse_quantised(extra: Iterable[str], dtypes: Mapping[str, torch.dtype], path: object) -> None:
    """Refuse weights that are quantised.

    Args:
        extra: names in the file that the architecture does not have.
        dtypes: of everything in the file, by name.
        path: named in the error.

    Raises:
        ModelError: they are; who quantised them is named.
    """
    names = sorted(extra)
    narrow = any(dtypes[name] in NARROW for name in dtypes)
    layouts = (*LAYOUTS, (BESIDE_NARROW, "with scales beside them")) if narrow else LAYOUTS
    for pattern, whose in layouts:
        ends = re.compile(rf"(.*[.:])?({pattern})")
        for name in names:
            if ends.fullmatch(name):
                got = f"weights quantised {whose}: {shown(name)} ({path})"
                raise ModelError("load", "weights", RULE, got)


__all__ = ["refuse_quantised"]
