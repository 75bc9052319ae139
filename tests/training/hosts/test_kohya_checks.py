"""Settings that kohya's trainers meet with a traceback: one line each, before a model is read."""

import logging
from types import SimpleNamespace

import pytest
import torch

from pair_network import PairError
from pair_network.training.hosts.kohya_checks import check_optimizer, check_resolution, check_run, telling
from pair_network.training.trainer import check_parts

PLAIN = {
    "network_weights": None, "base_weights": None, "resume": None, "resume_from_huggingface": False,
    "network_dim": 4, "network_alpha": 4.0, "network_dropout": None, "network_args": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network_args": ["targets"]}, "--network_args: 'targets' is not KEY=VALUE"),
        ({"network_args": ["targts=full"]}, r"unknown key 'targts' \(did you mean targets\?\)"),
        ({"network_args": ["use_dora=True"]}, "use_dora: DoRA"),
        ({"network_alpha": -1.0}, "network_alpha=-1.0 is not usable"),
        ({"network_dim": 0}, "network_dim=0 is not usable"),
        ({"resume": "nowhere"}, "--resume nowhere: no such folder; name one that ends in -state, or auto"),
        ({"network_weights": "no.safetensors"}, r"--network_weights no\.safetensors: no such file"),
        ({"base_weights": ["no.safetensors"]}, r"--base_weights no\.safetensors: no such file"),
        ({"flash3": True}, "--flash3: needs the package flash_attn_interface"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_the_remedy(options, words):
    with pytest.raises(PairError, match=words) as caught:
        check_run(SimpleNamespace(**PLAIN | options))
    assert "\n" not in str(caught.value)


def test_what_can_work_passes(tmp_path):
    (tmp_path / "optimizer.bin").write_bytes(b"")
    check_run(SimpleNamespace(**PLAIN | {"network_args": ["targets=full"], "resume": str(tmp_path)}))
    check_run(SimpleNamespace(**PLAIN | {"resume": "someone/state", "resume_from_huggingface": True}))
    assert check_resolution("512,768") == [512, 768] and check_resolution(512) == [512]


@pytest.mark.parametrize("text", ["many", "1,2,3", "0", "-64", "", None])
def test_a_resolution_is_one_or_two_sizes(text):
    with pytest.raises(PairError, match="--resolution"):
        check_resolution(text)


def test_a_file_that_the_trainer_cannot_do_without_is_asked_for():
    with pytest.raises(PairError, match=r"--ae is missing: name the \.safetensors file"):
        check_run(SimpleNamespace(**PLAIN, ae=None), needed=("ae",))


class Trainer:
    def load_target_model(self, failure):
        raise failure


@pytest.mark.parametrize(
    "failure", [KeyError("conv.weight"), AssertionError(), OSError("no\nconfig"), Exception("odd")]
)
def test_what_a_trainer_says_of_a_file_is_one_line_with_the_options(failure):
    told = telling(Trainer, {"load_target_model": ("--ae, --clip_l", "check them"), "load_unet_lazily": ("", "")})
    with pytest.raises(PairError, match=r"^--ae, --clip_l: .+; check them$") as caught:
        told().load_target_model(failure)
    assert "\n" not in str(caught.value) and not hasattr(told, "load_unet_lazily")


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("CUDA out of memory"), PairError("as it is")])
def test_too_little_memory_stays_what_it_is(failure):
    with pytest.raises(type(failure)) as caught:
        telling(Trainer, {"load_target_model": ("x", "y")})().load_target_model(failure)
    assert caught.value is failure


def adamw(args, groups):
    logging.getLogger().error("as kohya reports it")
    args.lr_scheduler = "changed"  # as kohya does for AdaFactor
    return "", "", getattr(torch.optim, args.optimizer_type)(groups, **args.own)


def constant(args, optimizer, processes):
    assert args.lr_scheduler == "changed" and processes == 1
    return torch.optim.lr_scheduler.ConstantLR(optimizer)


def linear(args, optimizer, processes):
    raise ValueError("linear requires\nnum_warmup_steps")


@pytest.mark.parametrize(
    ("name", "own", "schedule", "words"),
    [
        ("AdamX", {}, constant, r"--optimizer_type AdamX: .* no attribute 'AdamX'; correct it or --optimizer_args"),
        ("AdamW", {"bogus": 3}, constant, "--optimizer_type AdamW: .* unexpected keyword argument 'bogus'"),
        ("AdamW", {}, linear, "--lr_scheduler linear: linear requires num_warmup_steps; correct it"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_told_before_the_model_is_read(caplog, name, own, schedule, words):
    args = SimpleNamespace(optimizer_type=name, learning_rate=1e-4, lr_scheduler="linear", own=own)
    with pytest.raises(PairError, match=words):
        check_optimizer(args, adamw, schedule)
    args = SimpleNamespace(optimizer_type="AdamW", learning_rate=1e-4, lr_scheduler="linear", own={})
    check_optimizer(args, adamw, constant)
    assert args.lr_scheduler == "linear" and not caplog.records


def test_the_denoiser_alone_contradicts_a_text_encoder_among_the_targets():
    args = SimpleNamespace(network_args=["targets=attention+text_encoder"], dim_from_weights=False, network_weights="")
    check_parts(False, args)
    with pytest.raises(PairError, match="--network_train_unet_only leaves out the text encoder"):
        check_parts(True, args)
