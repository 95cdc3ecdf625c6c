"""An ONNX file that nobody trusts as a suspect: checked, then run by onnxruntime in a sandboxed process."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import InputError
from uapfast.models.answers import OUTPUTS
from uapfast.models.preprocessing import RGB, Preprocessing
from uapfast.safeload.checkpoint import error_of
from uapfast.safeload.limits import Limits
from uapfast.safeload.onnxfile import RANDOM, OnnxFile, Port, check_onnx
from uapfast.safeload.recognise import HEAD, is_onnx_head, recognise
from uapfast.safeload.refusal import Refused, shown
from uapfast.safeload.source import open_regular, read_at
from uapfast.suspects.base import BATCH, Suspect
from uapfast.suspects.onnx_input import (
    InputSettings,
    check_input,
    image_size,
    input_of,
    input_settings,
    layout_of,
    prepared,
)
from uapfast.suspects.onnx_process import Runtime

MEMORY = 4 << 30
TIMEOUT = 300.0
MOST_BYTES = 2**31 - 1  # protobuf's own
NUMBERS = frozenset("float32 float16 float64 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool".split())
LOGITS = ("logits", "logit")
PROBABILITIES = ("probabilities", "probability", "probs", "prob", "softmax", "scores")
CLASS_KEYS = ("class_names", "classes", "labels", "label_names", "names", "id2label", "character")
ENTRY = re.compile(r"""\s*['"]?(\d+)['"]?\s*:\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*(?:,|$)""")
MOST_NAMES = 1 << 20  # characters of class names that are read


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as ONNX models do; False for what cannot be read. Nothing more is looked at."""
    try:
        handle, size = open_regular(os.fsdecode(path), Limits())
    except Refused:
        return False
    try:
        return is_onnx_head(os.pread(handle, min(size, HEAD), 0))
    except OSError:
        return False
    finally:
        os.close(handle)


def open_onnx(
    path: str | os.PathLike[str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float = 1.0,
    channel_order: str | None = None,
    layout: str | None = None,
    size: tuple[int, int] | None = None,
    output: str = "auto",
    output_name: str | None = None,
    name: str | None = None,
    timeout: float = TIMEOUT,
    memory: int = MEMORY,
    limits: Limits | None = None,
) -> OnnxSuspect:
    """Open an untrusted ONNX classifier.

    The file is checked (:func:`uapfast.safeload.onnxfile.check_onnx`), then run on the CPU by one thread, in
    a process without access to files and network (docs/security.md). Close it, or use a ``with`` block.

    Args:
        path: an ONNX file that contains its weights; only ONNX's own operators, no functions.
        mean: per channel (or one for all), subtracted after ``scale`` and ``channel_order``, in the
            network's range and order.
            Without it a network with float input is queried with the victim's mean and std, if the reference
            has them, and a note says so. Give 0 (and ``std`` 1) for a network that normalises its own input.
        std: per channel, > 0; with ``mean``.
        scale: factor for images in 0..1: 255 for a network that takes 0..255 as floats. Not for uint8 inputs,
            which get ``round(255 * x)``.
        channel_order: order in which the network takes channels, ``rgb`` or ``bgr``. None where nobody knows.
        layout: ``NCHW`` or ``NHWC``; None infers it from shapes.
        size: height and width of the images. None takes the network's own, or the images' if it has none.
        output: what it answers with (``auto``, ``logits``, ``probabilities``, ``labels``).
        output_name: which of several outputs to read; None infers it from types, shapes and names.
        name: shown in errors; the file's name if None.
        timeout: seconds for loading, and for each batch.
        memory: bytes of memory that the process may use.
        limits: limits of the file (bytes, tensors, names and dimensions).

    Raises:
        InputError: an argument makes no sense, or there are several outputs and ``output_name`` must name
            one.
        UnsupportedFileError: not an ONNX file; external data, functions or foreign operators; no image input;
            or a model that onnxruntime does not support (a newer opset, for example).
        CorruptFileError, TooLargeError, UnsafeFileError: as for weights files.
        MissingDependency: onnxruntime is not installed.
        SandboxError: the process cannot be started.
    """
    made = input_settings(layout, size, channel_order, scale, mean, std)
    _settings(output, timeout, memory)
    place = os.fsdecode(path)
    name, limits = name or shown(Path(place).name, 200), limits or Limits()
    try:
        data = _read(place, limits)
        file = check_onnx(data, limits)
        feed = input_of(file)
        check_input(feed, made)
        answer = _output(file, output, output_name, name)
        runtime = Runtime(name, memoryview(data), memory, float(timeout))
    except Refused as exc:
        raise error_of(exc, place) from exc
    return OnnxSuspect(name, hashlib.sha256(data).hexdigest(), file, feed, answer, made, output, runtime)


def look_at(path: str | os.PathLike[str], limits: Limits | None = None) -> tuple[OnnxFile, str]:
    """What an ONNX file holds, and its SHA-256; nothing of it is run, and onnxruntime is not needed.

    Raises:
        WeightsFileError: as :func:`open_onnx`.
    """
    place, limits = os.fsdecode(path), limits or Limits()
    try:
        data = _read(place, limits)
        return check_onnx(data, limits), hashlib.sha256(data).hexdigest()
    except Refused as exc:
        raise error_of(exc, place) from exc


def asked_how(file: OnnxFile, name: str) -> list[str]:
    """What would be asked of a file that :func:`look_at` read, in sentences.

    Raises:
        InputError: several outputs, of which one has to be named.
        UnsupportedFileError: it is no classifier of images.
    """
    try:
        feed = input_of(file)
        return list(_notes(file, feed, _output(file, "auto", None, name), InputSettings()))
    except Refused as exc:
        raise error_of(exc, name) from exc


class OnnxSuspect(Suspect):
    """An ONNX file in its process; from :func:`open_onnx`.

    Attributes:
        file: what it holds.
        class_names: from its metadata, or None; in the order of its classes.
        tier: what stands around the process.
    """

    def __init__(
        self,
        name: str,
        sha256: str,
        file: OnnxFile,
        feed: Port,
        answer: Port,
        made: InputSettings,
        output: str,
        runtime: Runtime,
    ) -> None:
        self.name, self.sha256, self.output, self.file = name, sha256, output, file
        self._feed, self._answer, self._made, self._runtime = feed, answer, made, runtime
        self._lock = threading.Lock()
        self.tier = f"{runtime.tier}, onnxruntime {runtime.version}"
        self.class_names = class_names(file)
        assert feed.shape is not None
        self._batch = feed.shape[0]
        self.batch_size = self._batch or BATCH
        self.notes = (*_notes(file, feed, answer, made), *_weak(runtime.tier))

    @property
    def source(self) -> dict[str, Any]:
        """What it is, and how it is asked."""
        made = self._made
        return {
            "kind": "onnx", "name": self.name, "opset": self.file.opset,
            "producer": shown(self.file.producer),
            "input": str(self._feed), "output": str(self._answer), "layout": made.layout, "size": made.size,
            "channel_order": made.channel_order or RGB, "scale": made.scale,
            "mean": made.mean, "std": made.std, "tier": self.tier,
        }  # fmt: skip

    @property
    def bare(self) -> bool:
        """Whether it takes floats, and nobody said in what range or how they are normalised."""
        return self._feed.dtype != "uint8" and self._made.mean is None and self._made.scale == 1

    @property
    def channel_order(self) -> str | None:
        """The order in which it takes channels, if that was said."""
        return self._made.channel_order

    def with_preprocessing(self, preprocessing: Preprocessing) -> Self:
        """The same process, asked with images prepared so.

        Raises:
            InputError: it is not bare, or statistics that make no sense.
        """
        if not self.bare:
            return super().with_preprocessing(preprocessing)
        mean, std, order = preprocessing.mean, preprocessing.std, preprocessing.channel_order
        settings = input_settings(self._made.layout, self._made.size, order, 1.0, mean, std)
        asked = copy.copy(self)
        asked._made, asked._first = settings, None
        said = _notes(self.file, self._feed, self._answer, settings)
        asked.notes = (*said, *_weak(self._runtime.tier))
        return asked

    def answer(self, images: Tensor) -> Tensor:
        """One output for one batch, ``[n,K]`` or ``[n]``.

        Raises:
            InputError: images whose channels it does not take, or whose layout only ``layout=`` can tell.
            SuspectError: it fails, or takes more time or memory than it may.
        """
        layout = self._made.layout or layout_of(self._feed, tuple(images.shape[1:]), self.name)
        rows, parts = len(images), []
        for part in torch.split(images, self.batch_size):
            fed = prepared(part, self._feed, layout, self._made, self.name)
            if self._batch is not None and len(fed) < self._batch:
                fed = torch.cat([fed, fed[-1:].expand(self._batch - len(fed), *fed.shape[1:])])
            with self._lock:
                out = self._runtime.run(self._feed.name, fed.contiguous().numpy(), self._answer.name)
            answers = _numbers(out)
            while answers.ndim > 2 and answers.shape[-1] == 1:
                answers = answers[..., 0]
            padded = self._batch is not None and len(answers) == self._batch
            parts.append(answers[: len(part)] if padded else answers)
        return parts[0] if len(parts) == 1 else torch.cat(parts) if rows else torch.empty(0)

    def close(self) -> None:
        """End its process."""
        self._runtime.close()


def _numbers(out: np.ndarray[Any, Any]) -> Tensor:
    """What came as torch knows it: wide integers, floats as they are."""
    if out.dtype.kind in "uib" and out.dtype != np.uint8:
        out = out.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(out))


def _output(file: OnnxFile, output: str, wanted: str | None, name: str) -> Port:
    """Which output has the answers.

    Raises:
        InputError: several could be meant, or none is called as wanted.
        Refused: none is an array of numbers.
    """
    listed = "; ".join(map(str, file.outputs[:8])) or "none"
    if wanted is not None:
        found = [port for port in file.outputs if port.name == wanted]
        if len(found) != 1:
            raise InputError("open_onnx", "output_name", f"one of the outputs ({listed})", repr(wanted))
        return found[0]
    arrays = [port for port in file.outputs if port.dtype in NUMBERS]
    if not arrays:
        raise Refused("unsupported", "a classifier whose outputs are arrays of numbers", listed)
    tables = [port for port in arrays if port.shape is None or _is_table(port.shape)]
    known = [port for port in tables if port.shape is not None and port.dtype.startswith("float")]
    for found in (arrays, tables, known):
        if len(found) == 1:
            return found[0]
    order = (PROBABILITIES, LOGITS) if output == "probabilities" else (LOGITS, PROBABILITIES)
    for names in order:
        found = [port for port in known or tables if port.name.lower().partition(":")[0] in names]
        if len(found) == 1:
            return found[0]
    raise InputError("open_onnx", "output_name", f"given (--key): {name} has several ({listed})", "none")


def _is_table(shape: tuple[int | None, ...]) -> bool:
    """Whether it can be ``[N,K]``, or ``[N,K,1,1]``."""
    return len(shape) >= 2 and shape[1] != 1 and all(n == 1 for n in shape[2:])


def _settings(output: str, timeout: float, memory: int) -> None:
    if output not in OUTPUTS:
        raise InputError("open_onnx", "output", "one of " + ", ".join(OUTPUTS), repr(output))
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 86_400:
        raise InputError("open_onnx", "timeout", "seconds in (0, 86400]", repr(timeout))
    if type(memory) is not int or not 64 << 20 <= memory < 1 << 48:
        raise InputError("open_onnx", "memory", f"bytes, {64 << 20} at least", repr(memory))


def _read(place: str, limits: Limits) -> bytearray:
    """The whole file, once: what is checked, hashed and run is the same.

    Raises:
        Refused: not a regular file, too large, or no ONNX.
    """
    handle, size = open_regular(place, limits)
    try:
        head = os.pread(handle, min(size, HEAD), 0)
        if not is_onnx_head(head) and head[4:8] != b"ORTM":
            raise _other(handle, size)
        if size > MOST_BYTES:
            raise Refused("too large", f"an ONNX file of at most {MOST_BYTES} bytes", str(size))
        data = bytearray(size)
        read_at(handle, memoryview(data), 0)
        return data
    except OSError as exc:
        raise Refused("corrupt", "a readable file", exc.strerror or str(exc)) from exc
    finally:
        os.close(handle)


def _other(handle: int, size: int) -> Refused:
    """What a file is that is no ONNX, and what makes ONNX of it, where that is known."""
    try:
        recognise(handle, size, "")
    except Refused as exc:
        return exc if exc.kind == "unsupported" else Refused("unsupported", "an ONNX file", exc.got)
    return Refused("unsupported", "an ONNX file", "a weights file (it needs an architecture)")


def _notes(file: OnnxFile, feed: Port, answer: Port, made: InputSettings) -> list[str]:
    """What a reader of the verdict has to know of how it is asked."""
    assert feed.shape is not None
    notes = []
    if feed.dtype == "uint8":
        notes.append("ONNX: it takes bytes, and was given images as round(255 x)")
    elif made.mean is None and made.scale == 1:
        said = "ONNX: it was given images in 0..1 as they are; its file does not say what it wants"
        notes.append(f"{said} (scale=255 for 0..255, mean= and std=, channel_order=)")
    elif made.unchanged:
        notes.append("ONNX: it was given images in 0..1 as they are: mean 0 and std 1 say so")
    else:
        notes.append(f"ONNX: it was given {made}")
    sizes = {image_size(feed.shape, made.layout or at) for at in ("NCHW", "NHWC")}
    if made.size or any(None not in size for size in sizes):
        at = "x".join(map(str, made.size)) if made.size else f"its input {feed}"
        notes.append(f"ONNX: images of another size than {at} were resized (bilinear, antialiased)")
    if len(file.outputs) > 1:
        others = ", ".join(shown(p.name) for p in file.outputs if p is not answer)
        notes.append(f"ONNX: of its outputs {shown(answer.name)} was taken (others: {shown(others)})")
    if file.ops & RANDOM:
        notes.append(f"ONNX: it draws at random ({', '.join(sorted(file.ops & RANDOM))})")
    if file.training:
        notes.append("ONNX: it was exported in training mode, so that answers depend on the batch")
    return notes


def _weak(tier: str) -> tuple[str, ...]:
    """What is said where less than everything stands around its process."""
    if "seccomp" in tier and "landlock" in tier:
        return ()
    return (f"ONNX: this machine gives its process less of a sandbox than others ({tier})",)


def class_names(file: OnnxFile) -> tuple[str, ...] | None:
    """Names of its classes from the metadata, if one of the usual keys has them in a form that is known."""
    for key in CLASS_KEYS:
        text = file.metadata.get(key, "").strip()
        names = _parsed(text) if text and len(text) <= MOST_NAMES else None
        if names and len(names) > 1:
            return tuple(shown(name, 200) for name in names)
    return None


def _parsed(text: str) -> list[str] | None:
    """A JSON list or object by number, a Python dict of plain strings, lines, or values between commas."""
    found: Any = None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if text[0] == "{" and text[-1] == "}":
            found = {n: one or two for n, one, two in ENTRY.findall(text[1:-1])}
    if isinstance(found, list):
        return found if all(isinstance(v, str) for v in found) else None
    if isinstance(found, dict):
        wanted = [str(n) for n in range(len(found))]
        whole = found.keys() == set(wanted) and all(isinstance(v, str) for v in found.values())
        return [found[n] for n in wanted] if whole else None
    parts = text.splitlines() if "\n" in text else text.split(",")
    return [part.strip() for part in parts]


__all__ = ["InputSettings", "OnnxSuspect", "asked_how", "class_names", "is_onnx", "look_at", "open_onnx"]
