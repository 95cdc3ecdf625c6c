"""Adversarial Robustness Toolbox: ``UniversalPerturbation`` with its DeepFool, as its users call it."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import Tensor, nn


def art_uap(
    model: nn.Module, images: Tensor, *, eps: float, fooling: float, max_iter: int = 10, seed: int = 0
) -> Tensor:
    """The perturbation ``[C,H,W]`` that ART ends with, where the images are; stops at ``fooling`` on them."""
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    logging.getLogger("art").setLevel(logging.ERROR)
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), input_shape=tuple(images.shape[1:]), nb_classes=classes,
        clip_values=(0.0, 1.0), device_type="gpu" if images.is_cuda else "cpu",
    )  # fmt: skip
    attack = UniversalPerturbation(
        classifier, attacker="deepfool", delta=1.0 - fooling, max_iter=max_iter, eps=eps, norm=math.inf,
        attacker_params={"verbose": False}, verbose=False,
    )  # fmt: skip
    np.random.seed(seed)  # ART draws its order from the global generator
    attack.generate(images.cpu().numpy())
    return torch.as_tensor(attack.noise).reshape(images.shape[1:]).to(images.device, torch.float32)
