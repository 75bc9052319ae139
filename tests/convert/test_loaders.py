"""The real loaders of diffusers, PEFT and the trainer take what is written, with no key left over."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def convert(run, tmp_path):
    def call(source, *arguments, ending=".safetensors"):
        target = tmp_path / f"{arguments[0]}{ending}"
        status, _, errors = run(arguments[0], source, "-o", target, *arguments[1:], "--overwrite")
        assert status == 0, errors
        return target

    return call


@pytest.fixture
def trained(tmp_path, unet, sdxl_unet, text_encoder, perturb):
    """Function: a network over a tiny U-Net as the trainer saves it; returns U-Net, network and path."""
    from pair_network import create_network

    def make(kind):
        model = unet if kind == "sd" else sdxl_unet
        network = create_network(1.0, 4, 2.0, None, text_encoder, model, targets="attention+ff+conv", content_dim="3")
        perturb(network)
        network.save_weights(
            str(tmp_path / "trained.safetensors"),
            None,
            {"ss_base_model_version": "sdxl_base_v1-0" if kind == "sdxl" else "sd_v1"},
        )
        return model, network, tmp_path / "trained.pair.safetensors"

    return make


def merged_weights(model):
    """Every layer's weight with its adapters merged in."""
    from peft.tuners.lora.layer import LoraLayer

    return {
        name: layer.base_layer.weight.detach() + sum(layer.get_delta_weight(name) for name in layer.active_adapters)
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def expected_weights(network, model, branch="style"):
    paths = {id(module): name for name, module in model.named_modules()}
    return {
        paths[id(layer.base)]: layer.base.weight.detach() + layer.delta(branch) for layer in network.coupled_layers()
    }


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert (found[name] - weight).abs().max() < 2e-6, name


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("form", ["diffusers", "diffusers-lora", "a1111", "kohya"])
def test_diffusers_loads_every_layer(kind, form, trained, convert, caplog):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    model, network, source = trained(kind)
    wanted = expected_weights(network, model)
    options = {"diffusers-lora": ("diffusers", "--syntax", "lora")}.get(form, (form,))
    target = convert(source, *options)
    pipeline = StableDiffusionPipeline if kind == "sd" else StableDiffusionXLPipeline
    with caplog.at_level(logging.WARNING):
        unet_config = {"unet_config": model.config} if kind == "sdxl" else {}
        weights, alphas = pipeline.lora_state_dict(str(target), **unet_config)[:2]
        pipeline.load_lora_into_unet(weights, alphas, model)
    assert not [r for r in caplog.records if "unexpected" in r.message.lower() or "no lora keys" in r.message.lower()]
    assert_close(merged_weights(model), wanted)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_peft_loads_the_folder(kind, trained, convert):
    from peft import PeftModel

    model, network, source = trained(kind)
    wanted = expected_weights(network, model)
    loaded = PeftModel.from_pretrained(model, str(convert(source, "peft", ending="")))
    assert_close({name.removeprefix("base_model.model."): w for name, w in merged_weights(loaded).items()}, wanted)


def test_peft_folder_is_read_back(trained, convert, tmp_path, helpers):
    """What PEFT itself saves, with patterns of its own, is read as the same deltas."""
    from peft import LoraConfig, get_peft_model

    model, _, _ = trained("sd")
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_k"], rank_pattern={"to_k": 2},
                        alpha_pattern={"to_k": 3}, use_rslora=True, init_lora_weights=False)  # fmt: skip
    adapted = get_peft_model(model, config)
    wanted = merged_weights(adapted)
    adapted.save_pretrained(str(tmp_path / "saved"))
    found = helpers.deltas(load_file(convert(tmp_path / "saved", "kohya", "--family", "sd1")))
    bases = {name: module.base_layer.weight for name, module in adapted.named_modules() if name in wanted}
    for name, weight in wanted.items():
        key = "lora_unet_" + name.removeprefix("base_model.model.").replace(".", "_")
        assert torch.allclose(found[key].float(), weight - bases[name], atol=1e-6), key
    assert len(found) == len(wanted)


def test_the_trainer_continues_from_a_converted_file(trained, convert, unet):
    """diffusers naming → pair: the network is rebuilt with the same style branch."""
    from pair_network import create_network_from_weights

    model, network, source = trained("sd")
    pair = convert(convert(source, "diffusers"), "pair", "--family", "sd1", ending=".pair.safetensors")
    loaded, _ = create_network_from_weights(1.0, str(pair), None, None, model)
    deltas = {layer.name: layer.delta() for layer in loaded.coupled_layers()}
    assert all(torch.allclose(deltas[layer.name], layer.delta(), atol=1e-6) for layer in network.coupled_layers())
    assert len(deltas) == len(network.coupled_layers())
    assert loaded.config.orthogonality == "frozen" and loaded.orthogonality_report()["branch_overlap"] < 1e-6


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_transformers_load_every_layer(family, convert, helpers, tmp_path):
    """Tiny real transformers: each kohya layer, joint ones too, arrives as the delta of the stacked weights."""
    import diffusers

    from convert.formats.families import FAMILIES
    from convert.formats.names import kohya_entries

    if family == "flux":
        model = diffusers.FluxTransformer2DModel(
            num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
            pooled_projection_dim=16, in_channels=4, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
        pipeline, inside = diffusers.FluxPipeline, ("double_blocks_0_", "single_blocks_0_")
    else:
        model = diffusers.SD3Transformer2DModel(
            num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
            caption_projection_dim=16, pooled_projection_dim=16, in_channels=4, sample_size=8,
            dual_attention_layers=(0,),
        )  # fmt: skip
        pipeline, inside = diffusers.StableDiffusion3Pipeline, ("joint_blocks_0_",)
    layers = dict(model.named_modules())
    source, keys = {}, {}
    for key, (modules, _) in kohya_entries(FAMILIES[family]).items():
        paths = [module.removeprefix("transformer.") for module in modules]
        if key.startswith(tuple(f"lora_unet_{place}" for place in inside)):
            keys[key] = paths
            width, rows = layers[paths[0]].in_features, sum(layers[path].out_features for path in paths)
            source[f"{key}.lora_down.weight"], source[f"{key}.lora_up.weight"] = (
                torch.randn(3, width),
                torch.randn(rows, 3),
            )
            source[f"{key}.alpha"] = torch.tensor(1.5)
    save_file(source, tmp_path / "source.safetensors")
    weights = pipeline.lora_state_dict(str(convert(tmp_path / "source.safetensors", "diffusers")))
    weights = weights[0] if isinstance(weights, tuple) else weights
    base = {path: layers[path].weight.detach().clone() for paths in keys.values() for path in paths}
    pipeline.load_lora_into_transformer(weights, network_alphas=None, transformer=model) if family == "flux" else (
        pipeline.load_lora_into_transformer(weights, model)
    )
    merged = merged_weights(model)
    assert merged.keys() == base.keys()
    for key, wanted in helpers.deltas(source).items():
        found = torch.cat([merged[path] - base[path] for path in keys[key]])
        assert (found - wanted).abs().max() < 1e-5, key


def test_diffusers_converts_our_flux_names_itself(lora, helpers):
    """diffusers' own kohya converter, at FLUX's real width, must agree with ours on every tensor's delta."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    generator = torch.Generator().manual_seed(0)
    shapes = {
        "double_blocks_0_img_attn_qkv": (9216, 3072),
        "single_blocks_1_linear1": (21504, 3072),
        "single_blocks_1_linear2": (3072, 15360),
    }
    source = {}
    for key, (rows, width) in shapes.items():
        source[f"lora_unet_{key}.lora_down.weight"] = torch.randn(2, width, generator=generator)
        source[f"lora_unet_{key}.lora_up.weight"] = torch.randn(rows, 2, generator=generator)
        source[f"lora_unet_{key}.alpha"] = torch.tensor(1.0)
    theirs = _convert_kohya_flux_lora_to_diffusers(dict(source))
    ours = flux_tensors(source)
    assert theirs.keys() == ours.keys()
    for name in (key.removesuffix(".lora_A.weight") for key in ours if key.endswith("lora_A.weight")):
        probe = torch.randn(ours[f"{name}.lora_A.weight"].shape[1], 2, generator=generator)
        first, second = (t[f"{name}.lora_B.weight"] @ (t[f"{name}.lora_A.weight"] @ probe) for t in (theirs, ours))
        assert torch.allclose(first, second, rtol=1e-4, atol=1e-3), name


def flux_tensors(source):
    from pathlib import Path

    from convert.files.lazy import from_tensor
    from convert.formats.read import _plain, own_rank
    from convert.verbs.diffusers import diffusers_tensors

    adapter = _plain(Path("x"), {key: from_tensor(tensor) for key, tensor in source.items()}, {}, None, own_rank)
    return {key: tensor.load() for key, tensor in diffusers_tensors(adapter.style, Path("x")).items()}
