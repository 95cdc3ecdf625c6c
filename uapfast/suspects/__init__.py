"""Suspects: whatever answers, one kind a file (:mod:`uapfast.suspects.base` says what each has to do)."""
