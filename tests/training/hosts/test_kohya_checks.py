"""Settings that kohya's trainers meet with a traceback: one line each, before a model is read."""

import logging
from types import SimpleNamespace

import pytest
import torch

from pair_network import PairError
from pair_network.training.hosts.kohya_checks import check_optimizer, check_resolution, check_run
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
        ({"network_weights": "no.safetensors"}, r"no\.safetensors: no such file; --network_weights and --base_weights"),
        ({"base_weights": ["no.safetensors"]}, r"no\.safetensors: no such file"),
        ({"flash3": True}, "--flash3: needs the package flash_attn_interface"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_the_remedy(options, words):
    with pytest.raises(PairError, match=words) as caught:
        check_run(SimpleNamespace(**PLAIN | options))
    assert "\n" not in str(caught.value)


def test_what_can_work_passes(tmp_path):
    check_run(SimpleNamespace(**PLAIN | {"network_args": ["targets=full"], "resume": str(tmp_path)}))
    check_run(SimpleNamespace(**PLAIN | {"resume": "someone/state", "resume_from_huggingface": True}))
    assert check_resolution("512,768") == [512, 768] and check_resolution(512) == [512]


@pytest.mark.parametrize("text", ["many", "1,2,3", "0", "-64", "", None])
def test_a_resolution_is_one_or_two_sizes(text):
    with pytest.raises(PairError, match="--resolution"):
        check_resolution(text)


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
