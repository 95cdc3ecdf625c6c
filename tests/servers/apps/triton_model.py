"""The classifier as a model of Triton's python backend. Runs in Triton's venv."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb
from classifier import Classifier


class TritonPythonModel:
    """Tensor ``x`` to tensor ``scores``."""

    def initialize(self, args: dict[str, str]) -> None:
        self.net = Classifier()

    def execute(self, requests: list[Any]) -> list[Any]:
        answers = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb.InferenceResponse([pb.Tensor("scores", self.net(x))]))
        return answers
