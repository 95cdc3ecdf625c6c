"""What a UAP at 224 px costs besides the network's own passes: share of the CPU time, one thread.

    python -m benchmarks.uap_share [--images 12] [--passes 2] resnet18 vit_tiny_patch16_224

Networks are timm's with random weights. Forward passes are timed by hooks on the module, backward ones around
``torch.autograd.grad`` (which holds the loss and the clamp as well, some thousandths of it).
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest import mock

import torch

from uapfast import universal_perturbation


def declared() -> None:
    """What torchvision registers for its own extension, which need not fit this torch."""
    for name in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
        )


def share(name: str, images: int, passes: int) -> tuple[float, float]:
    """Seconds in all, and the share outside the network's passes."""
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=1000).eval()
    x = torch.rand(images, 3, 224, 224)
    with torch.no_grad():  # else random weights give every image the same class
        module.get_classifier().bias -= module(x).mean(0)
    spent, began = [0.0], [0.0]

    def before(*_: Any) -> None:
        began[0] = time.process_time()

    def after(*_: Any) -> None:
        spent[0] += time.process_time() - began[0]

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    grad = torch.autograd.grad

    def timed(*args: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return grad(*args, **named)
        finally:
            spent[0] += time.process_time() - start

    start = time.process_time()
    with mock.patch.object(torch.autograd, "grad", timed):
        universal_perturbation(module, x, eps=8 / 255, fooling=1.0, max_passes=passes)
    whole = time.process_time() - start
    return whole, 1.0 - spent[0] / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--passes", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    declared()
    for name in given.networks:
        whole, outside = share(name, given.images, given.passes)
        print(f"{name}: {whole:.1f} s CPU, {outside:.1%} outside the network's passes", flush=True)


if __name__ == "__main__":
    main()
