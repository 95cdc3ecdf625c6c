"""Who a suspect is, as a statement names it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from uapfast.errors import InputError
from uapfast.files import open_plain
from uapfast.models.model import Model
from uapfast.suspects.base import Suspect
from uapfast.suspects.http_headers import shown_url


def subject_of(model: Model | Suspect | None, given: str | os.PathLike[str] | None) -> dict[str, Any]:
    """A suspect as a statement names it: ``name`` and ``digest``.

    Args:
        model: opened; None where it could not be.
        given: its file, folder or URL, where known.

    Returns:
        a file by its SHA-256 (and that of its tensors); an endpoint by the hash of its URL and of its
        description; anything else by what is known of it. ``digest`` is empty for what shows nothing.
    """
    digest: dict[str, str] = {}
    settings = model.source if isinstance(model, Suspect) else {}
    if settings.get("kind") == "http":
        endpoint: Any = model
        digest["urlSha256"] = hashlib.sha256(endpoint.endpoint.url.encode()).hexdigest()
        digest["endpointSha256"] = settings["endpoint_sha256"]
        return {"name": endpoint.name, "digest": digest}
    if given is not None and os.path.isfile(given):
        digest["sha256"] = file_sha256(given)
    if model is not None and model.sha256 is not None and model.sha256 != digest.get("sha256"):
        digest["tensorsSha256"] = model.sha256
    shown = None if given is None else os.fspath(given)
    shown = shown_url(shown) if shown is not None and "://" in shown else shown
    name = Path(shown).name if shown is not None else "" if model is None else model.name
    return {"name": name or "suspect", "digest": digest}


def file_sha256(path: str | os.PathLike[str], where: str = "evidence", argument: str = "file") -> str:
    """SHA-256 of a file's bytes; raises ``InputError`` of ``where`` and ``argument`` if it cannot be read."""
    try:
        with open_plain(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise InputError(
            where, argument, "a file that can be read", f"{exc.strerror or exc}: {path}"
        ) from exc


__all__ = ["file_sha256", "subject_of"]
