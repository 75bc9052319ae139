"""The accordion under txt2img and img2img."""

from __future__ import annotations

from typing import Any

import gradio as gr
from lib_pair_network import settings
from lib_pair_network.settings import DEFAULTS, MAX_SCALE, NO_LORA, SLOTS, TITLE
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion

from .files import from_card, style_names

SCALE_INFO = "How much of the style's change is added; 3 for the subject of the pair, 4 for others, 6 on FLUX"
START_INFO = "Part of the steps before the style begins; the first fifth decides the layout"
END_INFO = "Part of the steps after which the style ends; 1: never"
CFG_END_INFO = "Part of the steps after which the prompt's own CFG is 1, so that the style has more weight; 1: never"


def choices() -> list[str]:
    return [NO_LORA, *style_names()]


def build(script: Any, tab: str) -> list[Any]:
    """Makes the controls, in the order in which ``read_request`` takes them, and names them for pasting.

    Args:
        script: Gets ``infotext_fields`` and ``paste_field_names``.
        tab: "txt2img" or "img2img", for element ids.
    """
    fields: list[tuple[Any, Any]] = []
    styles: list[Any] = []
    with InputAccordion(False, label=TITLE, elem_id=f"pair_network_{tab}") as enabled:
        styles += _style(0, tab)
        with gr.Accordion("More styles", open=False, elem_id=f"pair_network_{tab}_more"):
            for slot in range(1, SLOTS):
                styles += _style(slot, tab)
        cfg_end = gr.Slider(
            0, 1, 1.0, step=0.01, label="Content CFG until", info=CFG_END_INFO, elem_id=f"pair_network_{tab}_cfg_end"
        )
        inner = gr.Checkbox(
            False, label="Also guide inner passes (ADetailer and the like)", elem_id=f"pair_network_{tab}_inner"
        )
    fields.append((enabled, settings.is_guided))
    names = [(slot, field) for slot in range(SLOTS) for field in settings.FIELDS]
    for control, (slot, field) in zip(styles, names, strict=True):
        fields.append((control, _pasting(slot, field)))
    fields.append((inner, lambda entries: settings.INNER_KEY in entries if settings.is_guided(entries) else None))
    fields.append((cfg_end, settings.pasted_cfg_end))
    script.infotext_fields = fields
    script.paste_field_names = settings.all_keys()
    return [enabled, *styles, inner, cfg_end]


def _pasting(slot: int, field: str) -> Any:
    return lambda entries: settings.pasted(entries, slot, field)


def _style(slot: int, tab: str) -> list[Any]:
    number, place = slot + 1, f"pair_network_{tab}_{slot + 1}"
    with gr.Row():
        lora = gr.Dropdown(choices(), value=NO_LORA, label=f"Style LoRA {number}", elem_id=f"{place}_lora")
        create_refresh_button(lora, lambda: None, lambda: {"choices": choices()}, f"{place}_refresh")
        words = gr.Textbox(
            DEFAULTS.words, label=f"Style words {number}", placeholder="in … style", elem_id=f"{place}_words"
        )
    scale = gr.Slider(
        -2, MAX_SCALE, DEFAULTS.scale, step=0.05, label=f"λ {number}", info=SCALE_INFO, elem_id=f"{place}_scale"
    )
    with gr.Row():
        start = gr.Slider(
            0, 1, DEFAULTS.start, step=0.01, label=f"Start {number}", info=START_INFO, elem_id=f"{place}_start"
        )
        end = gr.Slider(0, 1, DEFAULTS.end, step=0.01, label=f"End {number}", info=END_INFO, elem_id=f"{place}_end")
    # The user's own choice only: a pasted infotext brings its words and λ along.
    lora.input(from_card, [lora, words, scale], [words, scale], show_progress="hidden")
    return [lora, words, scale, start, end]
