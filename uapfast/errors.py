"""The exception tree. A leaf: imports nothing of ours and no torch.

Every message has the form ``<where>: <argument> must be <rule>, got <value>``,
so that a caller learns which value was wrong and what would be right.
"""

from __future__ import annotations


def fault(exc: BaseException, limit: int = 200) -> str:
    """What an exception of Python's own says of a file, in words that need no Python."""
    if isinstance(exc, UnicodeDecodeError):
        return f"bytes that are no text (byte {exc.start} is no UTF-8)"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    said = str(exc)[:limit]
    if isinstance(exc, ValueError) and hasattr(exc, "lineno"):  # of json, tomllib
        return said
    if "allow_pickle" in said:
        return "Python objects, which are never read"
    return f"{type(exc).__name__}: {said}"


class UapfastError(Exception):
    """Base of everything that uapfast raises on purpose."""


class InputError(UapfastError, ValueError):
    """An argument breaks its contract.

    Attributes:
        where: the function, op or command that refused.
        argument: the name of the offending argument.
        rule: what would be right.
        got: the offending value, as text.
    """

    def __init__(self, where: str, argument: str, rule: str, got: object) -> None:
        self.where, self.argument, self.rule, self.got = where, argument, rule, str(got)
        super().__init__(f"{where}: {argument} must be {rule}, got {self.got}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        """Keep the four fields when the error crosses a process boundary."""
        return type(self), (self.where, self.argument, self.rule, self.got)


class DataError(InputError):
    """A data set (images, labels, DATA spec) cannot be used."""


class ModelError(InputError):
    """An architecture spec, its weights, or a white-box model's answers cannot be used."""


class WeightsFileError(ModelError):
    """A weights file is not read; one of the four below says why. The message names file and remedy."""


class UnsafeFileError(WeightsFileError):
    """A weights file holds a program, or broke the worker that read it."""


class CorruptFileError(WeightsFileError):
    """A weights file is missing, unreadable, truncated, or contradicts itself."""


class TooLargeError(WeightsFileError):
    """A weights file asks for more bytes, tensors, operations or time than the limits allow."""


class UnsupportedFileError(WeightsFileError):
    """A weights file is of another kind; the message names the kind and what to save instead."""


class SandboxError(UapfastError, RuntimeError):
    """The worker that reads files that nobody trusts cannot be started on this machine."""


class SuspectError(InputError):
    """A suspect's answers cannot be used (NaN, wrong shape); ``verify`` reports ``invalid``."""


class OutputError(InputError):
    """What came back cannot be read, or not be told apart; the message says what to give (``output=``)."""


class EndpointError(InputError):
    """An endpoint cannot be asked as it was described: URL, form or credentials are the asker's."""


class UnavailableError(UapfastError, ConnectionError):
    """A suspect does not answer now, or may not be asked more; ``verify`` reports ``unavailable``."""


class TimeLimitError(SuspectError):
    """A suspect was not read or asked within the time limit of ``screen``, or too many never ended."""


class ManifestError(InputError):
    """A pool manifest cannot be used."""


class PoolError(InputError):
    """A surrogate pool has too few models, or the wrong ones."""


class ReferenceFileError(InputError):
    """A reference file is damaged, truncated, or of another version."""


class FoolingRateError(InputError):
    """A universal perturbation stayed below the fooling rate asked for (``strict``)."""


class EvidenceError(InputError):
    """A commitment, a record or a statement does not hold, or not fit what it is held against."""


class SignatureError(EvidenceError):
    """A signature that is not that of the key, or a key that cannot be used."""


class TimeStampError(EvidenceError):
    """A time stamp that does not hold: another signature's, expired, of the future, or of nobody trusted."""


class RecordError(EvidenceError):
    """A record of answers that is cut short, changed, or of another reference or format."""


class StorageError(UapfastError, OSError):
    """A result could not be written; nothing half-written is left behind."""


class ClusterError(UapfastError, ConnectionError):
    """A cluster cannot be reached, starts no worker, or lacks files or versions that this machine has."""


class WorkerLostError(UapfastError, RuntimeError):
    """A suspect's worker died, and another one that had nothing else died of it too."""


class NativeUnavailable(UapfastError, RuntimeError):
    """A compiled backend was asked for by name and is not there. Raised at call, never at import."""


class MissingDependency(UapfastError, ImportError):
    """An optional package is needed; the message names it and how to install what the extra brings."""


def how_to_install(extra: str) -> str:
    """The command for an extra of ours: by its packages, since uapfast itself comes from no registry."""
    from importlib import metadata

    try:
        known = metadata.requires("uapfast") or []
    except metadata.PackageNotFoundError:
        known = []
    parts = [need.partition(";") for need in known]
    needs = [f"'{name.strip()}'" for name, _, marker in parts if f"extra=={extra!r}" in _bare(marker)]
    return f"pip install {' '.join(needs) or repr(f'.[{extra}]') + ' in the folder of uapfast'}"


def _bare(marker: str) -> str:
    return marker.replace(" ", "").replace('"', "'")


class UapfastWarning(UserWarning):
    """Base of our warnings."""


class FoolingRateWarning(UapfastWarning):
    """A universal perturbation stayed below the fooling rate asked for."""


class DataWarning(UapfastWarning):
    """Data are taken in another form than they have."""


class PoolWarning(UapfastWarning):
    """A pool works, but weakens what the verdict can state."""


class PoolNote(PoolWarning):
    """The same where its owner can do nothing about it; ``uapfast generate`` only counts such."""
