"""Asks Triton with its own client for ``bench_http``, batch by batch: ``python ... URL IN.npy OUT.npy``.

Prints wall and CPU seconds as JSON. Runs in Triton's venv.
"""

from __future__ import annotations

import json
import sys
import time
from urllib.parse import urlsplit

import numpy as np
import tritonclient.http as triton

BATCH = 64

if __name__ == "__main__":
    url, given, out = sys.argv[1:]
    images, host = np.load(given), urlsplit(url).netloc
    client = triton.InferenceServerClient(host, network_timeout=600.0, connection_timeout=600.0)
    wall, cpu = time.perf_counter(), time.process_time()
    found = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        x = triton.InferInput("x", batch.shape, "FP32")
        x.set_data_from_numpy(batch, binary_data=True)
        wanted = triton.InferRequestedOutput("scores", binary_data=True)
        found.append(client.infer("digits", [x], outputs=[wanted]).as_numpy("scores"))
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
    np.save(out, np.concatenate(found))
