"""``dry_run``: what an examination of an endpoint would cost, before anything is sent."""

from __future__ import annotations

import os

from uapfast.examination.asking import design_for
from uapfast.reference import Reference, as_reference
from uapfast.suspects.http import HttpSuspect, Plan


def dry_run(reference: Reference | str | os.PathLike[str], suspect: HttpSuspect) -> Plan:
    """Requests, queries and bytes that ``verify`` needs at most, if nothing fails.

    Only the server's metadata is requested, if its protocol has any. An honest suspect is usually let go
    after a part of the queries. Probes of a suspect that is queried wrongly (docs/verdicts.md) are not
    included.

    Args:
        reference: from :func:`uapfast.generate` or :func:`uapfast.load`, or its file.
        suspect: from :func:`uapfast.suspects.http.open_http`.

    Raises:
        EndpointError: the description of the endpoint is incomplete.
        UnavailableError: it does not answer.
    """
    reference = as_reference(reference, "dry run")
    design = design_for(reference, suspect)
    parts = (design.stage(number) for number in range(len(design.looks.views)))
    return suspect.plan((reference.plan.chunks(part) for part in parts), reference.classes)


__all__ = ["dry_run"]
