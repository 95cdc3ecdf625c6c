"""How an endpoint's responses are read, as a record says it, for whoever reads them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from uapfast.suspects.http_client import Response
from uapfast.suspects.http_endpoint import Endpoint
from uapfast.suspects.http_forms import IMAGE, IMAGES, JsonForm
from uapfast.suspects.http_oip import OpenInference

ResponseReader = Callable[[Response, int], list[Any]]
NOBODY = "http://record/v2/models/none"  # is never asked


def response_reader(reading: Any, where: str) -> ResponseReader:
    """What reads responses.

    Args:
        reading: of :meth:`uapfast.suspects.http_forms.HttpForm.reading`.
        where: how errors name it.

    Raises:
        ValueError, TypeError, KeyError: nothing that forms say.
    """
    if reading["form"] == "oip":
        return _tensors(reading, where)
    if reading["form"] != "json":
        raise ValueError(f"form {reading['form']!r}")
    _texts(reading, "scores", "labels", "usual")
    labels, scores = reading["labels"], reading["scores"]
    if labels is None and scores is None:
        scores = reading["usual"]
    for name in ("label_key", "score_key"):
        if not isinstance(reading[name], str):
            raise TypeError(name)
    endpoint = Endpoint(
        NOBODY, form="template", encoding="png", name=where, scores=scores, labels=labels,
        body=[IMAGES if reading["many"] is True else IMAGE],
        label_key=reading["label_key"], score_key=reading["score_key"],
    )  # fmt: skip
    return JsonForm(endpoint).rows


def _tensors(reading: Mapping[str, Any], where: str) -> ResponseReader:
    _texts(reading, "output")
    form = OpenInference(Endpoint(NOBODY, form="oip", name=where, output_name=reading["output"]))
    form.batched = reading["batched"] is True
    return form.rows


def _texts(reading: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(reading[name], str | None):
            raise TypeError(name)


__all__ = ["ResponseReader", "response_reader"]
