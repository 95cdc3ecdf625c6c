"""The classifier as a program of LitServe: ``python model.py PORT``. Runs in LitServe's venv."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
from classifier import Classifier


class Api(litserve.LitAPI):
    """``{"images": [...]}`` to ``{"scores": [...]}``."""

    def setup(self, device: str) -> None:
        self.net = Classifier()

    def decode_request(self, request):  # without types: LitServe makes its API of them
        return np.asarray(request["images"], np.float32)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.net(x)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"scores": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
