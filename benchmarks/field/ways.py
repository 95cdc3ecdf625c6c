"""Ways to ask a network: the right one, and what askers get wrong about images, classes, rows and answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uapfast.models.model import Model

Net = Callable[[Tensor], Tensor]
ORDER = [3, 7, 0, 5, 9, 1, 8, 2, 6, 4]  # no class keeps its place


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Attributes:
        name: shown in the table.
        causes: names in ``causes.CAUSES``: a reason that mentions one of them names what went wrong.
        target: makes what is handed to ``verify`` from a network (images in 0..1 to logits).
        output: given to ``verify``.
        expects: ``right`` where nothing is lost and the answers must be understood; ``raises`` where the
            asker's own failure must come back to him; ``any`` otherwise.
        garbage: whether answers that no network gave can be asked this way.
    """

    name: str
    causes: tuple[str, ...]
    target: Callable[[Any], Any]
    output: str = "auto"
    expects: str = "any"
    garbage: bool = False


def _seeded(x: Tensor) -> torch.Generator:
    """A generator that depends on the images alone: the same queries get the same answers."""
    return torch.Generator().manual_seed(int(x.double().abs().sum() * 1e6) % 2**31)


def images(change: Callable[[Tensor], Tensor]) -> Callable[[Net], Net]:
    """The network sees changed images."""
    return lambda net: lambda x: net(change(x))


def answers(change: Callable[[Tensor], Any]) -> Callable[[Net], Callable[[Tensor], Any]]:
    """The asker sees changed logits."""
    return lambda net: lambda x: change(net(x))


def probabilities(change: Callable[[Tensor], Tensor]) -> Callable[[Net], Callable[[Tensor], Any]]:
    """The asker sees changed probabilities."""
    return answers(lambda out: change(out.softmax(1)))


def _blurred(x: Tensor) -> Tensor:
    """To half of the side and back."""
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(half, size=x.shape[-2:], mode="bilinear")


def _levels(x: Tensor) -> Tensor:
    return (x * 7).round() / 7


def _rows_shuffled(out: Tensor) -> Tensor:
    return out[torch.randperm(len(out), generator=torch.Generator().manual_seed(0))]


def _rows_repeated(out: Tensor) -> Tensor:
    """Every fourth answer is lost; the one before stands in its place."""
    out = out.clone()
    count = len(out[3::4])
    out[3::4] = out[2::4][:count]
    return out


def top(count: int) -> Callable[[Tensor], Tensor]:
    """Only the largest ``count`` probabilities; the others are 0."""

    def cut(p: Tensor) -> Tensor:
        kept = p.topk(count, dim=1)
        return torch.zeros_like(p).scatter(1, kept.indices, kept.values)

    return cut


def _zero_rows(p: Tensor) -> Tensor:
    p = p.clone()
    p[::10] = 0
    return p


def _constant(out: Tensor) -> Tensor:
    return F.one_hot(torch.full((len(out),), 3), out.shape[1]) * 5.0


def _noisy(net: Net) -> Net:
    def ask(x: Tensor) -> Tensor:
        out = net(x)
        return out + 0.5 * out.std() * torch.randn(out.shape, generator=_seeded(x))

    return ask


def _in_train_mode(net: nn.Module) -> Net:
    """Batch normalisation takes the statistics of whatever lies in the batch."""
    training = copy.deepcopy(net).train()
    return lambda x: training(x)


def _breaks_down(net: Net) -> Net:
    """The connection fails at the third batch."""
    batches = iter(range(2))

    def ask(x: Tensor) -> Tensor:
        if next(batches, None) is None:
            raise ConnectionError("the service hung up")
        return net(x)

    return ask


def _model(**settings: Any) -> Callable[[Any], Model]:
    return lambda net: Model(net, **settings)


WAYS = (
    Way("as it is", (), lambda net: net, expects="right", garbage=True),
    Way("a function", (), lambda net: lambda x: net(x), expects="right", garbage=True),
    # what the network sees
    Way("mean .5, std .25", ("images",), _model(mean=[0.5], std=[0.25])),
    Way("mean 73, std 90", ("images",), _model(mean=[73.0], std=[90.0])),
    Way("images x 255", ("images",), images(lambda x: x * 255)),
    Way("images / 255", ("images",), images(lambda x: x / 255)),
    Way("inverted", ("images",), images(lambda x: 1 - x)),
    Way("transposed", ("images",), images(lambda x: x.transpose(2, 3))),
    Way("mirrored", ("images",), images(lambda x: x.flip(3))),
    Way("upside down", ("images",), images(lambda x: x.flip(2))),
    Way("shifted by 2 px", ("images",), images(lambda x: x.roll(2, 3))),
    Way("resized, blurred", ("images",), images(_blurred)),
    Way("8 grey levels", ("images",), images(_levels)),
    Way("in train mode", ("images", "mode"), _in_train_mode),
    # classes
    Way("classes permuted", ("classes",), answers(lambda out: out[:, ORDER])),
    Way("classes reversed", ("classes",), answers(lambda out: out.flip(1))),
    Way("classes shifted by 1", ("classes",), answers(lambda out: out.roll(1, 1))),
    Way("labels counted from 1", ("classes",), answers(lambda out: (out.argmax(1) + 1) % out.shape[1])),
    Way("labels, classes permuted", ("classes",), answers(lambda out: out[:, ORDER].argmax(1))),
    Way("negated logits", ("classes", "kind", "rows"), answers(lambda out: -out)),
    # rows
    Way("rows shuffled", ("rows",), answers(_rows_shuffled)),
    Way("rows shifted by 1", ("rows",), answers(lambda out: out.roll(1, 0))),
    Way("rows reversed", ("rows",), answers(lambda out: out.flip(0))),
    Way("every 4th row repeated", ("rows",), answers(_rows_repeated)),
    Way("labels, rows shuffled", ("rows",), answers(lambda out: _rows_shuffled(out.argmax(1)))),
    # what the answers are
    Way("probabilities", ("kind",), probabilities(lambda p: p), expects="right", garbage=True),
    Way("probabilities, two digits", ("kind",), probabilities(lambda p: (p * 100).round() / 100)),
    Way("probabilities, one digit", ("kind",), probabilities(lambda p: (p * 10).round() / 10), garbage=True),
    Way("percent", ("kind",), probabilities(lambda p: p * 100), expects="right", garbage=True),
    Way("whole percent", ("kind",), probabilities(lambda p: (p * 100).round())),
    Way("log-probabilities", ("kind",), answers(lambda out: out.log_softmax(1)), expects="right"),
    Way("top 1 with score", ("kind",), probabilities(top(1)), garbage=True),
    Way("top 3", ("kind",), probabilities(top(3))),
    Way("a few zero rows", ("kind", "rows", "information"), probabilities(_zero_rows)),
    Way("labels", ("kind",), answers(lambda out: out.argmax(1)), garbage=True),
    Way(
        "one-hot",
        ("kind",),
        answers(lambda out: F.one_hot(out.argmax(1), out.shape[1]).float()),
        garbage=True,
    ),
    Way("output=labels, [N,K] given", ("kind",), lambda net: lambda x: net(x), output="labels"),
    Way("sigmoid scores", ("kind", "scale"), answers(lambda out: out.sigmoid())),
    Way("logits as integers", ("kind", "scale"), answers(lambda out: out.round().to(torch.int64))),
    Way("float16", ("kind",), answers(lambda out: out.half()), expects="right"),
    Way("transformers' output", ("kind",), answers(lambda out: SimpleNamespace(logits=out)), expects="right"),
    Way("tuple (logits, None)", ("kind",), answers(lambda out: (out, None)), expects="right"),
    Way('{"logits": ...}', ("kind",), answers(lambda out: {"logits": out}), expects="right"),
    # scale and noise
    Way("logits x 0.01", ("scale",), answers(lambda out: out * 0.01), garbage=True),
    Way("logits x 0.001", ("scale",), answers(lambda out: out * 0.001)),
    Way("logits x 100", ("scale",), answers(lambda out: out * 100), garbage=True),
    Way("temperature 5", ("scale",), probabilities(lambda p: (p.log() / 5).softmax(1))),
    Way("smoothed, .3 even", ("scale",), probabilities(lambda p: 0.7 * p + 0.3 / p.shape[1])),
    Way("constant", ("information",), answers(_constant)),
    Way("noise on logits", ("information", "noise"), _noisy),
    Way("ConnectionError", ("failure",), _breaks_down, expects="raises", garbage=True),
)
