"""Puts or updates the guidance nodes into ComfyUI's custom_nodes."""

from __future__ import annotations

from convert.command import Command

from .install import Into, run

VERB = Command(__doc__, Into, lambda options: run("comfyui", options))
