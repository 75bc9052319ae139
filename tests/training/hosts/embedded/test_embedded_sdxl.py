"""SDXL, checkpoints in one file and fp16 variants on the embedded host, with tiny models of diffusers' classes."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from demo.single_file import original_tensors, renamed, unet_key, vae_key
from pair_network import PairError
from pair_network.training.hosts.embedded.model import load_models, read_model_facts
from pair_network.training.hosts.embedded.model_files import ModelFiles, find_model
from pair_network.training.hosts.embedded.sdxl import SdxlTokenizeStrategy, size_ids, unet_inputs

PAIR, STYLE = "x.pair.safetensors", "x.safetensors"


LABELS = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
OPEN_CLIP_OUTSIDE = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def original_sdxl(folder):
    """Every weight under the name that SDXL's own checkpoints give it."""
    tensors = {}
    for key, value in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        tensors["model.diffusion_model." + renamed(unet_key(key, 1, [True, True, False]), LABELS)] = value
    for key, value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        name = vae_key(key, 4)
        is_projection = ".mid.attn_1." in name and value.dim() == 2
        tensors["first_stage_model." + name] = value[:, :, None, None] if is_projection else value
    for key, value in load_file(folder / "text_encoder/model.safetensors").items():
        tensors["conditioner.embedders.0.transformer.text_model." + key.removeprefix("text_model.")] = value
    second = {
        key.removeprefix("text_model."): value
        for key, value in load_file(folder / "text_encoder_2/model.safetensors").items()
    }
    prefix = "conditioner.embedders.1.model."
    tensors[prefix + "text_projection"] = second.pop("text_projection.weight").T
    for key in [key for key in second if ".self_attn.q_proj." in key]:
        parts = [second.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        name = key.replace("encoder.layers", "transformer.resblocks").replace("self_attn.q_proj.", "attn.in_proj_")
        tensors[prefix + name] = torch.cat(parts)
    for key, value in second.items():
        if key in OPEN_CLIP_OUTSIDE:
            tensors[prefix + OPEN_CLIP_OUTSIDE[key]] = value
            continue
        block, _, rest = key.removeprefix("encoder.layers.").partition(".")
        tensors[f"{prefix}transformer.resblocks.{block}.{renamed(rest, OPEN_CLIP)}"] = value
    return {key: value.contiguous() for key, value in tensors.items()}


@pytest.fixture(scope="session")
def checkpoint(sdxl, tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "tiny_xl.safetensors"
    save_file(original_sdxl(sdxl), path)
    return path


def ups(path, branch=""):
    return {key: value for key, value in load_file(path).items() if key.startswith(branch) and "lora_up" in key}


@pytest.mark.parametrize("caching", [[], ["--cache_latents"]])
def test_sdxl_trains_both_branches_and_saves_under_kohyas_names(train, pairs, sdxl, caching):
    out = train(pairs, "--style_start_step", "1", "--gradient_checkpointing", *caching, base=sdxl)
    style, content = ups(out / STYLE), ups(out / PAIR, "content.")
    assert len(style) == len(content) > 10 and all(key.startswith("lora_unet_") for key in style)
    assert any("input_blocks_3_1" in key for key in style), "SDXL's files keep the original block names"
    assert all(value.abs().max() > 0 for value in [*style.values(), *content.values()])
    with safe_open(str(out / STYLE), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_both_text_encoders_train_on_request(train, pairs, sdxl):
    out = train(pairs, "--style_start_step", "1", "--network_args", "targets=attention+text_encoder", base=sdxl)
    keys = [key for key, value in ups(out / STYLE).items() if value.abs().max() > 0]
    assert {key.split("_text_model")[0] for key in keys if "text_model" in key} == {"lora_te1", "lora_te2"}


def test_previews_show_sdxl(train, pairs, sdxl, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a dog --s 2 --w 64 --h 64\n", encoding="utf-8")
    out = train(pairs, "--style_start_step", "1", "--sample_prompts", str(prompts), base=sdxl)
    assert len(list((out / "sample").glob("*.png"))) == 2


def flat(models):
    text_encoder, vae, unet = models
    encoders = text_encoder if isinstance(text_encoder, list) else [text_encoder]
    return {
        f"{number}.{key}": value
        for number, model in enumerate([*encoders, vae, unet])
        for key, value in model.state_dict().items()
    }


def assert_same_weights(folder, checkpoint):
    theirs, ours = flat(load_models(folder)), flat(load_models(ModelFiles(folder, checkpoint)))
    assert theirs.keys() == ours.keys() and len(ours) > 300
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_a_checkpoint_in_one_file_is_the_folder(train, pairs, sdxl, checkpoint):
    assert_same_weights(sdxl, checkpoint)
    out = train(pairs, "--style_start_step", "1", "--cache_latents", "--model_config", str(sdxl), base=checkpoint)
    assert all(value.abs().max() > 0 for value in ups(out / STYLE).values())


def test_a_stable_diffusion_checkpoint_in_one_file_is_the_folder_too(model, tmp_path):
    prefix, path = "cond_stage_model.transformer.", tmp_path / "sd.safetensors"
    tensors = {  # Stable Diffusion's own checkpoints have the level that transformers 5 dropped
        key.replace(prefix, f"{prefix}text_model.") if "text_model." not in key else key: value
        for key, value in original_tensors(model).items()
    }
    save_file(tensors, path)
    assert_same_weights(model, path)


def test_a_folder_with_fp16_weights_alone_is_read(train, pairs, sdxl, tmp_path):
    copy = tmp_path / "fp16"
    shutil.copytree(sdxl, copy)
    for path in copy.rglob("*.safetensors"):
        half = {key: value.half() if value.is_floating_point() else value for key, value in load_file(path).items()}
        save_file(half, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
        path.unlink()
    out = train(pairs, "--style_start_step", "1", "--cache_latents", base=copy)
    assert all(value.abs().max() > 0 for value in ups(out / STYLE).values())


def test_sizes_are_conditions_in_sgms_order_and_keep_every_pixel():
    batch = {
        "original_sizes_hw": torch.tensor([[1023, 2047]]),
        "crop_top_lefts": torch.tensor([[3, 5]]),
        "target_sizes_hw": torch.tensor([[1024, 896]]),
    }
    assert size_ids(batch).tolist() == [[1023, 2047, 3, 5, 1024, 896]]
    conds = [torch.zeros(1, 4, 2), torch.ones(1, 4, 3), torch.ones(1, 3)]
    inputs = unet_inputs(conds, batch, torch.bfloat16)
    assert inputs["encoder_hidden_states"].shape == (1, 4, 5)
    assert inputs["added_cond_kwargs"]["time_ids"].tolist() == [[1023, 2047, 3, 5, 1024, 896]]


# --- facts and mistakes ---


def test_the_second_tokenizer_pads_with_zero_whatever_its_files_say(sdxl):
    """As OpenCLIP and sd-scripts do; other padding is another prompt, since the U-Net reads all 77 states."""
    first, second = SdxlTokenizeStrategy(sdxl).tokenize("a dog")
    assert (first[0, -1], second[0, -1]) == (57, 0) and torch.equal(first[0, :4], second[0, :4])


def test_a_v_prediction_checkpoint_shows_itself(sdxl, tmp_path):
    path = tmp_path / "v.safetensors"
    save_file({"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, path)
    plain, marked = read_model_facts(sdxl), read_model_facts(sdxl, path)
    assert (plain.model_type, plain.prediction_type, plain.zero_terminal_snr) == ("sdxl", "epsilon", False)
    assert (marked.prediction_type, marked.zero_terminal_snr) == ("v_prediction", True)


def test_a_cut_off_checkpoint_is_named(sdxl, checkpoint, tmp_path):
    path = tmp_path / "cut.safetensors"
    tensors = load_file(checkpoint)
    save_file({key: value for key, value in tensors.items() if "output_blocks" not in key}, path)
    with pytest.raises(PairError, match=r"cut\.safetensors: cannot be loaded"):
        load_models(ModelFiles(sdxl, path))


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        (
            "flux.safetensors",
            "double_blocks.0.img_mod.lin.weight",
            "of type flux, not SD 1.x, 2.x or SDXL; give --sd_scripts DIR",
        ),
        ("lora.safetensors", "lora_unet_a.lora_up.weight", "is a LoRA, not a model"),
        ("odd.safetensors", "a.weight", "of a type that is not known here"),
        ("model.ckpt", None, "can run code"),
    ],
)
def test_files_that_cannot_be_trained_are_refused_by_name(options, tmp_path, name, tensor, words):
    path = tmp_path / name
    save_file({tensor: torch.zeros(1)}, path) if tensor else path.write_bytes(b"x")
    with pytest.raises(PairError, match=words) as caught:
        find_model(options("--pretrained_model_name_or_path", str(path)))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_network_the_remedy_is_named(options, checkpoint):
    """The tests run offline: nothing can be fetched."""
    with pytest.raises(PairError, match="name a diffusers folder of the same family with --model_config"):
        find_model(options("--pretrained_model_name_or_path", str(checkpoint)))
    with pytest.raises(PairError, match="someone/something: there is no such file or folder, and it cannot be fetched"):
        find_model(options("--pretrained_model_name_or_path", "someone/something"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--clip_skip", "1"], "--clip_skip 1: SDXL always reads the layer before the last"),
        (["--model_type", "sd"], "is of type sdxl"),
        (["--model_config", "x"], "goes with a checkpoint in one file"),
    ],
)
def test_options_that_do_not_fit_sdxl_are_refused(train, pairs, sdxl, argv, words):
    with pytest.raises(PairError, match=words):
        train(pairs, *argv, base=sdxl)
