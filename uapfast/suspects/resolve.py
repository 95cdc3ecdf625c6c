"""Open a suspect of any kind: an endpoint, a hub folder, an ONNX file, or weights of an architecture."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from uapfast import plugins
from uapfast.errors import InputError
from uapfast.models.model import Model, as_model
from uapfast.safeload import open_checkpoint
from uapfast.suspects.base import Suspect

URLS = ("http://", "https://")
WEIGHTS, FOLDER, ONNX, ENDPOINT = "weights", "folder", "onnx", "endpoint"
KINDS = (WEIGHTS, FOLDER, ONNX, ENDPOINT)


def kind_of(given: str | os.PathLike[str]) -> str:
    """The kind of a suspect, one of ``KINDS``, by its content; anything unrecognised is read as weights."""
    place = os.fspath(given)
    if place.startswith(URLS) or place.endswith(".toml"):
        return ENDPOINT
    if os.path.isdir(place):
        return FOLDER
    from uapfast.suspects.onnx import is_onnx

    return ONNX if is_onnx(place) else WEIGHTS


def open_suspect(
    given: str | os.PathLike[str],
    *,
    arch: str | None = None,
    key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channel_order: str | None = None,
    output: str = "auto",
    device: str = "cpu",
    kind: str | None = None,
    timeout: float | None = None,
    **conduct: Any,
) -> Model | Suspect:
    """Open a suspect; its kind is recognised by its content.

    Args:
        given: an address ``NAME://...`` of a source that a package has registered (docs/extend.md); a URL or
            a ``.toml`` file that describes an endpoint (:func:`uapfast.suspects.http.open_http`); a folder
            that timm or transformers wrote (:func:`uapfast.suspects.folder.open_folder`); an ONNX file
            (:func:`uapfast.suspects.onnx.open_onnx`); or a weights file, with ``arch``.
        arch: SPEC of a weights file's architecture (:func:`uapfast.models.registry.resolve_arch`).
        key: which weights to take, if a file holds several maps of tensors or a folder several files;
            of an ONNX file: which output.
        mean: per channel, subtracted from images in 0..1; for weights files and ONNX files.
        std: per channel, > 0; images are divided by it after that. With ``mean``.
        channel_order: ``rgb`` or ``bgr``: how the network takes its channels; for weights files and ONNX
            files. None where nobody knows. ``mean`` and ``std`` are in this order.
        output: what it answers with: ``logits``, ``probabilities``, ``labels``, or ``auto``.
        device: device of the network.
        kind: its kind, one of ``KINDS``, if known.
        timeout: seconds for loading an ONNX file, and for each of its batches; at most its own limit.
        **conduct: for an endpoint: ``budget``, ``rate``, ``cache`` and the like.

    Raises:
        InputError: ``given`` is of no known kind, or an option does not apply to its kind; and every error of
            opening it.

    Example:
        >>> suspect = uapfast.open_suspect("copy.safetensors", arch="uapfast:mlp-small?size=8")
        >>> uapfast.verify("victim.uapref", suspect).decision
        'piracy'
    """
    place = os.fspath(given)
    images: dict[str, Any] = {"mean": mean, "std": std, "channel_order": channel_order}
    chosen = {"--arch": arch, "--key": key} | {f"--{n.replace('_', '-')}": v for n, v in images.items()}
    source = _source(place) if kind is None else None
    if source is not None:
        changed = {"output": output, "device": device} if output != "auto" or device != "cpu" else {}
        return _added(source, place, chosen, conduct | changed | {"timeout": timeout})
    kind = kind or kind_of(given)
    own = {name for name, value in chosen.items() if value is not None}
    spent = {name: value for name, value in conduct.items() if value is not None}
    if kind == ENDPOINT:
        from uapfast.suspects.http import open_http

        _takes("an endpoint", own, ())
        return open_http(place, output=output, **spent) if output != "auto" else open_http(place, **spent)
    if spent:
        raise InputError("verify", "--" + next(iter(spent)), "given for an endpoint only", place)
    if kind == FOLDER:
        from uapfast.suspects.folder import open_folder
        from uapfast.suspects.hub_files import hub_folder

        hub_folder(place)  # a folder of several models gets the error that says so
        _takes("a folder, which contains it", own, ("--key",))
        return open_folder(place, key=key, device=device)
    if kind == ONNX:
        from uapfast.suspects.onnx import TIMEOUT, open_onnx

        _takes("an ONNX file", own, ("--key", "--mean", "--std", "--channel-order"))
        limit = TIMEOUT if timeout is None else min(timeout, TIMEOUT)
        return open_onnx(place, **images, output=output, output_name=key, timeout=limit)
    if arch is None:
        with open_checkpoint(Path(place)):
            pass  # what is no file of weights, but a program or a whole module, is named as what it is
        rule = (
            "given for a file of weights alone, as FILE.py:FUNCTION, timm:NAME or torchvision:NAME "
            "(`uapfast inspect` says what a file is)"
        )
        raise InputError("verify", "--arch", rule, f"none for {place}")
    from uapfast.models.checkpoint import load_model

    return load_model(arch, Path(place), **images, device=device, output=output, key=key)


def _source(place: str) -> Callable[..., Any] | None:
    """What opens addresses of this kind, if an installed package has registered it."""
    name, mark, _ = place.partition("://")
    return plugins.load_plugin(plugins.SUSPECTS, name) if mark and not place.startswith(URLS) else None


def _added(open_it: Callable[..., Any], place: str, *options: dict[str, Any]) -> Model | Suspect:
    """A suspect from a registered source, which is handed the options that were given."""
    named = {k.removeprefix("--").replace("-", "_"): v for some in options for k, v in some.items()}
    given = {k: v for k, v in named.items() if v is not None}
    try:
        inspect.signature(open_it).bind(place, **given)
    except TypeError as exc:
        rule = f"such as {place.partition('://')[0]}:// takes"
        raise InputError("verify", "options", rule, f"{', '.join(given)} ({exc})") from exc
    found = open_it(place, **given)
    if isinstance(found, nn.Module):
        return as_model(found, name=place)
    if isinstance(found, (Model, Suspect)):
        return found
    from uapfast.suspects.callable import open_callable

    return open_callable(found, name=place)


def _takes(kind: str, own: set[str], allowed: Sequence[str]) -> None:
    for name in sorted(own - set(allowed)):
        raise InputError("verify", name, f"left out with {kind}", "a value")


__all__ = ["ENDPOINT", "FOLDER", "KINDS", "ONNX", "WEIGHTS", "kind_of", "open_suspect"]
