"""Resuming tells the truth: what differs is refused, taken over or said, and a damaged state is one line."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pair_network.errors import PairError
from pair_network.training.hosts.embedded import resume
from pair_network.training.hosts.embedded.config import frozen
from pair_network.training.hosts.embedded.state import read_train_state, seed_of, style_start_of

ROOT = Path(__file__).resolve().parents[4]
ARGV = ("--style_start_step", "1", "--cache_latents", "--save_state")


@pytest.fixture
def state(train, pairs):
    return train(pairs, *ARGV) / "x-state"


@pytest.fixture
def resumed(train, pairs, state, caplog):
    """resumed(*options): warnings of a run that makes one more step from the state."""

    def run(*argv, name="more", folder=state, dataset=pairs, steps="5"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            train(dataset, *ARGV, "--resume", str(folder), "--max_train_steps", steps, *argv, name=name)
        return caplog.text

    return run


def test_the_same_options_say_nothing(resumed):
    assert "identically" not in resumed("--save_every_n_steps", "1", "--output_name", "another")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--network_alpha", "2"], "network: alpha was 1.0 in the saved run and is 2.0 now"),
        (["--network_dim", "3"], "network: rank was 2 in the saved run and is 3 now"),
        (["--network_args", "orthogonality=penalty"], "network: orthogonality was frozen"),
        (["--optimizer_type", "SGDNesterov"], "optimizer_type was torch.optim.adamw.AdamW"),
        (["--optimizer_args", "weight_decay=0.5"], "optimizer_args was "),
    ],
)
def test_what_gives_the_state_another_meaning_is_refused(resumed, argv, words):
    with pytest.raises(PairError) as refused:
        resumed(*argv)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_lion_does_not_take_over_adamws_memory(resumed):
    pytest.importorskip("lion_pytorch")
    with pytest.raises(PairError, match=r"optimizer_type was torch\.optim\.adamw\.AdamW"):
        resumed("--optimizer_type", "Lion")


def test_another_base_model_is_refused(resumed, model, tmp_path, monkeypatch):
    other = shutil.copytree(model, tmp_path / "other")
    weights = load_file(str(other / "unet" / "diffusion_pytorch_model.safetensors"))
    weights["conv_in.bias"] += 1
    save_file(weights, str(other / "unet" / "diffusion_pytorch_model.safetensors"))
    moved = shutil.copytree(model, tmp_path / "moved")
    assert "identically" not in resumed("--pretrained_model_name_or_path", str(moved))
    with pytest.raises(PairError, match="model: not what the saved run had"):
        resumed("--pretrained_model_name_or_path", str(other), name="again")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--loss_type", "l1"], "loss_type was l2 in the saved run and is l1 now"),
        (["--min_snr_gamma", "5"], "min_snr_gamma was not set in the saved run and is 5.0 now"),
        (["--flip_aug"], "flip_aug was False"),
        (["--seed", "9"], "seed was 7"),
        (["--pair_schedule", "alternate"], "pair_schedule was joint"),
        (["--lr_scheduler", "cosine"], "lr_scheduler was constant"),
        (["--clip_skip", "2"], "clip_skip was not set"),
    ],
)
def test_what_changes_the_course_is_said(resumed, argv, words):
    said = resumed(*argv)
    assert words in said and said.count("identically") == 1, said


def test_a_changed_picture_or_caption_is_named_and_a_moved_folder_is_not(
    resumed, pairs, tmp_path, make_picture, monkeypatch
):
    moved = json.loads(json.dumps(pairs).replace(str(tmp_path / "style"), str(tmp_path / "elsewhere")))
    shutil.copytree(tmp_path / "style", tmp_path / "elsewhere")
    assert "identically" not in resumed(dataset=moved, name="moved")
    make_picture(tmp_path / "style" / "dog.png", (64, 64), 99)
    (tmp_path / "content" / "cat.caption").write_text("a photo of a cat")
    said = resumed(name="changed")
    assert "style dog.png or its caption has changed" in said and "content cat.png or its caption has changed" in said
    assert said.count("identically") == 2


def test_a_new_learning_rate_counts_from_there_on(resumed, train, pairs, state, tmp_path):
    said = resumed("--learning_rate", "1e-30", name="still")
    assert "learning_rate was 0.01 in the saved run and is 1e-30 now" in said
    before = load_file(str(state.parent / "x.pair.safetensors"))
    after = load_file(str(tmp_path / "still" / "x.pair.safetensors"))
    assert all(torch.allclose(before[key], after[key], rtol=0, atol=1e-20) for key in before)
    resumed(name="moving")  # companion: with the saved rate the step moves them
    moved = load_file(str(tmp_path / "moving" / "x.pair.safetensors"))
    assert any(not torch.equal(before[key], moved[key]) for key in before)


def test_the_style_begins_where_it_was_meant_to(train, pairs, options):
    """Its default is a third of the run: with more steps it would move, and the style would wait once more."""
    first = train(pairs, "--cache_latents", "--save_state", "--max_train_steps", "6")
    assert read_train_state(first / "x-state").facts["style_start_step"] == 2
    longer = ["--resume", str(first / "x-state"), "--max_train_steps", "60"]
    args = frozen(options(*longer))
    assert (style_start_of(args), seed_of(args)) == (2, 7)
    assert style_start_of(frozen(options(*longer, "--style_start_step", "9"))) == 9
    assert style_start_of(frozen(options("--max_train_steps", "60"))) is None


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "RAdamScheduleFree"])
def test_schedule_free_runs_resume_bit_for_bit(train, pairs, name):
    pytest.importorskip("schedulefree")
    argv = ["--style_start_step", "1", "--cache_latents", "--optimizer_type", name, "--save_state"]
    half = train(pairs, *argv, "--save_every_n_steps", "2", name="half")
    rest = train(pairs, *argv, "--max_train_steps", "6", "--resume", str(half / "x-state"), name="rest")
    straight = train(pairs, *argv[:-1], "--max_train_steps", "6", name="straight")
    one, other = (load_file(str(out / "x.pair.safetensors")) for out in (rest, straight))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_with_more_pairs_in_an_epoch_it_goes_on_all_the_same(resumed, pairs, tmp_path, state):
    """By the saved epoch the longer one would be over before its first step, and the files those of the saved run."""
    pairs["datasets"][0]["subsets"][0]["num_repeats"] = 20
    said = resumed("--save_every_n_steps", "1", name="more")
    assert "num_repeats was" in said
    assert read_train_state(tmp_path / "more" / "x-state").current_step == 5
    before, after = (load_file(str(out / "x.pair.safetensors")) for out in (state.parent, tmp_path / "more"))
    assert any(not torch.equal(before[key], after[key]) for key in before)
    pairs["datasets"][0]["subsets"][0]["num_repeats"] = 1  # and with fewer
    resumed(folder=tmp_path / "more" / "x-state", steps="7", name="fewer")
    assert read_train_state(tmp_path / "fewer" / "x-state").current_step == 7


class Evil:
    def __reduce__(self):
        return (print, ("run!",))


def spoil(state, name):
    """Damages one file of a state in the named way."""
    file, _, how = name.partition(" ")
    path = state / file
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    elif how == "code":
        path.write_bytes(pickle.dumps(Evil()))
    elif how == "tensor":
        torch.save(torch.ones(3), path)
    elif how == "other":
        torch.save({"state": torch.ones(3), "param_groups": [torch.ones(1)]}, path)
    elif how == "gone":
        path.unlink()
    elif how == "nan":
        tensors = load_file(str(path))
        tensors[next(key for key in tensors if tensors[key].is_floating_point())].fill_(float("nan"))
        save_file(tensors, str(path))
    else:
        key, _, value = how.partition("=")
        path.write_text(json.dumps({**json.loads(path.read_text()), key: json.loads(value)}))


FILES = ("random_states_0.pkl", "optimizer.bin", "scheduler.bin", "model.safetensors")
DAMAGES = [f"{file} {how}" for file in FILES for how in ("cut", "noise")]
DAMAGES += [f"{file} {how}" for file in FILES[:3] for how in ("code", "tensor", "other")]
DAMAGES += ["optimizer.bin gone", "model.safetensors gone", "model.safetensors nan"]
DAMAGES += [
    f"train_state.json {field}"
    for field in ("current_step=-1", "current_step=1e400", 'current_epoch="1"', "current_epoch=0", "seed=null",
                  "batches_per_epoch=0.5", "num_processes=-2", "facts=[]", "epoch_finished=3", "unknown=1")
]  # fmt: skip
DAMAGES += [
    "train_state.json cut",
    "pair_state.json cut",
    "pair_state.json pair_step=-3",
    "pair_state.json pair_step=[1]",
]


def test_a_damaged_state_is_one_line_that_names_it(resumed, state, tmp_path, capfd):
    whole = shutil.copytree(state, tmp_path / "whole")
    for number, damage in enumerate(DAMAGES):
        folder = shutil.copytree(whole, tmp_path / f"{number}-state")
        spoil(folder, damage)
        with pytest.raises(PairError) as refused:
            resumed(folder=folder, name=f"out{number}")
        words = str(refused.value)
        assert f"{number}-state" in words and "\n" not in words, f"{damage}: {words}"
        assert "weights_only" not in words and "run!" not in capfd.readouterr().out, f"{damage}: {words}"


def test_every_option_is_compared_or_changes_nothing_that_is_learned(options):
    names = set(vars(options()))
    said = {"pretrained_model_name_or_path", "network_dim", "network_alpha", "network_args", "network_dropout"}
    said |= {"train_batch_size", "dataset_repeats", "dataset_config", "content", "style", "content_prompt"}
    said |= {"style_prompt", "caption_extension", "caption_prefix", "caption_suffix", "max_train_epochs"}
    said |= {
        "network_train_unet_only",
        "network_train_text_encoder_only",
        "dim_from_weights",
        "network_weights",
        "v2",
        "model_type",
    }
    said |= {"model_config", "fit", "background", "made_pairs"}
    free = {"config_file", "resume", "sdpa", "xformers", "gradient_checkpointing", "vae_batch_size", "unchecked"}
    free |= {"cache_latents_to_disk", "cache_text_encoder_outputs_to_disk"}  # where a cache lies
    prefixes = ("save_", "sample_", "log", "output_", "metadata_", "no_metadata", "training_comment", "wandb_")
    unknown = {name for name in names - set(resume.VERDICTS) - said - free if not name.startswith(prefixes)}
    assert not unknown, "a new option belongs into resume.RULES, or into what cannot change the result"
    settings = names | {"model", "network", "pairs", "batch_size", "num_repeats", "batches_per_epoch", "num_processes"}
    assert set(resume.VERDICTS) <= settings


def test_the_docs_have_the_table():
    assert resume.table() in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
