"""Which model a file is of, and every family in every naming: nothing is claimed for another model."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from convert.formats.families import FAMILIES
from convert.formats.read import read_adapter
from pair_network.families import claims_of_metadata

TRANSFORMERS = [name for name in FAMILIES if FAMILIES[name].component == "transformer"]


def saved(path, layers, metadata=None, ends=("lora_A.weight", "lora_B.weight"), rank=2):
    """A file with layers of these (rows, columns), by name; the factors are zeros, which take no time."""
    tensors = {}
    for name, (rows, columns) in layers.items():
        tensors[f"{name}.{ends[0]}"] = torch.zeros(rank, columns, dtype=torch.float16)
        tensors[f"{name}.{ends[1]}"] = torch.zeros(rows, rank, dtype=torch.float16).clone()
    save_file(tensors, path, metadata)
    return path


def described(path):
    adapter = read_adapter(path, None)
    return adapter.family.name, adapter.is_sure


KOHYA = ("lora_down.weight", "lora_up.weight")
DOTTED = "transformer.transformer_blocks"


@pytest.mark.parametrize(
    "layers, family, is_sure",
    [
        # FLUX.1's double blocks alone, in three spellings; SD 3 and 3.5 large by their widths
        ({f"{DOTTED}.7.attn.to_q": (3072, 3072), f"{DOTTED}.7.attn.to_out.0": (3072, 3072)}, "flux", False),
        ({f"{DOTTED}.0.attn.add_k_proj": (3072, 3072), f"{DOTTED}.0.ff.net.0.proj": (12288, 3072)}, "flux", False),
        ({f"{DOTTED}.0.norm1.linear": (18432, 3072)}, "flux", True),
        ({"lora_transformer_transformer_blocks_3_attn_to_q": (3072, 3072)}, "flux", False),
        ({f"{DOTTED}.7.attn.to_q": (1536, 1536)}, "sd3", True),
        ({f"{DOTTED}.7.attn.to_q": (2432, 2432)}, "sd3", True),
        ({f"{DOTTED}.7.attn.to_q": (3584, 3584)}, "hunyuan_image", True),
        # FLUX.2: the hidden width, or the rows of a gated MLP
        ({"diffusion_model.double_blocks.0.img_attn.qkv": (12288, 4096)}, "flux2_klein_9b", True),
        ({"diffusion_model.single_blocks.0.linear1": (27648, 3072)}, "flux2_klein_4b", True),
        ({"diffusion_model.double_blocks.0.img_mlp.0": (18432, 3072)}, "flux2_klein_4b", True),
        ({"diffusion_model.single_blocks.40.linear2": (6144, 24576)}, "flux2_dev", True),
        ({"diffusion_model.single_blocks.0.linear1": (21504, 3072)}, "flux", False),
        # musubi's and ai-toolkit's spellings of Qwen-Image, whose layers are FLUX.1's in name and width
        ({"lora_unet_transformer_blocks_0_attn_to_q": (3072, 3072)}, "qwen_image", True),
        ({"diffusion_model.transformer_blocks.0.attn.to_q": (3072, 3072)}, "qwen_image", True),
        ({f"{DOTTED}.59.attn.to_q": (3072, 3072)}, "qwen_image", True),
        ({f"{DOTTED}.0.img_mlp.net.2": (3072, 12288)}, "qwen_image", True),
        # Lumina 2's keys have a third of the heads, Z-Image's all
        ({"diffusion_model.layers.0.attention.qkv": (3840, 2304)}, "lumina2", True),
        ({"diffusion_model.layers.0.attention.qkv": (11520, 3840)}, "z_image", True),
        ({"lora_unet_layers_0_attention_to_q": (3840, 3840)}, "z_image", True),
        ({"lora_unet_blocks_0_cross_attn_k_proj": (2048, 1024)}, "anima", True),
        # Krea 2: a quarter of the heads; queries alone are FLUX.2's too
        ({"lora_unet_blocks_3_attn_wk": (1536, 6144)}, "krea2", True),
        ({"diffusion_model.blocks.3.attn.gate": (6144, 6144)}, "krea2", True),
        ({"diffusion_model.blocks.27.mlp.down": (6144, 16384)}, "krea2", True),
        ({f"{DOTTED}.27.attn.to_v": (1536, 6144)}, "krea2", True),
        ({"lora_unet_txtfusion_refiner_blocks_1_mlp_up": (6912, 2560)}, "krea2", True),
        ({f"{DOTTED}.0.attn.to_q": (6144, 6144)}, "flux2_dev", False),
        # SD: the text's width, and where a block has which width
        ({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 1024)}, "sd2", True),
        ({"unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (640, 640)}, "sdxl", True),
        ({"unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (1280, 1280)}, "sd1", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rank", [1, 5])
def test_names_and_widths_decide(layers, family, is_sure, rank, tmp_path):
    ends = KOHYA if next(iter(layers)).startswith("lora_") else ("lora_A.weight", "lora_B.weight")
    assert described(saved(tmp_path / "x.safetensors", layers, None, ends, rank)) == (family, is_sure)


@pytest.mark.parametrize(
    "layers, words",
    [
        ({"diffusion_model.double_blocks.0.img_attn.qkv": (15360, 5120)}, "other widths .*has 15360 rows"),
        ({"diffusion_model.single_blocks.0.linear1": (8 * 3072, 3072)}, "other widths"),
        ({f"{DOTTED}.0.attn.to_q": (2048, 2048)}, "other widths"),
        ({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 1280)}, "other widths"),
        ({"diffusion_model.layers.0.attention.qkv": (8, 8)}, "other widths .*has 8 rows"),
        ({"diffusion_model.double_stream_blocks.0.block.attn1.to_q": (2560, 2560)}, "of no model that is known here"),
        ({"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}, "of no model that is known here"),
    ],
)  # fmt: skip
def test_widths_that_no_model_has_are_refused(layers, words, tmp_path, run):
    """And no nearest family is named: it would send people the wrong way."""
    source = saved(tmp_path / "x.safetensors", layers)
    status, _, errors = run("kohya", source, "-o", tmp_path / "o.safetensors")
    assert status == 1 and re.search(words, errors) and "nearest" not in errors
    assert not (tmp_path / "o.safetensors").exists()


QKV = "lora_unet_double_blocks_0_img_attn_qkv"


@pytest.mark.parametrize(
    "metadata, family, is_sure",
    [
        ({}, "flux", False),
        ({"ss_base_model_version": "flux1"}, "flux", True),
        ({"ss_base_model_version": "chroma"}, "chroma", True),
        ({"modelspec.architecture": "chroma/lora"}, "chroma", True),
        ({"modelspec.architecture": "Flux.2-klein-4b/lora"}, "flux2_klein_4b", True),
        ({"ss_base_model_version": "flux2"}, "flux2_klein_4b", True),
        # of a model that is not known here: nothing is claimed
        ({"ss_base_model_version": "ovis"}, "flux", False),
    ],
)  # fmt: skip
def test_metadata_decides_between_equals(metadata, family, is_sure, tmp_path):
    source = saved(tmp_path / "x.safetensors", {QKV: (9216, 3072)}, metadata, KOHYA)
    assert described(source) == (family, is_sure)


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_base_model_version": "sdxl_base_v1-0"},
        {"modelspec.architecture": "Qwen-Image/lora"},
        {"ss_base_model_version": "chroma", "modelspec.architecture": "flux-1-dev/lora"},
    ],
)
def test_metadata_that_contradicts_is_refused_until_family_says(metadata, tmp_path, run):
    source = saved(tmp_path / "x.safetensors", {QKV: (9216, 3072)}, metadata, KOHYA)
    target = tmp_path / "o.safetensors"
    status, _, errors = run("kohya", source, "-o", target)
    assert status == 1 and "metadata says" in errors and "--family" in errors and not target.exists()
    assert run("kohya", source, "-o", target, "--family", "flux")[0] == 0


def test_an_uncertain_file_keeps_its_own_words(tmp_path, run, caplog):
    source = saved(tmp_path / "x.safetensors", {QKV: (9216, 3072)}, {"ss_base_model_version": "ovis"}, KOHYA)
    status, _, errors = run("kohya", source, "-o", tmp_path / "o.safetensors")
    assert status == 0 and "read as FLUX.1" in errors + caplog.text
    with safe_open(str(tmp_path / "o.safetensors"), "pt") as file:
        assert file.metadata()["ss_base_model_version"] == "ovis" and "modelspec.architecture" not in file.metadata()


def test_blend_reads_files_that_fit_several_models_as_one(tmp_path, run):
    """A kohya file that says FLUX.1, an ai-toolkit one that could be Qwen-Image's too; SD 3's is of another."""
    first = saved(tmp_path / "a.safetensors", {QKV: (9216, 3072)}, {"ss_base_model_version": "chroma"}, KOHYA)
    second = saved(tmp_path / "b.safetensors", {f"{DOTTED}.0.attn.to_q": (3072, 3072)})
    assert run("blend", first, second, "-o", tmp_path / "o.safetensors")[0] == 0
    with safe_open(str(tmp_path / "o.safetensors"), "pt") as file:
        assert "flux" not in str(file.metadata().get("modelspec.architecture")).lower()
    third = saved(tmp_path / "c.safetensors", {f"{DOTTED}.0.attn.to_q": (1536, 1536)})
    status, _, errors = run("blend", first, third, "-o", tmp_path / "p.safetensors")
    assert status == 1 and "different families" in errors


# --- all families × all namings ---


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_kohya_diffusers_and_comfyui(family, lora, run, helpers, tmp_path):
    """kohya → diffusers → kohya, and kohya → ComfyUI → kohya: each delta equal, joined rows too."""
    source = lora(family, keys=helpers.some_keys(family, every=120), alpha=3)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("dotted", "back", "comfy", "again")}
    steps = [
        ("diffusers", source, "dotted"),
        ("kohya", files["dotted"], "back"),
        ("a1111", source, "comfy", "--ui", "comfyui", "--no-card"),
        ("kohya", files["comfy"], "again"),
    ]
    for verb, given, result, *options in steps:
        status, _, errors = run(verb, given, "-o", files[result], "--family", family, *options)
        assert status == 0, errors
    for result in ("back", "again"):
        helpers.assert_same_deltas(load_file(source), load_file(files[result]))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_info_knows_every_family(family, lora, run, helpers):
    words = FAMILIES[family].words
    metadata = {"ss_base_model_version": words.version, "modelspec.architecture": words.architecture}
    path = lora(family, keys=helpers.some_keys(family, every=200), metadata=metadata)
    report = json.loads(run("info", path, "--json")[1])[0]
    assert report["family"] == family and report["family_is_certain"]
    for ui, match in report["uis"].items():
        assert (match["matched"] > 0) <= (ui in FAMILIES[family].reads), (ui, match)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_is_written_about_a_family_means_it(family):
    words = FAMILIES[family].words
    for metadata in ({"ss_base_model_version": words.version}, {"modelspec.architecture": words.architecture}):
        assert claims_of_metadata(metadata) == [frozenset((family,))]


def converted_by_diffusers(family, tensors):
    from diffusers.loaders import lora_conversion_utils as utils

    functions = {
        "flux2_dev": utils._convert_kohya_flux2_lora_to_diffusers,
        "flux2_klein_4b": utils._convert_kohya_flux2_lora_to_diffusers,
        "qwen_image": utils._convert_non_diffusers_qwen_lora_to_diffusers,
        "z_image": utils._convert_non_diffusers_z_image_lora_to_diffusers,
    }
    return functions[family](dict(tensors))


@pytest.mark.parametrize("family", ["flux2_dev", "flux2_klein_4b", "qwen_image", "z_image"])
def test_diffusers_own_converter_agrees(family, lora, run, helpers, tmp_path):
    """diffusers' conversion of the kohya file and ours: the same modules, the same deltas."""
    keys = [key for key in helpers.some_keys(family, every=50) if "blocks_" in key or "layers_" in key]
    source = lora(family, keys=keys, alpha=3)
    status, _, errors = run("diffusers", source, "-o", tmp_path / "o.safetensors", "--family", family)
    assert status == 0, errors
    ours, theirs = load_file(tmp_path / "o.safetensors"), converted_by_diffusers(family, load_file(source))
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for key in ours:
        if key.endswith("lora_A.weight"):
            other = key.replace("lora_A", "lora_B")
            wanted = theirs[other].double() @ theirs[key].double()
            torch.testing.assert_close(ours[other].double() @ ours[key].double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["lumina2", "anima", "flux2_klein_9b", "krea2"])
def test_diffusers_takes_comfyuis_names_too(family, lora, run, helpers, tmp_path):
    """Names of diffusers' conversion of the original's names are those that we write; Lumina's at its real width."""
    from diffusers.loaders import lora_conversion_utils as utils

    from convert.formats.names import original_entries

    function = {"lumina2": utils._convert_non_diffusers_lumina2_lora_to_diffusers,
                "anima": utils._convert_non_diffusers_anima_lora_to_diffusers,
                "krea2": utils._convert_non_diffusers_krea2_lora_to_diffusers,
                "flux2_klein_9b": utils._convert_non_diffusers_flux2_lora_to_diffusers}[family]  # fmt: skip
    start = {"lumina2": ("layers.0.", "noise_refiner.0.", "context_refiner.0."), "anima": ("blocks.0.",),
             "krea2": ("blocks.0.", "txtfusion.", "first", "tmlp.", "tproj.", "txtmlp.", "last."),
             "flux2_klein_9b": ("double_blocks.0.", "single_blocks.0.")}[family]  # fmt: skip
    entries = {name: modules for name, (modules, _) in original_entries(FAMILIES[family]).items()
               if name.startswith(tuple(f"diffusion_model.{each}" for each in start))}  # fmt: skip
    rows = {"lumina2": 3840}.get(family, 24)
    tensors = {}
    for name in entries:
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, 8)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 2)
    found = {key.rpartition(".lora_")[0] for key in function(tensors)}
    assert found == {module for modules in entries.values() for module in modules}


# --- the table of the docs ---


def test_the_page_has_the_table_as_it_is():
    from convert.formats import table

    text = table.PAGE.read_text(encoding="utf-8")
    assert table.page(text) == text, "run: python -m convert.formats.table"


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_to_convert_is_what_the_table_says(family):
    """The verb that training names at its end writes a file that the UI applies whole, unlike the trainer's own."""
    from convert.formats import table
    from convert.formats.match import UIS

    known = FAMILIES[family]
    shares = {
        ui: {name: table.share(keys, known, ui) for name, keys in table.namings(known).items()}
        for ui in UIS
        if ui in known.reads
    }
    named = known.to_convert()
    assert all(shares[ui]["kohya"] < 1 and shares[ui][verb] == 1 for ui, verb in named.items())
    assert all(own["kohya"] == 1 or max(own.values()) < 1 for ui, own in shares.items() if ui not in named)


def test_training_says_what_to_convert(caplog):
    from pair_network.training.hosts.after_training import say_what_to_convert

    caplog.set_level("INFO")
    say_what_to_convert(FAMILIES["sdxl"].sd_scripts, "out/ink.safetensors")
    assert not caplog.messages
    say_what_to_convert(FAMILIES["sd3"].sd_scripts, "out/ink.safetensors")
    assert caplog.messages == [
        "diffusers' load_lora_weights does not apply all of a Stable Diffusion 3 LoRA with kohya's names; for it: "
        "python -m convert diffusers out/ink.safetensors"
    ]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_cells_are_what_info_says_of_such_files(family, tmp_path, run):
    """Every cell, by writing the file it speaks of and asking ``info``: the share of its tensors is the cell's."""
    from convert.formats import table
    from convert.formats.match import UIS
    from convert.formats.names import names_of

    known, words = names_of(FAMILIES[family]), FAMILIES[family].words
    for naming, keys in table.namings(FAMILIES[family]).items():
        tensors = {}
        for key in keys:
            layer = key.rpartition(".lora_")[0]
            if layer:
                name = known[layer]
                rows, columns = (int(w.multiples[0] * 24) if w.multiples else 24 for w in (name.rows, name.columns))
                is_down = key.endswith(("lora_down.weight", "lora_A.weight"))
                tensors[key] = torch.zeros(1, columns) if is_down else torch.zeros(rows, 1)
            else:
                tensors[key] = torch.tensor(1.0)
        path = tmp_path / "x.safetensors"
        save_file(tensors, path, {"ss_base_model_version": words.version})
        status, out, errors = run("info", path, "--json", "--family", family)
        assert status == 0, errors
        found = json.loads(out)[0]["uis"]
        for ui in UIS:
            part = table.share(keys, FAMILIES[family], ui)
            assert found[ui]["matched"] == round(part * len(keys)), (naming, ui)
            cell = table.cell(FAMILIES[family], ui)
            assert (part > 0) <= (cell != "–"), (naming, ui)
            if naming == "kohya":
                assert cell.startswith({0.0: ("nothing", "–"), 1.0: "all"}.get(part, f"{part:.0%}")), (ui, cell)
