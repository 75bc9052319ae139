"""The sd-scripts host without a checkout: the contract, model types, config files, previews' schedule, old files."""

import argparse
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pair_network import PairError
from pair_network.families import PreviewInputs
from pair_network.network.route import Row
from pair_network.training.hosts.contract import HOOKS, broken_hooks, compare
from pair_network.training.hosts.kohya_config import check_config, config_path, read_config
from pair_network.training.hosts.model_types import detect_model_type, type_of_names
from pair_network.training.hosts.sd_scripts.entry import (
    choose_model_type,
    make_parser,
    pair_trainer_class,
    remove_orphaned_pair_files,
)
from pair_network.training.hosts.sd_scripts.families import trainer_of
from pair_network.training.hosts.sd_scripts.previews import StyleGuide, are_due, sheet_path
from pair_network.training.hosts.versions import SD_SCRIPTS, release_of, warn_if_newer
from pair_network.training.trainer import PairTraining

# --- the checkout ---


def test_a_folder_that_is_no_checkout_is_refused(tmp_path, run_entry):
    done = run_entry("--sd_scripts", tmp_path, "--model_type", "sd")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --sd_scripts") and "no train_network.py" in done.stderr


def test_a_checkout_without_the_familys_trainer_needs_a_newer_sd_scripts(tmp_path, run_entry):
    (tmp_path / "train_network.py").write_text("")
    done = run_entry("--sd_scripts", tmp_path, "--model_type", "anima")
    assert done.returncode == 2 and "no anima_train_network.py; this model needs a newer sd-scripts" in done.stderr


def trainer_like(hooks):
    """A class with the methods of a contract, as a host of that version has them."""

    def method(names):
        namespace = {}
        exec(f"def method(self, {', '.join(names)}): ...", namespace)
        return namespace["method"]

    return type("Trainer", (), {name: method(names) for name, names in hooks.items()})


def test_the_committed_contract_is_what_the_mixin_overrides():
    assert broken_hooks(trainer_like(HOOKS)) == []
    own = {name for name in vars(PairTraining) if name in HOOKS}
    assert own >= {"assert_extra_args", "process_batch", "post_process_loss", "on_step_start", "update_metadata"}
    for comparison in compare("mixin", PairTraining, {name: HOOKS[name] for name in own}):
        assert not comparison.problem


def test_missing_and_shorter_hooks_are_named():
    hooks = {name: names for name, names in HOOKS.items() if name != "train"}
    hooks["post_process_loss"] = hooks["post_process_loss"][:3]
    assert broken_hooks(trainer_like(hooks)) == [
        "post_process_loss takes 3 arguments instead of 4",
        "train is missing",
    ]


def test_a_host_without_the_hooks_is_refused_by_name():
    class OldTrainer:
        def train(self, args): ...
        def call_unet(self, args): ...

    with pytest.raises(PairError, match=r"process_batch is missing.*v0\.10\.0 or later"):
        pair_trainer_class(OldTrainer)


# --- releases ---


@pytest.mark.parametrize(("release", "warns"), [("0.10.1", False), ("0.11.1", False), ("0.11.10", True), ("1.0", True)])
def test_a_checkout_that_is_newer_than_tested_says_so_in_one_line(tmp_path, caplog, release, warns):
    readme = f"# sd-scripts\n- **Version {release} (2027-01-01):**\n- **Version 0.9.0 (2025-01-01):**\n"
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    assert release_of(SD_SCRIPTS, tmp_path) == release
    warn_if_newer(SD_SCRIPTS, tmp_path)
    assert [record.getMessage().startswith(f"sd-scripts {release} is newer") for record in caplog.records] == [
        True
    ] * warns


def test_a_checkout_that_names_no_release_is_taken_as_it_is(tmp_path, caplog):
    assert release_of(SD_SCRIPTS, tmp_path) is None
    warn_if_newer(SD_SCRIPTS, tmp_path)
    assert not caplog.records


# --- model types ---


def checkpoint(path, names):
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


NAMES = {
    "sd": ["cond_stage_model.a", "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"],
    "sdxl": ["model.diffusion_model.label_emb.0.0.weight", "conditioner.embedders.1.model.a"],
    "sd3": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    "flux": ["double_blocks.0.img_mod.lin.weight", "single_blocks.0.linear1.weight"],
    "chroma": ["double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.weight"],
    "lumina": ["model.diffusion_model.noise_refiner.0.attention.qkv.weight"],
    "hunyuan_image": ["double_blocks.0.img_attn_qkv.weight"],
    "anima": ["net.llm_adapter.blocks.0.cross_attn.q_proj.weight", "net.blocks.0.mlp.layer1.weight"],
}


@pytest.mark.parametrize("model_type", NAMES)
def test_a_checkpoints_header_shows_its_type(tmp_path, model_type):
    path = checkpoint(tmp_path / "model.safetensors", NAMES[model_type])
    assert detect_model_type(str(path)) == model_type
    assert choose_model_type(["--pretrained_model_name_or_path", str(path)], {}) == model_type


def test_diffusers_folders_show_theirs(tmp_path):
    for name, expected in (("StableDiffusionXLPipeline", "sdxl"), ("StableDiffusionPipeline", "sd"), ("Other", None)):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
        assert detect_model_type(str(tmp_path)) == expected


def test_an_uncertain_model_needs_the_option_and_a_wrong_one_is_refused(tmp_path):
    assert type_of_names(["something.weight"]) is None
    for model in ("runwayml/stable-diffusion-v1-5", str(checkpoint(tmp_path / "other.safetensors", ["a"]))):
        with pytest.raises(PairError, match=r"--model_type is missing.*give one of sd, sdxl"):
            choose_model_type(["--pretrained_model_name_or_path", model], {})
    sdxl = str(checkpoint(tmp_path / "xl.safetensors", NAMES["sdxl"]))
    with pytest.raises(PairError, match="is a checkpoint of type sdxl"):
        choose_model_type(["--model_type", "sd"], {"pretrained_model_name_or_path": sdxl})
    with pytest.raises(PairError, match=r"did you mean sdxl\?"):
        choose_model_type(["--model_type", "sdlx"], {})
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(PairError, match="not an intact safetensors file"):
        detect_model_type(str(tmp_path / "cut.safetensors"))


def test_the_command_line_goes_before_the_config_files_type():
    assert choose_model_type(["--model_type", "flux"], {"model_type": "sd"}) == "flux"
    assert choose_model_type([], {"model_type": "chroma"}) == "chroma"
    assert trainer_of("chroma").trainer == trainer_of("flux").trainer


# --- the config file ---


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--max_train_steps", type=int)
    parser.add_argument("--cache_latents", action="store_true")
    parser.add_argument("--loss_type", choices=["l2", "huber"])
    parser.add_argument("--network_args", nargs="*")
    parser.add_argument("--resolution", type=str)
    return parser


def test_a_good_file_passes(tmp_path, parser):
    path = tmp_path / "run.toml"
    path.write_text(
        'model_type = "sd"\n[a]\nlearning_rate = 1\nmax_train_steps = 4\ncache_latents = true\n[b]\nloss_type = "l2"\n'
        'network_args = ["targets=attention"]\nresolution = "512,512"\n'
    )
    check_config(read_config(path), parser, path)
    assert config_path(["--config_file", str(tmp_path / "run")]) == path
    assert config_path(["--config_file", "x", "--output_config"]) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat = 1e-4", r"unknown key 'learning_rat' \(did you mean learning_rate\?\)"),
        ('learning_rate = "1e-4"', "learning_rate = '1e-4': must be a number"),
        ("max_train_steps = 1.5", "must be a whole number"),
        ("max_train_steps = true", "must be a whole number"),
        ("cache_latents = 1", "must be true or false"),
        ('loss_type = "hubr"', r"must be one of l2, huber \(did you mean huber\?\)"),
        ("resolution = 512", "must be text in quotes"),
        ("network_args = [1]", "must be text in quotes"),
        ("[a]\nlearning_rate = 1\n[b]\nlearning_rate = 2", "'learning_rate' is set twice"),
        ("learning_rate =", "not a TOML file"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_nearest_option(tmp_path, parser, line, message):
    path = tmp_path / "run.toml"
    path.write_text(line)
    with pytest.raises(PairError, match=message) as caught:
        check_config(read_config(path), parser, path)
    assert "run.toml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lerning_rate", "3"], r"unknown option --lerning_rate \(did you mean --learning_rate\?\)"),
        (["--max_train_steps", "many"], "--max_train_steps: invalid int value: 'many'"),
        (["--loss_type", "hubr"], "--loss_type: invalid choice"),
        (["--pair_schedule"], "--pair_schedule: expected one argument"),
    ],
)
def test_kohyas_parser_complains_in_one_line_without_its_hundred_lines_of_usage(parser, capsys, options, message):
    ours = make_parser(SimpleNamespace(setup_parser=lambda: parser))
    with pytest.raises(PairError, match=message):
        ours.parse_args(options)
    assert capsys.readouterr().err == ""


# --- previews ---


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({"sample_every_n_steps": 2}, [(None, 2), (None, 4)]),
        ({"sample_every_n_epochs": 1}, [(1, 3)]),
        ({"sample_every_n_steps": 2, "sample_every_n_epochs": 1}, [(1, 3)]),
        ({"sample_at_first": True, "sample_every_n_steps": 4}, [(0, 0), (None, 4)]),
        ({"sample_every_n_steps": 2, "sample_prompts": None}, []),
        ({}, []),
    ],
)
def test_previews_come_when_kohyas_samples_come(options, due):
    none = dict.fromkeys(("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"))
    args = argparse.Namespace(**{**none, "sample_prompts": "prompts.txt", **options})
    moments = [(0, 0), (None, 1), (None, 2), (None, 3), (1, 3), (None, 4)]
    assert [moment for moment in moments if are_due(args, *moment)] == due


def test_sheets_are_named_like_kohyas_samples():
    args = argparse.Namespace(output_dir="out", output_name="ink")
    assert sheet_path(args, None, 20, 1, 7) == Path("out/sample/ink_000020_01_7.png")
    assert sheet_path(args, 3, 20, 0, 7).name == "ink_e000003_00_7.png"


class Denoiser(torch.nn.Module):
    """Adds its text to its input: predictions can be worked by hand."""

    def forward(self, x, t, context=None):
        return x + context


class Network:
    def route(self, rows):
        assert rows == [Row(style=1.0)]
        return torch.no_grad()


@pytest.mark.parametrize(("cond_row", "rows"), [(-1, 2), (0, 2), (-1, 1)])
def test_the_guide_shifts_every_row_by_the_styles_difference(cond_row, rows):
    """x = 10, cond text 1, style text 3, λ = 2: δ = 2 · ((10 + 3) − (10 + 1)) = 4, on the uncond row too."""
    model = Denoiser()
    guide = StyleGuide(Network(), model, PreviewInputs(("context",), cond_row, 4), 2.0, 0.5)
    texts = torch.zeros(rows, 1)
    texts[cond_row] = 3.0
    x = torch.full((rows, 1), 10.0)
    with guide.recording():
        for _ in range(4):
            model(x, 0, context=texts)
    texts[cond_row] = 1.0
    with guide.guiding():
        plain, _, guided, _ = (model(x, 0, context=texts) for _ in range(4))
    assert torch.equal(plain, x + texts), "the first half of the calls stays without style"
    assert torch.equal(guided, x + texts + 4)
    assert torch.equal(model(x, 0, context=texts), x + texts), "outside the block nothing is shifted"


# --- old checkpoints ---


def test_only_the_runs_numbered_coupled_files_without_style_file_are_removed(tmp_path):
    for name in (
        "ink.pair", "ink-step00000010.pair", "ink-step00000020.pair", "ink-step00000020", "ink-000002.pair",
        "ink-mine.pair", "inkwell-000002.pair", "other.pair",
    ):  # fmt: skip
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    removed = remove_orphaned_pair_files(tmp_path, "ink")
    assert sorted(path.name for path in removed) == ["ink-000002.pair.safetensors", "ink-step00000010.pair.safetensors"]
    assert not any(path.exists() for path in removed)
