"""The network module: kohya's protocol, targets, files."""

import hashlib
import json
import math
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pair_network import PairError, create_network, create_network_from_weights
from pair_network.network import checkpoint
from pair_network.network.checkpoint import layers_of, read_keys
from pair_network.network.pair_file import pair_path
from pair_network.network.route import BASE_ROW, Row, content_rows, style_rows


def new_network(unet, text_encoder=None, dim=4, alpha=2.0, **network_args):
    network = create_network(
        1.0, dim, alpha, None, text_encoder, unet, neuron_dropout=None, dropout=None, **network_args
    )
    network.apply_to(text_encoder, unet, "text_encoder" in network_args.get("targets", ""), True)
    return network


# --- targets -------------------------------------------------------------------------------------------------------


def test_attention_is_the_default_and_the_keys_are_kohyas(unet):
    keys = list(new_network(unet).layers)
    assert len(keys) == 32  # 4 transformers × 2 attentions × (q, k, v, out)
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0" in keys
    assert all(re.search(r"_attn[12]_to_(q|k|v|out_0)$", key) for key in keys)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention+ff", "ff_net_0_proj"),
        ("ff", "proj_in"),
        ("attention+conv", "resnets_0_conv1"),
        ("conv", "upsamplers_0_conv"),
    ],
)
def test_more_layers_on_request(unet, targets, expected):
    keys = list(new_network(unet, targets=targets).layers)
    assert any(key.endswith(expected) for key in keys)
    assert any("attn1" in key for key in keys) == ("attention" in targets)


def test_text_encoder_keys_carry_text_model_whatever_the_transformers_version(unet, text_encoder):
    network = new_network(unet, text_encoder, targets="attention+text_encoder")
    assert "lora_te_text_model_encoder_layers_1_self_attn_q_proj" in network.layers
    two = create_network(1.0, 4, 4, None, [text_encoder, text_encoder], unet, targets="text_encoder")
    assert "lora_te2_text_model_encoder_layers_0_mlp_fc1" in two.layers


def test_text_encoder_layers_load_under_the_names_that_kohyas_module_gives_them_under_transformers_5(
    unet, text_encoder, perturb, tmp_path
):
    targets = "attention+text_encoder"
    network = perturb(new_network(unet, text_encoder, targets=targets))
    tensors = network.style_tensors()
    flat = {re.sub(r"^lora_te_text_model_", "lora_te_", key): value.clone() for key, value in tensors.items()}
    assert flat.keys() != tensors.keys()
    save_file(flat, tmp_path / "flat.safetensors")
    again, _ = create_network_from_weights(1.0, str(tmp_path / "flat.safetensors"), None, text_encoder, unet)
    assert again.style_tensors().keys() == tensors.keys()
    fresh = new_network(unet, text_encoder, targets=targets)
    fresh.load_weights(str(tmp_path / "flat.safetensors"))
    assert all(torch.allclose(value, tensors[key], atol=1e-6) for key, value in fresh.style_tensors().items())
    twice = {**flat, **{key: value.clone() for key, value in tensors.items()}}
    save_file(twice, tmp_path / "twice.safetensors")
    with pytest.raises(PairError, match="under two names"):
        fresh.load_weights(str(tmp_path / "twice.safetensors"))


def test_sdxl_of_diffusers_gets_the_original_block_names(sdxl_unet):
    keys = set(new_network(sdxl_unet, targets="attention+ff+conv").layers)
    assert not any("down_blocks" in key or "up_blocks" in key or "mid_block" in key for key in keys)
    expected = [
        "input_blocks_1_0_in_layers_2",
        "input_blocks_1_0_emb_layers_1",
        "input_blocks_3_0_op",
        "input_blocks_4_0_skip_connection",
        "input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        "input_blocks_6_0_op",
        "input_blocks_8_1_proj_in",
        "middle_block_0_out_layers_3",
        "middle_block_1_transformer_blocks_0_ff_net_2",
        "middle_block_2_in_layers_2",
        "output_blocks_2_2_conv",
        "output_blocks_5_2_conv",
        "output_blocks_3_1_transformer_blocks_1_attn1_to_out_0",
        "output_blocks_8_0_out_layers_3",
    ]
    assert {f"lora_unet_{name}" for name in expected} <= keys
    layers = [m for path, m in sdxl_unet.named_modules() if hasattr(m, "weight") and m.weight.dim() in (2, 4)]
    outside = 2 + 2 + 2  # conv_in, conv_out, time_embedding, add_embedding
    assert len(keys) == len(layers) - outside


def test_block_dims_choose_ranks_by_block_and_zero_leaves_a_block_out(unet):
    network = new_network(unet, dim=4, alpha=2.0, content_dim="8", block_dims="down_blocks.0=2,mid_block=0")
    ranks = {key: (layer.style_rank, layer.content_rank) for key, layer in network.layers.items()}
    assert {rank for key, rank in ranks.items() if "_down_blocks_0_" in key} == {(2, 4)}
    assert {rank for key, rank in ranks.items() if "_up_blocks_" in key} == {(4, 8)}
    assert not any("mid_block" in key for key in ranks)
    alphas = {float(network.style_tensors()[f"{key}.alpha"]) / rank[0] for key, rank in ranks.items()}
    assert alphas == {0.5}


@pytest.mark.parametrize(
    ("network_args", "message"),
    [
        ({"orthogonalty": "frozen"}, r"unknown key 'orthogonalty' \(did you mean orthogonality\?\)"),
        ({"orthogonality": "frozn"}, r"must be one of frozen, penalty, none \(did you mean frozen\?\)"),
        ({"content_dim": "0"}, "content_dim='0'.*at least 1"),
        ({"content_dim": "four"}, "content_dim='four'"),
        ({"rank_dropout": "1.5"}, "probability"),
        ({"targets": "attention+atention"}, "did you mean attention"),
        ({"block_dims": "4,4,8"}, "part-of-the-layer-path=rank"),
        ({"block_dims": "down_blocks.7=4"}, "'down_blocks.7' is in no layer's path"),
        ({"block_dims": "blocks=0"}, "leaves no layer to train"),
        ({"content_dim": "60"}, "lora_unet_.*: rank 60 is more than the 32 inputs of the layer"),
    ],
)
def test_bad_network_args_are_one_line_errors(unet, network_args, message):
    with pytest.raises(PairError, match=message) as caught:
        new_network(unet, **network_args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("loraplus_lr_ratio", "raise learning_rate, or style_lr"),
        ("loraplus_unet_lr_ratio", "frozen downs"),
        ("network_reg_dims", "block_dims="),
        ("network_reg_lrs", "content_lr and style_lr"),
        ("conv_dim", r"targets=attention\+conv"),
        ("train_t5xxl", "targets="),
        ("exclude_patterns", "targets names"),
        ("algo", "LyCORIS"),
        ("block_alphas", "one alpha"),
    ],
)
def test_arguments_of_other_network_modules_are_refused_with_what_to_use_instead(unet, key, words):
    with pytest.raises(PairError, match=f"^network_args: {key}: .*{words}") as caught:
        new_network(unet, **{key: "2"})
    assert "\n" not in str(caught.value)


def test_zero_matched_layers_is_an_error():
    with pytest.raises(PairError, match="matches no layer of Sequential"):
        create_network(1.0, 4, 4, None, None, torch.nn.Sequential(torch.nn.Linear(8, 8)))


# --- behaviour on a real U-Net -------------------------------------------------------------------------------------


def test_new_network_changes_nothing_and_restore_leaves_no_trace(unet, run_unet, perturb):
    plain = run_unet(unet)
    network = new_network(unet)
    assert torch.equal(run_unet(unet), plain)
    perturb(network)
    assert not torch.equal(run_unet(unet), plain)
    network.restore()
    assert torch.equal(run_unet(unet), plain)


def test_routes_reach_the_rows_they_name_through_the_whole_unet(unet, run_unet, perturb):
    plain = run_unet(unet, 4)
    network = perturb(new_network(unet, num_pairs="2"))
    with network.route([BASE_ROW, *content_rows([1]), BASE_ROW, *style_rows([0])]):
        routed = run_unet(unet, 4)
    assert torch.equal(routed[0], plain[0]) and torch.equal(routed[2], plain[2])
    assert not torch.allclose(routed[1], plain[1], atol=1e-3) and not torch.allclose(routed[3], plain[3], atol=1e-3)
    assert network.routing.rows is None


def test_merged_weights_equal_the_hooked_network(unet, run_unet, perturb):
    unet = unet.double()
    network = perturb(new_network(unet, targets="attention+ff+conv")).double()
    network.set_multiplier(0.7)
    hooked = run_unet(unet)
    network.restore()
    assert not torch.allclose(run_unet(unet), hooked, atol=1e-3)
    network.merge_to(None, unet)
    torch.testing.assert_close(run_unet(unet), hooked, rtol=0, atol=1e-4)  # deltas are merged in float32


def test_nothing_is_merged_into_scaled_8_bit_weights(unet, perturb):
    """The codes are no weights: adding to them would change the model without a word."""
    network = perturb(new_network(unet))
    *_, last = network.coupled_layers()
    last.base.register_buffer("scale_weight", torch.ones(1))
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    with pytest.raises(PairError, match="nothing can be merged into scaled 8-bit weights; leave --fp8_scaled out"):
        network.merge_to(None, unet)
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


def test_optimizer_groups_by_branch_and_model(unet, text_encoder):
    network = new_network(unet, text_encoder, targets="attention+text_encoder", content_lr="1e-3")
    groups, names = network.prepare_optimizer_params_with_multiple_te_lrs([5e-5], 1e-4, 1e-6)
    rates = dict(zip(names, (group["lr"] for group in groups), strict=True))
    assert rates == {
        "content unet": 1e-3, "content text encoder": 1e-3, "style unet": 1e-4, "style text encoder": 5e-5,
    }  # fmt: skip
    counted = sum(len(group["params"]) for group in groups)
    assert counted == len(network.get_trainable_params()) == 2 * len(network.layers)


@pytest.mark.parametrize(
    ("targets", "rates", "words"),
    [
        (
            "attention",
            (5e-5, 1e-4),
            "text_encoder_lr=5e-05 is not used: no such layer is trained; --network_args targets",
        ),
        ("text_encoder", (None, 1e-4), "unet_lr=0.0001 is not used"),
        ("attention+text_encoder", ([5e-5, 1e-5], 1e-4), "text_encoder_lr: the first of its rates, 5e-05, holds for"),
        ("attention+text_encoder", ([5e-5, 5e-5], 1e-4), ""),
        ("attention", (0.0, 1e-4), ""),
        ("attention", ([], None), ""),
    ],
)
def test_a_rate_that_no_layer_takes_is_told(unet, text_encoder, caplog, targets, rates, words):
    new_network(unet, text_encoder, targets=targets).prepare_optimizer_params(*rates, 1e-4)
    told = [record.getMessage() for record in caplog.records if "_lr" in record.getMessage()]
    assert len(told) == bool(words) and all(line.startswith(words) for line in told)


@pytest.mark.parametrize(("still", "moving"), [("content", "style"), ("style", "content")])
def test_a_branch_that_stands_still_is_not_in_the_clipped_norm(unet, still, moving):
    network = new_network(unet, **{f"{still}_lr": "0"})
    network.prepare_optimizer_params(None, 1e-4)
    clipped = {id(parameter) for parameter in network.get_trainable_params()}
    assert clipped == {id(p) for name, p in network.named_parameters() if f".{moving}_up" in name}
    network.prepare_optimizer_params(None, 1e-4, 1e-4)
    assert clipped == {id(parameter) for parameter in network.get_trainable_params()}


def test_frozen_downs_survive_a_host_that_unfreezes_everything(unet):
    network = new_network(unet)
    network.requires_grad_(True)
    assert {name.rsplit(".", 1)[1] for name, _ in network.named_parameters()} == {"content_up", "style_up"}
    trained = new_network(unet, orthogonality="penalty")
    assert {name.rsplit(".", 1)[1] for name, _ in trained.named_parameters()} == {
        "content_up", "style_up", "content_down", "style_down",
    }  # fmt: skip


def test_orthogonality_survives_training_saving_and_loading(unet, run_unet, tmp_path):
    network = new_network(unet)
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    network.set_route(content_rows([0]) + style_rows([0]))
    for _ in range(3):
        optimizer.zero_grad()
        run_unet(unet).square().mean().backward()
        optimizer.step()
    assert network.orthogonality_report()["gram_defect"] < 1e-6
    for dtype, limit in ((torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)):
        network.save_weights(str(tmp_path / "x.safetensors"), dtype, {})
        loaded, _ = create_network_from_weights(1.0, str(pair_path(tmp_path / "x.safetensors")), None, None, unet)
        assert loaded.orthogonality_report()["gram_defect"] < limit
    free = new_network(unet, orthogonality="none")
    assert free.orthogonality_report()["gram_defect"] > 0.1 and free.orthogonality_report()["branch_overlap"] > 0.01


def test_max_norm_scales_style_ups_only(unet, perturb):
    network = perturb(new_network(unet), scale=1.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scaled, mean, largest = network.apply_max_norm_regularization(0.5, torch.device("cpu"))
    assert scaled > 0 and largest <= 0.5 + 1e-6 and mean <= largest
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == ("style_up" not in name)
    assert max(layer.delta().norm().item() for layer in network.coupled_layers()) <= 0.5 + 1e-5


# --- files ---------------------------------------------------------------------------------------------------------


def test_both_files_round_trip_on_perturbed_weights(unet, run_unet, perturb, tmp_path):
    rows = [*content_rows([1]), Row(pair=0, style=1.0), Row(style=0.5)]
    network = perturb(new_network(unet, targets="attention+ff+conv", num_pairs="2", block_dims="mid_block=2"))
    with network.route(rows):
        expected = run_unet(unet, 3)
    style_file = tmp_path / "style.safetensors"
    network.save_weights(str(style_file), None, {"ss_output_name": "style", "ss_tag_frequency": {"a": 1}})
    network.restore()
    loaded, _ = create_network_from_weights(1.0, str(pair_path(style_file)), None, None, unet)
    assert loaded.config == network.config
    loaded.apply_to(None, unet)
    with loaded.route(rows):
        assert torch.equal(run_unet(unet, 3), expected)
    perturb(loaded, seed=9)
    with loaded.route(rows):
        assert not torch.equal(run_unet(unet, 3), expected)
    loaded.load_weights(str(pair_path(style_file)))
    with loaded.route(rows):
        assert torch.equal(run_unet(unet, 3), expected)
    loaded.restore()

    alone, _ = create_network_from_weights(1.0, str(style_file), None, None, unet, for_inference=True)
    alone.apply_to(None, unet)
    network.apply_to(None, unet)
    with alone.route(None, multiplier=0.0), network.route([Row(style=1.0)] * 3):
        as_trained = run_unet(unet, 3)
    network.restore()
    torch.testing.assert_close(run_unet(unet, 3), as_trained, rtol=0, atol=1e-5)


def test_a_block_compiles_whole_with_the_hooks_in_it_and_trains_the_same(unet, perturb):
    network = perturb(new_network(unet, orthogonality="penalty"))
    block, data = unet.mid_block.attentions[0], (torch.randn(2, 64, 4, 4), torch.randn(2, 6, 32))

    def gradients(model, rows):
        network.set_route(rows)
        model(*data, return_dict=False)[0].square().mean().backward()
        found = {name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None}
        network.zero_grad(set_to_none=True)
        return found

    torch.compiler.reset()
    compiled = torch.compile(block, backend="eager", fullgraph=True)  # a break in the graph is an error
    for rows in (content_rows([0]) + style_rows([0]), style_rows([0, 0])):
        wanted, found = gradients(block, rows), gradients(compiled, rows)
        assert wanted and wanted.keys() == found.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_style_file_is_a_plain_kohya_lora_with_metadata(unet, perturb, tmp_path):
    network = perturb(new_network(unet, targets="attention+conv"))
    path = tmp_path / "style.safetensors"
    network.save_weights(str(path), torch.float16, {"ss_network_dim": 4, "ss_dataset_dirs": {"x": {"img_count": 1}}})
    tensors = load_file(path)
    suffixes = {key.split(".", 1)[1] for key in tensors}
    assert suffixes == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert len(tensors) == 3 * len(network.layers)
    conv = tensors["lora_unet_mid_block_resnets_0_conv1.lora_up.weight"]
    assert conv.shape == (64, 4, 1, 1) and conv.dtype == torch.float16
    with safe_open(path, "pt") as handle:
        metadata = handle.metadata()
    assert metadata["ss_network_dim"] == "4" and json.loads(metadata["ss_dataset_dirs"]) == {"x": {"img_count": 1}}
    assert float(metadata["pair_network_gram_defect"]) < 1e-6 and len(metadata["sshs_model_hash"]) == 64
    assert "pair_network_config" not in metadata


def test_a_file_is_known_by_the_hash_of_its_data_whatever_its_metadata_say(tmp_path):
    path = tmp_path / "x.safetensors"
    told = {"sshs_model_hash": "stale", "before": "0" * 64, "like": '"sshs_model_hash":"' + "0" * 64 + '"'}
    checkpoint.write_together({path: ({"b": torch.ones(3).half(), "a": torch.arange(4.0)}, told)})
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    with safe_open(path, "pt") as handle:
        found = handle.metadata()
    assert found == {**told, "sshs_model_hash": hashlib.sha256(data).hexdigest()}
    assert torch.equal(load_file(path)["a"], torch.arange(4.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_one_element_that_is_not_finite_is_found_and_nothing_is_written(tmp_path, bad, dtype):
    tensor = torch.zeros(40, 40)
    checkpoint.write_together({tmp_path / "x": ({"whole": tensor.to(dtype), "empty": tensor[:0].to(dtype)}, {})})
    before = (tmp_path / "x").read_bytes()
    tensor[17, 3] = bad
    with pytest.raises(PairError, match="x: broken is not finite, nothing was written"):
        checkpoint.write_together({tmp_path / "x": ({"broken": tensor.to(dtype)}, {})})
    assert (tmp_path / "x").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_continuing_from_a_plain_lora_keeps_its_style_and_orthogonal_content_rows(unet, run_unet, perturb, tmp_path):
    """The loaded downs are not orthonormal and alpha differs: the delta must stay, the content rows must avoid them."""
    other = perturb(new_network(unet, dim=4, alpha=1.0, orthogonality="none"))
    other.save_weights(str(tmp_path / "a.safetensors"), None, {})
    expected = run_unet(unet)
    other.restore()
    network = new_network(unet, dim=4, alpha=4.0)
    network.load_weights(str(tmp_path / "a.safetensors"))
    torch.testing.assert_close(run_unet(unet), expected, rtol=0, atol=1e-5)
    assert network.orthogonality_report()["branch_overlap"] < 1e-5
    network.restore()
    by_file, _ = create_network_from_weights(1.0, str(tmp_path / "a.safetensors"), None, None, unet, content_dim="2")
    by_file.apply_to(None, unet)
    torch.testing.assert_close(run_unet(unet), expected, rtol=0, atol=1e-5)
    assert by_file.config.orthogonality == "frozen" and by_file.orthogonality_report()["branch_overlap"] < 1e-5


def damaged(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "mislabelled":
        path.write_bytes(b"PK\x03\x04 this is a zip, renamed")
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["truncated", "mislabelled", "empty"])
def test_damaged_files_name_file_and_remedy(unet, tmp_path, how):
    network = new_network(unet)
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), None, {})
    network.load_weights(str(path))
    damaged(path, how)
    with pytest.raises(
        PairError, match=r"a\.safetensors: not an intact safetensors file .*; copy or download"
    ) as caught:
        network.load_weights(str(path))
    assert "\n" not in str(caught.value)


def test_wrong_files_are_refused(unet, sdxl_unet, tmp_path):
    network = new_network(unet)
    (tmp_path / "a.ckpt").write_bytes(b"pickle")
    with pytest.raises(PairError, match=r"a\.ckpt: pickled weights can run code"):
        network.load_weights(str(tmp_path / "a.ckpt"))
    with pytest.raises(PairError, match="no such file"):
        network.load_weights(str(tmp_path / "none.safetensors"))
    with pytest.raises(PairError, match=r"only .safetensors is written"):
        network.save_weights(str(tmp_path / "a.pt"), None, {})
    new_network(sdxl_unet).save_weights(str(tmp_path / "xl.safetensors"), None, {})
    with pytest.raises(PairError, match=r"xl\.safetensors: its layers are not this network's"):
        network.load_weights(str(tmp_path / "xl.safetensors"))
    with pytest.raises(PairError, match="another model family"):
        create_network_from_weights(1.0, str(tmp_path / "xl.safetensors"), None, None, unet)
    new_network(unet, dim=2).save_weights(str(tmp_path / "r2.safetensors"), None, {})
    with pytest.raises(PairError, match="--dim_from_weights"):
        network.load_weights(str(tmp_path / "r2.safetensors"))
    save_file({"lora_unet_x.hada_w1_a": torch.zeros(2)}, tmp_path / "loha.safetensors")
    with pytest.raises(PairError, match=r"hada_w1_a.*convert the file first"):
        network.load_weights(str(tmp_path / "loha.safetensors"))


def test_a_lora_of_diffusers_names_is_refused_with_the_command_that_converts_it():
    names = [f"unet.down.{number}.{part}.weight" for number in range(9) for part in ("lora_A", "lora_B")]
    words = r"unet has down\.0\.lora_A\.weight, .* and 15 more, .*: python -m convert kohya d\.safetensors$"
    with pytest.raises(PairError, match=words):
        layers_of({name: torch.zeros(2, 2) for name in names}, "d.safetensors")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"orthogonality": "penalty"}, "with orthogonality=frozen, but network_args say orthogonality=penalty"),
        ({"content_dim": "3"}, "with content_dim=4, but network_args say content_dim=3"),
        ({"targets": "attention"}, r"with targets=attention\+ff, but network_args say targets=attention;"),
        ({"block_dims": "mid_block=2"}, "with block_dims=, but network_args say block_dims=mid_block=2"),
    ],
)
def test_network_args_that_contradict_the_checkpoint_are_refused(unet, tmp_path, given, words):
    new_network(unet, targets="attention+ff").save_weights(str(tmp_path / "a.safetensors"), None, {})
    with pytest.raises(PairError, match=rf"a\.pair\.safetensors: was trained {words}"):
        create_network_from_weights(1.0, str(tmp_path / "a.pair.safetensors"), None, None, unet, **given)


def test_network_args_that_repeat_the_checkpoint_or_shape_nothing_are_taken(unet, tmp_path):
    new_network(unet, targets="attention+ff").save_weights(str(tmp_path / "a.safetensors"), None, {})
    network, _ = create_network_from_weights(
        1.0, str(tmp_path / "a.pair.safetensors"), None, None, unet,
        targets="ff+attention", orthogonality="frozen", dropout="0.1", rank_dropout=None,
    )  # fmt: skip
    assert network.config.dropout == 0.1 and network.config.targets == ("attention", "ff")


def test_keys_come_from_the_header_alone(unet, tmp_path):
    path = tmp_path / "a.safetensors"
    new_network(unet).save_weights(str(path), None, {})
    assert set(read_keys(path)) == set(load_file(path))
    with pytest.raises(PairError, match="no such file"):
        read_keys(tmp_path / "none.safetensors")


def test_another_number_of_pairs_is_refused(unet, tmp_path):
    new_network(unet, num_pairs="2").save_weights(str(tmp_path / "a.safetensors"), None, {})
    network = new_network(unet, num_pairs="3")
    with pytest.raises(PairError, match=r"holds 2 pair.s., but the dataset has 3"):
        network.load_weights(str(tmp_path / "a.pair.safetensors"))
    network.load_weights(str(tmp_path / "a.safetensors"))


def test_nan_weights_are_not_written_and_the_old_file_stays(unet, tmp_path):
    network = new_network(unet)
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), None, {})
    before = path.read_bytes()
    with torch.no_grad():
        next(iter(network.layers.values())).style_up[0, 0] = float("nan")
    with pytest.raises(PairError, match="is not finite, nothing was written"):
        network.save_weights(str(path), None, {})
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pair.safetensors", "a.safetensors"]
