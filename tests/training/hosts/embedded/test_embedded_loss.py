"""Losses and weights against numbers worked by hand, optimizers and schedules by kohya's names."""

import sys

import pytest
import torch
from torch import nn

from pair_network.errors import PairError
from pair_network.training.hosts.embedded import optimizers
from pair_network.training.hosts.embedded.config import frozen
from pair_network.training.hosts.embedded.loss import draw_noise, draw_timesteps, min_snr_weight, row_loss
from pair_network.training.hosts.embedded.model import make_noise_scheduler, read_model_facts


@pytest.fixture
def scheduler(model, options):
    return make_noise_scheduler(read_model_facts(model), options(), torch.device("cpu"))


def test_row_losses_are_means_over_each_row(options, scheduler):
    # row 0 differs by 1 everywhere, row 1 by 3: squares 1 and 9, magnitudes 1 and 3
    pred, target = torch.zeros(2, 4, 2, 2), torch.ones(2, 4, 2, 2)
    target[1] = 3
    timesteps = torch.tensor([5, 900])
    assert row_loss(options(), pred, target, timesteps, scheduler).tolist() == [1, 9]
    assert row_loss(options("--loss_type", "l1"), pred, target, timesteps, scheduler).tolist() == [1, 3]


def test_pseudo_huber_worked_by_hand(options, scheduler):
    # c = 0.75, error 1: sqrt(1 + 0.5625) = 1.25, minus c = 0.5; times 2: 1.0; huber multiplies by c: 0.75
    pred, target, timesteps = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([3])
    constant = ["--huber_schedule", "constant", "--huber_c", "0.75"]
    for kind, value in (("smooth_l1", 1.0), ("huber", 0.75)):
        args = options("--loss_type", kind, *constant)
        assert row_loss(args, pred, target, timesteps, scheduler).item() == pytest.approx(value)


def test_min_snr_weights_worked_by_hand():
    # snr 10, 5, 0 and gamma 5: ε: min(1, 5/snr) = .5, 1, 1; v: min(snr, 5)/(snr + 1) = 5/11, 5/6, 0
    snr, timesteps = torch.tensor([10.0, 5.0, 0.0]), torch.tensor([0, 1, 2])
    assert min_snr_weight(timesteps, snr, 5.0, False).tolist() == [0.5, 1, 1]
    torch.testing.assert_close(min_snr_weight(timesteps, snr, 5.0, True), torch.tensor([5 / 11, 5 / 6, 0]))


def test_schedule_follows_the_models_own_config(model, v_model, options):
    plain = make_noise_scheduler(read_model_facts(model), options(), torch.device("cpu"))
    facts = read_model_facts(v_model)
    assert facts.prediction_type == "v_prediction" and facts.zero_terminal_snr
    assert plain.all_snr[-1] > 0 and plain.config.prediction_type == "epsilon"
    args = options("--zero_terminal_snr", "--v_parameterization")
    zero = make_noise_scheduler(facts, args, torch.device("cpu"))
    assert zero.all_snr[-1] == 0 and zero.config.prediction_type == "v_prediction"


def test_timesteps_stay_in_their_range_and_reach_its_ends(options):
    args = options("--min_timestep", "3", "--max_timestep", "6")
    drawn = draw_timesteps(args, 1000, 500, torch.device("cpu"))
    assert set(drawn.tolist()) == {3, 4, 5}
    assert draw_timesteps(options(), 1000, 20000, torch.device("cpu")).max() == 999


def test_noise_offset_shifts_whole_channels(options):
    latents = torch.zeros(2, 4, 64, 64)
    means = draw_noise(options("--noise_offset", "10"), latents).mean(dim=(2, 3))
    assert means.abs().min() > 0.05 and means.std() > 3
    assert draw_noise(options(), latents).mean(dim=(2, 3)).abs().max() < 0.1


# --- optimizers ------------------------------------------------------------------------------------------------------


def groups():
    return [{"params": [nn.Parameter(torch.ones(4, 3))], "lr": 1e-3}]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "AdamW"),
        ("adamw", "AdamW"),
        ("SGDNesterov", "SGD"),
        ("AdaFactor", "Adafactor"),
        ("lion", "Lion"),
        ("Prodigy", "Prodigy"),
        ("AdamWScheduleFree", "AdamWScheduleFree"),
        ("radamschedulefree", "RAdamScheduleFree"),
        ("Adagrad", "Adagrad"),  # torch.optim's own name
        ("torch.optim.RMSprop", "RMSprop"),
    ],
)
def test_optimizers_by_name_take_a_step(options, name, kind):
    package = optimizers.OPTIMIZERS.get(name.lower(), ("torch",))[0].split(".")[0]
    pytest.importorskip(package)
    parameter = nn.Parameter(torch.ones(4, 3))
    params = [{"params": [parameter]}]
    full_name, _, optimizer = optimizers.get_optimizer(
        options("--optimizer_type", name, "--learning_rate", "1"), params
    )
    assert type(optimizer).__name__ == kind and full_name.endswith(kind)
    for _ in range(50):  # RAdam and Prodigy begin with steps too small to see
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert (parameter < 1).all(), "the gradient is positive, so the weights must fall"


def test_optimizer_arguments_are_python_values(options):
    args = options("--optimizer_args", "weight_decay=0.25", "betas=0.8,0.9")
    _, text, optimizer = optimizers.get_optimizer(args, groups())
    assert optimizer.defaults["weight_decay"] == 0.25 and optimizer.defaults["betas"] == (0.8, 0.9)
    assert text == "weight_decay=0.25,betas=(0.8, 0.9)"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--optimizer_type", "AdamX"], ["AdamX"]),
        (["--optimizer_type", "prodgy"], ["did you mean prodigy?"]),
        (["--optimizer_type", "no_such_package.Opt"], ["there is no module no_such_package"]),
        (["--optimizer_args", "eps=1e999"], ["'eps=1e999'", "finite"]),
        (["--optimizer_args", "weight_decay"], ["'weight_decay'", "KEY=VALUE"]),
        (["--optimizer_args", "weight_decay=a b"], ["KEY=VALUE"]),
        (["--optimizer_args", "weight_dekay=1"], ["AdamW", "weight_dekay"]),
    ],
)
def test_optimizer_mistakes_are_named(options, argv, words):
    with pytest.raises(PairError) as mistake:
        optimizers.get_optimizer(options(*argv), groups())
    assert all(word in str(mistake.value) for word in words), mistake.value
    assert "pip install" not in str(mistake.value)  # only for packages that are known here


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("Lion", "lion_pytorch", "lion-pytorch"), ("AdamW8bit", "bitsandbytes.optim", "bitsandbytes")],
)
def test_a_missing_extra_names_the_package_to_install(options, monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself does for a module that is not there
    with pytest.raises(PairError, match=f"pip install {package}"):
        optimizers.get_optimizer(options("--optimizer_type", name), groups())


def rates(options, *argv, processes=1, steps=10):
    args = options("--max_train_steps", str(steps), "--learning_rate", "1", *argv)
    _, _, optimizer = optimizers.get_optimizer(args, [{"params": groups()[0]["params"], "lr": 1.0}])
    scheduler = optimizers.get_lr_scheduler(args, optimizer, processes)
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        for _ in range(processes):  # accelerate steps a schedule once for each process
            optimizer.step()
            scheduler.step()
    return [round(rate, 6) for rate in seen], round(scheduler.get_last_lr()[0], 6)


@pytest.mark.parametrize("processes", [1, 3])
def test_schedules_by_name(options, processes):
    # with several processes the warm-up and the end must fall on the same optimizer steps as with one
    def run(*argv):
        return rates(options, *argv, processes=processes)

    assert run()[0] == [1] * 10
    warm = run("--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", "4")[0]
    assert warm == [0, 0.25, 0.5, 0.75] + [1] * 6
    assert run("--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", "0.4")[0] == warm
    linear, end = run("--lr_scheduler", "linear")
    assert linear == [round(1 - i / 10, 6) for i in range(10)] and end == 0
    cosine, end = run("--lr_scheduler", "cosine")
    assert cosine[5] == 0.5 and end == 0
    restarts, _ = run("--lr_scheduler", "cosine_with_restarts", "--lr_scheduler_num_cycles", "2")
    assert restarts[0] == restarts[5] == 1
    polynomial, _ = run("--lr_scheduler", "polynomial", "--lr_scheduler_power", "2")
    assert polynomial[5] == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--lr_warmup_steps", "3"], "constant_with_warmup"),
        (["--lr_scheduler", "cosine", "--lr_warmup_steps", "10"], "leaves nothing"),
        (["--lr_scheduler", "adafactor"], "AdaFactor alone"),
        (["--optimizer_type", "AdamWScheduleFree", "--lr_scheduler", "cosine"], "has no schedule"),
    ],
)
def test_schedule_mistakes_are_named(options, argv, words):
    if "AdamWScheduleFree" in argv:
        pytest.importorskip("schedulefree")
    with pytest.raises(PairError, match=words):
        rates(options, *argv)


def test_adafactor_brings_its_own_schedule(options):
    args = optimizers.with_own_schedule(frozen(options("--optimizer_type", "AdaFactor", "--learning_rate", "1e-3")))
    _, _, optimizer = optimizers.get_optimizer(args, groups())
    assert optimizer.param_groups[0]["lr"] is None
    assert type(optimizers.get_lr_scheduler(args, optimizer, 1)).__name__ == "AdafactorSchedule"
