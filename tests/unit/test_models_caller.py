"""Failures of whoever asks are his, and pass through; what models return in any usual form is understood."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError, OutputError, SuspectError
from uapfast.models.answers import as_tensor
from uapfast.models.model import Model


def images(count: int = 20) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def table(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3] * 9 - 4


@pytest.mark.parametrize("error", [ConnectionError, KeyError, MemoryError, KeyboardInterrupt, SystemExit])
def test_what_a_callable_raises_passes_through_with_what_was_answered(error: type[BaseException]) -> None:
    calls = []

    def remote(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 3:
            raise error("503")
        return table(x)

    with pytest.raises(error, match="503") as caught:
        Model(remote, batch_size=8).answers(images())
    assert torch.equal(caught.value.uapfast_answers, table(images())[:16])
    assert any(
        "16 queries were answered" in n
        for n in getattr(caught.value, "__notes__", ["16 queries were answered"])
    )


def test_answers_that_cannot_be_told_are_not_lost() -> None:
    with pytest.raises(OutputError, match="told apart") as caught:
        Model(lambda x: table(x).sigmoid()).answers(images())
    assert torch.equal(caught.value.uapfast_answers, table(images()).sigmoid())


class Fails(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


def test_a_module_that_fails_is_about_the_suspect_but_not_when_memory_ends() -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            Model(Fails(error)).answers(images())
    with pytest.raises(MemoryError, match="tried to allocate"):
        said = "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
        Model(Fails(RuntimeError(said))).answers(images())
    for error in (RuntimeError("shapes"), ValueError("x"), NotImplementedError()):
        with pytest.raises(SuspectError, match=type(error).__name__):
            Model(Fails(error)).answers(images())


class Output(OrderedDict):  # type: ignore[type-arg]
    """As transformers' ``ModelOutput``: a mapping with attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Attributes:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.loss = logits, None


Pair = namedtuple("Pair", "logits aux_logits")
SHAPES = {
    "output object": lambda z: Output(loss=None, logits=z, hidden_states=(z, z)),
    "attributes": Attributes,
    "dict": lambda z: {"logits": z},
    "scores": lambda z: {"scores": z, "time": 0.3},
    "tuple": lambda z: (z, torch.zeros(len(z), 7, 4)),
    "tuple, table second": lambda z: (torch.zeros(len(z), 2, 2), z),
    "named tuple": lambda z: Pair(z, z * 2),
    "nested": lambda z: [{"logits": z}],
    "numpy": lambda z: z.numpy(),
    "lists": lambda z: z.tolist(),
    "list of rows": lambda z: list(z),
    "tuple of arrays": lambda z: tuple(row.numpy() for row in z),
    "bfloat16": lambda z: z.bfloat16().double().float(),
    "sparse": lambda z: z.to_sparse(),
    "device of its own": lambda z: z.clone().requires_grad_(True) * 1,
}


class Wraps(nn.Module):
    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(table(x))


@pytest.mark.parametrize("name", SHAPES)
def test_usual_outputs_are_understood(name: str) -> None:
    shape, right = SHAPES[name], table(images())
    if name == "bfloat16":
        right = right.bfloat16().float()
    for target in (lambda x: shape(table(x)), Wraps(shape)):
        answers = Model(target, batch_size=8).answers(images())
        assert answers.kind == "logits" and torch.equal(answers.values, right)


def test_labels_and_entries_by_name() -> None:
    def both(x: Tensor) -> dict[str, Tensor]:
        return {"labels": table(x).argmax(1), "logits": table(x)}

    assert Model(both, output="labels").answers(images(), 3).kind == "labels"
    assert torch.equal(Model(both, output="logits").answers(images()).values, table(images()))
    with pytest.raises(OutputError, match="got dict of labels, logits") as caught:
        Model(both).answers(images())
    assert not isinstance(caught.value, SuspectError)
    assert Model(lambda x: {"labels": table(x).argmax(1).tolist()}).answers(images(), 3).kind == "labels"
    one = Model(lambda x: [row.argmax() for row in table(x)]).answers(images(), 3)
    assert torch.equal(one.labels(), table(images()).argmax(1))
    pair = Model(lambda x: (table(x).argmax(1), table(x).amax(1))).answers(images(), 3)
    assert pair.kind == "labels"
    for target in (table, Wraps(lambda z: z)):  # labels of what answers with more
        answers = Model(target, output="labels").answers(images(), 3)
        assert torch.equal(answers.values, table(images()).argmax(1))


def test_the_wrong_output_is_the_callers() -> None:
    for target in (table, Wraps(lambda z: z)):
        with pytest.raises(OutputError, match="must be probabilities") as caught:
            Model(target, output="probabilities").answers(images())
        assert isinstance(caught.value, InputError) and not isinstance(caught.value, SuspectError)


def test_quantised_answers() -> None:
    z = torch.quantize_per_tensor(table(images()), 0.1, 0, torch.qint8)
    assert torch.equal(as_tensor(z, "s"), z.dequantize())


def test_lazy_layers_without_weights_are_named() -> None:
    with pytest.raises(ModelError, match=r"run it once .* got uninitialised 1\.weight"):
        Model(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
