"""Networks and images of the GPU benchmarks, in plain torch: nothing has to be installed or fetched for them.

``resnet50`` has the layers and sizes of He et al. (CVPR 2016) at 224 px, ``resnet18`` those of the usual
variant for 32 px (3x3 stem, no pooling). Images are made from seeds: a class is a grating of one direction
and frequency, faint under blobs and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 10


class Block(nn.Module):
    """Residual block, basic (two 3x3) or bottleneck (1x1, 3x3, 1x1 with four times the channels)."""

    def __init__(self, i: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        o = width * (4 if bottleneck else 1)
        sizes = (
            [(i, width, 1), (width, width, 3), (width, o, 1)]
            if bottleneck
            else [(i, width, 3), (width, o, 3)]
        )
        layers: list[nn.Module] = []
        for number, (a, b, k) in enumerate(sizes):
            step = stride if number == (1 if bottleneck else 0) else 1
            layers += [nn.Conv2d(a, b, k, step, k // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])
        plain = stride == 1 and i == o
        self.shortcut = (
            nn.Identity()
            if plain
            else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def resnet(
    blocks: tuple[int, ...], bottleneck: bool, *, width: int = 64, large: bool = True, classes: int = CLASSES
) -> nn.Module:
    stem: list[nn.Module] = [
        nn.Conv2d(3, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    layers = [*stem, nn.MaxPool2d(3, 2, 1)] if large else stem
    channels = width
    for stage, count in enumerate(blocks):
        for number in range(count):
            stride = 2 if stage and number == 0 else 1
            layers.append(Block(channels, width << stage, stride, bottleneck))
            channels = (width << stage) * (4 if bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet50() -> nn.Module:
    return resnet((3, 4, 6, 3), True)


def resnet18() -> nn.Module:
    """At 32 px."""
    return resnet((2, 2, 2, 2), False, large=False)


def resnet50_tiny() -> nn.Module:
    """For rehearsals: the same kinds of layers, a thousandth of the work."""
    return resnet((1, 1), True, width=8)


def resnet18_tiny() -> nn.Module:
    return resnet((1, 1), False, width=8, large=False)


def textures(
    count: int, side: int, seed: int, device: str = "cpu", contrast: float = 0.06
) -> tuple[Tensor, Tensor]:
    """float32 ``[count,3,side,side]`` in 0..1 and labels int64 ``[count]``, on the device, from a seed."""
    generator = torch.Generator(device).manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    labels = torch.arange(count, device=device) % CLASSES
    angle = labels * (math.pi / CLASSES)
    period = 6.0 + 2.0 * (labels % 3)
    line = torch.arange(side, device=device, dtype=torch.float32)
    across = (
        line[None, :, None] * angle.sin()[:, None, None] + line[None, None, :] * angle.cos()[:, None, None]
    )
    phase = uniform(count, 1, 1)
    wave = (2 * math.pi * (across / period[:, None, None] + phase)).sin()[:, None]
    blobs = nn.functional.interpolate(uniform(count, 3, 7, 7), size=(side, side), mode="bilinear")
    noise = uniform(count, 3, side, side)
    return (0.2 + 0.4 * blobs + 0.2 * noise + contrast * wave).clamp(0, 1), labels


def trained(
    make: Callable[[], nn.Module], side: int, seed: int, device: str, steps: int, batch: int = 64
) -> tuple[nn.Module, float]:
    """A network trained for some steps on textures of its own, and its accuracy on 256 others.

    Up to three rounds of ``steps``, until half of the others are right: a network that sees one class only is
    of no use to anybody.
    """
    torch.manual_seed(seed)
    model, right = make().to(device), 0.0
    for number in range(3):
        _round(model.train(), side, (seed * 3 + number) * 1_000_003, device, steps, batch)
        model.eval()
        with torch.no_grad():
            x, y = textures(256, side, 7, device)
            right = float((torch.cat([model(p) for p in x.split(64)]).argmax(1) == y).double().mean())
        if right >= 0.5:
            break
    return model.requires_grad_(False), right


def _round(model: nn.Module, side: int, seed: int, device: str, steps: int, batch: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        x, y = textures(batch, side, seed + step, device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device.startswith("cuda")):
            loss = nn.functional.cross_entropy(model(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def operations(model: nn.Module, x: Tensor) -> int:
    """Floating-point operations of convolutions and linear layers in one forward of ``x``, counted."""
    return counted(model, x)[0]


def counted(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Operations of one forward of ``x``, and bytes that its layers read and write one by one, float32.

    Sums at shortcuts are left out, and weights, which a batch shares: the bytes are the fewest.
    """
    total = [0, 0]

    def count(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            total[0] += 2 * out.numel() * module.weight[0].numel()
        if not isinstance(module, nn.Identity | nn.Flatten):
            total[1] += 4 * (given[0].numel() + out.numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return total[0], total[1]
