"""Style guidance as tensor formulas: numbers worked by hand, and what must hold for any numbers."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pair_network.sampling.guidance import content_cfg, is_in_interval, shift_for_rescale, style_guided, style_shift

NUMBERS = st.floats(-10, 10)
VALUES = st.lists(NUMBERS, min_size=3, max_size=3).map(lambda values: torch.tensor(values, dtype=torch.float64))


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def test_equation_10_by_hand():
    """ε0(∅) = 1, ε0(c) = 3, ε_style = 4: 1 + 5 · (3 − 1) + 2 · (4 − 3) = 13."""
    assert style_guided(one(1.0), one(3.0), [one(4.0)], 5.0, [2.0]) == 13


def test_equation_11_by_hand():
    """A second style 1 with λ = 0.5: 13 + 0.5 · (1 − 3) = 12."""
    assert style_guided(one(1.0), one(3.0), [one(4.0), one(1.0)], 5.0, [2.0, 0.5]) == 12


def test_scale_equal_to_cfg_keeps_the_base_model_in_the_null_row():
    """λ_style = λ_cfg is no special case: the null prediction stays the base model's."""
    assert style_guided(one(1.0), one(3.0), [one(4.0)], 5.0, [5.0]) == 16


def test_without_cfg():
    """cond + λ (style − cond) = 3 + 2 · 1."""
    assert style_guided(None, one(3.0), [one(4.0)], 5.0, [2.0]) == 5


def test_the_contents_cfg_ends_by_hand():
    """ε0(∅) = 1, ε0(c) = 3, ε_style = 4, s = 5, λ = 2, ended at 0.4 of 10 steps: 13 in steps 0 to 3, then 3 + 2 = 5."""
    steps = [
        style_guided(one(1.0), one(3.0), [one(4.0)], content_cfg(5.0, i / 10, 0.4), [2.0]).item() for i in range(10)
    ]
    assert steps == [13.0] * 4 + [5.0] * 6


def test_ends_of_the_contents_cfg():
    """1 is eq. 10 throughout, 0 no CFG at all; without a style it is plain CFG that ends."""
    progress = [0.0, 0.5, 0.999, 1.0]
    assert [content_cfg(5.0, at, 1.0) for at in progress] == [5.0] * 4
    assert [content_cfg(5.0, at, 0.0) for at in progress] == [1.0] * 4
    assert style_guided(one(1.0), one(3.0), [], content_cfg(5.0, 0.5, 0.5), []) == 3


def test_a_scale_is_missing():
    with pytest.raises(ValueError, match="shorter"):
        style_shift(one(1.0), [one(2.0), one(3.0)], [1.0])


@given(VALUES, VALUES, VALUES, st.floats(-8, 8), st.floats(-8, 8))
def test_shifting_both_rows_shifts_any_combination(null, cond, style, cfg, scale):
    shift = style_shift(cond, [style], [scale])
    combined = (null + shift) + cfg * ((cond + shift) - (null + shift))
    torch.testing.assert_close(combined, style_guided(null, cond, [style], cfg, [scale]), rtol=0, atol=1e-9)


@given(VALUES, VALUES, VALUES, st.floats(-8, 8), st.floats(-8, 8))
def test_without_its_cfg_the_null_prompt_says_nothing(null, cond, style, cfg, scale):
    ended = style_guided(null, cond, [style], content_cfg(cfg, 0.7, 0.5), [scale])
    assert torch.equal(ended, style_guided(None, cond, [style], cfg, [scale]))
    torch.testing.assert_close(ended, cond + scale * (style - cond), rtol=0, atol=1e-12)


@given(VALUES, VALUES, VALUES, st.floats(1.01, 20))
def test_shift_on_the_null_rows_alone_comes_to_the_same(null, cond, shift, cfg):
    moved = shift_for_rescale(null, shift, cfg)
    torch.testing.assert_close(moved + cfg * (cond - moved), null + cfg * (cond - null) + shift, rtol=0, atol=1e-6)


def test_interval_is_half_open():
    steps = [i / 10 for i in range(10)]
    assert [i for i, at in enumerate(steps) if is_in_interval(at, 0.2, 0.5)] == [2, 3, 4]
    assert [i for i, at in enumerate(steps) if is_in_interval(at, 0.0, 1.0)] == list(range(10))
    assert not any(is_in_interval(at, 0.3, 0.3) for at in steps)


def copy_of(folder, name):
    """A module of what is installed into a UI, which may import nothing of this package."""
    path = Path(__file__).parents[2] / "convert" / folder
    package = f"{path.name}_copy"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, path / "__init__.py", submodule_search_locations=[str(path)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
    return importlib.import_module(f"{package}.{name}")


@given(VALUES, st.lists(VALUES, min_size=1, max_size=3), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_the_formula_is_the_same_in_the_package_and_in_both_uis(cond, styles, scales):
    """Three copies, because they are installed apart: δ to the bit in ComfyUI, to rounding where A1111 sums by AND."""
    scales = scales[: len(styles)]
    own = style_shift(cond, styles, scales)
    assert torch.equal(copy_of("comfyui", "guidance").style_shift(cond, styles, scales, [1.0] * len(styles)), own)
    webui = copy_of("webui/lib_pair_network", "guidance").style_shift
    parts = [
        webui(style[None], cond[None], scale, [[(0, 1.0)]])[0] for style, scale in zip(styles, scales, strict=True)
    ]
    assert torch.allclose(sum(parts), own, rtol=1e-12, atol=1e-12)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_is_the_same_in_the_package_and_the_web_uis(progress, start, end):
    webui = copy_of("webui/lib_pair_network", "guidance")
    assert webui.is_in_interval(progress, start, end) == is_in_interval(progress, start, end)


def test_a_changed_copy_would_be_noticed():
    """λ on the wrong side of the difference gives another δ."""
    wrong = one(3.0) - 2.0 * (one(4.0) - one(3.0))
    assert not torch.equal(wrong - one(3.0), style_shift(one(3.0), [one(4.0)], [2.0]))
