"""Converters: ``python -m convert VERB INPUT… -o OUTPUT`` (see docs/convert.md)."""
