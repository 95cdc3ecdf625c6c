"""The classifier as a model of MLServer. Runs in MLServer's venv."""

from __future__ import annotations

import asyncio

from classifier import Classifier
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):
    """Tensor ``x`` to tensor ``scores``."""

    async def load(self) -> bool:
        self.net = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        scores = await asyncio.to_thread(self.net, x)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
