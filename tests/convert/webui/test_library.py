"""The extension's library: files, names, hooks, the formula, settings. No UI."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn


def write(path, keys, rank=2, dtype=torch.float32, alpha=1.0):
    """A LoRA file with (out, in, …) shapes by kohya key; returns its deltas in float64."""
    generator, tensors, deltas = torch.Generator().manual_seed(0), {}, {}
    for key, (out, *rest) in keys.items():
        down = torch.randn(rank, *rest, generator=generator)
        up = torch.randn(out, rank, *(1,) * (len(rest) - 1), generator=generator)
        tensors |= {f"{key}.lora_down.weight": down.to(dtype), f"{key}.lora_up.weight": up.to(dtype)}
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
        scale = 1.0 if alpha is None else alpha / rank
        product = up.flatten(1).double() @ down.flatten(1).double()
        deltas[key] = scale * product.reshape(out, *rest)
    save_file(tensors, path)
    return deltas


class Block(nn.Module):
    """Modules at the places that real U-Nets have: linear, 1 × 1 and 3 × 3 convolutions."""

    def __init__(self, is_linear=False):
        super().__init__()
        inner = nn.Module()
        inner.proj_in = nn.Linear(8, 8) if is_linear else nn.Conv2d(8, 8, 1)
        inner.transformer_blocks = nn.ModuleList([nn.Module()])
        inner.transformer_blocks[0].attn1 = nn.Module()
        inner.transformer_blocks[0].attn1.to_q = nn.Linear(8, 4, bias=False)
        self.input_blocks = nn.ModuleList(nn.ModuleList() for _ in range(4))
        self.input_blocks[1].extend([nn.Identity(), inner])
        down = nn.Module()
        down.op = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.input_blocks[3].append(down)
        self.is_linear = is_linear

    def forward(self, x):
        inner = self.input_blocks[1][1]
        rows = x.flatten(2).transpose(1, 2)
        first = inner.proj_in(rows).transpose(1, 2).reshape(x.shape) if self.is_linear else inner.proj_in(x)
        attention = inner.transformer_blocks[0].attn1.to_q(rows)
        return torch.cat([first.flatten(), attention.flatten(), self.input_blocks[3][0].op(x).flatten()])


KEYS = {
    "lora_unet_down_blocks_0_attentions_0_proj_in": (8, 8, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (4, 8),
    "lora_unet_down_blocks_0_downsamplers_0_conv": (6, 8, 3, 3),
}


@pytest.fixture
def library(extension):
    import lib_pair_network.guidance as guidance
    import lib_pair_network.hooks as hooks
    import lib_pair_network.layer_names as layer_names
    import lib_pair_network.lora_file as lora_file
    import lib_pair_network.prompts as prompts
    import lib_pair_network.settings as settings
    from lib_pair_network.errors import GuidanceError

    class Library:
        pass

    for module in (guidance, hooks, layer_names, lora_file, prompts, settings):
        setattr(Library, module.__name__.split(".")[1], module)
    Library.Error = GuidanceError
    return Library


@pytest.mark.parametrize("alpha", [1.0, 3.0, None])
@pytest.mark.parametrize("is_linear", [False, True])
def test_hooks_equal_the_merged_weights_and_go(library, tmp_path, is_linear, alpha):
    model = Block(is_linear).double()
    deltas = write(tmp_path / "s.safetensors", KEYS, alpha=alpha)
    hooks = library.hooks.LoraHooks(model, library.lora_file.read_style(tmp_path / "s.safetensors"), "s")
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = model(x)
    with hooks.active():
        found = model(x)
    assert torch.equal(model(x), plain)
    assert not any(module._forward_hooks for module in model.modules())
    modules = dict(model.named_modules())
    names = library.layer_names.kohya_names(modules)
    with torch.no_grad():
        for key, delta in deltas.items():
            weight = modules[names[key]].weight
            weight += delta.reshape(weight.shape)
    assert torch.allclose(found, model(x), rtol=0, atol=1e-12) and (found - plain).abs().max() > 0.1


def test_hooks_go_after_an_error(library, tmp_path):
    model = Block()
    write(tmp_path / "s.safetensors", KEYS)
    hooks = library.hooks.LoraHooks(model, library.lora_file.read_style(tmp_path / "s.safetensors"), "s")
    with pytest.raises(RuntimeError, match="of the model"), hooks.active():
        raise RuntimeError("of the model")
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(library.Error, match="none of its 3 layers was called"), hooks.active():
        pass


def test_hooks_keep_circular_padding(library, tmp_path):
    """Tiling sets the padding mode of the live convolutions."""
    model = Block()
    conv = model.input_blocks[3][0].op
    conv.padding_mode = "circular"
    key = "lora_unet_down_blocks_0_downsamplers_0_conv"
    delta = write(tmp_path / "s.safetensors", {key: KEYS[key]})[key].float()
    hooks = library.hooks.LoraHooks(model, library.lora_file.read_style(tmp_path / "s.safetensors"), "s")
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    with hooks.active():
        found = conv(x)
    wanted = conv._conv_forward(x, conv.weight + delta, conv.bias)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_all_of_kohyas_names_are_known(library):
    """Against the converter's own tables: every layer of SD and SDXL, in kohya's and in diffusers' names."""
    from pair_network.families import FAMILIES

    for family in ("sd1", "sdxl"):
        entries = FAMILIES[family].entries
        names = library.layer_names.kohya_names(entry.native for entry in entries)
        for entry in entries:
            for spelled in (entry.native, entry.modules[0]):
                assert names["lora_unet_" + spelled.replace(".", "_")] == entry.native, spelled


def test_transformers_keep_their_fused_names(library):
    from convert.formats.families import FAMILIES

    for family in ("flux", "sd3"):
        native = [entry.native for entry in FAMILIES[family].entries]
        names = library.layer_names.kohya_names(native)
        assert all(names["lora_unet_" + name.replace(".", "_")] == name for name in native)


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": 2}, "text-encoder layers"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": 0}, "text-encoder layers"),
        ({"lora_unet_a.hada_w1_a": 2}, "LoHa"),
        ({"lora_unet_a.lokr_w1": 2}, "LoKr"),
        ({"lora_unet_a.dora_scale": 2}, "DoRA"),
        ({"lora_unet_a.lora_mid.weight": 4}, "CP-decomposed"),
        ({"lora_unet_a.oft_blocks": 2}, "OFT"),
        ({"lora_unet_a.diff": 2}, "full differences"),
        ({"unet.down_blocks.0.attn.to_q.lora_A.weight": 2}, "convert a1111"),
        ({"style.lora_unet_a.lora_down.weight": 2, "content.lora_unet_a.lora_down.weight": 2}, "coupled checkpoint"),
        ({"lora_unet_a.lora_down.weight": 2}, "lacks its lora_up"),
        ({"lora_unet_a.lora_down.weight": 2, "lora_unet_a.lora_up.weight": 3}, "do not multiply"),
    ],
)
def test_what_is_no_plain_unet_lora_is_refused_by_name(library, tmp_path, tensors, words):
    save_file({name: torch.ones((2,) * dims) for name, dims in tensors.items()}, tmp_path / "my-style.safetensors")
    with pytest.raises(library.Error, match=words) as error:
        library.lora_file.read_style(tmp_path / "my-style.safetensors")
    assert "my-style" in str(error.value) and "\n" not in str(error.value)


def test_damaged_files_are_refused(library, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"123")
    save_file({"lora_unet_a.lora_down.weight": torch.full((1, 2), float("nan")),
               "lora_unet_a.lora_up.weight": torch.ones(2, 1)}, tmp_path / "b.safetensors")  # fmt: skip
    for name, words in (
        ("a.safetensors", "download it again"),
        ("b.safetensors", "NaN"),
        ("c.safetensors", "intact"),
        ("d.pt", "only"),
    ):
        with pytest.raises(library.Error, match=words):
            library.lora_file.read_style(tmp_path / name)


def test_a_style_for_another_model_is_refused(library, tmp_path):
    model = Block()
    for keys, words in (({"lora_unet_input_blocks_9_1_proj_in": (8, 8)}, "1 of 1 layers are not in this model"),
                        ({"lora_unet_input_blocks_1_1_proj_in": (9, 8)}, "another model")):  # fmt: skip
        write(tmp_path / "s.safetensors", keys)
        with pytest.raises(library.Error, match=words):
            library.hooks.LoraHooks(model, library.lora_file.read_style(tmp_path / "s.safetensors"), "s")


def test_delta_by_hand(library):
    """Image 0 has one part, image 1 two of weights 1 and 0.5: δ0 = 2 (3 − 1) = 4, δ1 = 2 (1 · 1 + 0.5 · 4) = 6."""
    cond, style = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[3.0], [3.0], [7.0]])
    composition = [[(0, 1.0)], [(1, 1.0), (2, 0.5)]]
    shift = library.guidance.style_shift(style, cond, 2.0, composition)
    assert shift.tolist() == [[4.0], [6.0]]
    rows = torch.cat([cond, torch.tensor([[10.0], [20.0]])])
    library.guidance.add_to_rows(rows, shift, composition)
    assert rows.flatten().tolist() == [5.0, 8.0, 9.0, 14.0, 26.0]


def test_content_cfg_of_combined_rows(library):
    """Worked by hand: rows 10 and 20 of weights 0.5 and 0.25, null 4: 4 + 0.5·6 + 0.25·16 = 11, at scale 2: 18."""
    composition = [[(0, 0.5), (1, 0.25)]]
    for scale, wanted in ((1.0, 11.0), (2.0, 18.0)):
        rows = torch.tensor([[10.0], [20.0], [4.0]])
        library.guidance.combine_rows(rows, scale, composition)
        assert rows.flatten().tolist() == [wanted] * 3
    with pytest.raises(library.Error, match="CFG of its own"):
        library.guidance.combine_rows(torch.zeros(4, 1), 1.0, composition)


def test_formula_and_interval_are_the_trainers(library):
    import pair_network.sampling.guidance as reference

    generator = torch.Generator().manual_seed(2)
    cond, style = (torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    found = library.guidance.style_shift(style, cond, 3.0, [[(row, 1.0)] for row in range(3)])
    assert torch.allclose(found, reference.style_shift(cond, [style], [3.0]), atol=1e-12)
    for progress in (0.0, 0.2, 0.5, 0.999, 1.0):
        for start, end in ((0, 1), (0.2, 1), (0.2, 0.5), (0, 0.2)):
            mine = library.guidance.is_in_interval(progress, start, end)
            assert mine == reference.is_in_interval(progress, start, end)
    assert library.guidance.schedule_progress(5, 10) == 0.5
    assert library.guidance.schedule_progress(0, 10, 0.4) == 0.4
    assert library.guidance.schedule_progress(30, 10, 0.4) == 1.0


@pytest.mark.parametrize(
    "prompt, wanted",
    [
        ("a cat", "a cat in ink"),
        ("a cat, ", "a cat, in ink"),
        ("", "in ink"),
        ("a cat :1.2", "a cat in ink :1.2"),
        ("a cat :1.2 AND a dog", "a cat in ink :1.2 AND a dog in ink"),
        ("a [cat:dog:0.5]", "a [cat:dog:0.5] in ink"),
        ("a BAND", "a BAND in ink"),
    ],
)
def test_style_words_follow_each_part(library, prompt, wanted):
    assert library.prompts.with_words(prompt, "in ink") == wanted
    assert library.prompts.with_words(prompt, "") == prompt


def test_controls_and_objects_mean_the_same(library):
    read = library.settings.read_request
    style = library.settings.Style("a", "in ink", 2.0, 0.1, 0.9)
    other = library.settings.Style("b")
    none = [library.settings.NO_LORA, "", 3.0, 0.2, 1.0]
    controls = [True, "a", " in ink ", 2, 0.1, 0.9, *none, "b", "", 3.0, 0.2, 1.0, False]
    objects = [True, {"lora": "a", "words": "in ink", "scale": 2, "start": 0.1, "end": 0.9}, {"lora": "b"}, *none]
    assert read(controls).styles == read(objects).styles == (style, other)
    assert read([True, "a"]).styles == (library.settings.Style("a"),)
    assert read([False, "a"]) is None and read([]) is None
    assert read([*controls[:-1], True]).inner_passes
    # Lists made for the version without the last control, and the UI's own, which fills in the default.
    assert read(controls).cfg_end == read([*controls, 1.0]).cfg_end == read([*controls, None]).cfg_end == 1.0
    assert read([*controls[:-1], True, 0.4]) == library.settings.Request((style, other), True, 0.4)
    general = {"cfg_end": 0.4, "inner_passes": True}
    assert read([True, {"lora": "a"}, general, *none, *none[:-2], False, 1.0]).cfg_end == 0.4
    assert read([True, {"lora": "a"}, general]).inner_passes


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([True], "no style LoRA is chosen"),
        ([True, "a", "", "x"], "style 1, scale: 'x' is not a number"),
        ([True, "a", "", float("nan")], "not a number"),
        ([True, "a", "", 21], "not between"),
        ([True, "a", "", 3, 0.5, 0.5], "start before end"),
        ([True, "a", "x AND y"], "cannot hold AND"),
        ([True, "a", "x <lora:b:1>"], "<lora:b:1>"),
        ([True, {"lora": "a", "lamda": 3}], "unknown field lamda"),
        ([True, {"lora": "a", "scal": 3}], "did you mean scale"),
        ([True, {"words": "x"}], "needs its lora"),
        ([True, *[{"lora": "a"}] * 4], "at most 3"),
        ([True, {"lora": "a"}, {"cfg_end": 1.5}], "not between 0 and 1"),
        ([True, {"lora": "a"}, {"cfg_end": "late"}], "cfg_end: 'late' is not a number"),
        ([True, {"lora": "a", "cfg_end": 0.5}], "cfg_end is no field of a style"),
        ([True, {"lora": "a", "cfg_ende": 0.5}], "did you mean cfg_end"),
        ([True, {"cfg_end": 0.5}], "no style LoRA is chosen"),
    ],
)
def test_what_cannot_be_meant_is_refused(library, arguments, words):
    with pytest.raises(library.Error, match=words):
        library.settings.read_request(arguments)


def test_axes_win_and_turn_guidance_on(library):
    read = library.settings.read_request
    assert read([False, "a", "", 3.0, 0.2, 1.0], {(0, "scale"): 1.5}).styles[0].scale == 1.5
    assert read([False], {(0, "lora"): "b"}).styles[0].lora == "b"
    assert read([True, "a"], {(None, "cfg_end"): 0.25}).cfg_end == 0.25
    with pytest.raises(library.Error, match="style 2, which has no LoRA"):
        read([True, "a"], {(1, "scale"): 1.0})


def test_infotext_goes_there_and_back(library):
    settings = library.settings
    request = settings.Request((settings.Style("a", "in ink", 2.5, 0.1, 0.9), settings.Style("b")), True)
    entries = settings.infotext(request)
    for slot in range(settings.SLOTS):
        style = request.styles[slot] if slot < 2 else settings.DEFAULTS
        for field in settings.FIELDS:
            assert settings.pasted(entries, slot, field) == getattr(style, field)
    assert settings.CFG_END_KEY not in entries and settings.pasted_cfg_end(entries) == 1.0
    late = settings.infotext(settings.Request(request.styles, cfg_end=0.45))
    assert settings.pasted_cfg_end(late) == 0.45 and settings.CFG_END_KEY in settings.all_keys()
    assert settings.pasted_cfg_end({"Steps": "4"}) is None
    assert settings.is_guided(entries) and not settings.is_guided({"Steps": "4"})
    assert settings.pasted({"Steps": "4"}, 0, "scale") is None
    for odd in ("x", "nan", "1e999", "9" * 400, None, [1]):  # a picture's text may say anything
        entries = {settings.key(0, "lora"): "x", settings.key(0, "scale"): odd, settings.CFG_END_KEY: odd}
        assert settings.pasted(entries, 0, "scale") == settings.DEFAULTS.scale
        assert settings.pasted_cfg_end(entries) == 1.0
