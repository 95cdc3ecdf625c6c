"""Headers of requests: secrets are names of environment variables until a request is sent."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from uapfast.errors import EndpointError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from uapfast.models.tape import Tape

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
SECRET = re.compile(r"auth|cookie|key|token|secret|password|credential|signature|\bsig\b", re.IGNORECASE)
ESCAPED = re.compile(rb"\\u00([0-7][0-9A-Fa-f])")  # a letter of ASCII as JSON may write it
LEAST_CODED = 4  # characters of a secret in another form: what is shorter stands in anything
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HIDDEN = "***"


class Headers:
    """Names, and values in which ``${NAME}`` stands for an environment variable. Never shows its value.

    Args:
        given: the headers as written.

    Attributes:
        repeated: whether an answer held a secret: then nothing of what the server said may be shown.

    Raises:
        EndpointError: a secret that is written out, or something that is no header.
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self.written, self.repeated = dict(given or {}), False
        for name, value in self.written.items():
            if not isinstance(value, str) or not NAME.fullmatch(name):
                raise EndpointError("http", "headers", "names with strings", name)
            if SECRET.search(name) and not REFERENCE.search(value):
                rule = "a reference such as ${API_TOKEN} to an environment variable, never a secret itself"
                raise EndpointError("http", f"header {name}", rule, HIDDEN)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self.written)})"

    @property
    def variables(self) -> set[str]:
        """Environment variables that they refer to."""
        return {name for value in self.written.values() for name in REFERENCE.findall(value)}

    @property
    def secret(self) -> bool:
        """Whether any of them refers to the environment."""
        return bool(self.variables)

    def check_variables(self, allowed: Collection[str]) -> None:
        """Raises ``EndpointError`` if they refer to a variable that is not among ``allowed``."""
        for name in sorted(self.variables - set(allowed)):
            rule = "of environment variables that were named for it (--secret NAME)"
            raise EndpointError("http", "headers", rule, f"${{{name}}}")

    def filled(self) -> dict[str, str]:
        """With the values of the environment, for the client alone.

        Raises:
            EndpointError: a variable that is not set, or that holds what no header may.
        """
        return {name: REFERENCE.sub(_value, text) for name, text in self.written.items()}

    def hide(self, text: str) -> str:
        """``text`` of a server without the values of the environment that it may repeat."""
        for secret in self._secrets():
            text = text.replace(secret, HIDDEN)
        return text

    def look_at(self, answer: bytes) -> None:
        """Set ``repeated`` if a secret stands in it."""
        self.repeated = self.repeated or self.repeats(answer)

    def repeats(self, answer: bytes) -> bool:
        """Whether a secret stands in what a server sent, as JSON may write its characters as well."""
        secrets = [secret.encode() for secret in self._secrets()]
        plain = ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), answer) if secrets else b""
        plain = plain.replace(rb"\/", b"/")
        return any(secret in answer or secret in plain for secret in secrets)

    def cover(self, exc: InputError) -> InputError:
        """The error; without what the server said, if that may hold a secret."""
        if not self.repeated:
            return exc
        return type(exc)(exc.where, self.hide(exc.argument), self.hide(exc.rule), HIDDEN)

    def _secrets(self) -> list[str]:
        """Each as it is, and as JSON, Python, URLs, base64 and hex write it; the longest first."""
        found = [os.environ[name] for name in self.variables if os.environ.get(name)]
        found += [text for secret in found for text in _other_forms(secret)]
        forms = {f for s in found for f in (s, json.dumps(s)[1:-1], repr(s)[1:-1], quote(s), quote_plus(s))}
        return sorted(forms, key=len, reverse=True)


class RedactedTape:
    """A tape (:class:`uapfast.models.tape.Tape`) that is told no secret: a server may answer with one."""

    def __init__(self, tape: Tape, headers: Headers) -> None:
        self._tape, self._headers = tape, headers

    def took(self, values: Tensor) -> None:
        """As the tape."""
        self._tape.took(values)

    def response(self, trip: Any, reading: Any, images: int, body: bytes | None = None) -> None:
        """As the tape; a body that repeats a secret is not kept."""
        self._tape.response(trip, reading, images, self._kept(trip))

    def _kept(self, trip: Any) -> bytes | None:
        found = trip.response
        if found is None:
            return None
        told = "\n".join(found.headers.values()).encode()
        repeated = self._headers.repeats(found.body) or self._headers.repeats(told)
        body: bytes = found.body
        return None if repeated else body

    def row(self, place: int, row: Any, trip: Any = None, nth: int = 0) -> None:
        """As the tape."""
        self._tape.row(place, self._hidden(row), trip, nth)

    def again(self, image: Tensor, row: Any, trip: Any) -> None:
        """As the tape."""
        self._tape.again(image, self._hidden(row), trip)

    def failed(self, trip: Any, images: int, body: bytes | None = None) -> None:
        """As :meth:`response`."""
        self._tape.failed(trip, images, self._kept(trip))

    def _hidden(self, row: Any) -> Any:
        if isinstance(row, str):
            return self._headers.hide(row)
        if not isinstance(row, tuple):
            return row
        return tuple((self._headers.hide(a) if isinstance(a, str) else a, b) for a, b in row)


def _other_forms(secret: str) -> list[str]:
    """In base64 and hex; and out of base64, where it is text in it (user and password are sent so)."""
    data = secret.encode()
    coded = base64.b64encode(data).decode("ascii").rstrip("=")
    try:
        inside = base64.b64decode(secret, validate=True).decode("ascii")
    except ValueError:
        inside = ""
    parts = [inside, *inside.split(":", 1)[1:]] if inside.isprintable() else []
    forms = [coded, data.hex(), data.hex().upper(), *parts]
    return [form for form in forms if len(form) >= LEAST_CODED]


def _value(found: re.Match[str]) -> str:
    name = found[1]
    value = os.environ.get(name)
    if not value:
        raise EndpointError(
            "http", "headers", f"filled from the environment variable {name}", "no such variable"
        )
    if not value.isascii() or not value.isprintable():
        raise EndpointError("http", f"environment variable {name}", "printable ASCII", HIDDEN)
    return value


def checked_url(url: str, headers: Headers) -> str:
    """The URL, if it can be asked and holds no secret.

    Raises:
        EndpointError: no http(s) URL; user, password or a key in it; secrets over plain http elsewhere.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise EndpointError("http", "url", "http://HOST/PATH or https://HOST/PATH", repr(url)[:80])
    named = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if SECRET.search(name)]
    if parts.username or parts.password or named or REFERENCE.search(url):
        rule = "without user, password or key: secrets go into headers, as ${NAME}"
        raise EndpointError("http", "url", rule, shown_url(url))
    if headers.secret and parts.scheme == "http" and host not in LOOPBACK:
        rule = "https, since headers hold secrets"
        raise EndpointError("http", "url", rule, shown_url(url))
    return url


def shown_url(url: str) -> str:
    """The URL as it may be shown: without user, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


__all__ = ["Headers", "RedactedTape", "checked_url", "shown_url"]
