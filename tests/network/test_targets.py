"""Layers by family: what each kind takes, kohya's keys, and the parts of fused layers. No host is needed."""

import pytest
import torch
from torch import nn

from pair_network import PairError, create_network, create_network_from_weights
from pair_network.families import FAMILIES
from pair_network.families.text_encoders import KINDS as TEXT_ENCODER_KINDS
from pair_network.network.config import TARGETS, PairConfig
from pair_network.network.factors import gather_parts, spread_parts
from pair_network.network.targets import all_layers, find_targets, model_family

WIDTH = 16


def model_of(class_name, paths):
    """A model of a class of that name with a linear layer at each path; paths may give (in, out) widths."""
    model = type(class_name, (nn.Module,), {})()
    for path, widths in paths.items():
        *parents, name = path.split(".")
        module = model
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.add_module(name, nn.Linear(*(widths or (WIDTH, WIDTH))))
    return model


FLUX = {
    "img_in": None,
    "double_blocks.0.img_attn.qkv": (WIDTH, 3 * WIDTH),
    "double_blocks.0.txt_attn.proj": None,
    "double_blocks.0.img_mlp.0": None,
    "double_blocks.0.txt_mod.lin": None,
    "single_blocks.0.linear1": (WIDTH, 5 * WIDTH),
    "single_blocks.0.linear2": None,
    "single_blocks.0.modulation.lin": None,
    "final_layer.linear": None,
}
SD3 = {
    "joint_blocks.0.context_block.attn.qkv": (WIDTH, 3 * WIDTH),
    "joint_blocks.0.x_block.attn2.proj": None,
    "joint_blocks.0.x_block.mlp.fc1": None,
    "joint_blocks.0.x_block.adaLN_modulation.1": None,
    "context_embedder": None,
}
LUMINA = {
    "cap_embedder.1": None,
    "noise_refiner.0.attention.qkv": (WIDTH, 2 * WIDTH),
    "layers.0.attention.out": None,
    "layers.0.feed_forward.w3": None,
    "layers.0.adaLN_modulation.1": None,
    "final_layer.linear": None,
}
HUNYUAN = {
    "double_blocks.0.img_attn_qkv": (WIDTH, 3 * WIDTH),
    "double_blocks.0.txt_mlp.fc2": None,
    "double_blocks.0.img_mod.linear": None,
    "single_blocks.0.linear2": None,
    "txt_in.individual_token_refiner.blocks.0.self_attn_qkv": None,
}
ANIMA = {
    "x_embedder.proj.1": None,
    "blocks.0.self_attn.q_proj": None,
    "blocks.0.cross_attn.output_proj": None,
    "blocks.0.mlp.layer2": None,
    "blocks.0.adaln_modulation_mlp.1": None,
    "llm_adapter.blocks.0.self_attn.q_proj": None,
}
# model class, layers, and how many of them "attention", "ff", "modulation" and "full" take
CASES = {
    "flux": ("Flux", FLUX, (4, 1, 2, 7)),
    "sd3": ("MMDiT", SD3, (2, 1, 1, 4)),
    "lumina2": ("NextDiT", LUMINA, (2, 1, 1, 5)),
    "hunyuan_image": ("HYImageDiffusionTransformer", HUNYUAN, (2, 1, 1, 4)),
    "anima": ("Anima", ANIMA, (2, 1, 1, 3)),
}


@pytest.mark.parametrize("family", CASES)
def test_each_kind_takes_its_layers(family):
    class_name, paths, counts = CASES[family]
    model = model_of(class_name, paths)
    assert model_family(model).name == family
    for kind, count in zip(("attention", "ff", "modulation", "full"), counts, strict=True):
        found = find_targets(PairConfig(targets=(kind,)), None, model)
        assert len(found) == count, (kind, [target.path for target in found])
        assert all(target.key == "lora_unet_" + target.path.replace(".", "_") for target in found)


def test_a_subclass_belongs_to_its_parents_family():
    parent = type("Flux", (nn.Module,), {})
    assert model_family(type("TunedFlux", (parent,), {})()) is FAMILIES["flux"]
    assert model_family(nn.Linear(1, 1)) is model_family(None) is FAMILIES["sd1"]


def test_every_kind_of_the_network_args_is_known_to_a_family():
    kinds = {kind for kinds in (*(f.kinds for f in FAMILIES.values()), TEXT_ENCODER_KINDS) for kind in kinds}
    assert kinds == set(TARGETS)


def test_kinds_that_a_family_lacks_match_nothing():
    with pytest.raises(PairError, match=r"targets=conv matches no layer of Flux.*this family has attention"):
        find_targets(PairConfig(targets=("conv",)), None, model_of("Flux", FLUX))


# --- text encoders ---


def encoder(class_name, path):
    return model_of(class_name, {path: None})


@pytest.mark.parametrize(
    ("encoders", "keys"),
    [
        (
            [encoder("CLIPTextModel", "text_model.encoder.layers.0.self_attn.q_proj")],
            ["lora_te_text_model_encoder_layers_0_self_attn_q_proj"],
        ),
        (
            [
                encoder("CLIPTextModel", "encoder.layers.0.mlp.fc1"),
                encoder("CLIPTextModel", "encoder.layers.0.mlp.fc2"),
            ],
            ["lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_model_encoder_layers_0_mlp_fc2"],
        ),
        (
            [
                encoder("CLIPTextModel", "encoder.layers.0.mlp.fc1"),
                encoder("T5EncoderModel", "encoder.block.0.layer.0.SelfAttention.q"),
            ],
            ["lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"],
        ),
        ([encoder("Gemma2Model", "layers.0.mlp.gate_proj")], ["lora_te_layers_0_mlp_gate_proj"]),
        ([encoder("Qwen3Model", "layers.0.self_attn.o_proj")], ["lora_te_layers_0_self_attn_o_proj"]),
    ],
)
def test_text_encoder_keys_are_kohyas(encoders, keys):
    """FLUX's T5 is the second encoder and te3 all the same; only CLIP has the text_model level."""
    config = PairConfig(targets=("text_encoder", "t5"))
    assert [target.key for target in find_targets(config, encoders, None)] == keys
    assert [target.key for target in all_layers(encoders, None)] == keys


def test_t5_trains_only_on_request():
    encoders = [encoder("T5EncoderModel", "encoder.block.0.layer.1.DenseReluDense.wo")]
    with pytest.raises(PairError, match="matches no layer"):
        find_targets(PairConfig(targets=("text_encoder",)), encoders, None)


# --- split q, k, v ---


@pytest.mark.parametrize(
    ("family", "path", "splits"),
    [
        ("flux", "double_blocks.0.img_attn.qkv", (16, 16, 16)),
        ("flux", "single_blocks.0.linear1", (16, 16, 16, 32)),
        ("sd3", "joint_blocks.0.context_block.attn.qkv", (16, 16, 16)),
        ("lumina2", "noise_refiner.0.attention.qkv", (16, 8, 8)),
        ("hunyuan_image", "double_blocks.0.img_attn_qkv", (16, 16, 16)),
    ],
)
def test_split_qkv_knows_the_parts(family, path, splits):
    class_name, paths, _ = CASES[family]
    found = find_targets(PairConfig(split_qkv=True), None, model_of(class_name, paths))
    assert {target.path: target.splits for target in found}[path] == splits
    assert all(not target.splits for target in found if "qkv" not in target.path and "linear1" not in target.path)


def test_split_qkv_without_fused_layers_is_an_error():
    with pytest.raises(PairError, match="no layer of this model fuses q, k and v"):
        find_targets(PairConfig(split_qkv=True), None, model_of("Anima", ANIMA))


def test_parts_spread_by_hand_and_gather_again():
    """Rank 1, parts of 1 and 2 rows: row 0 reads the first rank, rows 1 and 2 the second."""
    up = torch.tensor([[1.0], [2.0], [3.0]])
    spread = spread_parts(up, (1, 2))
    assert spread.tolist() == [[1, 0], [0, 2], [0, 3]]
    assert torch.equal(gather_parts(spread, (1, 2), "layer"), up)
    assert torch.equal(spread_parts(torch.stack([up, up]), (1, 2))[1], spread)
    with pytest.raises(PairError, match="share factors"):
        gather_parts(torch.ones(3, 2), (1, 2), "layer")


def split_network(model):
    network = create_network(1.0, 2, 2, None, None, model, split_qkv="True", targets="attention")
    network.apply_to(None, model, False, True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return network


def test_split_layers_train_save_and_load(tmp_path):
    """Every part's factor gets a gradient; rows stay orthonormal across parts and branches; files keep the parts."""
    model = model_of("Flux", {"double_blocks.0.img_attn.qkv": (WIDTH, 3 * WIDTH)})
    network = split_network(model)
    (layer,) = network.coupled_layers()
    assert layer.style_rank == layer.content_rank == 6 and layer.style_up.shape == (48, 2)
    stacked = torch.cat(layer.downs())
    torch.testing.assert_close(stacked @ stacked.T, torch.eye(12), atol=1e-5, rtol=0)
    base = model.double_blocks
    output = getattr(base, "0").img_attn.qkv(torch.randn(3, 4, WIDTH))
    output.pow(2).sum().backward()
    assert (layer.style_up.grad.abs().amax(1) > 0).all()
    file = tmp_path / "style.safetensors"
    network.save_weights(str(file), None, {})
    network.restore()
    for source in (file, tmp_path / "style.pair.safetensors"):
        loaded, _ = create_network_from_weights(1.0, str(source), None, None, model)
        torch.testing.assert_close(loaded.coupled_layers()[0].delta(), layer.delta())
    assert loaded.coupled_layers()[0].splits == (16, 16, 16)
