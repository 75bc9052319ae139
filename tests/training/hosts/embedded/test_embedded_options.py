"""The command line and the config file: sd-scripts' semantics, but nothing misspelt goes unnoticed."""

from pathlib import Path

import pytest
import toml

from pair_network.errors import PairError
from pair_network.training.hosts.embedded.config_file import read_config_file, verify
from pair_network.training.hosts.embedded.model_files import check_model_folder
from pair_network.training.hosts.embedded.options import setup_parser


def read(tmp_path, content, *argv):
    path = tmp_path / "run.toml"
    path.write_text(content if isinstance(content, str) else toml.dumps(content), encoding="utf-8")
    parser = setup_parser()
    argv = ["--config_file", str(path), *argv]
    return read_config_file(parser.parse_args(argv), parser, argv)


def test_sections_only_group_and_the_command_line_beats_the_file(tmp_path):
    # fails if sections were kept as tables, or if the file's value won over an explicit option
    args = read(tmp_path, {"a": {"learning_rate": 1, "seed": 3}, "b": {"max_train_steps": 7}}, "--seed", "5")
    assert (args.learning_rate, args.seed, args.max_train_steps) == (1.0, 5, 7)
    assert isinstance(args.learning_rate, float)
    assert args.gradient_accumulation_steps == 1  # parser default still there


def test_toml_suffix_may_be_left_out(tmp_path):
    (tmp_path / "run.toml").write_text("seed = 4\n", encoding="utf-8")
    parser = setup_parser()
    argv = ["--config_file", str(tmp_path / "run")]
    assert read_config_file(parser.parse_args(argv), parser, argv).seed == 4


def test_values_take_their_types_from_the_options(tmp_path):
    # sd-scripts takes TOML values unchecked; here lists, ratios and percentages go through the option's own type
    args = read(tmp_path, {"network_args": ["content_dim=4"], "text_encoder_lr": 1e-4, "lr_warmup_steps": "10%"})
    assert (args.network_args, args.text_encoder_lr, args.lr_warmup_steps) == (["content_dim=4"], [1e-4], 0.1)
    assert read(tmp_path, {"lr_warmup_steps": 20}).lr_warmup_steps == 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"learning_rat": 1.0}, ["learning_rat", "did you mean learning_rate?"]),
        ({"x": {"max_train_step": 5}}, ["max_train_steps?"]),
        ({"learning_rate": "1e-4"}, ["learning_rate", "a number", "'1e-4'"]),
        ({"seed": 1.5}, ["seed", "a whole number"]),
        ({"seed": True}, ["seed", "a whole number"]),
        ({"cache_latents": "yes"}, ["cache_latents", "true or false"]),
        ({"output_name": 3}, ["output_name", "a text"]),
        ({"mixed_precision": "fp61"}, ["mixed_precision", "no, fp16, bf16", "did you mean fp16?"]),
        ({"network_args": [4]}, ["network_args", "a text"]),
        ({"a": {"seed": 1}, "b": {"seed": 2}}, ["seed", "twice"]),
        ({"lr_warmup_steps": 1.5}, ["lr_warmup_steps", "ratio"]),
        ({"config_file": "other.toml"}, ["config_file"]),
        ("seed = = 3", ["not a TOML file"]),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, content, words):
    with pytest.raises(PairError) as mistake:
        read(tmp_path, content)
    assert "run.toml" in str(mistake.value) and "\n" not in str(mistake.value)
    assert all(word in str(mistake.value) for word in words), mistake.value


def test_missing_config_file(tmp_path):
    parser = setup_parser()
    argv = ["--config_file", str(tmp_path / "nowhere.toml")]
    with pytest.raises(PairError, match="no such file"):
        read_config_file(parser.parse_args(argv), parser, argv)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--learning_rat", "1"], ["--learning_rat", "did you mean --learning_rate?"]),
        (["--learning", "1"], ["--learning"]),  # argparse would accept the abbreviation
        (["--seed", "x"], ["--seed", "invalid int"]),
        (["--loss_type", "l3"], ["--loss_type", "l2"]),
        (["--save_model_as", "ckpt"], ["safetensors"]),
    ],
)
def test_mistakes_on_the_command_line_are_named(argv, words):
    with pytest.raises(PairError) as mistake:
        setup_parser().parse_args(argv)
    assert all(word in str(mistake.value) for word in words), mistake.value


def run_options(model, tmp_path, **changes):
    args = setup_parser().parse_args([])
    args.pretrained_model_name_or_path = str(model)
    args.output_dir, args.dataset_config = str(tmp_path / "out"), "d.toml"
    for name, value in changes.items():
        assert hasattr(args, name)
        setattr(args, name, value)
    return args


def test_good_options_pass(model, tmp_path):
    # the companion of the refusals below: they do not refuse everything
    verify(run_options(model, tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretrained_model_name_or_path": None}, ["--pretrained_model_name_or_path"]),
        ({"output_dir": None}, ["--output_dir"]),
        ({"dataset_config": None}, ["--dataset_config"]),
        ({"network_train_unet_only": True, "network_train_text_encoder_only": True}, ["exclude each other"]),
        ({"dim_from_weights": True}, ["--network_weights"]),
        ({"network_weights": "old.pt"}, [".pt", "can run code"]),
        ({"network_weights": "gone.safetensors"}, ["no such file"]),
        ({"base_weights": ["x.ckpt"]}, ["can run code"]),
        ({"resume": "nowhere"}, ["train_state.json"]),
        ({"max_train_steps": 0}, ["--max_train_steps", "at least 1"]),
        ({"save_every_n_steps": 0}, ["--save_every_n_steps"]),
        ({"learning_rate": float("nan")}, ["--learning_rate"]),
        ({"min_timestep": 800, "max_timestep": 200}, ["timesteps"]),
        ({"optimizer_type": "AdamWW"}, ["AdamWW", "did you mean adamw?"]),
        ({"lr_warmup_steps": 5}, ["constant_with_warmup"]),
        ({"log_with": "tensorboard"}, ["--logging_dir"]),
        ({"output_name": "a/b"}, ["--output_name", "--output_dir"]),
        ({"sample_prompts": "gone.txt"}, ["--sample_prompts"]),
    ],
)
def test_contradictions_are_named(model, tmp_path, changes, words):
    with pytest.raises(PairError) as mistake:
        verify(run_options(model, tmp_path, **changes))
    assert all(word in str(mistake.value) for word in words), mistake.value
    assert "\n" not in str(mistake.value)


def broken_model(model: Path, tmp_path: Path, part: str) -> Path:
    """A copy of the model by links, without one of its files."""
    copy = tmp_path / "copy"
    for file in model.rglob("*"):
        if file.is_file() and str(file.relative_to(model)) != part:
            target = copy / file.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return copy


def test_model_folder_is_checked_before_loading(model, tmp_path):
    check_model_folder(model)
    for path, words in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "model_index.json"),
        (tmp_path / "model.ckpt", "can run code"),
        (broken_model(model, tmp_path, "vae/config.json"), "vae/config.json is missing"),
    ):
        with pytest.raises(PairError, match=words):
            check_model_folder(path)


def test_pickles_and_other_families_are_refused_with_the_reason(model, tmp_path):
    copy = broken_model(model, tmp_path, "unet/diffusion_pytorch_model.safetensors")
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(PairError, match="pickled"):
        check_model_folder(copy)
    index = copy / "model_index.json"
    index.write_text(index.read_text(encoding="utf-8").replace("{", '{"transformer": [], ', 1), encoding="utf-8")
    with pytest.raises(PairError, match=r"is none of SD 1\.x, 2\.x and SDXL; give --sd_scripts DIR"):
        check_model_folder(copy)


def test_a_truncated_weights_file_is_named(model, tmp_path, train, pairs):
    # passes the folder check, so it must fail where it is loaded, with the part's name and no traceback
    copy = broken_model(model, tmp_path, "")
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(PairError, match="vae: cannot be loaded"):
        train(pairs, base=copy)
