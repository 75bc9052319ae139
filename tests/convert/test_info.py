"""``info``: formats, families and the UIs' rules, against the counts measured on the real loaders."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.formats.families import FAMILIES
from convert.formats.match import BFL_CONTROL, match_all
from convert.formats.names import kohya_entries
from pair_network.families.unet import OUTSIDE, OUTSIDE_XL


def kohya_keys(family, kinds):
    """Tensor names of a kohya LoRA over some kinds of layer: attention (and ff), conv, te."""
    outside = {f"lora_unet_{n}".replace(".", "_") for n in (*OUTSIDE, *OUTSIDE.values(), *OUTSIDE_XL.values())}
    for key, (modules, _) in kohya_entries(FAMILIES[family]).items():
        is_te = key.startswith("lora_te")
        is_conv = not is_te and (".resnets." in modules[0] or "samplers" in modules[0])
        kind = "te" if is_te else "conv" if is_conv else "attention"
        if kind in kinds and key not in outside and not key.endswith("text_projection"):
            yield from (f"{key}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha"))


def counts(keys, family, metadata=None):
    return {m.ui: m.matched for m in match_all(keys, FAMILIES[family], metadata or {})}


@pytest.mark.parametrize(
    "family, kinds, total",
    [
        ("sd1", ("attention",), 576), ("sd1", ("attention", "te"), 792), ("sd1", ("attention", "te", "conv"), 1050),
        ("sd2", ("attention", "te"), 990), ("sd2", ("attention", "te", "conv"), 1248),
        ("sdxl", ("attention",), 2166), ("sdxl", ("attention", "te"), 2958), ("sdxl", ("attention", "conv"), 2364),
    ],
)  # fmt: skip
def test_measured_counts_of_kohya_files(family, kinds, total):
    """The numbers of tensors that were counted in the running UIs; all of them matched everywhere."""
    keys = list(kohya_keys(family, kinds))
    assert len(keys) == total
    uis = ("A1111", "Forge", "Forge Neo", "ComfyUI", "diffusers")
    assert counts(keys, family) == dict.fromkeys(uis, total) | ({"Forge Neo": 0} if family == "sd2" else {})


def test_measured_counts_of_transformers():
    flux = [k for k in kohya_keys("flux", ("attention",)) if "_blocks_" in k]
    assert len(flux) == 912
    assert counts(flux, "flux") == {"A1111": 0, "Forge": 912, "Forge Neo": 912, "ComfyUI": 912, "diffusers": 912}
    last = "joint_blocks_23_context_block"
    sd3 = [
        k for k in kohya_keys("sd3", ("attention",))
        if "joint_blocks" in k and "attn2" not in k and int(k.split("_")[4]) < 24
        and not (last in k and ("attn_proj" in k or "mlp" in k))
    ]  # fmt: skip
    assert len(sd3) == 711
    assert counts(sd3, "sd3") == {"A1111": 0, "Forge": 711, "Forge Neo": 0, "ComfyUI": 711, "diffusers": 0}


def test_a1111_loses_one_convolution_of_sdxl_in_diffusers_names():
    modules = [e.modules[0] for e in FAMILIES["sdxl"].entries if e.modules[0] not in {**OUTSIDE, **OUTSIDE_XL}]
    keys = [
        f"lora_unet_{m}.{p}".replace(".", "_", m.count("."))
        for m in modules
        for p in ("lora_down.weight", "lora_up.weight", "alpha")
    ]
    assert len(keys) == 2364
    assert counts(keys, "sdxl") == {"A1111": 2361, "Forge": 2364, "Forge Neo": 2364, "ComfyUI": 2364, "diffusers": 2364}


@pytest.mark.parametrize("wrong, forge", [(9, 567), (15, 0)])
def test_forge_refuses_more_than_twelve_unknown_tensors(wrong, forge):
    keys = list(kohya_keys("sd1", ("attention",)))
    keys = [f"lora_unet_nonsense_{i}.lora_down.weight" for i in range(wrong)] + keys[wrong:]
    found = counts(keys, "sd1")
    assert (found["Forge"], found["A1111"], found["ComfyUI"]) == (forge, 576 - wrong, 576 - wrong)


def test_other_rules():
    down, up = "lora_down.weight", "lora_up.weight"
    mixed = [f"lora_unet_input_blocks_4_1_proj_in.{down}", f"lora_unet_down_blocks_1_attentions_1_proj_in.{down}"]
    assert counts(mixed, "sdxl")["diffusers"] == 1
    te2 = "lora_te2_text_model_encoder_layers_0_self_attn"
    three = [f"{te2}_{p}_proj.{s}" for p in ("q", "k", "v") for s in (down, up)]
    assert counts(three, "sdxl")["A1111"] == 0
    assert counts([*three, f"{te2}_out_proj.{down}", f"{te2}_out_proj.{up}"], "sdxl")["A1111"] == 8
    peft_sd3 = ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"]
    assert counts(peft_sd3, "sd3") == {"A1111": 1, "Forge": 0, "Forge Neo": 0, "ComfyUI": 1, "diffusers": 1}
    stray = [f"lora_unet_mid_block_attentions_0_proj_in.{down}", "unknown.weight"]
    assert counts(stray, "sd1")["diffusers"] == 0


@pytest.mark.parametrize("family", list(FAMILIES))
def test_report_of_a_kohya_file(family, lora, run, helpers):
    words = {"modelspec.trigger_phrase": "in ink style", "ss_base_model_version": FAMILIES[family].words.version}
    path = lora(family, keys=helpers.some_keys(family), metadata=words)
    status, out, _ = run("info", path, "--json")
    report = json.loads(out)[0]
    assert status == 0 and (report["family"], report["format"]) == (family, "kohya")
    assert report["trigger_words"] == "in ink style" and set(report["ranks"]) == {"2", "3", "4"}
    tensors = load_file(path)
    norm = sum(float(delta.square().sum()) for delta in helpers.deltas(tensors).values()) ** 0.5
    assert sum(n * n for n in report["blocks"].values()) ** 0.5 == pytest.approx(norm, rel=1e-5)
    assert report["hashes"]["a1111"] == report["hashes"]["data_sha256"][:12]
    assert "in ink style" in run("info", path)[1]


def test_hash_is_of_the_bytes_behind_the_header(lora, run, helpers):
    import hashlib

    path = lora("sd1", keys=helpers.some_keys("sd1"))
    data = path.read_bytes()
    wanted = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    report = json.loads(run("info", path, "--json")[1])[0]
    assert report["hashes"]["data_sha256"] == wanted
    assert report["hashes"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_official_sdxl_release_is_recognised_by_its_shared_rows(tmp_path, run):
    """All layers of one width share the very same orthonormal rows there; with other rows it is any diffusers LoRA."""
    rows, _ = torch.linalg.qr(torch.randn(640, 8))
    tensors = {}
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        name = f"unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.{part}.lora"
        tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"] = rows.T.contiguous(), torch.randn(640, 8)
    tensors["unet.up_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora.down.weight"] = rows.T.contiguous()
    tensors["unet.up_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora.up.weight"] = torch.randn(640, 8)
    save_file({key: t.clone() for key, t in tensors.items()}, tmp_path / "official.safetensors")
    report = json.loads(run("info", tmp_path / "official.safetensors", "--json")[1])[0]
    assert "official PairCustomization SDXL" in report["title"] and report["rows"]["are_orthonormal"]
    first = next(key for key in tensors if "down" in key)
    tensors[first] = torch.randn(8, 640)
    save_file({key: t.clone() for key, t in tensors.items()}, tmp_path / "other.safetensors")
    assert "official" not in json.loads(run("info", tmp_path / "other.safetensors", "--json")[1])[0]["title"]


@pytest.mark.parametrize(
    "metadata, words",
    [({"ss_network_module": "network.lora"}, "traintrain"), ({"software": '{"name": "ai-toolkit"}'}, "ai-toolkit")],
)
def test_tools_are_named(metadata, words, lora, run, helpers):
    path = lora("sd1", keys=helpers.some_keys("sd1"), metadata=metadata)
    assert words in run("info", path)[1]


def test_coupled_checkpoint_tells_its_orthogonality(tmp_path, unet, text_encoder, perturb, run):
    from pair_network import create_network

    network = perturb(create_network(1.0, 4, 2.0, None, text_encoder, unet, num_pairs="2", content_dim="3"))
    network.save_weights(str(tmp_path / "n.safetensors"), None, {})
    report = json.loads(run("info", tmp_path / "n.pair.safetensors", "--json")[1])[0]
    assert report["format"] == "pair" and report["content"]["pairs"] == 2
    assert report["content"]["branch_overlap"] < 1e-6 and report["content"]["orthogonality"] == "frozen"
    assert report["uis"]["Forge"]["matched"] == 0


def test_one_bad_file_is_named_and_the_others_are_described(lora, run, helpers, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\0cut off")
    status, out, errors = run("info", bad, lora("sd1", keys=helpers.some_keys("sd1")))
    assert status == 1 and "bad.safetensors: not an intact" in errors and "kohya LoRA" in out


def test_a_ui_without_flux_says_so_once_of_a_control_lora():
    for match in match_all([*BFL_CONTROL, "double_blocks.0.img_attn.qkv.lora_A.weight"], FAMILIES["flux"], {}):
        assert match.matched == (match.total if match.ui in FAMILIES["flux"].reads else 0)
        assert match.verdict.count("nothing is applied") == (match.matched == 0)
