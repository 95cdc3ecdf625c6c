"""Evidence that another party can check offline: commitments, statements, and the audit of both.

Formats are standard ones: in-toto Statement v1 in a DSSE envelope, a Sigstore bundle, RFC 3161, RFC 8785
(docs/evidence.md). The libraries that it needs are the extra ``evidence``.
"""
