"""Whole runs on a tiny model: what they write, how they resume, and what may not change their numbers."""

import json
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pair_network import leftovers
from pair_network.errors import PairError
from pair_network.training.hosts.embedded.optimizers import OPTIMIZERS
from pair_network.training.hosts.embedded.state import read_train_state
from pair_network.training.one_command import newest_state


def weights(path):
    loaded = load_file(str(path))
    assert loaded
    return loaded


def assert_same(a, b, **tolerance):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], **(tolerance or {"rtol": 0, "atol": 0}), msg=key)


def differs(a, b):
    first, second = weights(a), weights(b)
    return any(not torch.equal(first[key], second[key]) for key in first)


PAIR, STYLE = "x.pair.safetensors", "x.safetensors"


@pytest.mark.parametrize(
    "argv",
    [
        # 6 batches in an epoch, accumulation 4: steps of 4 and 2 batches; the state at step 3 is in mid-epoch
        ["--gradient_accumulation_steps", "4", "--cache_latents"],
        # latents drawn from the VAE at every step, mirrored or not, captions shuffled; a schedule
        ["--flip_aug", "--shuffle_caption", "--lr_scheduler", "cosine", "--lr_warmup_steps", "1"],
        ["--optimizer_type", "Prodigy", "--learning_rate", "1", "--cache_latents"],
        ["--optimizer_type", "AdamWScheduleFree", "--cache_latents"],
        ["--optimizer_type", "Lion", "--learning_rate", "1e-3", "--network_dropout", "0.2", "--cache_latents"],
    ],
    ids=["accumulation", "augmented", "prodigy", "schedule-free", "lion-dropout"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(train, pairs, argv):
    if "--optimizer_type" in argv:
        name = argv[argv.index("--optimizer_type") + 1]
        pytest.importorskip(OPTIMIZERS[name.lower()][0])
    # any state left out (optimizer, schedule, random numbers, place in the epoch) changes the last bits
    argv = [*argv, "--dataset_repeats", "2", "--style_start_step", "2", "--max_train_steps", "7"]
    every = ["--save_every_n_steps", "3", "--save_state"]
    straight = train(pairs, *argv, name="straight")
    saved = train(pairs, *argv, *every, name="saved")
    assert_same(saved / PAIR, straight / PAIR)  # saving changes nothing
    resumed = train(pairs, *argv, *every, "--resume", str(saved / "x-step00000003-state"), name="resumed")
    assert_same(resumed / PAIR, straight / PAIR)
    assert_same(resumed / "x-step00000006.pair.safetensors", saved / "x-step00000006.pair.safetensors")


@pytest.mark.parametrize("state", ["x-step00000003-state", "x-000001-state"])
def test_resuming_at_the_end_of_an_epoch_repeats_and_skips_nothing(train, pairs, state):
    # step 3 ends the first epoch: its state stands before the epoch's own save, the epoch's state after it
    argv = ["--cache_latents", "--style_start_step", "1", "--max_train_steps", "5", "--save_every_n_epochs", "1"]
    argv += ["--save_state", "--save_every_n_steps", "3"]
    straight = train(pairs, *argv, name="straight")
    resumed = train(pairs, *argv, "--resume", str(straight / state), name="resumed")
    assert_same(resumed / PAIR, straight / PAIR)
    assert (resumed / "x-000001.safetensors").exists() == ("step" in state)


def test_the_comparison_notices_another_seed(train, pairs):
    # companion of the resume test: the runs are not equal because nothing random happens in them
    argv = ["--style_start_step", "1", "--cache_latents"]
    one, other = train(pairs, *argv, name="one"), train(pairs, *argv, "--seed", "8", name="other")
    assert differs(one / PAIR, other / PAIR)


def test_resuming_adopts_the_seed_and_tells_what_changed(train, pairs, caplog):
    argv = ["--style_start_step", "1", "--cache_latents", "--save_state"]
    first = train(pairs, *argv)
    state = read_train_state(first / "x-state")
    assert (state.current_step, state.current_epoch, state.epoch_finished, state.seed) == (4, 2, False, 7)
    raw = json.loads((first / "x-state" / "train_state.json").read_text())
    assert raw["current_step"] == 4 and raw["current_epoch"] == 2  # sd-scripts' names
    with pytest.raises(PairError, match="nothing to do"):
        train(pairs, *argv, "--resume", str(first / "x-state"), name="done")
    with caplog.at_level(logging.WARNING):
        train(pairs, *argv, "--seed", "9", "--resume", str(first / "x-state"), "--max_train_steps", "5", name="more")
    assert "seed was 7" in caplog.text


def test_a_state_of_another_network_is_refused(train, pairs):
    first = train(pairs, "--style_start_step", "1", "--save_state", "--cache_latents")
    with pytest.raises(PairError, match="network: rank was 2 in the saved run and is 3 now"):
        train(
            pairs,
            *["--network_dim", "3", "--style_start_step", "1", "--cache_latents", "--max_train_steps", "5"],
            *["--resume", str(first / "x-state")],
            name="other",
        )


def test_files_and_retention(train, pairs):
    out = train(
        pairs,
        *["--max_train_steps", "9", "--save_every_n_steps", "2", "--save_last_n_steps", "3", "--save_state"],
        *["--save_every_n_epochs", "1", "--save_last_n_epochs", "1", "--cache_latents", "--style_start_step", "1"],
    )
    # steps 2, 4, 6, 8 are saved; at step 8 the last 3 steps are kept: 6 and 8 (8 - 3 - 1 = 4 goes, as 2 did at step 6)
    # 3 epochs: epochs 1 and 2 are saved, the last one as x; one epoch save is kept
    stems = ["x", "x-000002", "x-step00000006", "x-step00000008"]
    expected = {f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".pair.safetensors", "-state")}
    assert {path.name for path in out.iterdir()} == {*expected, "x-record.json", "report.html"}


def test_what_a_killed_run_left_among_its_previews_goes_though_this_run_draws_none(train, pairs, tmp_path):
    nobody = 2**22 + 1  # a process number that is never given; one that has ended may be given again
    left = tmp_path / "out" / "sample" / f".x_000005_00_0.png.{leftovers.host()}-{nobody}-aaaaaaaa.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    train(pairs, "--max_train_steps", "1")
    assert not left.exists()


def test_the_last_step_is_saved_once_and_resumed_runs_go_on_in_the_same_record(train, pairs):
    argv = ["--cache_latents", "--style_start_step", "1", "--save_every_n_steps", "2", "--save_state"]
    out = train(pairs, *argv)
    assert not (out / "x-step00000004.safetensors").exists() and (out / "x-state").is_dir()
    assert newest_state(str(out), "x") == out / "x-state"
    first = json.loads((out / "x-record.json").read_text())
    assert first["state"] == "done" and [step for step, _ in first["losses"]["content"]] == [1, 2, 3, 4]
    train(pairs, *argv, "--resume", str(out / "x-step00000002-state"), "--max_train_steps", "5")
    second = json.loads((out / "x-record.json").read_text())
    assert [step for step, _ in second["losses"]["content"]] == [1, 2, 3, 4, 5]
    assert second["losses"]["content"][:2] == first["losses"]["content"][:2]
    assert "--seed 7" in second["command"] and second["settings"]["max_train_steps"] == 5


def test_metadata_says_what_uis_look_for(train, pairs, v_model):
    out = train(
        pairs,
        *["--cache_latents", "--style_start_step", "1", "--metadata_author", "me", "--clip_skip", "2"],
        *["--save_precision", "fp16", "--min_timestep", "10", "--training_comment", "hello"],
        base=v_model,
    )
    with safe_open(str(out / STYLE), framework="pt") as file:
        metadata = file.metadata()
        # alphas stay exact in float32
        assert {file.get_tensor(key).dtype for key in file.keys() if key.endswith("weight")} == {torch.float16}  # noqa: SIM118
    assert metadata["ss_base_model_version"] == "sd_v1_v" and metadata["ss_v2"] == "False"
    assert metadata["ss_output_name"] == "x" and metadata["ss_steps"] == "4"
    assert metadata["ss_sd_model_name"] == "model" and metadata["ss_seed"] == "7"
    assert metadata["ss_zero_terminal_snr"] == "True"  # read from the model, not from the command line
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.prediction_type"] == "v" and metadata["modelspec.resolution"] == "64x64"
    assert metadata["modelspec.author"] == "me" and metadata["modelspec.timestep_range"] == "10,1000"
    assert metadata["modelspec.encoder_layer"] == "2" and metadata["modelspec.title"] == "x"
    frequency = json.loads(metadata["ss_tag_frequency"])
    assert frequency == {"style": {"a photo of a dog in digital style": 3}}
    assert json.loads(metadata["ss_dataset_dirs"]) == {"style": {"n_repeats": 1, "img_count": 3}}
    assert json.loads(metadata["ss_datasets"])[0]["resolution"] == [64, 64]


def test_no_metadata_keeps_what_loaders_need(train, pairs):
    out = train(pairs, "--cache_latents", "--style_start_step", "1", "--no_metadata", "--training_comment", "secret")
    with safe_open(str(out / STYLE), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v1" and "modelspec.architecture" in metadata
    assert "secret" not in str(metadata) and "ss_tag_frequency" not in metadata


def test_v_prediction_is_read_from_the_model(train, pairs, model, v_model, caplog):
    # the two models differ in their scheduler config alone, so equal files would mean that it was not read
    argv = ["--cache_latents", "--style_start_step", "1"]
    plain, v = train(pairs, *argv, name="plain"), train(pairs, *argv, base=v_model, name="v")
    assert differs(plain / PAIR, v / PAIR)
    with caplog.at_level(logging.WARNING):
        forced = train(pairs, *argv, "--v_parameterization", "--zero_terminal_snr", name="forced")
    assert_same(forced / PAIR, v / PAIR)
    assert "--v_parameterization wins" in caplog.text and "--zero_terminal_snr wins" in caplog.text


def test_cached_and_uncached_texts_train_alike(train, pairs):
    # a one-tag caption cannot be shuffled, so shuffling only turns the text cache off
    argv = ["--cache_latents", "--style_start_step", "1"]
    cached = train(pairs, *argv, name="cached")
    encoded = train(pairs, *argv, "--shuffle_caption", name="encoded")
    assert_same(encoded / PAIR, cached / PAIR, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", ["attention", "attention+text_encoder"])
def test_gradient_checkpointing_does_not_change_the_result(train, pairs, targets):
    argv = ["--cache_latents", "--style_start_step", "1", "--network_args", f"targets={targets}"]
    plain = train(pairs, *argv, name="plain")
    checkpointed = train(pairs, *argv, "--gradient_checkpointing", name="checkpointed")
    assert_same(checkpointed / PAIR, plain / PAIR, rtol=1e-4, atol=1e-5)
    ups = [value for key, value in weights(plain / STYLE).items() if "lora_up" in key]
    assert all(value.abs().max() > 0 for value in ups)


def test_gradient_checkpointing_asks_for_no_gradients_of_frozen_inputs(train, pairs, monkeypatch):
    """Those of the captions would pass back through the keys and values of every block, for nothing."""
    from pair_network.training.hosts.embedded.hooks import TrainerHooks

    asked = []
    call = TrainerHooks.call_unet

    def watched(self, args, accelerator, unet, latents, timesteps, conds, *rest):
        asked.extend(each.requires_grad for each in (latents, *conds))
        return call(self, args, accelerator, unet, latents, timesteps, conds, *rest)

    monkeypatch.setattr(TrainerHooks, "call_unet", watched)
    train(pairs, "--cache_latents", "--style_start_step", "1", "--max_train_steps", "2", "--gradient_checkpointing")
    assert asked and not any(asked)


@pytest.mark.parametrize("flag", ["--network_train_unet_only", "--network_train_text_encoder_only"])
def test_one_model_can_be_trained_alone(train, pairs, flag):
    argv = ["--cache_latents", "--style_start_step", "1", "--network_args", "targets=attention+text_encoder"]
    out = train(pairs, *argv, flag)
    prefix = "lora_unet" if "unet" in flag else "lora_te"
    assert all(key.startswith(prefix) for key in weights(out / STYLE))


def test_bf16_trains(train, pairs):
    out = train(pairs, "--cache_latents", "--style_start_step", "1", "--mixed_precision", "bf16")
    values = [value for key, value in weights(out / STYLE).items() if "lora_up" in key]
    assert all(value.isfinite().all() and value.abs().max() > 0 for value in values)


def test_epochs_set_the_number_of_steps(train, pairs):
    # 6 batches, accumulation 4: 2 steps per epoch
    argv = ["--dataset_repeats", "2", "--gradient_accumulation_steps", "4", "--max_train_epochs", "3"]
    out = train(pairs, *argv, "--cache_latents", "--style_start_step", "1")
    with safe_open(str(out / STYLE), framework="pt") as file:
        assert file.metadata()["ss_steps"] == "6" and file.metadata()["ss_num_epochs"] == "3"


def test_accumulation_beyond_an_epoch_is_refused(train, pairs):
    with pytest.raises(PairError, match="num_repeats"):
        train(pairs, "--gradient_accumulation_steps", "4", "--cache_latents")


def test_accumulation_equals_a_larger_batch(train, pairs, noise_by_row):
    # noise and timestep are made a function of the row, so that only the grouping of the rows differs
    argv = ["--cache_latents", "--style_start_step", "1", "--max_train_steps", "3"]
    accumulated = train(pairs, *argv, "--gradient_accumulation_steps", "3", name="accumulated")
    pairs["datasets"][0]["batch_size"] = 3
    batched = train(pairs, *argv, name="batched")
    assert_same(accumulated / PAIR, batched / PAIR, rtol=1e-3, atol=1e-5)
    pairs["datasets"][0]["batch_size"] = 2  # companion: another grouping gives other weights
    assert differs(train(pairs, *argv, name="other") / PAIR, batched / PAIR)


def test_a_smaller_last_group_weighs_as_much(train, pairs, noise_by_row, tmp_path):
    # one pair three times, in groups of 2 and 1: all rows are equal, so the mean must not depend on the group's size;
    # plain gradient descent shows it (Adam hides the scale of a gradient)
    for path in [*(tmp_path / "style").iterdir(), *(tmp_path / "content").iterdir()]:
        if path.stem != "cat":
            path.unlink()
    argv = ["--cache_latents", "--style_start_step", "1", "--optimizer_type", "SGD", "--max_grad_norm", "0"]
    argv += ["--dataset_repeats", "3", "--max_train_steps", "4"]
    plain = train(pairs, *argv, name="plain")
    grouped = train(pairs, *argv, "--gradient_accumulation_steps", "2", name="grouped")
    assert_same(grouped / PAIR, plain / PAIR, rtol=1e-4, atol=1e-8)


def test_tensorboard_gets_losses_and_rates(train, pairs, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(pairs, "--cache_latents", "--style_start_step", "1", "--logging_dir", str(tmp_path / "logs"))
    # accelerate writes the options to a file of their own, one folder further down
    (events,) = (tmp_path / "logs").glob("*/network_train/events*tfevents*")
    log = EventAccumulator(str(events))
    log.Reload()
    tags = log.Tags()["scalars"]
    assert {"loss/current", "loss/average", "loss/content", "loss/style", "lr/style unet"} <= set(tags)
    assert [event.step for event in log.Scalars("loss/average")] == [1, 2, 3, 4]


def test_base_weights_are_merged(train, pairs):
    argv = ["--cache_latents", "--style_start_step", "1"]
    base = train(pairs, *argv, name="base") / STYLE
    plain = train(pairs, *argv, name="plain")
    merged = train(pairs, *argv, "--base_weights", str(base), name="merged")
    nothing = train(pairs, *argv, "--base_weights", str(base), "--base_weights_multiplier", "0", name="nothing")
    assert differs(merged / PAIR, plain / PAIR)
    assert_same(nothing / PAIR, plain / PAIR)


def test_training_continues_from_a_coupled_file(train, pairs):
    argv = ["--cache_latents", "--style_start_step", "1", "--network_dim", "3"]
    first = train(pairs, *argv, name="first")
    argv = [*argv[:-2], "--network_weights", str(first / PAIR), "--dim_from_weights", "--learning_rate", "1e-30"]
    again = train(pairs, *argv, name="again")
    assert_same(again / PAIR, first / PAIR, rtol=1e-5, atol=1e-7)


def test_an_unknown_network_module_is_named(train, pairs):
    with pytest.raises(PairError, match="no_such_module"):
        train(pairs, "--network_module", "no_such_module", "--cache_latents")


def test_clip_skip_beyond_the_text_encoder_is_named(train, pairs):
    with pytest.raises(PairError, match="only 2 layers"):
        train(pairs, "--clip_skip", "3", "--cache_latents")
