"""Asks a model with Triton's own client: ``python triton_client.py URL IN.npy OUT.npy binary|json``."""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

import numpy as np
import tritonclient.http as triton

if __name__ == "__main__":
    url, given, out, how = sys.argv[1:]
    images, parts = np.load(given), urlsplit(url)
    binary = how == "binary"
    x = triton.InferInput("x", images.shape, "FP32")
    x.set_data_from_numpy(images, binary_data=binary)
    wanted = triton.InferRequestedOutput("scores", binary_data=binary)
    client = triton.InferenceServerClient(parts.netloc)
    found = client.infer(parts.path.rpartition("/")[2], [x], outputs=[wanted])
    np.save(out, found.as_numpy("scores"))
