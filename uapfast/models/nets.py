"""Small networks that ship: ``uapfast:NAME?channels=1&classes=10&size=28``.

Sized for 8 to 32 px on a CPU: plain layers, early strides, about 20,000 to 100,000 parameters. Larger images
are pooled before the last layers, so that 1,000 classes of 224 px need 0.1 to 2 million (``mlp-small``: 19).
All take images in 0..1 and return logits.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

SMALLEST = 8  # px; below, the poolings have nothing left
LARGE, POOLED = 16, 4  # a map of a larger side is pooled to this one before linear layers


def _conv(i: int, o: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU()
    )


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(i, o, stride)
        self.second = nn.Sequential(nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
        same = stride == 1 and i == o
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[N,i,H,W]`` to ``[N,o,H/stride,W/stride]``."""
        out: Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return out


def _stem_stride(size: int) -> int:
    """Images from 16 px on are halved at once; smaller ones have nothing to spare."""
    return 2 if size >= 16 else 1


def _halved(size: int, times: int) -> int:
    """Side after ``times`` strides of 2, rounded up as padded convolutions do."""
    for _ in range(times):
        size = -(-size // 2)
    return size


def _flat(side: int) -> tuple[list[nn.Module], int]:
    """What makes vectors of maps of ``side``, and the side that linear layers see."""
    if side > LARGE:
        return [nn.AdaptiveAvgPool2d(POOLED), nn.Flatten()], POOLED
    return [nn.Flatten()], side


def resnet_small(channels: int = 1, classes: int = 10, size: int = 28) -> nn.Module:
    """Residual network, 16-32-64 channels, two blocks."""
    return nn.Sequential(
        _conv(channels, 16, _stem_stride(size)),
        _Residual(16, 32, 2),
        _Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def vgg_small(channels: int = 1, classes: int = 10, size: int = 28) -> nn.Module:
    """Convolutions and max-pooling, 16-32-64 channels."""
    side = _halved(size, 1 if _stem_stride(size) == 2 else 0)
    layers = [_conv(channels, 16, _stem_stride(size)), _conv(16, 32), nn.MaxPool2d(2), _conv(32, 64)]
    flat, side = _flat(side // 4)
    return nn.Sequential(*layers, nn.MaxPool2d(2), *flat, nn.Linear(64 * side**2, classes))


def depthwise_small(channels: int = 1, classes: int = 10, size: int = 28) -> nn.Module:
    """Depthwise-separable convolutions (MobileNet, Howard et al. 2017), 16-64-128 channels."""
    stride = _stem_stride(size)
    flat, side = _flat(_halved(size, 3 if stride == 2 else 2))
    return nn.Sequential(
        _conv(channels, 16, stride, kernel=5),
        _conv(16, 16, 2, groups=16),
        _conv(16, 64, kernel=1),
        _conv(64, 64, groups=64),
        _conv(64, 64, kernel=1),
        _conv(64, 64, 2, groups=64),
        _conv(64, 128, kernel=1),
        *flat,
        nn.Linear(128 * side**2, classes),
    )


def cnn_small(channels: int = 1, classes: int = 10, size: int = 28) -> nn.Module:
    """Two strided 5x5 convolutions and two linear layers, no normalisation."""
    stride = _stem_stride(size)
    first = -(-size // stride)
    flat, side = _flat(-(-first // 2))
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride, 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, 2, 2),
        nn.ReLU(),
        *flat,
        nn.Linear(32 * side * side, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def mlp_small(channels: int = 1, classes: int = 10, size: int = 28) -> nn.Module:
    """One hidden layer of 128."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * size * size, 128), nn.ReLU(), nn.Linear(128, classes)
    )


NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "resnet-small": resnet_small,
    "vgg-small": vgg_small,
    "depthwise-small": depthwise_small,
    "cnn-small": cnn_small,
    "mlp-small": mlp_small,
}
