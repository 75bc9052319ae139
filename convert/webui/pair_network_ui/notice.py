"""What stands in the accordion's place in a UI that cannot be guided."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
from lib_pair_network.settings import TITLE


def build(reason: str) -> list[Any]:
    """Shows the reason, one line; there are no controls."""
    with gr.Accordion(TITLE, open=False):
        gr.HTML(f"<p>{html.escape(reason)}</p>")
    return []
