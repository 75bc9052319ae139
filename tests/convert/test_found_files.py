"""Files as people find them: other trainers' spellings, mixtures, one block alone, text encoders alone, other methods.

Each is read as what it is or refused in one line; what --skip-unknown leaves out is named; nothing ends in a traceback.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

SD1 = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
KOHYA, PEFT = ("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight")
FLUX = "transformer.base_model.model.transformer_blocks.0.attn.to_q"
T5 = "encoder_block_0_layer_0_SelfAttention_q"


def tensors_of(layers, ends=None, alpha=None):
    tensors = {}
    for name, (rows, columns) in layers.items():
        down, up = ends or (KOHYA if name.startswith(("lora_", "lycoris_")) else PEFT)
        tensors[f"{name}.{down}"] = torch.full((1, columns), 0.5)
        tensors[f"{name}.{up}"] = torch.full((rows, 1), 0.5)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.as_tensor(alpha)
    return tensors


@pytest.fixture
def described(tmp_path, run):
    """Function: the report on a file of these tensors, and its path."""

    def call(tensors, metadata=None, *options):
        path = tmp_path / "found.safetensors"
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata)
        status, out, errors = run("info", path, "--json", *options)
        return (json.loads(out)[0] if status == 0 else errors), path

    return call


READ = [
    # one block or part alone
    ({"diffusion_model.single_blocks.5.linear2": (3072, 15360)}, "flux"),
    ({"transformer.transformer_blocks.0.attn2.to_q": (1536, 1536)}, "sd3"),
    ({"diffusion_model.context_refiner.1.attention.out": (3840, 3840)}, "z_image"),
    ({"layers.3.attention.to_q": (3840, 3840)}, "z_image"),
    ({"transformer_blocks.0.img_mod.1": (18432, 3072)}, "qwen_image"),
    ({"diffusion_model.single_blocks.0.linear1_qkv": (9216, 3072)}, "flux"),
    ({"transformer.single_transformer_blocks.3.attn.to_qkv_mlp_proj": (36864, 4096)}, "flux2_klein_9b"),
    ({"diffusion_model.double_blocks.0.img_attn.qkv": (10752, 3584)}, "hunyuan_image"),
    ({"diffusion_model.double_blocks.0.img_mlp.0": (14336, 3584)}, "hunyuan_image"),
    ({"lora_unet_double_blocks_0_img_mod_lin": (21504, 3584)}, "hunyuan_image"),
    ({"net.blocks.0.cross_attn.k_proj": (2048, 1024)}, "anima"),
    # what stands between Anima's text encoder and denoiser, in kohya's, the original's and diffusers' names
    (
        {
            "lora_unet_blocks_0_cross_attn_k_proj": (2048, 1024),
            "lora_unet_llm_adapter_blocks_5_cross_attn_q_proj": (1024, 1024),
        },
        "anima",
    ),
    ({"diffusion_model.llm_adapter.blocks.0.mlp.0": (4096, 1024)}, "anima"),
    ({"text_conditioner.blocks.0.self_attn.o_proj": (1024, 1024)}, "anima"),
    # original names under unet., levels of wrappers, old processors, LyCORIS' prefix
    ({"unet.input_blocks.1.1.transformer_blocks.0.attn2.to_k": (320, 768)}, "sd1"),
    ({"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k": (320, 768)}, "sd1"),
    ({f"base_model.model.{SD1}": (320, 768)}, "sd1"),
    ({SD1.replace("unet.", "unet._orig_mod."): (320, 768)}, "sd1"),
    ({f"module.{SD1}": (320, 768)}, "sd1"),
    ({"lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (640, 2048)}, "sdxl"),
    ({"lycoris_single_transformer_blocks_0_proj_out": (3072, 15360)}, "flux"),
    # SDXL in diffusers' block names, alone and beside the original's
    ({"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (640, 2048)}, "sdxl"),
    (
        {
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048),
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k": (640, 2048),
        },
        "sdxl",
    ),
    # kohya's prefix before names whose dots are left in part (the Dreambooth extension's, merged by hand)
    ({"lora_unet_down_blocks_0_attentions_0_transformer_blocks.0.attn2.to_k": (320, 768)}, "sd1"),
    (
        {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2.to_k": (320, 768),
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out.0": (320, 320),
        },
        "sd1",
    ),
    ({"lora_unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 768)}, "sd1"),
    # DiffSynth-Studio's pipelines
    ({"pipe.dit.transformer_blocks.0.img_mlp.net.2": (3072, 12288)}, "qwen_image"),
    ({"dit.blocks.0.cross_attn.k_proj": (2048, 1024)}, "anima"),
    # OneTrainer's FLUX.2, and the network that feeds Chroma's modulation, as all three have it
    ({"transformer.double_stream_modulation_img.linear": (24576, 4096)}, "flux2_klein_9b"),
    ({"transformer.distilled_guidance_layer.layers.0.in_layer": (5120, 5120)}, "chroma"),
    ({"transformer.distilled_guidance_layer.layers.4.linear_2": (5120, 5120)}, "chroma"),
    (
        {
            "diffusion_model.distilled_guidance_layer.layers.1.out_layer": (5120, 5120),
            "diffusion_model.double_blocks.0.img_attn.qkv": (9216, 3072),
        },
        "chroma",
    ),
    # text encoders alone
    ({"lora_te2_text_model_encoder_layers_0_mlp_fc1": (5120, 1280)}, "sdxl"),
    ({"text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj": (1280, 1280)}, "sdxl"),
    ({"lora_te_text_model_encoder_layers_22_self_attn_q_proj": (1024, 1024)}, "sd2"),
    ({"text_encoder_2.encoder.block.0.layer.0.SelfAttention.q": (4096, 4096)}, "flux"),
    ({"lora_te2_text_projection": (1280, 1280)}, "sdxl"),
    (
        {
            "lora_transformer_transformer_blocks_0_attn_to_q": (1536, 1536),
            "lora_te1_text_projection": (768, 768),
            "lora_te2_text_projection": (1280, 1280),
            f"lora_te3_{T5}": (4096, 4096),
        },
        "sd3",
    ),
]


@pytest.mark.parametrize("layers, family", READ)
def test_read_as_what_it_is_and_converted_with_nothing_lost(layers, family, described, run, tmp_path):
    metadata = {"training_comment": "found"}  # what other programs write: PEFT itself writes none
    report, path = described(tensors_of(layers), metadata)
    assert report["family"] == family and "unknown" not in report, report
    status, _, errors = run("kohya", path, "-o", tmp_path / "o.safetensors", "--verify")
    assert status == 0, errors
    written = load_file(tmp_path / "o.safetensors")
    norms = [float(t.norm()) for key, t in written.items() if not key.endswith("alpha")]
    assert len(norms) == 2 * len(layers) and min(norms) > 0


ADAPTERS = ["default", "default_0", "my_style", "my.style.v2", "bias", "weight"]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("kind", ["lora_A lora_B", "lora_down lora_up"])
def test_adapters_of_any_name(name, kind, described):
    layer = SD1 if kind.startswith("lora_A") else KEY
    report, _ = described(tensors_of({layer: (320, 768)}, [f"{part}.{name}.weight" for part in kind.split()]))
    assert report["family"] == "sd1" and "unknown" not in report
    # None of the web UIs knows an adapter's name; of other names than PEFT's own, nor does ComfyUI.
    assert report["uis"]["Forge"]["matched"] == 0 and report["uis"]["A1111"]["matched"] == 0


REFUSED = [
    # other models, whose names or widths are near: no family is named for them
    ({"diffusion_model.transformer_blocks.0.attn1.to_q": (2048, 2048)}, "no program names them so"),
    ({"transformer.transformer_blocks.0.attn1.to_q": (1152, 1152)}, "other widths"),
    ({"diffusion_model.blocks.0.cross_attn.k_proj": (5120, 1024)}, "other widths"),
    ({"transformer.joint_transformer_blocks.0.attn.to_q": (3072, 3072)}, "of no model that is known"),
    ({"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (768, 1280)}, "other widths"),
    ({"lora_unet_blocks_0_attn_wk": (6144, 6144)}, "other widths"),
]


@pytest.mark.parametrize("layers, words", REFUSED)
def test_other_models_are_refused(layers, words, described, run, tmp_path):
    report, path = described(tensors_of(layers))
    assert isinstance(report, str) and len(report.splitlines()) == 1
    status, _, errors = run("kohya", path, "-o", tmp_path / "o.safetensors")
    assert status == 1 and words in errors, errors
    assert not (tmp_path / "o.safetensors").exists()


def test_metadata_of_another_model_is_said_by_info_too(described):
    errors, _ = described(tensors_of({KEY: (320, 768)}), {"ss_base_model_version": "sdxl_base_v1-0"})
    assert "metadata says 'sdxl_base_v1-0'" in errors and "--family" in errors


ALONE = [
    ({f"{KEY}.hada_w1_a": torch.ones(320, 2), f"{KEY}.hada_w1_b": torch.ones(2, 768)}, "LoHa"),
    ({f"{KEY}.lokr_w1": torch.ones(4, 4), f"{KEY}.alpha": torch.tensor(1.0)}, "LoKr"),
    ({**tensors_of({KEY: (320, 768)}), f"{KEY}.dora_scale": torch.ones(320, 1)}, "DoRA"),
    ({**tensors_of({SD1: (320, 768)}), f"{SD1}.lora_magnitude_vector.weight": torch.ones(320)}, "DoRA"),
    ({KEY.replace("lora", "oft", 1) + ".oft_blocks": torch.ones(2, 4, 4)}, "OFT"),
]


@pytest.mark.parametrize("tensors, title", ALONE)
def test_another_method_is_named_with_a_way_on(tensors, title, described, run, tmp_path):
    report, path = described(tensors)
    assert isinstance(report, str) and title in report
    _, _, errors = run("a1111", path, "-o", tmp_path / "o.safetensors")
    assert title in errors and "use extract on the two models" in errors and len(errors.splitlines()) == 1


BESIDE = [
    ({f"{KEY[:-1]}v.hada_w1_a": torch.ones(320, 2), f"{KEY[:-1]}v.alpha": torch.tensor(1.0)}, "LoHa"),
    ({f"{KEY[:-1]}v.lora_down.weight": torch.ones(1, 768)}, "incomplete"),
    ({f"{KEY[:-1]}v.alpha": torch.tensor(1.0)}, "incomplete"),
    ({"first_stage_model.x.weight": torch.ones(3)}, "unknown name"),
    (tensors_of({"lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072)}), "unknown name"),
]


@pytest.mark.parametrize("others, words", BESIDE)
def test_strangers_beside_good_layers_are_left_out_on_request(others, words, described, run, tmp_path):
    report, path = described({**tensors_of({KEY: (320, 768)}, alpha=1.0), **others})
    assert report["family"] == "sd1" and ("unknown" in report or "beside" in report)
    target = tmp_path / "o.safetensors"
    status, _, errors = run("a1111", path, "-o", target, "--no-card")
    assert status == 1 and "--skip-unknown" in errors and len(errors.splitlines()) == 1
    status, _, errors = run("a1111", path, "-o", target, "--no-card", "--skip-unknown")
    assert status == 0 and words in errors and len(load_file(target)) == 3


@pytest.mark.parametrize(
    "tensors",
    [
        {"emb_params": torch.ones(2, 768)},
        {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
        {"bundle_emb.x.clip_l": torch.ones(2, 768)},
    ],
)
def test_a_textual_inversion_is_told_from_a_checkpoint(tensors, described):
    assert "is a textual inversion" in described(tensors)[0]


@pytest.mark.parametrize("alpha", [2, [2.0], [[2.0]], torch.tensor(2.0, dtype=torch.bfloat16), -2.0, 0.0])
def test_alphas_in_any_form_reach_every_format(alpha, described, run, tmp_path):
    _, path = described(tensors_of({KEY: (320, 768)}, alpha=alpha))
    for verb in ("kohya", "diffusers", "pair"):
        status, _, errors = run(verb, path, "-o", tmp_path / f"{verb}.safetensors", "--verify")
        assert status == 0, errors


@pytest.mark.parametrize("alpha, words", [([2.0, 3.0], "one number"), (float("nan"), "alpha is nan")])
def test_alphas_that_are_no_number(alpha, words, described):
    assert words in described(tensors_of({KEY: (320, 768)}, alpha=alpha))[0]


def test_comfyui_gets_its_own_names_of_hunyuanimage(described, run, tmp_path):
    """Its model has FLUX.1's names, and knows the original's with dots not at all."""
    layers = {
        "lora_unet_double_blocks_0_img_mlp_fc1": (14336, 3584),
        "lora_unet_single_blocks_0_modulation_linear": (10752, 3584),
    }
    report, path = described(tensors_of(layers))
    assert report["uis"]["ComfyUI"]["matched"] == 0
    target = tmp_path / "o.safetensors"
    assert run("a1111", path, "-o", target, "--no-card", "--ui", "comfyui")[0] == 0
    names = {key.rpartition(".lora_")[0] for key in load_file(target)} - {""}
    assert names == {"diffusion_model.double_blocks.0.img_mlp.0", "diffusion_model.single_blocks.0.modulation.lin"}
    report = json.loads(run("info", target, "--json")[1])[0]
    assert report["uis"]["ComfyUI"]["matched"] == 6


def test_pefts_names_in_a_file_that_stands_alone(described):
    """PEFT's own adapter lacks its scale without its settings; other programs write its names for files of scale 1."""
    layers = {"base_model.model.blocks.3.attn.wk": (1536, 6144)}
    assert "adapter_config.json" in described(tensors_of(layers), {"format": "pt"})[0]
    assert described(tensors_of(layers), {"software": '{"name": "ai-toolkit"}'})[0]["family"] == "krea2"


@pytest.mark.parametrize("down_ends, up_ends", [((), (1, 1)), ((1, 1), ())])
def test_factors_of_two_and_of_four_dimensions_are_one_layer(down_ends, up_ends, described, run, tmp_path):
    """The UIs flatten both; which of them is a convolution's changes nothing."""
    tensors = {
        f"{KEY}.lora_down.weight": torch.randn(2, 768, *down_ends),
        f"{KEY}.lora_up.weight": torch.randn(320, 2, *up_ends),
    }
    report, path = described(tensors)
    assert report["family"] == "sd1" and report["family_is_certain"]
    assert run("kohya", path, "-o", tmp_path / "out.safetensors")[0] == 0
    written = load_file(tmp_path / "out.safetensors")
    down, up = (written[f"{KEY}.lora_{part}.weight"] for part in ("down", "up"))
    assert down.dim() == up.dim() and torch.equal(up.flatten(1), tensors[f"{KEY}.lora_up.weight"].flatten(1))
    assert torch.equal(down, tensors[f"{KEY}.lora_down.weight"])


def test_a_layer_of_rank_0_is_left_out_on_request(run, tmp_path):
    other = KEY.replace("to_k", "to_v")
    tensors = tensors_of({KEY: (320, 768)})
    tensors |= {f"{other}.lora_down.weight": torch.ones(0, 768), f"{other}.lora_up.weight": torch.ones(320, 0)}
    save_file(tensors, tmp_path / "in.safetensors")
    errors = run("kohya", tmp_path / "in.safetensors")[2]
    assert "hold nothing" in errors and "--skip-unknown" in errors
    assert run("kohya", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors", "--skip-unknown")[0] == 0
    assert not any(key.startswith(other) for key in load_file(tmp_path / "out.safetensors"))
    out = run("info", tmp_path / "in.safetensors")[1]
    assert "2 tensors of unknown names or incomplete layers" in out


@pytest.mark.parametrize(
    "name, title",
    [
        ("transformer_blocks.0.img_mod.1", "in the original model's names"),
        ("diffusion_model.transformer_blocks.0.img_mod.1", "(diffusion_model.)"),
        ("transformer.transformer_blocks.0.img_mod.1", "diffusers LoRA"),
    ],
)
def test_a_prefix_is_claimed_where_it_is(name, title, described):
    report, _ = described(tensors_of({name: (18432, 3072)}))
    assert title in report["title"]


def test_a_name_that_the_system_finds_too_long_is_no_matter_of_space(run, tmp_path):
    save_file(tensors_of({KEY: (320, 768)}), tmp_path / "in.safetensors")
    errors = run("kohya", tmp_path / "in.safetensors", "-o", tmp_path / f"{'l' * 300}.safetensors")[2]
    assert "shorter name" in errors and "space" not in errors and len(errors.splitlines()) == 1
