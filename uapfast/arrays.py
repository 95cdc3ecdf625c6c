"""What arrays hold, for signatures. A leaf: imports only numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

__all__ = ["Float32Array", "Float64Array", "Int64Array"]
