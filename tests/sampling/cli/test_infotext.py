"""Infotext as A1111 reads it: its own pattern for ``Key: value`` pairs, quoted values as JSON."""

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pair_network.sampling.cli.infotext import infotext, model_name, style_fields
from pair_network.sampling.pipelines import Style

WEBUI = Path(__file__).parents[3] / "convert" / "webui"

A1111 = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read(text):
    fields = dict(A1111.findall(text.splitlines()[-1]))
    return {key: json.loads(value) if value.startswith('"') else value for key, value in fields.items()}


def test_three_lines():
    text = infotext("a dog", "blurry", {"Steps": 4, "CFG scale": 5.0, "Mask": None})
    assert text == "a dog\nNegative prompt: blurry\nSteps: 4, CFG scale: 5"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1))
def test_any_value_is_read_back(value):
    assert read(infotext("a dog", "", {"Model": value, "Steps": 4})) == {"Model": value, "Steps": "4"}


def test_our_extension_takes_every_style_up(monkeypatch):
    """A picture of generate, dropped into A1111's PNG Info and sent to txt2img, fills the extension's controls."""
    monkeypatch.syspath_prepend(str(WEBUI))
    from lib_pair_network import settings

    styles = [
        Style("dir/ink.safetensors", "in ink, dark", scale=4.0, multiplier=0.5),
        Style("b.pair.safetensors", "", start=0.0, end=0.5),
    ]
    fields = read(infotext("a dog", "", style_fields(styles, cfg_end=0.4)))
    assert settings.is_guided(fields)
    for slot, expected in enumerate([["ink", "in ink, dark", 4.0, 0.2, 1.0], ["b", "", 3.0, 0.0, 0.5]]):
        assert [settings.pasted(fields, slot, field) for field in settings.FIELDS] == expected
    assert fields["Style guidance multiplier 1"] == "0.5"
    assert "Style guidance multiplier 2" not in fields
    assert fields["Style guidance content CFG until"] == "0.4"
    assert "Style guidance content CFG until" not in read(infotext("a dog", "", style_fields(styles)))


def test_name_of_a_model_keeps_its_dots():
    assert model_name("stabilityai/stable-diffusion-3.5-medium") == "stable-diffusion-3.5-medium"
    assert model_name("dir/v1.5.safetensors") == "v1.5"
