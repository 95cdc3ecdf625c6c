"""An endpoint as it is described: in a TOML file, or by arguments of the same names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from uapfast.errors import EndpointError
from uapfast.files import open_plain
from uapfast.suspects.http_headers import Headers, checked_url
from uapfast.suspects.http_images import ImageEncoding

FORMS = ("oip", "v1", "huggingface", "template")
SECTIONS = {
    "image": ("encoding", "layout", "datatype", "scale", "mean", "std", "channel_order", "size"),
    "request": ("body", "item", "multipart", "input", "parameters"),
    "answer": (
        "scores",
        "labels",
        "label_key",
        "score_key",
        "output",
        "output_name",
        "classification",
        "top_k",
    ),
}
HUGGING_FACE = ("huggingface.co", "huggingface.cloud")


@dataclass(frozen=True)
class Endpoint:
    """What is asked, and how.

    Attributes:
        url: ``https://...``; without secrets.
        form: ``oip`` (Open Inference Protocol v2), ``v1`` (``instances`` and ``predictions``: KServe v1,
            TensorFlow Serving, Vertex), ``huggingface`` or ``template``; ``auto`` tells by the URL.
        method: of requests.
        headers: more of them; secrets as ``${NAME}`` of an environment variable.
        classes: the server's label strings in the order of its classes.
        batch_size: images a request; None is what the form usually takes.
        name: shown in errors and tables; the URL if None.
        encoding: how images are sent (:class:`uapfast.suspects.http_images.ImageEncoding`); ``layout``,
            ``datatype``, ``scale``, ``mean``, ``std``, ``channel_order`` and ``size`` as there. None is what
            the form or its metadata say.
        body: of a JSON request (``template``): ``"{images}"`` in it stands for the list of images,
            ``"{image}"`` for a single one. Without it the image itself is the body.
        item: one of ``{images}``: ``"{image}"`` alone, or what is wrapped around it.
        multipart: the name of a form field that takes the image file.
        input: the name of the tensor (``oip``), or of the key that holds an image (``v1``).
        parameters: of a request, as they are (``oip``, ``v1``: beside ``instances``; ``huggingface``).
        scores: path to the scores in the answer, such as ``predictions.*.scores`` (``*`` is every item,
            the empty path the whole answer); what stands there may be scores, labels, or pairs of both.
        labels: path to labels or label strings; with ``scores``, to the label of each score.
        label_key: key of the label in a pair.
        score_key: key of the score in a pair.
        output: what the answers are: ``auto``, ``logits``, ``probabilities`` or ``labels``.
        output_name: the name of the tensor that holds the answers (``oip``).
        classification: ask for Triton's ``classification`` answers (``oip``).
        top_k: classes that are asked for; None is all of them.
    """

    url: str
    form: str = "auto"
    method: str = "POST"
    headers: Headers = field(default_factory=Headers)
    classes: tuple[str, ...] | None = None
    batch_size: int | None = None
    name: str | None = None
    encoding: str | None = None
    layout: str | None = None
    datatype: str | None = None
    scale: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: str | None = None
    size: tuple[int, int] | None = None
    body: Any = None
    item: Any = None
    multipart: str | None = None
    input: str | None = None
    parameters: Mapping[str, Any] | None = None
    scores: str | None = None
    labels: str | None = None
    label_key: str = "label"
    score_key: str = "score"
    output: str = "auto"
    output_name: str | None = None
    classification: bool = False
    top_k: int | None = None

    def sent(self, **usual: Any) -> ImageEncoding:
        """How images are sent: what is said, else what is ``usual``."""
        names = [f.name for f in fields(ImageEncoding)]
        said = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        if said.get("datatype") == "UINT8":
            said.setdefault("scale", 255)
        return ImageEncoding(**{**usual, **said})


def described(target: str | os.PathLike[str], given: Mapping[str, Any]) -> tuple[Endpoint, dict[str, Any]]:
    """The endpoint of a URL or a TOML file, and what else ``given`` (and the file's ``conduct``) holds.

    Args:
        target: ``http(s)://...``, or a file ``*.toml`` with ``url``, other names of :class:`Endpoint`, tables
            ``headers``, ``image``, ``request``, ``answer`` (the names that belong there) and ``conduct``.
        given: by name; goes before the file.

    Raises:
        EndpointError: a name that does not exist, a value that cannot be, or a form that cannot be told.
    """
    text = os.fspath(target)
    found: dict[str, Any] = {"url": text} if "://" in text else _read(Path(text))
    rest = dict(found.pop("conduct", {}))
    found |= {k: v for k, v in given.items() if v is not None}
    names = {f.name for f in fields(Endpoint)}
    rest |= {k: found.pop(k) for k in list(found) if k not in names}
    found["headers"] = Headers(found.get("headers"))
    found["url"] = checked_url(_text("url", found.get("url")), found["headers"])
    for name in ("classes", "mean", "std", "size"):
        if found.get(name) is not None:
            found[name] = _tuple(name, found[name])
    endpoint = Endpoint(**found)
    _check(endpoint)
    if endpoint.form == "auto":
        found["form"] = _form(endpoint)
    return Endpoint(**found), rest


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    if path.suffix != ".toml":
        raise EndpointError("http", "suspect", "a URL, or a file *.toml that describes an endpoint", path)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise EndpointError("http", "file", "a regular file", path)
    try:
        with open_plain(path) as stream:
            found = tomllib.load(stream)
    except OSError as exc:
        raise EndpointError("http", "file", "a readable file", f"{path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise EndpointError("http", str(path), "valid TOML", exc) from exc
    tables = {name: found.pop(name) for name in SECTIONS if name in found}
    flat = {name for names in SECTIONS.values() for name in names}
    for name in found:
        if name in flat or (name not in _TOP and name not in ("headers", "conduct")):
            places = ", ".join(f"[{s}]" for s, names in SECTIONS.items() if name in names)
            rule = f"in {places}" if places else "left out: there is no such setting"
            raise EndpointError(str(path), name, rule, "it at the top")
    for section, table in tables.items():
        if not isinstance(table, dict) or not set(table) <= set(SECTIONS[section]):
            got = ", ".join(sorted(set(table) - set(SECTIONS[section]))) if isinstance(table, dict) else table
            raise EndpointError(str(path), f"[{section}]", "of " + ", ".join(SECTIONS[section]), got)
        found |= table
    return found


_TOP = {f.name for f in fields(Endpoint)} - {n for names in SECTIONS.values() for n in names}


def _check(e: Endpoint) -> None:
    if e.form not in ("auto", *FORMS):
        raise EndpointError("http", "form", "one of " + ", ".join(FORMS), repr(e.form))
    for name in ("batch_size", "top_k"):
        value = getattr(e, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise EndpointError("http", name, "a whole number above 0", repr(value))
    if e.method not in ("POST", "PUT"):
        raise EndpointError("http", "method", "POST or PUT", repr(e.method))
    if e.classes is not None and len(set(e.classes)) != len(e.classes):
        raise EndpointError("http", "classes", "different from each other", "some of them twice")
    if e.output not in ("auto", "logits", "probabilities", "labels"):
        raise EndpointError("http", "output", "auto, logits, probabilities or labels", repr(e.output))


def _form(e: Endpoint) -> str:
    parts = urlsplit(e.url)
    if e.body is not None or e.multipart is not None:
        return "template"
    if "/v2/models/" in parts.path:
        return "oip"
    if "/v1/models/" in parts.path or parts.path.endswith(":predict"):
        return "v1"
    if (parts.hostname or "").endswith(HUGGING_FACE):
        return "huggingface"
    if e.scores is not None or e.labels is not None:
        return "template"
    rule = "told by the URL (/v2/models/M, /v1/models/M:predict), or given (form=, or a TOML file)"
    raise EndpointError("http", "form", rule, parts.path or "/")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EndpointError("http", name, "given", "none" if value is None else repr(value))
    return value


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise EndpointError("http", name, "a list", repr(value)[:80])
    found = tuple(value)
    kinds: Any = str if name == "classes" else int if name == "size" else (int, float)
    if not all(isinstance(v, kinds) and not isinstance(v, bool) for v in found) or not found:
        raise EndpointError(
            "http", name, "a list of " + ("strings" if kinds is str else "numbers"), repr(value)[:80]
        )
    return found


__all__ = ["FORMS", "Endpoint", "described"]
