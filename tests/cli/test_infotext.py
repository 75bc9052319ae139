"""Infotext as A1111 reads it: its own pattern for ``Key: value`` pairs, quoted values as JSON."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from pair_network.cli.infotext import infotext, style_fields
from pair_network.pipelines import Style

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


def test_every_style_has_a_field():
    styles = [Style("dir/ink.safetensors", "in ink, dark", scale=3.0), Style("b.safetensors", "as chalk", end=0.5)]
    fields = read(infotext("a dog", "", style_fields(styles)))
    assert fields["Style guidance 1"] == "ink | in ink, dark | scale 3 | start 0.2 | end 1 | multiplier 1"
    assert fields["Style guidance 2"].startswith("b | as chalk | scale 3 | start 0.2 | end 0.5")
