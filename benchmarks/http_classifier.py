"""What ``bench_http`` serves: a ResNet-18 in torch, or next to nothing. Runs in the servers' venvs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class Classifier:
    """float32 ``[n,3,224,224]`` to ``[n,10]``; the file named by ``CLASSIFIER`` says which network."""

    def __init__(self) -> None:
        with open(os.environ["CLASSIFIER"]) as file:
            self.kind = file.read()
        if self.kind == "resnet18":
            import torch
            from networks import resnet

            torch.set_num_threads(1)
            torch.manual_seed(0)
            self.net = resnet((2, 2, 2, 2), False).eval()

    def __call__(self, images: Any) -> np.ndarray:
        x = np.asarray(images, np.float32).reshape(-1, 3, 224, 224)
        if self.kind != "resnet18":
            return x[:, 0, 0, :10] - 2
        import torch

        with torch.inference_mode():
            return self.net(torch.from_numpy(x.copy())).numpy()
