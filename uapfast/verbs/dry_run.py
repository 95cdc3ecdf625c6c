"""``dry_run``: what an examination of an endpoint would cost, before any of it is spent."""

from __future__ import annotations

import os

from uapfast.examination.asking import design_for
from uapfast.reference import Reference, as_reference
from uapfast.suspects.http import HttpSuspect, Plan


def dry_run(reference: Reference | str | os.PathLike[str], suspect: HttpSuspect) -> Plan:
    """Requests, queries and bytes that ``verify`` takes at most, where nothing fails.

    Only the server's metadata is asked for, where its form has any. An innocent suspect is let go after a
    part of it; probes of a suspect that is asked wrongly (docs/verdicts.md) come on top.

    Args:
        reference: from :func:`uapfast.generate` or :func:`uapfast.load`, or its file.
        suspect: from :func:`uapfast.suspects.http.open_http`.

    Raises:
        EndpointError: the endpoint has to be described better.
        UnavailableError: it does not answer.
    """
    reference = as_reference(reference, "dry run")
    design = design_for(reference, suspect)
    parts = (design.stage(number) for number in range(len(design.looks.views)))
    return suspect.plan((reference.plan.chunks(part) for part in parts), reference.classes)


__all__ = ["dry_run"]
