"""What a hub folder's configuration says of a network and its input, checked value by value.

Two libraries write such folders. timm's ``config.json`` names an ``architecture``. That of transformers names
a class under ``architectures``, and leaves the input to ``preprocessor_config.json``. Nothing that names
code, an address or another file reaches the library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from uapfast.suspects.hub_files import CONFIG, bad_hub
from uapfast.suspects.preparation import CHANNELS, MOST_SIZE, Preparation

CLASSES = (2, 100_000)
MOST_NUMBER = 1_000_000  # of any whole number in a transformers configuration
COUNTED = re.compile(r"depth|layers|blocks|repeats|heads|groups|stages")  # what is built one by one
MOST_COUNTED = MOST_LIST = 1000
MOST_NAME = 1000  # characters of a class name
MOST_DEPTH = 16  # of nested values
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
CLASS = re.compile(r"[A-Z][A-Za-z0-9]{1,80}")
GENERIC = re.compile(r"LABEL_\d+")  # what transformers writes where nobody named the classes

FLAGS = "bool"
Numbers = tuple[float, ...]
# Arguments of timm's networks that a folder may give: what they are built of, never where from.
MODEL_ARGS: dict[str, tuple[float, float] | str] = {
    **dict.fromkeys(("img_size", "patch_size", "window_size"), (1, MOST_SIZE)),
    "in_chans": CHANNELS,
    "num_classes": CLASSES,
    **dict.fromkeys(("depth", "depths", "num_heads", "group_size", "groups", "cardinality"), (1, 1000)),
    **dict.fromkeys(("embed_dim", "head_dim", "base_width", "stem_width", "dims"), (1, 65_536)),
    **dict.fromkeys(("num_features", "head_hidden_size", "reg_tokens", "channels"), (0, 65_536)),
    "output_stride": (1, 64),
    **dict.fromkeys(("mlp_ratio", "expand_ratio", "channel_multiplier", "depth_multiplier"), (0.01, 100)),
    **dict.fromkeys(("init_values", "ls_init_value"), (0, 10)),
    **dict.fromkeys(("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate"), (0, 1)),
    **dict.fromkeys(("pos_drop_rate", "patch_drop_rate", "drop_block_rate"), (0, 1)),
    **dict.fromkeys(("global_pool", "pool_type", "act_layer", "norm_layer", "stem_type"), "name"),
    **dict.fromkeys(("qkv_bias", "qk_norm", "class_token", "no_embed_class", "pre_norm"), FLAGS),
    **dict.fromkeys(("final_norm", "fc_norm", "dynamic_img_size", "strict_img_size"), FLAGS),
    **dict.fromkeys(("conv_mlp", "use_grn", "head_norm_first", "replace_stem_pool", "avg_down"), FLAGS),
}  # fmt: skip
# Keys of transformers that name code, another network, or weights of another kind.
REFUSED = {
    "auto_map": "it names code of its own, which is never run",
    "custom_pipelines": "it names code of its own, which is never run",
    "quantization_config": "its weights are quantised; save the dequantised model",
    "backbone": "it names another network",
    "use_timm_backbone": "it names another network",
    "use_pretrained_backbone": "it would fetch weights",
    "fusion_config": "it would change the library's code",
    "distributed_config": "it is set up for several machines",
}
ATTENTION = (None, "eager", "sdpa")  # others may be kernels that a hub holds
LEFT = {"transformers_version", "_name_or_path", "name_or_path", "torch_dtype", "dtype",
        "transformers_weights", "_attn_implementation", "attn_implementation", "_commit_hash",
        "_attn_implementation_internal",
        "_experts_implementation", "return_dict", "output_attentions", "output_hidden_states"}  # fmt: skip
# In the words of both libraries; PIL's numbers stand in transformers' files.
INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
DOES = {"do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "do_reduce_labels",
        "do_flip_channel_order"}  # fmt: skip


@dataclass(frozen=True)
class Description:
    """What a folder's configuration says.

    Attributes:
        library: ``timm`` or ``transformers``.
        network: name of the architecture (timm) or of the class (transformers).
        classes: K; None where the library's own default counts.
        class_names: one a class, in their order, or None.
        arguments: for the library: of ``timm.create_model``, or the whole configuration for transformers.
        about_input: what timm's ``pretrained_cfg`` says of the input, checked by :func:`timm_input`.
        weights: file that the configuration names, unchecked, or None.
    """

    library: str
    network: str
    classes: int | None
    class_names: tuple[str, ...] | None
    arguments: Mapping[str, Any]
    about_input: Mapping[str, Any]
    weights: object = None


def describe(config: dict[str, Any]) -> Description:
    """Tell which library wrote ``config.json``, and check it.

    Raises:
        ModelError: neither did, or a value that is not allowed.
    """
    if isinstance(config.get("architecture"), str):
        return _timm(config)
    if "architectures" in config:
        return _transformers(config)
    rule = "that of a timm network (architecture) or of a transformers one (architectures)"
    raise bad_hub(CONFIG, rule, f"one of {', '.join(list(config)[:8]) or 'nothing'}")


def _timm(config: dict[str, Any]) -> Description:
    inner = config.get("pretrained_cfg", config)  # the older form is flat
    if not isinstance(inner, dict):
        raise bad_hub(f"{CONFIG}: pretrained_cfg", "an object", type(inner).__name__)
    both = {**inner, **{k: config[k] for k in ("num_classes", "label_names", "labels") if k in config}}
    arguments = _model_args(config.get("model_args"))
    said = [v for v in (both.get("num_classes"), arguments.get("num_classes")) if v is not None]
    classes = [whole(v, f"{CONFIG}: num_classes", *CLASSES) for v in said]
    if len(set(classes)) > 1:
        raise bad_hub(f"{CONFIG}: num_classes", "one number", classes)
    count = classes[0] if classes else None
    name = config["architecture"]
    if not NAME.fullmatch(name):  # hf-hub:OWNER/NAME, local-dir:PATH, an address
        raise bad_hub(f"{CONFIG}: architecture", "the name of a timm network alone", name)
    names = _class_names(both.get("label_names") or both.get("labels"), count, "label_names")
    wanted = ("input_size", "fixed_input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    about = {k: inner[k] for k in wanted if inner.get(k) is not None}
    return Description("timm", name, count, names, arguments, about)


def _model_args(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise bad_hub(f"{CONFIG}: model_args", "an object", type(given).__name__)
    found = {}
    for key, value in given.items():
        if key not in MODEL_ARGS:
            raise bad_hub(f"{CONFIG}: model_args", f"of those that are known ({', '.join(MODEL_ARGS)})", key)
        if value is not None:
            found[key] = _argument(f"{CONFIG}: model_args.{key}", value, MODEL_ARGS[key])
    return found


def _argument(where: str, value: object, kind: tuple[float, float] | str) -> Any:
    if isinstance(value, list):
        if not 1 <= len(value) <= 64:
            raise bad_hub(where, "1 to 64 values", len(value))
        return tuple(_argument(where, one, kind) for one in value)
    if kind == "bool" or isinstance(value, bool):
        if not isinstance(value, bool) or isinstance(kind, tuple):
            raise bad_hub(where, "true or false" if kind == "bool" else "a number or a name", value)
        return value
    if isinstance(kind, str):
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise bad_hub(where, "a plain name", value)
        return value
    if isinstance(kind[0], int) and isinstance(kind[1], int) and isinstance(value, int):
        return whole(value, where, *kind)
    return real(value, where, *kind)


def whole(value: object, where: str, low: float, high: float) -> int:
    """``value`` as a whole number in bounds; raises ``ModelError``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise bad_hub(where, f"a whole number in {low:g}..{high:g}", value)
    return value


def real(value: object, where: str, low: float, high: float) -> float:
    """``value`` as a finite number in bounds; raises ``ModelError``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise bad_hub(where, f"a number in {low:g}..{high:g}", value)
    return value


def _flag(config: Mapping[str, Any], key: str, otherwise: bool, where: str) -> bool:
    value = config.get(key)
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        raise bad_hub(f"{where}: {key}", "true or false", value)
    return value


def _class_names(given: object, count: int | None, key: str) -> tuple[str, ...] | None:
    """Names by index: a list, or an object from index to name. None where some class has none."""
    if not given:
        return None
    where = f"{CONFIG}: {key}"
    if isinstance(given, list):
        given = dict(enumerate(given))
    if not isinstance(given, dict) or len(given) > CLASSES[1]:
        raise bad_hub(where, "a list of names, or an object from number to name", type(given).__name__)
    found: dict[int, str] = {}
    for number, name in given.items():
        plain = str(number).isascii() and str(number).isdigit() and len(str(number)) < 8
        if not plain or not isinstance(name, str) or len(name) > MOST_NAME:
            raise bad_hub(
                where, f"from number to name of at most {MOST_NAME} characters", f"{number}: {name}"
            )
        found[int(number)] = name
    count = len(found) if count is None else count
    if sorted(found) != list(range(count)) or all(GENERIC.fullmatch(n) for n in found.values()):
        return None  # some are missing, or they say nothing
    return tuple(found[i] for i in range(count))


def timm_input(about: Mapping[str, Any], channels: int | None = None) -> Preparation:
    """Size, mean and std of a timm network.

    Args:
        about: of ``pretrained_cfg``, what its library knows and the folder does not say included.
        channels: of the network, where its arguments give them.

    Raises:
        ModelError: a value that is not allowed.
    """
    where = f"{CONFIG}: pretrained_cfg"
    size = about.get("input_size")
    if not isinstance(size, (list, tuple)) or len(size) != 3:
        raise bad_hub(f"{where}.input_size", "three sizes: channels, height, width", size)
    count = channels or whole(size[0], f"{where}.input_size", *CHANNELS)
    height, width = (whole(n, f"{where}.input_size", 1, MOST_SIZE) for n in size[1:])
    mean, std = (_statistic(about.get(k), f"{where}.{k}", count) for k in ("mean", "std"))
    notes = []
    crop = about.get("crop_pct")
    if crop is not None and real(crop, f"{where}.crop_pct", 0.01, 2) != 1:
        notes.append(f"crop_pct {crop:g} of its configuration is for photographs, and was not applied")
    mode, more = interpolation(about.get("interpolation", "bicubic"), f"{where}.interpolation")
    return Preparation(count, (height, width), mode, mean, std, notes=(*notes, *more))


def unsaid(missing: list[str], network: str) -> str:
    """What is said of an input that the folder does not describe."""
    return f"its configuration says no {', '.join(missing)}: timm's own for {network} counts"


def _statistic(value: object, where: str, channels: int) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(values) <= CHANNELS[1]:
        raise bad_hub(where, "one number a channel", value)
    found = tuple(float(real(v, where, -1000, 1000)) for v in values)
    if len(found) in (1, channels):
        return found
    return (math.fsum(found) / len(found),)  # as timm does where channels were changed


def interpolation(value: object, where: str) -> tuple[str, list[str]]:
    """A mode that torch has, and what is said where it is another one than the configuration names."""
    names = {number: name for name, number in INTERPOLATIONS.items()}
    known = not isinstance(value, bool) and isinstance(value, (int, str))
    name = names.get(value, value) if known else None  # type: ignore[call-overload]
    if name not in INTERPOLATIONS:
        raise bad_hub(where, f"one of {', '.join(INTERPOLATIONS)}", value)
    taken = {"lanczos": "bicubic", "box": "bilinear", "hamming": "bilinear"}.get(name, name)
    said = [f"{name} interpolation of its configuration was replaced by {taken}"] if taken != name else []
    return taken, said


def _transformers(config: dict[str, Any]) -> Description:
    names = config["architectures"]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise bad_hub(f"{CONFIG}: architectures", "a list of one class", names)
    if not CLASS.fullmatch(names[0]) or "ForImageClassification" not in names[0]:
        raise bad_hub(
            f"{CONFIG}: architectures", "a class of transformers for image classification", names[0]
        )
    _harmless(config, 0)
    classes = config.get("num_labels")
    labels = config.get("id2label")
    if classes is None and isinstance(labels, dict):
        classes = len(labels)
    if classes is not None:
        classes = whole(classes, f"{CONFIG}: num_labels", *CLASSES)
    known = _class_names(labels, classes, "id2label")
    if isinstance(labels, dict) and classes not in (None, len(labels)):
        raise bad_hub(f"{CONFIG}: id2label", f"of {classes} classes (num_labels)", len(labels))
    kept = {k: v for k, v in config.items() if k not in LEFT}
    return Description("transformers", names[0], classes, known, kept, {}, config.get("transformers_weights"))


def _harmless(value: object, depth: int, key: str = "") -> None:
    """Refuse, at any depth, what names code, networks or addresses, and numbers that no network has."""
    if depth > MOST_DEPTH:
        raise bad_hub(CONFIG, f"nested at most {MOST_DEPTH} deep", "deeper")
    if isinstance(value, bool):
        return
    most = MOST_COUNTED if COUNTED.search(key) else MOST_NUMBER
    if isinstance(value, int) and not -MOST_NUMBER <= value <= most:
        raise bad_hub(f"{CONFIG}: {key}", f"at most {most}", value)
    if isinstance(value, list):
        if len(value) > MOST_LIST:
            raise bad_hub(f"{CONFIG}: {key}", f"a list of at most {MOST_LIST}", len(value))
        for one in value:
            _harmless(one, depth + 1, key)
    if isinstance(value, dict):
        for name, one in value.items():
            if name in REFUSED and one not in (None, False, {}, []):
                raise bad_hub(CONFIG, f"without {name} ({REFUSED[name]})", f"{name} {one}")
            if name.endswith("attn_implementation") and one not in ATTENTION:
                raise bad_hub(f"{CONFIG}: {name}", "eager or sdpa", one)
            if name.startswith("__"):
                raise bad_hub(CONFIG, "of plain names", name)
            _harmless(one, depth + 1, name)


def transformers_input(given: Mapping[str, Any] | None, config: Mapping[str, Any], where: str) -> Preparation:
    """Size, mean and std by ``preprocessor_config.json``.

    Args:
        given: that file's content; None where the folder has none.
        config: ``config.json``: ``num_channels`` and ``image_size`` stand there.
        where: the file, for errors.

    Raises:
        ModelError: a value that is not allowed, or a step that is not known.
    """
    channels = config.get("num_channels", 3)
    channels = whole(channels, f"{CONFIG}: num_channels", *CHANNELS)
    own = _size(config.get("image_size"), f"{CONFIG}: image_size")
    if given is None:
        said = "its folder says nothing of mean and std"
        return Preparation(channels, own, "bilinear", None, None, notes=(said,))
    for key, value in given.items():
        if key.startswith("do_") and key not in DOES and value:
            raise bad_hub(f"{where}: {key}", f"false (known: {', '.join(sorted(DOES))})", value)
    _harmless(given, 0)
    size = _size(given.get("size"), f"{where}: size") if _flag(given, "do_resize", True, where) else None
    cropped = _flag(given, "do_center_crop", False, where)
    crop = _size(given.get("crop_size"), f"{where}: crop_size") if cropped else None
    notes = []
    if crop is not None or given.get("crop_pct") not in (None, 1):
        notes.append("the cropping of its configuration is for photographs, and was not applied")
    mode, more = interpolation(given.get("resample", 2), f"{where}: resample")
    kind = _processor(given, config)
    mean, std = _scaled(given, where, channels, kind)
    flip = _flag(given, "do_flip_channel_order", kind == "mobilevit", where)
    if kind == "pplcnet":  # after mean and std
        flip, mean, std = True, mean[::-1], std[::-1]
    return Preparation(channels, crop or size or own, mode, mean, std, flip, (*notes, *more))


def _processor(given: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The processor's kind, of those that do what their file does not say; else empty.

    MobileViT's never applies the mean and std that stand there, and turns the channels round unless told not
    to. EfficientNet's divides by std once more (``include_top``), also without ``do_normalize``. PPLCNet's
    turns the channels round.
    """
    said = (
        given.get("image_processor_type") or given.get("feature_extractor_type") or config.get("model_type")
    )
    name = str(said).lower().replace("_", "")
    return next((kind for kind in ("mobilevit", "efficientnet", "pplcnet") if name.startswith(kind)), "")


def _scaled(
    given: Mapping[str, Any], where: str, channels: int, kind: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for images in 0..1: the file's are for ``255 * rescale_factor`` times these."""
    scale, offset = 255.0, 0.0
    if _flag(given, "do_rescale", True, where):
        factor = given.get("rescale_factor")
        scale *= 1 / 255 if factor is None else real(factor, f"{where}: rescale_factor", 1e-6, 1e3)
        offset = -1.0 if _flag(given, "rescale_offset", False, where) else 0.0
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)
    again = _flag(given, "include_top", kind == "efficientnet", where)
    normal = _flag(given, "do_normalize", given.get("image_mean") is not None, where) and kind != "mobilevit"
    if normal:
        mean = _statistic(given.get("image_mean"), f"{where}: image_mean", channels)
        std = _statistic(given.get("image_std"), f"{where}: image_std", channels)
    if again:
        more = _statistic(given.get("image_std"), f"{where}: image_std", channels)
        std = tuple(v * w for v, w in zip(std if normal else (1.0,) * len(more), more, strict=True))
    scale = round(scale, 9)  # 1/255 as it was written down
    return tuple((m - offset) / scale for m in mean), tuple(v / scale for v in std)


def _size(value: object, where: str) -> tuple[int, int] | None:
    """Height and width: a number, two of them, or an object; of square images the shortest edge is both."""
    if value is None:
        return None
    if isinstance(value, dict):
        edge = value.get("shortest_edge")
        value = [edge, edge] if edge is not None else [value.get("height"), value.get("width")]
    pair: Iterable[object] = value if isinstance(value, list) else [value, value]
    found = [whole(one, where, 1, MOST_SIZE) for one in pair]
    if len(found) != 2:
        raise bad_hub(where, "height and width", value)
    return found[0], found[1]


__all__ = [
    "CLASSES",
    "Description",
    "describe",
    "interpolation",
    "timm_input",
    "transformers_input",
    "unsaid",
]
