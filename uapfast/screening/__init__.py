"""Screening: many suspects against one reference or several; docs/screening.md.

Four folders, each using only those before it: ``listing`` (which suspects), ``table`` (their rows: SQLite
while a screen runs, Parquet at the end), ``asking`` (one suspect: read, asked, decided), ``engine`` (which
worker asks which suspect, in threads or in a cluster). ``run`` puts them together.
"""
