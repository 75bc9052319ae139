"""Puts or updates the guidance script into A1111's or Forge's extensions."""

from __future__ import annotations

from convert.command import Command

from .install import Into, run

VERB = Command(__doc__, Into, lambda options: run("webui", options))
