"""The options that commands share, each declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uapfast import config
from uapfast.errors import InputError

if TYPE_CHECKING:
    from uapfast.data import Framing


class NormChoice(StrEnum):
    """The norm that --eps bounds."""

    linf = "linf"
    l2 = "l2"


class UapChoice(StrEnum):
    """The algorithm that makes the UAP."""

    deepfool = "deepfool"
    margin = "margin"
    contrastive = "contrastive"


class EncoderChoice(StrEnum):
    """How answers are compared: lineage, or the paper's encoder."""

    lineage = "lineage"
    paper = "paper"


class SelectionChoice(StrEnum):
    """How query points are chosen."""

    disagree = "disagree"
    kmeans = "kmeans"


class SelectedChoice(StrEnum):
    """Whether the victim was selected among several outcomes of its training."""

    no = "no"
    same = "same"
    unlike = "unlike"


class InterpolationChoice(StrEnum):
    """Of resizing."""

    nearest = "nearest"
    bilinear = "bilinear"
    bicubic = "bicubic"


class ChannelOrder(StrEnum):
    """Of a network's input."""

    rgb = "rgb"
    bgr = "bgr"


class OutputChoice(StrEnum):
    """What the suspect answers with."""

    auto = "auto"
    logits = "logits"
    probabilities = "probabilities"
    labels = "labels"


SPEC = "path/to/file.py:factory, timm:NAME, torchvision:NAME or uapfast:NAME"
DATA = "FILE.npz with x and y, fashion-mnist, digits, or a folder of class folders"

ReferenceArgument = Annotated[
    Path, typer.Argument(metavar="REF", help="Reference file, written by `uapfast generate`.")
]
ARCH_HELP = f"Architecture: {SPEC}."
WEIGHTS_HELP = "Weights: .safetensors, .pt, .ckpt or .npz, or the .index.json of several."
ArchOption = Annotated[str, typer.Option("--arch", metavar="SPEC", help=ARCH_HELP)]
WeightsOption = Annotated[Path, typer.Option("--weights", metavar="FILE", help=WEIGHTS_HELP)]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="NAME",
        help="Which weights to use, if the file has several sets: state_dict_ema, ema, ... Of an ONNX file: "
        "which output.",
    ),
]
SuspectArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SUSPECT",
        help="A weights file (with --arch), an ONNX file, a hub folder, a URL, or a .toml file that "
        "describes an endpoint.",
    ),
]
MaybeArchOption = Annotated[str | None, typer.Option("--arch", metavar="SPEC", help=ARCH_HELP)]
MaybeWeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="The same as SUSPECT.")
]
AlphaOption = Annotated[
    float, typer.Option("--alpha", help="Significance level: convict only if p_value is at or below it.")
]
MaybeAlphaOption = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        help="Significance level: convict only if p_value is at or below it. Default 0.001, or the record's.",
    ),
]
ClassOrderOption = Annotated[
    str | None,
    typer.Option(
        "--class-order",
        metavar="K[,K...]",
        help="For each class of the reference, the suspect's class that means the same.",
    ),
]
BudgetOption = Annotated[
    int | None, typer.Option("--budget", metavar="N", help="Images sent to an endpoint, at most.")
]
RateOption = Annotated[
    str | None, typer.Option("--rate", metavar="N/s", help="Rate of requests to an endpoint, at most.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FILE", help="File that keeps an endpoint's answers for the next run."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what querying an endpoint costs at most, and send no query.")
]
AnswersOption = Annotated[
    Path | None,
    typer.Option(
        "--answers",
        metavar="FILE",
        help="A record, or answers to the queries of `uapfast queries`: .npz, CSV, Parquet, JSON lines.",
    ),
]
ClassNamesOption = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        help="Class names in --answers, in order: one name per line, or JSON (a list, or id2label).",
    ),
]
DataOption = Annotated[str, typer.Option("--data", metavar="DATA", help=f"The owner's data: {DATA}.")]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="S|H,W",
        help="Resize the pictures of a folder: the shorter side to S pixels, or exactly to H,W.",
    ),
]
CropOption = Annotated[
    str | None,
    typer.Option("--crop", metavar="S|H,W", help="Crop the centre to this size, after --size."),
]
InterpolationOption = Annotated[
    InterpolationChoice, typer.Option("--interpolation", help="Interpolation of --size.")
]
VouchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--vouch",
        metavar="NAME=REASON",
        help="State that a homologous model is honest, and why; may be repeated.",
    ),
]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log",
        metavar="QUERIES.npz",
        help="Images (x) that a suspect's account sent to the victim, as the victim received them "
        "(docs/verdicts.md, section 9).",
    ),
]
LogBlindOption = Annotated[
    bool | None,
    typer.Option(
        "--log-blind/--log-adaptive",
        help="State that the victim's answers did not influence which images --log holds (blind), or may "
        "have (adaptive). The log is used only if it is blind.",
    ),
]
PoolOption = Annotated[Path, typer.Option("--pool", metavar="MANIFEST", help="The pool's manifest.csv.")]
PointsOption = Annotated[
    int | None,
    typer.Option(
        "--points", help="Query points in each view; by default as many as make 4,000 queries in total."
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="T[,T...]",
        help="Ask each point at x + t v for these values of t; by default the encoder's own.",
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="The precision of the networks: float32, or bf16 (faster on a GPU)."),
]
ShowUapOption = Annotated[
    bool, typer.Option("--show-uap", help="Make the victim's UAP even if no query uses it (--ray 0).")
]
EpsOption = Annotated[
    float, typer.Option("--eps", help="Largest norm of the UAP, in units of the input (0..1).")
]
NormOption = Annotated[NormChoice, typer.Option("--norm", help="The norm that --eps bounds.")]
UapOption = Annotated[UapChoice, typer.Option("--uap", help="The algorithm that makes the UAP.")]
EncoderOption = Annotated[
    EncoderChoice,
    typer.Option("--encoder", help="How answers are compared: lineage, or the paper's encoder."),
]
SelectionOption = Annotated[
    SelectionChoice | None,
    typer.Option("--selection", help="How points are chosen; by default the encoder's own way."),
]
FoolingOption = Annotated[
    float, typer.Option("--fooling", help="Stop optimising the UAP when it changes this share of the labels.")
]
MinFoolingOption = Annotated[float, typer.Option("--min-fooling", help="Warn if it changes a smaller share.")]
WireSafeOption = Annotated[
    bool,
    typer.Option("--wire-safe", help="Keep the UAP on the 1/255 grid, so that it survives 8-bit images."),
]
SurrogatesOption = Annotated[
    int, typer.Option("--surrogates", help="Number of copies to make of every candidate, for calibration.")
]
HomologousOption = Annotated[
    int, typer.Option("--homologous", help="Number of honest models of the task to train.")
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Batch size of the networks, at most; by default chosen by image size "
        "(256 of 64 px, 20 of 224 px on a CPU).",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="Where networks run: auto, cpu, cuda or cuda:N.")]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="M[,M...]",
        help="Per channel: subtracted from images in 0..1 before the network.",
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="S[,S...]",
        help="Per channel: images are divided by it after --mean.",
    ),
]
ChannelOrderOption = Annotated[
    ChannelOrder | None,
    typer.Option(
        help="The network's order of channels, also of --mean and --std: bgr if OpenCV read its images."
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="random|WEIGHTS|factory",
        help="Where the victim's training started: random weights; a file of public weights from which it "
        "was fine-tuned; or weights that the factory of --arch loads. Required (docs/fine_tuned.md).",
    ),
]
BranchOption = Annotated[
    Path | None,
    typer.Option(
        "--branch",
        metavar="CHECKPOINT",
        help="Make twins by rerunning the victim's training from this checkpoint; --recipe resumes it "
        "(docs/branches.md). Writes branches.csv.",
    ),
]
BranchAtOption = Annotated[
    float | None,
    typer.Option(
        "--branch-at",
        metavar="SHARE",
        help="Share of the training that lies before --branch, above 0 and below 1.",
    ),
]
SelectedOption = Annotated[
    SelectedChoice | None,
    typer.Option(
        "--selected",
        help="Was the victim selected among several outcomes (best of several seeds or epochs, early "
        "stopping, an average)? no; same: yes, and the recipe selects every twin so; unlike: yes, but not "
        "the twins.",
    ),
]
DesignatedOption = Annotated[
    Path | None,
    typer.Option(
        "--designated",
        metavar="RECORD",
        help="Use as twins the models from which the victim was drawn: the record of `uapfast designate`.",
    ),
]
AncestorOption = Annotated[
    Path | None,
    typer.Option(
        "--ancestor", metavar="WEIGHTS", help="The whole classifier from which the victim was fine-tuned."
    ),
]
OutputOption = Annotated[OutputChoice, typer.Option("--output", help="What the model's answers are.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
SeedOption = Annotated[int, typer.Option("--seed", help="The seed of everything random.")]
HomologousArchsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--homologous-arch",
        metavar="SPEC",
        help="Architecture of surrogates and homologous models, besides the victim's; may be repeated. By "
        "default small networks that ship with uapfast.",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the log, every warning, and the traceback of an error.")
]


def numbers(text: str | None, argument: str) -> tuple[float, ...] | None:
    """``"0.5,0.4"`` or ``"0.5 0.4"`` as ``(0.5, 0.4)``; ``InputError`` for what is no finite number."""
    if text is None:
        return None
    try:
        return config.parse_numbers(text)
    except ValueError:
        rule = "finite numbers separated by commas or blanks, one per channel"
        raise InputError("uapfast", argument, rule, repr(text)) from None


def whole_numbers(text: str | None, argument: str) -> tuple[int, ...] | None:
    """``"1,0"`` -> ``(1, 0)``; raises ``InputError`` for anything that is no whole number."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InputError("uapfast", argument, "whole numbers separated by commas", repr(text))
    return tuple(map(int, parts))


def framing(size: str | None, crop: str | None, interpolation: InterpolationChoice) -> Framing:
    """What ``--size`` and ``--crop`` do to pictures; raises ``InputError`` or ``DataError``."""
    from uapfast.data import Framing

    cut = whole_numbers(crop, "--crop")
    cut = cut * 2 if cut is not None and len(cut) == 1 else cut
    return Framing(whole_numbers(size, "--size"), cut, interpolation.value)  # type: ignore[arg-type]


def device(name: str, here: bool = True) -> str:
    """Resolve ``auto`` and check the device, and that it is there if it has to be ``here``.

    Raises:
        InputError: there is none of that name.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError:
        raise InputError("uapfast", "--device", "auto, cpu, cuda or cuda:N", repr(name)) from None
    if (
        found.type == "cuda"
        and here
        and not (torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count())
    ):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise InputError(
            "uapfast", "--device", f"a device of this machine (usable CUDA devices: {count})", repr(name)
        )
    if found.type not in {"cpu", "cuda"}:
        raise InputError("uapfast", "--device", "auto, cpu, cuda or cuda:N", repr(name))
    return str(found)
