"""Style files on a pipeline: trigger words, text-encoder layers, and kohya's keys on diffusers' FLUX and SD3."""

import pytest
import torch
from diffusers.loaders import single_file_utils

from pair_network.errors import PairError
from pair_network.network import checkpoint
from pair_network.network.pair_file import pair_path
from pair_network.sampling.pipelines import Style, style_guidance
from pair_network.sampling.pipelines.networks import network_from_file
from pair_network.sampling.pipelines.transformer_keys import split_layers

SETTINGS = {"height": 16, "width": 16, "output_type": "latent", "guidance_scale": 4.0, "num_inference_steps": 3}


def run(pipe, prompt="a dog", **settings):
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **SETTINGS, **settings).images


def saved(network, path, words="in ink style"):
    network.save_weights(str(path), None, {"modelspec.trigger_phrase": words})
    return path


def test_file_is_the_network_and_knows_its_words(tools, sd, tmp_path):
    network = tools.make_network(sd.unet, seed=1)
    file = saved(network, tmp_path / "ink.safetensors")
    with style_guidance(sd, Style(network, "in ink style")):
        expected = run(sd)
    for source in (file, str(file), pair_path(file)):
        with style_guidance(sd, Style(source)):
            torch.testing.assert_close(run(sd), expected, rtol=0, atol=1e-6)  # alpha is a float32 in the file


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_style_on_top_of_a_lora_that_peft_loaded(tools, tmp_path, family):
    """load_lora_weights wraps the model's layers; the style's rows see both LoRAs, the others the loaded one alone."""
    from peft import LoraConfig

    pipe = getattr(tools, f"make_{family}")()
    file = saved(tools.make_network(pipe.unet, seed=1), tmp_path / "ink.safetensors")
    base = run(pipe)
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0", "conv1"], init_lora_weights=False))
    other = run(pipe)
    assert not torch.equal(other, base)
    style = Style(file, scale=2.0)
    with style_guidance(pipe, style), tools.Steps(pipe) as steps:
        run(pipe)
    model = tools.merged_copy(pipe.unet, network_from_file(str(file), [], pipe.unet))
    assert tools.check_equation(steps, [style], [model], [tools.encode(pipe, "a dog in ink style")], cfg=4.0) > 0
    assert torch.equal(run(pipe), other)


def test_one_file_with_two_prompts_is_hooked_once(tools, sd, tmp_path):
    file = saved(tools.make_network(sd.unet, seed=1), tmp_path / "ink.safetensors")
    styles = [Style(file, "in ink style", scale=1.0), Style(file, "as a dark print", scale=2.0, multiplier=0.5)]
    with style_guidance(sd, styles), tools.Steps(sd) as steps:
        assert len(sd.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q._forward_hooks) == 1
        run(sd)
    network = network_from_file(str(file), [], sd.unet)
    models = [tools.merged_copy(sd.unet, network, style.multiplier) for style in styles]
    embeds = [tools.encode(sd, f"a dog {style.prompt_words}") for style in styles]
    assert tools.check_equation(steps, styles, models, embeds, cfg=4.0) > 0


def test_text_encoder_layers_speak_for_the_style_prompt_only(tools, sd):
    from pair_network import create_network

    network = create_network(1.0, 3, 2.0, None, sd.text_encoder, sd.unet, targets="attention+text_encoder").double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    encoder_layers = [key for key in network.layers if key.startswith("lora_te")]
    assert encoder_layers
    style = Style(network, "in ink style")
    with style_guidance(sd, style), tools.Steps(sd) as steps:
        run(sd)
        first = list(steps.steps)
        run(sd)  # the second run's own prompt must not meet the style either
    for one, other in zip(first, steps.steps[len(first) :], strict=True):
        assert torch.equal(one[2], other[2])
    plain = tools.encode(sd, "a dog in ink style")
    network.apply_to(sd.text_encoder, sd.unet)
    styled = tools.encode(sd, "a dog in ink style")
    network.restore()
    assert not torch.equal(plain[0], styled[0])
    for key in encoder_layers:
        del network.layers[key]
    model = tools.merged_copy(sd.unet, network)
    assert tools.check_equation(steps, [style], [model], [styled], cfg=4.0) > 0
    with pytest.raises(AssertionError):
        tools.check_equation(steps, [style], [model], [plain], cfg=4.0)


def test_file_of_another_family_is_refused(tools, sd, tmp_path):
    pipe = tools.make_sdxl()
    file = saved(tools.make_network(pipe.unet, seed=1), tmp_path / "ink.safetensors")
    with pytest.raises(PairError, match="not in this model"), style_guidance(sd, Style(file)):
        pass


def flux_shapes(width=32, mlp=128, layers=1, singles=1):
    """Linear layers of the original FLUX model: name -> (out, in)."""
    shapes = {}
    for i in range(layers):
        for side in ("img", "txt"):
            shapes[f"double_blocks.{i}.{side}_mod.lin"] = (6 * width, width)
            shapes[f"double_blocks.{i}.{side}_attn.qkv"] = (3 * width, width)
            shapes[f"double_blocks.{i}.{side}_attn.proj"] = (width, width)
            shapes[f"double_blocks.{i}.{side}_mlp.0"] = (mlp, width)
            shapes[f"double_blocks.{i}.{side}_mlp.2"] = (width, mlp)
    for i in range(singles):
        shapes[f"single_blocks.{i}.linear1"] = (3 * width + mlp, width)
        shapes[f"single_blocks.{i}.linear2"] = (width, width + mlp)
        shapes[f"single_blocks.{i}.modulation.lin"] = (3 * width, width)
    return shapes | {
        "img_in": (width, 16), "txt_in": (width, 32), "final_layer.linear": (64, width),
        "final_layer.adaLN_modulation.1": (2 * width, width), "time_in.in_layer": (width, 256),
        "time_in.out_layer": (width, width), "vector_in.in_layer": (width, 32), "vector_in.out_layer": (width, width),
        "guidance_in.in_layer": (width, 256), "guidance_in.out_layer": (width, width),
    }  # fmt: skip


def sd3_shapes(width=32, layers=3):
    shapes = {}
    for i in range(layers):
        last = i == layers - 1
        for side in ("x_block", "context_block"):
            block = f"joint_blocks.{i}.{side}"
            is_end = last and side == "context_block"
            parts = 2 if is_end else 9 if i == 0 and side == "x_block" else 6
            shapes[f"{block}.adaLN_modulation.1"] = (parts * width, width)
            shapes[f"{block}.attn.qkv"] = (3 * width, width)
            if not is_end:
                shapes[f"{block}.attn.proj"] = (width, width)
                shapes[f"{block}.mlp.fc1"] = (4 * width, width)
                shapes[f"{block}.mlp.fc2"] = (width, 4 * width)
        if i == 0:
            shapes |= {f"joint_blocks.{i}.x_block.attn2.qkv": (3 * width, width)}
            shapes |= {f"joint_blocks.{i}.x_block.attn2.proj": (width, width)}
    return shapes | {
        "context_embedder": (width, 64), "final_layer.linear": (16, width),
        "final_layer.adaLN_modulation.1": (2 * width, width), "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width), "y_embedder.mlp.0": (width, 64), "y_embedder.mlp.2": (width, width),
    }  # fmt: skip


def random_lora(shapes, rank=3, alpha=2.0):
    """kohya's tensors, and the weight difference of every layer of the original model."""
    generator = torch.Generator().manual_seed(0)
    tensors, deltas = {}, {}
    for name, (out, width) in shapes.items():
        key = "lora_unet_" + name.replace(".", "_")
        down, up = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        deltas[f"{name}.weight"] = alpha / rank * up @ down
    return tensors, deltas


def whole_checkpoint(deltas, shapes):
    """The deltas as a full original checkpoint, which diffusers' own converter takes: the rest is zeros."""
    weights = deltas | {f"{name}.bias": torch.zeros(out) for name, (out, _) in shapes.items()}
    for block in ("double_blocks.0.img_attn.norm", "double_blocks.0.txt_attn.norm", "single_blocks.0.norm"):
        weights |= {f"{block}.{part}_norm.scale": torch.zeros(1) for part in ("query", "key")}
    return weights | {
        "pos_embed": torch.zeros(1),
        **{f"x_embedder.proj.{k}": torch.zeros(1) for k in ("weight", "bias")},
    }


def test_kohya_sd3_file_equals_diffusers_own_conversion_of_the_weights(tools, tmp_path):
    model, shapes = tools.make_sd3().transformer.float(), sd3_shapes()
    tensors, deltas = random_lora(shapes)
    file = tmp_path / "style.safetensors"
    checkpoint.write_together({file: (tensors, {})})
    expected = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(whole_checkpoint(deltas, shapes))
    network = network_from_file(str(file), [], model)
    paths = {id(module): name for name, module in model.named_modules()}
    found = {f"{paths[id(layer.base)]}.weight": layer.delta() for layer in network.coupled_layers()}
    compare(found, expected, model)


def test_kohya_flux_file_equals_diffusers_own_conversion_of_the_weights():
    """At FLUX's own widths, which diffusers' converter takes for granted; inputs of width 2 keep it small."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    shapes = {name: (out, 2) for name, (out, _) in flux_shapes(width=3072, mlp=12288).items()}
    tensors, deltas = random_lora(shapes, rank=1)
    expected = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(whole_checkpoint(deltas, shapes))
    split = split_layers(checkpoint.layers_of(tensors, "file"), model, "file")
    paths = {"lora_unet_" + name.replace(".", "_"): name for name, _ in model.named_modules()}
    found = {f"{paths[key]}.weight": alpha / len(down) * up @ down for key, (down, up, alpha) in split.items()}
    compare(found, expected, model)


def compare(found, expected, model):
    own = dict(model.named_parameters())
    wanted = {
        key: value for key, value in expected.items() if key in own and key.endswith("weight") and value.dim() == 2
    }
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_fused_layer_of_another_width_is_refused(tools, tmp_path):
    tensors, _ = random_lora({"double_blocks.0.img_attn.qkv": (90, 32)})
    checkpoint.write_together({tmp_path / "style.safetensors": (tensors, {})})
    with pytest.raises(PairError, match="90 outputs, this model's layer has 96"):
        network_from_file(str(tmp_path / "style.safetensors"), [], tools.make_flux().transformer)
