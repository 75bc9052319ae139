"""What kohya_ss GUI saves, and where it keeps sd-scripts."""

import json
import sys
from pathlib import Path

import pytest
import toml

from pair_network import PairError
from pair_network.training import kohya_install, launch
from pair_network.training.hosts import embedded
from pair_network.training.hosts.kohya_config import check_config
from pair_network.training.kohya_gui import is_gui_config, options_of_gui, write_options
from pair_network.training.kohya_install import find_installation, needs_restart

from .test_presets import committed_parser

# As the GUI writes them (v26): the TOML of a training, and a part of the JSON of "Save config".
TOML = {
    "bucket_no_upscale": True, "bucket_reso_steps": 64, "cache_latents": True, "caption_extension": ".txt", "epoch": 3,
    "gradient_accumulation_steps": 1, "huber_c": 0.1, "learning_rate": 0.0001, "lr_scheduler": "cosine",
    "lr_scheduler_args": [], "lr_scheduler_num_cycles": 3, "lr_scheduler_power": 1, "max_bucket_reso": 2048,
    "max_grad_norm": 1, "max_train_steps": 1200, "mixed_precision": "bf16", "network_alpha": 8,
    "network_args": ["conv_dim=4", "conv_alpha=1"], "network_dim": 16, "network_module": "networks.lora",
    "no_half_vae": True, "noise_offset_type": "Original", "optimizer_args": [], "optimizer_type": "AdamW",
    "output_dir": "C:/ai/out", "output_name": "mine", "pretrained_model_name_or_path": "C:/ai/xl.safetensors",
    "prior_loss_weight": 1, "resolution": "1024,1024", "sdpa": True, "text_encoder_lr": [5e-05],
    "train_batch_size": 1, "train_data_dir": "C:/ai/img", "unet_lr": 0.0001, "max_data_loader_n_workers": 0,
}  # fmt: skip
FIELDS = {
    "LoRA_type": "Standard", "max_resolution": "512,512", "optimizer": "AdamW", "optimizer_args": "weight_decay=0.1",
    "learning_rate": "0.0001", "epoch": 2, "max_train_steps": "", "seed": "1234", "noise_offset": "0.05",
    "min_snr_gamma": 0, "network_dim": 64, "network_alpha": 64, "cache_latents": True, "flip_aug": False,
    "xformers": "sdpa", "sdxl": False, "reg_data_dir": "C:/ai/reg", "output_name": "0012", "keep_tokens": "0",
    "color_aug": True, "sd3_something": 3, "pretrained_model_name_or_path": "C:/ai/sd.safetensors",
}  # fmt: skip
NUMBERS = {
    "max_train_epochs": int, "max_train_steps": int, "seed": int, "network_dim": int, "keep_tokens": int,
    "max_data_loader_n_workers": int, "lr_scheduler_num_cycles": int, "learning_rate": float, "noise_offset": float,
    "min_snr_gamma": float, "network_alpha": float, "discrete_flow_shift": float, "logit_mean": float,
    "multires_noise_discount": float, "max_grad_norm": float, "lr_warmup_steps": lambda text: text,
}  # fmt: skip
KNOWN = NUMBERS | dict.fromkeys([
    "resolution", "optimizer_type", "optimizer_args", "cache_latents", "sdpa", "xformers", "output_name", "flip_aug",
    "pretrained_model_name_or_path", "max_token_length", "dynamo_backend", "sample_prompts", "clip_l", "ae", "vae",
    "no_half_vae", "timestep_sampling", "cache_text_encoder_outputs",
])  # fmt: skip


def test_the_guis_fields_become_options_of_the_right_kind():
    options, notes = options_of_gui(FIELDS, KNOWN)
    assert options == {
        "resolution": "512,512", "optimizer_type": "AdamW", "optimizer_args": ["weight_decay=0.1"],
        "learning_rate": 0.0001, "max_train_epochs": 2, "seed": 1234, "noise_offset": 0.05, "network_dim": 64,
        "network_alpha": 64, "cache_latents": True, "sdpa": True, "output_name": "0012",
        "pretrained_model_name_or_path": "C:/ai/sd.safetensors",
    }  # fmt: skip
    told = " ".join(notes)
    assert "reg_data_dir" in told and "color_aug = True is left out: it would recolour" in told
    assert "no options of this host: sd3_something" not in told and "1 further fields are of other families" in told
    assert "LoRA_type" in told and "epoch = 2 stays: an epoch uses each pair --dataset_repeats times" in told


def test_steps_go_before_epochs_and_files_tell_the_family():
    options, _ = options_of_gui({**FIELDS, "max_train_steps": "750"}, KNOWN)
    assert options["max_train_steps"] == 750 and "max_train_epochs" not in options
    assert options_of_gui({**FIELDS, "sdxl": True}, KNOWN)[0]["model_type"] == "sdxl"
    assert options_of_gui({**TOML, "ae": "ae.safetensors"}, KNOWN)[0]["model_type"] == "flux"
    assert not is_gui_config({"learning_rate": 1, "max_train_steps": 3})


# What every file of the GUI (v26) holds, whatever its family, as its tabs begin.
TABS = {
    "model_type": "flux", "max_token_length": 75, "dynamo_backend": "no", "noise_offset_type": "Original",
    "multires_noise_discount": 0.3, "logit_mean": 0.5, "clip_l": "flux_clip.safetensors", "ae": "",
    "discrete_flow_shift": 3, "timestep_sampling": "sigma", "sd3_clip_l": "sd3_clip.safetensors", "vae": "",
    "anima_vae": "anima_vae.safetensors", "lumina_discrete_flow_shift": 6, "sdxl_no_half_vae": True,
    "flux1_cache_text_encoder_outputs": True, "max_data_loader_n_workers": 0, "max_grad_norm": 0, "lr_warmup": 10,
    "lr_warmup_steps": 0, "lr_scheduler_num_cycles": "", "LoRA_type": "Standard", "epoch": 4, "unit": 1,
    "sample_prompts": "42",
}  # fmt: skip
ANY_FAMILY = {
    "max_data_loader_n_workers": 0, "lr_warmup_steps": 0.1, "lr_scheduler_num_cycles": 4, "max_train_epochs": 4,
    "sample_prompts": "42",
}  # fmt: skip


@pytest.mark.parametrize(
    ("ticked", "own"),
    [
        ("", {}),
        ("sdxl", {"model_type": "sdxl", "no_half_vae": True}),
        ("anima_checkbox", {"model_type": "anima", "vae": "anima_vae.safetensors"}),
        ("sd3_checkbox", {"model_type": "sd3", "clip_l": "sd3_clip.safetensors", "logit_mean": 0.5}),
        ("lumina_checkbox", {"model_type": "lumina", "discrete_flow_shift": 6}),
        ("flux1_checkbox", {
            "model_type": "flux", "clip_l": "flux_clip.safetensors", "discrete_flow_shift": 3,
            "timestep_sampling": "sigma", "cache_text_encoder_outputs": True,
        }),
    ],
)  # fmt: skip
def test_the_ticked_familys_fields_count_and_defaults_of_other_tabs_do_not(ticked, own):
    options, notes = options_of_gui({**TABS, **({ticked: True} if ticked else {})}, KNOWN)
    assert options == {**ANY_FAMILY, **own}
    assert "left out, since they are no options of this host: unit" in notes


def test_a_file_for_chroma_and_one_with_multires_noise():
    chroma = {**TABS, "flux1_checkbox": True, "model_type": "chroma", "lr_warmup_steps": "50"}
    options, _ = options_of_gui(chroma, KNOWN)
    assert options["model_type"] == "chroma" and options["lr_warmup_steps"] == 50
    multires = {**TABS, "noise_offset": 0.1, "noise_offset_type": "Multires"}
    options, _ = options_of_gui(multires, KNOWN)
    assert options["multires_noise_discount"] == 0.3 and "noise_offset" not in options


@pytest.mark.parametrize("path", ["sd", "sdxl"])
def test_what_a_training_of_the_gui_writes_passes_sd_scripts_parser(tmp_path, path):
    """The GUI writes 75 tokens and no dynamo backend into every file; sd-scripts' choices have neither."""
    parser = committed_parser(path)
    options, _ = options_of_gui(
        {**TOML, "max_token_length": 75, "dynamo_backend": "no"}, {a.dest: a.type for a in parser._actions}
    )
    check_config(options, parser, tmp_path / "x.toml")
    assert options["max_data_loader_n_workers"] == 0 and "max_token_length" not in options


def test_prompts_in_a_json_become_the_file_that_the_option_names(tmp_path):
    plain = write_options({"sample_prompts": "a cat --w 64\na dog", "seed": 1}, tmp_path / "saved.json")
    prompts = Path(toml.loads(plain.read_text(encoding="utf-8"))["sample_prompts"])
    assert prompts.read_text(encoding="utf-8") == "a cat --w 64\na dog\n" and prompts.parent == tmp_path
    kept = write_options({"sample_prompts": "sample/prompt.txt"}, tmp_path / "config_lora-1.toml")
    assert toml.loads(kept.read_text(encoding="utf-8")) == {"sample_prompts": "sample/prompt.txt"}


@pytest.fixture
def started(monkeypatch):
    calls = []
    monkeypatch.delenv("SD_SCRIPTS_DIR", raising=False)
    monkeypatch.delenv("MUSUBI_DIR", raising=False)
    monkeypatch.setattr(embedded, "train", lambda args: calls.append(args) or 0)
    return calls


@pytest.mark.parametrize(
    ("name", "content"), [("config_lora-1.toml", toml.dumps(TOML)), ("a.json", json.dumps(FIELDS))]
)
def test_a_file_of_the_gui_trains_and_says_what_does_not_carry_over(tmp_path, capsys, started, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    launch.train(["--config_file", str(path), "--seed", "3"])
    plain = path.with_name(f"{path.stem}-pair.toml")
    assert started == [["--config_file", str(plain), "--seed", "3"]]
    told = capsys.readouterr().out
    assert f"{path} was saved by kohya_ss GUI" in told
    options = toml.loads(plain.read_text(encoding="utf-8"))
    if name.endswith("toml"):
        assert "train_data_dir = 'C:/ai/img' is left out: name your pair with --content and --style" in told
        assert "network_args = ['conv_dim=4', 'conv_alpha=1'] is left out" in told
        assert options["max_train_steps"] == 1200 and options["unet_lr"] == 0.0001 and options["no_half_vae"] is True
    assert "network_module" not in options


def test_the_written_options_pass_the_embedded_hosts_own_check(tmp_path, started):
    from pair_network.training.hosts.embedded.config_file import read_config_file
    from pair_network.training.hosts.embedded.options import setup_parser

    path = tmp_path / "config_lora-1.toml"
    path.write_text(toml.dumps(TOML), encoding="utf-8")
    launch.train(["--config_file", str(path)])
    parser = setup_parser()
    args = read_config_file(parser.parse_args(started[0]), parser, started[0])
    assert args.network_dim == 16 and args.lr_scheduler == "cosine" and args.bucket_no_upscale


@pytest.mark.parametrize("steps", [["--max_train_steps", "300"], ["--max_train_steps=300"]])
def test_steps_on_the_command_line_go_before_the_files_epochs(tmp_path, started, steps):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(FIELDS), encoding="utf-8")
    launch.train(["--config_file", str(path), *steps])
    options = toml.loads((tmp_path / "a-pair.toml").read_text(encoding="utf-8"))
    assert "max_train_epochs" not in options
    launch.train(["--config_file", str(path)])
    assert toml.loads((tmp_path / "a-pair.toml").read_text(encoding="utf-8"))["max_train_epochs"] == 2


def test_another_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(PairError, match="when kohya_ss GUI saved it"):
        launch.train(["--config_file", str(tmp_path / "x.json")])
    (tmp_path / "y.json").write_text("{", encoding="utf-8")
    with pytest.raises(PairError, match="not a JSON file"):
        launch.train(["--config_file", str(tmp_path / "y.json")])


# --- where it is ---


def make_checkout(folder):
    folder.mkdir(parents=True)
    (folder / "train_network.py").write_text("", encoding="utf-8")
    return folder


def make_python(path):
    path.parent.mkdir(parents=True)
    path.write_text("", encoding="utf-8")
    return path


def test_the_bundled_checkout_is_found_with_its_environment(tmp_path):
    checkout = make_checkout(tmp_path / "home/kohya_ss/sd-scripts")
    python = make_python(tmp_path / "home/kohya_ss/.venv/bin/python")
    found = find_installation([tmp_path, tmp_path / "home"])
    assert (found.checkout, found.python) == (checkout, python) and needs_restart(found)
    inside = find_installation([tmp_path / "home/kohya_ss"])
    assert inside.checkout == checkout
    own = make_checkout(tmp_path / "sd-scripts")
    assert find_installation([tmp_path]).checkout == own and find_installation([tmp_path]).python is None
    assert not needs_restart(find_installation([tmp_path]))


def test_where_there_is_none_the_places_are_named(tmp_path):
    with pytest.raises(PairError, match=r"neither kohya_ss/sd-scripts nor sd-scripts is in .*KOHYA_SS_DIR"):
        find_installation([tmp_path])


def test_auto_starts_the_training_with_the_environments_own_python(tmp_path, monkeypatch):
    checkout = make_checkout(tmp_path / "kohya_ss/sd-scripts")
    python = make_python(tmp_path / "kohya_ss/venv/bin/python")
    monkeypatch.setattr(launch, "usual_places", lambda: [tmp_path])
    calls = []
    monkeypatch.setattr(launch, "become", lambda command: calls.append(command) or 7)
    assert launch.train(["--sd_scripts", "auto", "--model_type", "sd"]) == 7
    entry = str(Path(kohya_install.PROJECT) / "train_pair_network.py")
    assert calls == [[str(python), entry, "--sd_scripts", "auto", "--model_type", "sd", "--sd_scripts", str(checkout)]]
    monkeypatch.setattr(sys, "executable", str(python))
    assert not needs_restart(find_installation([tmp_path]))


def test_words_in_a_number_s_place_are_kept_for_the_trainer_to_refuse():
    values = {"LoRA_type": "Standard", "learning_rate": "1e-4x", "seed": " 12 "}
    assert options_of_gui(values, {"learning_rate": float, "seed": int})[0] == {"learning_rate": "1e-4x", "seed": 12}
