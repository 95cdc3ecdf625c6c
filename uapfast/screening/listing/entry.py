"""One entry of a screen's list: where a suspect is, and how it is asked. Nothing is opened here."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from uapfast.errors import InputError
from uapfast.examination import preprocessing_note
from uapfast.models.answers import OUTPUTS
from uapfast.models.preprocessing import RGB, Preprocessing, checked_channel_order
from uapfast.models.registry import arch_file, code_sha256
from uapfast.safeload.sharded import shards_of
from uapfast.suspects.hub_files import files_of
from uapfast.suspects.resolve import FOLDER, KINDS, ONNX, URLS, WEIGHTS

URL = "url"  # stamp of one
TUPLES = ("mean", "std", "choices", "class_order")


@dataclass(frozen=True, slots=True)
class Entry:
    """One suspect to ask.

    Attributes:
        path: weights file, hub folder or ONNX file; for an endpoint its URL or a ``.toml`` file that
            describes it.
        arch: SPEC of a weights file, as in :func:`uapfast.models.registry.resolve_arch`; a Python file in it
            is executed. Empty if ``choices`` are given, or if the suspect itself names its network.
        name: shown in the table; the file's name by default.
        base: folder that a relative file in ``arch`` is relative to.
        mean: per channel of the network; images in 0..1 are normalised by (x - mean) / std before it.
        std: per channel.
        channel_order: ``rgb`` or ``bgr``: how the network takes its channels; None where nobody said.
        output: what the suspect answers with, or ``auto``.
        kind: its kind, one of ``KINDS``.
        choices: SPECs of which the one is used whose names and shapes the file has.
        key: which of several sets of weights to use: a map of tensors in a checkpoint, a file of a folder,
            or an output of an ONNX file.
        class_order: for each class of the reference, the suspect's class that means the same.
        known_copy: True if the owner knows that it comes from the victim. It is then no suspect, and does not
            enter the correction for many suspects.
        assumed: True if mean and std are the victim's, because the suspect came without any.
        order_assumed: True if the channel order is, too.
        code: SHA-256 of what its architectures execute, as a screen found it when it began; None for
            what it is now.
    """

    path: str
    arch: str = ""
    name: str = ""
    base: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: str | None = None
    output: str = field(default="auto")
    kind: str = WEIGHTS
    choices: tuple[str, ...] = ()
    key: str | None = None
    class_order: tuple[int, ...] | None = None
    known_copy: bool = False
    assumed: bool = False
    order_assumed: bool = False
    code: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check the fields; raises ``InputError``."""
        if not isinstance(self.path, str | os.PathLike) or not self.path:
            raise InputError("screen", "path of a suspect", "a file name", repr(self.path))
        if self.kind not in KINDS:
            raise InputError("screen", "kind of a suspect", "one of " + ", ".join(KINDS), repr(self.kind))
        if not isinstance(self.arch, str) or (self.arch and self.kind != WEIGHTS):
            rule = f"a SPEC, for the kind {WEIGHTS} only"
            raise InputError("screen", "arch of a suspect", rule, repr(self.arch))
        checked_channel_order(self.channel_order, "screen")
        if self.output not in OUTPUTS:
            raise InputError("screen", "output of a suspect", "one of " + ", ".join(OUTPUTS), self.output)
        object.__setattr__(self, "path", os.fspath(self.path))
        object.__setattr__(self, "name", printable(self.name or _last(self.path)))

    @property
    def is_direct(self) -> bool:
        """Whether it is asked as it is; weights are filled into a network that others may have had."""
        return self.kind != WEIGHTS

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its verdicts has to know of how it is asked."""
        return (preprocessing_note(self.preprocessing),) if self.assumed and self.preprocessing else ()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What is done to images before its network, or None; ``ModelError`` if it makes no sense."""
        return Preprocessing.given(self.mean, self.std, self.channel_order)

    def asked_by(self, preprocessing: Preprocessing, *, assumed: bool) -> Entry:
        """The same with another preprocessing; ``assumed``: that of the victim."""
        mean, std, order = preprocessing.mean, preprocessing.std, preprocessing.channel_order
        open_ = assumed and self.channel_order is None
        return replace(self, mean=mean, std=std, channel_order=order, assumed=assumed, order_assumed=open_)

    @property
    def shown(self) -> str:
        """The path for people and tables."""
        return printable(self.path)

    def taking(self, arch: str) -> Entry:
        """The same with one of its ``choices`` taken."""
        return replace(self, arch=arch)

    def to_json(self) -> str:
        """One JSON object (file names that are no UTF-8 survive)."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Entry:
        """The entry that :meth:`to_json` wrote."""
        found = json.loads(text)
        for key in TUPLES:
            found[key] = None if found[key] is None else tuple(found[key])
        return cls(**found)

    @property
    def network(self) -> str:
        """Hash of what answers besides the tensors: equal tensors of equal networks give equal answers."""
        if self.is_direct:
            return self.identity
        asked = (*self._asked, self.class_order)
        return _network(self.code or self.code_now(), self.arch, self.base, *asked)

    @property
    def networks(self) -> tuple[str, ...]:
        """:attr:`network` for whichever of its architectures is taken."""
        if not self.choices:
            return (self.network,)
        return tuple(self.taking(arch).network for arch in ("", *self.choices))

    @property
    def identity(self) -> str:
        """Hash of the suspect and how it is asked, by name: what a row in the store belongs to."""
        own = [self.kind, self._place, self.key, self.class_order]
        for arch in self.choices or (self.arch,):
            own.append(_network(None, arch, self.base, *self._asked))
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:32]

    @property
    def _place(self) -> str:
        return self.path if _is_url(self.path) else os.path.abspath(self.path)

    @property
    def _asked(self) -> tuple[object, ...]:
        # the victim's mean and std, if assumed, may turn out not to be the suspect's: said ones are not tried
        said = self.channel_order and not (self.order_assumed and self.channel_order == RGB)
        more = [self.channel_order] if said else []
        return (self.mean, self.std, self.output, *more, *(["assumed"] if self.assumed else []))

    def code_now(self) -> str:
        """SHA-256 of what its architectures execute now."""
        base = Path(self.base) if self.base else None
        found = [code_sha256(arch, base=base) for arch in self.choices or (self.arch,) if arch]
        return found[0] if len(found) == 1 else hashlib.sha256(json.dumps(found).encode()).hexdigest()

    def stamp(self) -> str:
        """Size and times of the file, so that a resumed run sees that it was replaced; ``-`` if absent.

        Of an index and of a folder, those of all files that are read with it; of a URL, that it is one.
        """
        if _is_url(self.path):
            return URL
        try:
            read = files_of(self.path) if self.kind == FOLDER else (self.path, *shards_of(self.path))
            found = [os.stat(path) for path in read]
        except (OSError, ValueError):
            return "-"
        return ",".join(_stamp(one) for one in found) or "-"


def _stamp(found: os.stat_result) -> str:
    """What changes with a file's content; times can be set back, but for that of the last change."""
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"


def _is_url(path: str) -> bool:
    return path.startswith(URLS)


def _last(path: str) -> str:
    return path if _is_url(path) else os.path.basename(path.rstrip("/"))


@lru_cache(maxsize=4096)
def _network(code: str | None, arch: str, base: str | None, *asked: object) -> str:
    file = arch_file(arch, base=Path(base) if base else None)
    own = [code, arch, None if file is None else os.path.abspath(file), *asked]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:32]


def printable(text: str) -> str:
    """``text`` without what no table can hold: lone surrogates and control characters are escaped."""
    if text.isprintable():
        return text
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in safe)


@dataclass(frozen=True)
class Defaults:
    """What holds for entries without their own.

    Attributes:
        arch: SPECs of weights files; of several the one that fits is taken.
        mean, std, channel_order, key, class_order: as :class:`Entry`.
    """

    arch: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: str | None = None
    key: str | None = None
    class_order: tuple[int, ...] | None = None

    def entry(self, path: str, kind: str = WEIGHTS, name: str = "", key: str | None = None) -> Entry:
        """An entry of which nothing is said but where it is."""
        normalised = kind in (WEIGHTS, ONNX)
        return Entry(
            path,
            self.arch[0] if kind == WEIGHTS and len(self.arch) == 1 else "",
            name,
            mean=self.mean if normalised else None,
            std=self.std if normalised else None,
            channel_order=self.channel_order if normalised else None,
            kind=kind,
            choices=self.arch if kind == WEIGHTS and len(self.arch) > 1 else (),
            key=key if key is not None else self.key if kind == WEIGHTS else None,
            class_order=self.class_order,
        )


def as_specs(arch: str | Sequence[str] | None) -> tuple[str, ...]:
    """One SPEC or several as a tuple, each once; raises ``InputError``."""
    given = (arch,) if isinstance(arch, str) else tuple(arch or ())
    for one in given:
        if not isinstance(one, str) or not one:
            raise InputError("screen", "arch", "a SPEC, or several", repr(one))
    return tuple(dict.fromkeys(given))


__all__ = [
    "URL",
    "Defaults",
    "Entry",
    "as_specs",
    "printable",
]
