"""The exception tree. A leaf: imports nothing of ours and no torch.

Every message has the form ``<where>: <argument> must be <rule>, got <value>``,
so that a caller learns which value was wrong and what would be right.
"""

from __future__ import annotations


def fault(exc: BaseException, limit: int = 200) -> str:
    """What one of Python's own exceptions says about a file, in words for people who do not know Python."""
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
    """An architecture SPEC, its weights, or the answers of a model with known weights cannot be used."""


class WeightsFileError(ModelError):
    """A weights file is not read; the subclass says why. The message names the file and the remedy."""


class UnsafeFileError(WeightsFileError):
    """A weights file contains a program, or crashed the worker that read it."""


class CorruptFileError(WeightsFileError):
    """A weights file is missing, unreadable, truncated, or contradicts itself."""


class TooLargeError(WeightsFileError):
    """A weights file needs more bytes, tensors, operations or time than the limits allow."""


class UnsupportedFileError(WeightsFileError):
    """A weights file is of another kind; the message names the kind and what to save instead."""


class SandboxError(UapfastError, RuntimeError):
    """The worker process that reads untrusted files cannot be started on this machine."""


class SuspectError(InputError):
    """A suspect's answers cannot be used (NaN, wrong shape); ``verify`` reports ``invalid``."""


class OutputError(InputError):
    """Answers cannot be read, or could mean several things; the message says what to give (``output=``)."""


class EndpointError(InputError):
    """An endpoint cannot be queried as it was described: correct its URL, form or credentials."""


class UnavailableError(UapfastError, ConnectionError):
    """A suspect does not answer now, or its budget is spent; ``verify`` reports ``unavailable``."""


class TimeLimitError(SuspectError):
    """Reading or querying a suspect exceeded the time limit of ``screen``, or too many never ended."""


class ManifestError(InputError):
    """A pool manifest cannot be used."""


class PoolError(InputError):
    """A pool has too few models, or models that it must not have."""


class ReferenceFileError(InputError):
    """A reference file is damaged, truncated, or of another version."""


class FoolingRateError(InputError):
    """A universal perturbation did not reach the required fooling rate (``strict``)."""


class EvidenceError(InputError):
    """A commitment, a record or a statement is wrong, or does not match the files it belongs to."""


class SignatureError(EvidenceError):
    """A signature was not made by the key, or the key cannot be used."""


class TimeStampError(EvidenceError):
    """A time stamp is not valid: of another signature, expired, in the future, or not trusted."""


class RecordError(EvidenceError):
    """A record of answers is incomplete, changed, or of another reference or format."""


class StorageError(UapfastError, OSError):
    """A result could not be written; nothing half-written is left behind."""


class ClusterError(UapfastError, ConnectionError):
    """A cluster cannot be reached, starts no worker, or lacks files or versions of this machine."""


class WorkerLostError(UapfastError, RuntimeError):
    """A suspect's worker died, and a second worker that had only this suspect died too."""


class NativeUnavailable(UapfastError, RuntimeError):
    """A compiled backend was requested by name and is missing. Raised at the call, never at import."""


class MissingDependency(UapfastError, ImportError):
    """An optional package is missing; the message names it and the extra that installs it."""


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
    """A universal perturbation did not reach the required fooling rate."""


class DataWarning(UapfastWarning):
    """Data are used in another form than the one given."""


class PoolWarning(UapfastWarning):
    """A pool can be used, but weakens what a verdict can state."""


class PoolNote(PoolWarning):
    """A ``PoolWarning`` that the owner can do nothing about; ``uapfast generate`` only counts these."""
