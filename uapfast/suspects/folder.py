"""A folder as timm and transformers write it for a hub, and as a hub's cache holds it.

The network is the library's own, made from checked values alone; weights are read by our own reader. Nothing
is fetched, and no code of the folder is run.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.errors import MissingDependency, ModelError, SuspectError, UapfastError, how_to_install
from uapfast.models.bounded import MOST_BYTES, rehearse
from uapfast.models.checkpoint import Weights, fill, read_weights
from uapfast.models.fitting import COUNTER
from uapfast.models.model import Model
from uapfast.models.preprocessing import BGR, RGB, Preprocessing
from uapfast.models.quantised import refuse_quantised
from uapfast.models.state import state_sha256
from uapfast.safeload.refusal import shown
from uapfast.suspects.hub_config import (
    CLASSES,
    Description,
    describe,
    timm_input,
    transformers_input,
    unsaid,
)
from uapfast.suspects.hub_files import (
    CONFIG,
    PREPROCESSOR,
    bad_hub,
    hub_folder,
    names_in,
    read_json,
    refuse_adapter,
    weights_beside,
    weights_in,
)
from uapfast.suspects.preparation import Preparation, Prepared
from uapfast.suspects.quiet import QUIET

BATCH = 64  # images of the usual size at a time
GROWTH, SPARE = (
    4,
    (16 << 20, 1000),
)  # a network may take so many times its weights' bytes and tensors, and more
WHOLE = (COUNTER, "position_ids", "relative_position_index")  # tensors of whole numbers that are no weights
WRAPPED = "timm_model."  # what transformers puts before the names of a timm network
# Of transformers' image classifiers those that take something else than images.
OTHER_INPUT = ("ImageGPT", "ShieldGemma2", "Siglip2", "TimmWrapper")


class FolderModel(Model):
    """The model of a hub folder.

    Attributes:
        class_names: what its configuration calls the classes, in their order; None where it does not.
        library: ``timm`` or ``transformers``.
        preparation: what happens to images before the network sees them.
    """

    class_names: tuple[str, ...] | None = None
    library: str
    preparation: Preparation


def open_folder(path: str | os.PathLike[str], *, key: str | None = None, device: str = "cpu") -> FolderModel:
    """Open the model of a folder that timm or transformers wrote for a hub.

    Images are used unchanged if they have the size that the folder names. Otherwise they are resized to it in
    one step: the cropping that the folder may name is for photographs. Its own mean and std are applied.
    ``notes`` say all of this.

    Args:
        path: a folder with ``config.json`` and one weights file (and ``preprocessor_config.json``), or the
            cache of a hub with one snapshot. Links are followed into ``../../blobs`` only.
        key: name of the weights file to use, if there are several.
        device: device of the model.

    Returns:
        A model that answers with logits. ``sha256`` is that of the file's tensors, by their names there.

    Raises:
        ModelError: the folder does not exist, its configuration is not allowed, or its weights are unreadable
            (the ``WeightsFileError`` family) or do not fit in name or shape.
        MissingDependency: timm or transformers is not installed.
        SuspectError: weights are NaN or infinite.
    """
    folder = hub_folder(path)
    what = describe(read_json(folder, CONFIG))
    given = _preprocessor(folder)
    if what.library == "transformers":
        refuse_adapter(folder)
        transformers_input(given, what.arguments, PREPROCESSOR)  # before anything large
    file = weights_in(folder, what.weights if key is None else key)
    build = _of_timm if what.library == "timm" else _of_transformers
    library = _library(what.library)
    state = read_weights(file)
    network, preparation, notes = build(library, what, state, given, file)
    model = FolderModel(
        Prepared(network, preparation),
        name=_name(folder) if key is None else f"{_name(folder)}/{shown(key, 80)}",
        output="logits",
        device=device,
        batch_size=preparation.at_a_time(BATCH),
        arch=f"{what.library}:{what.network}",
    )
    model.sha256 = state_sha256(state)
    if preparation.mean is not None and preparation.std is not None:
        order = BGR if preparation.flip else RGB
        model.preprocessing = Preprocessing(preparation.mean, preparation.std, order).to_dict()
    others = weights_beside(folder, file)
    left = [f"weights beside them that were not taken: {', '.join(others[:4])}"] if others else []
    model.notes = (*notes, *left, *preparation.sentences(), *model.notes)
    model.class_names, model.library, model.preparation = what.class_names, what.library, preparation
    return model


def _name(folder: Path) -> str:
    """What people call it: of a hub's cache the repository."""
    found = folder.resolve()
    if found.parent.name == "snapshots":
        found = found.parent.parent
    return shown(found.name.removeprefix("models--").replace("--", "/"), 80)


def _preprocessor(folder: Path) -> dict[str, Any] | None:
    return read_json(folder, PREPROCESSOR) if PREPROCESSOR in names_in(folder) else None


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as exc:  # a torchvision that does not fit its torch fails with RuntimeError
        absent = isinstance(exc, ModuleNotFoundError) and (exc.name or "").split(".")[0] == name
        need = f"({how_to_install(name)})" if absent else "to be imported (do torch and torchvision fit?)"
        raise MissingDependency(f"folder: {name} is needed {need}, got {exc}") from exc


def _most(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Bytes and tensors that a network may take for such weights: one that takes more does not fit them."""
    size = sum(4 * t.numel() for t in state.values())
    return min(MOST_BYTES, SPARE[0] + GROWTH * size), SPARE[1] + GROWTH * len(state)


@contextlib.contextmanager
def _typed(what: Description) -> Iterator[None]:
    """Whatever a library says of a configuration becomes a ``ModelError``."""
    try:
        yield
    except (UapfastError, MemoryError):
        raise
    except Exception as exc:
        said = f"{type(exc).__name__}: {exc}"
        raise bad_hub(CONFIG, f"what {what.library} builds {what.network} of", said) from exc


Built = tuple[nn.Module, Preparation, tuple[str, ...]]


def _of_timm(timm: Any, what: Description, state: Weights, _: object, file: Path) -> Built:
    if not timm.is_model(what.network.partition(".")[0]):
        raise bad_hub(f"{CONFIG}: architecture", "a network that timm has", what.network)
    settings = dict(what.arguments)
    overlay = {k: what.about_input[k] for k in ("input_size", "fixed_input_size") if k in what.about_input}
    if what.about_input:
        timm_input({"mean": 0, "std": 1, "input_size": (3, 224, 224), **what.about_input})
    if what.classes is not None:
        settings["num_classes"] = overlay["num_classes"] = what.classes

    def build() -> nn.Module:
        # never weights from a hub, and never what the folder says of where some lie
        made: nn.Module = timm.create_model(
            what.network, pretrained=False, pretrained_cfg_overlay=overlay, **settings
        )
        return made

    with _typed(what):
        bare: Any = rehearse(build, *_most(state))
        own: Mapping[str, Any] = bare.pretrained_cfg
        channels = settings.get("in_chans") or getattr(bare, "in_chans", None)
        _check_classes(getattr(bare, "num_classes", None))
        network = build()
    about = {**own, **what.about_input}
    size = settings.get("img_size")
    if size is not None and about.get("fixed_input_size"):
        height, width = size if isinstance(size, tuple) else (size, size)
        about["input_size"] = (3, height, width)
    preparation = timm_input(about, channels)
    notes = fill(network, _unwrapped(state), file)
    missing = [k for k in ("mean", "std", "input_size") if k not in what.about_input]
    if missing:
        notes = (*notes, unsaid(missing, what.network))
    return network, preparation, notes


def _unwrapped(state: Weights) -> Weights:
    """Without the prefix that transformers' wrapper gives every name."""
    if not state or not all(name.startswith(WRAPPED) for name in state):
        return state
    found = Weights({name.removeprefix(WRAPPED): tensor for name, tensor in state.items()})
    found.left_out, found.notes = state.left_out, state.notes
    return found


def _check_classes(found: object) -> int:
    if not isinstance(found, int) or not CLASSES[0] <= found <= CLASSES[1]:
        raise bad_hub(f"{CONFIG}: classes", f"{CLASSES[0]} to {CLASSES[1]}", found)
    return found


def _of_transformers(
    library: Any, what: Description, state: Weights, given: Mapping[str, Any] | None, file: Path
) -> Built:
    kind = _class(library, what.network)
    stated = what.arguments.get("model_type")
    if stated not in (None, kind.config_class.model_type):
        raise bad_hub(
            f"{CONFIG}: model_type", f"that of {what.network}, {kind.config_class.model_type}", stated
        )
    _check_state(state, file)
    with QUIET, _typed(what):
        config = kind.config_class.from_dict(dict(what.arguments))
        classes = _check_classes(config.num_labels)
        rehearse(lambda: kind(config), *_most(state))
        network, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
    refuse_quantised(found.get("unexpected_keys") or (), {n: t.dtype for n, t in state.items()}, file)
    notes = _check_loaded(found, file)
    if what.classes is not None and what.classes != classes:
        raise bad_hub(f"{CONFIG}: num_labels", f"{what.classes} as its names are", classes)
    about = {k: getattr(config, k, None) for k in ("num_channels", "image_size")}
    about = {k: v for k, v in about.items() if v is not None}
    preparation = transformers_input(given, {**what.arguments, **about}, PREPROCESSOR)
    return network, preparation, (*state.notes, *notes)


def _class(library: Any, name: str) -> Any:
    """One of transformers' own image classifiers."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    known: set[str] = set()
    for found in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        known |= {found} if isinstance(found, str) else set(found)
    if name not in known or name.startswith(OTHER_INPUT):
        rule = "an image classifier of transformers that takes images"
        raise bad_hub(f"{CONFIG}: architectures", rule, name)
    try:
        return getattr(library, name)
    except (ImportError, AttributeError) as exc:
        raise MissingDependency(f"folder: {name} of transformers has to be imported, got {exc}") from exc


def _check_state(state: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in state.items():
        if not tensor.is_floating_point() and not name.endswith(WHOLE):
            refuse_quantised(state, {n: t.dtype for n, t in state.items()}, file)
            rule = "real numbers (integers are weights only with their scales)"
            raise ModelError("load", f"weights {shown(name)}", rule, f"{tensor.dtype} ({file})")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.to(torch.float32)).all()):
            raise SuspectError("load", f"weights {shown(name)}", "finite", f"NaN or infinity ({file})")


def _check_loaded(found: Mapping[str, Any], file: Path) -> list[str]:
    """Any name that is missing, unexpected or of another shape is an error; counters of batches are not."""
    parts = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        names = sorted(str(k) for k in found.get(kind) or () if not str(k).endswith(COUNTER))
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            label = kind.removesuffix("_keys")
            parts.append(f"{label}: {', '.join(shown(n) for n in names[:4])}{more}")
    if parts:
        raise ModelError("load", "weights", f"those of the architecture ({file})", "; ".join(parts))
    counters = any(str(k).endswith(COUNTER) for kind in found.values() for k in kind or ())
    same = "Counters of batches were missing or left; answers in evaluation do not depend on them."
    return [same] if counters else []


__all__ = ["FolderModel", "open_folder"]
