"""The coupled layer against plain autograd, peft and the merged weight, in float64."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from pair_network import PairError
from pair_network.network.config import PairConfig
from pair_network.network.layer import CoupledLayer
from pair_network.network.route import BASE_ROW, Routing, Row, content_rows, style_rows

LAYERS = {
    "linear": (lambda: nn.Linear(10, 7), (4, 5, 10)),
    "linear_2d": (lambda: nn.Linear(10, 7), (4, 10)),
    "conv1x1": (lambda: nn.Conv2d(10, 7, 1), (4, 10, 5, 3)),
    "conv3x3": (lambda: nn.Conv2d(3, 7, 3, padding=1), (4, 3, 5, 6)),
    "conv_strided": (lambda: nn.Conv2d(3, 7, 3, stride=2, padding=1, dilation=1), (4, 3, 8, 6)),
    "conv_same": (lambda: nn.Conv2d(3, 7, (3, 5), padding="same"), (4, 3, 8, 6)),
}


def coupled(base, config=None, routing=None, seed=1):
    """An attached layer in float64 with perturbed ups."""
    config = config or PairConfig(rank=3, alpha=2.0, content_rank=2, content_alpha=5.0, num_pairs=2)
    layer = CoupledLayer("layer", base, config, routing or Routing(), config.rank, config.content_rank).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (layer.content_up, layer.style_up):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    layer.attach()
    return layer


def reference(layer, x, rows):
    """Row by row with plain autograd: W x + content + style, content factors detached on shielded rows."""
    content_down, style_down = layer.downs()
    outputs = []
    for row, one in zip(rows, x, strict=True):
        weight = layer.base.weight
        if row.pair is not None:
            up, down = layer.content_up[row.pair], content_down
            if row.shielded:
                up, down = up.detach(), down.detach()
            weight = weight + layer.content_scale * (up @ down.flatten(1)).view_as(weight)
        if row.style:
            weight = weight + row.style * layer.style_scale * (layer.style_up @ style_down.flatten(1)).view_as(weight)
        base = layer.base
        if isinstance(base, nn.Conv2d):
            conv = nn.functional.conv2d(one[None], weight, base.bias, base.stride, base.padding, base.dilation)
            outputs.append(conv[0])
        else:
            outputs.append(nn.functional.linear(one, weight, base.bias))
    return torch.stack(outputs)


ROUTES = {
    "joint_one_pair": content_rows([1, 1]) + style_rows([1, 1]),
    "joint_two_pairs": content_rows([0, 1]) + style_rows([0, 1]),
    "interleaved": [*style_rows([1]), *content_rows([0]), *style_rows([0]), *content_rows([1])],
    "content_only": content_rows([0, 1, 0, 0]),
    "style_over_shielded": style_rows([0, 1, 1, 0]),
    "inference": [BASE_ROW, BASE_ROW, Row(style=0.7), Row(style=-1.5)],
    "mixed_with_base": [BASE_ROW, *content_rows([1]), BASE_ROW, *style_rows([0])],
    "base": [BASE_ROW] * 4,
}


@pytest.mark.parametrize("orthogonality", ["frozen", "penalty"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", LAYERS)
def test_output_and_every_gradient_equal_plain_autograd(kind, route, orthogonality):
    """Fails if a branch reaches a wrong row, a scale is off, or a shielded factor gets a gradient."""
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    config = PairConfig(rank=3, alpha=2.0, content_rank=2, content_alpha=5.0, num_pairs=2, orthogonality=orthogonality)
    layer = coupled(make().double(), config)
    layer.base.requires_grad_(False)
    rows = ROUTES[route]
    layer.routing.set(rows)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, dtype=torch.float64)

    def gradients(output):
        loss = (output.square().flatten(1).sum(1) * weights).sum()
        wanted = [x, *layer.parameters()]
        if not loss.requires_grad:
            return [torch.zeros_like(p) for p in wanted]
        got = torch.autograd.grad(loss, wanted, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, got, strict=True)]

    ours, plain = layer.base(x), reference(layer, x, rows)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    with torch.no_grad():  # changes the base layer's output in place
        torch.testing.assert_close(layer.base(x), plain, rtol=0, atol=1e-12)
    for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_style_rows_leave_exactly_zero_on_content_ups_and_an_unshielded_row_does_not():
    torch.manual_seed(0)
    layer = coupled(nn.Linear(10, 7).double())
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    for shielded, expect_zero in (
        (True, True),
        (False, False),
    ):  # the second case shows the check can fail
        layer.routing.set([Row(pair=0, style=1.0, shielded=shielded)] * 2)
        layer.content_up.grad = None
        layer.base(x).square().sum().backward()
        assert (layer.content_up.grad.abs().max() == 0) == expect_zero


def two_layers(orthogonality="frozen"):
    torch.manual_seed(0)
    config = PairConfig(rank=3, alpha=3.0, content_rank=2, content_alpha=2.0, orthogonality=orthogonality)
    bases = [nn.Linear(8, 8).double(), nn.Linear(8, 8).double()]
    for base in bases:
        base.requires_grad_(False)
    routing = Routing()
    return bases, [coupled(base, config, routing, seed=i) for i, base in enumerate(bases)], routing


@pytest.mark.parametrize("orthogonality", ["frozen", "none"])
def test_style_loss_flows_through_a_shielded_branch_to_the_earlier_layer(orthogonality):
    """The later layer's content branch is part of the path: cutting it changes the earlier style gradient."""
    bases, layers, routing = two_layers(orthogonality)
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    rows = style_rows([0, 0])
    routing.set(rows)
    bases[1](torch.tanh(bases[0](x))).square().sum().backward()
    ours = layers[0].style_up.grad.clone()
    assert layers[0].content_up.grad.abs().max() == 0 and layers[1].content_up.grad.abs().max() == 0

    plain = _earlier_style_gradient(layers, x, rows, later_rows=rows)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    without_later_content = _earlier_style_gradient(layers, x, rows, later_rows=[Row(style=1.0)] * 2)
    assert (without_later_content - plain).abs().max() > 1e-3


def _earlier_style_gradient(layers, x, rows, later_rows):
    """Gradient of the loss on the first layer's style up by plain autograd with detach."""
    hidden = torch.tanh(reference(layers[0], x, rows))
    return torch.autograd.grad(reference(layers[1], hidden, later_rows).square().sum(), layers[0].style_up)[0]


def test_equals_two_peft_adapters_and_the_merged_weight():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(10, 7)).double()
    layer = coupled(copy.deepcopy(base)[0], PairConfig(rank=3, alpha=2.0, content_rank=2, content_alpha=5.0))
    config = {
        "content": LoraConfig(r=2, lora_alpha=5, target_modules=["0"]),
        "style": LoraConfig(r=3, lora_alpha=2, target_modules=["0"]),
    }
    model = get_peft_model(copy.deepcopy(base), config["content"], adapter_name="content")
    model.add_adapter("style", config["style"])
    model.base_model.set_adapter(["content", "style"])
    model = model.double()
    lora = model.base_model.model[0]
    content_down, style_down = layer.downs()
    with torch.no_grad():
        for name, down, up in (("content", content_down, layer.content_up[0]), ("style", style_down, layer.style_up)):
            lora.lora_A[name].weight.copy_(down)
            lora.lora_B[name].weight.copy_(up)
    x = torch.randn(3, 5, 10, dtype=torch.float64)
    layer.routing.set([Row(pair=0, style=1.0)] * 3)
    torch.testing.assert_close(layer.base(x), model(x), rtol=0, atol=1e-12)

    merged = layer.base.weight + layer.style_scale * layer.style_up @ style_down
    layer.routing.set(None)  # no route: a plain style LoRA
    torch.testing.assert_close(layer.base(x), nn.functional.linear(x, merged, layer.base.bias), rtol=0, atol=1e-12)
    assert not torch.allclose(layer.base(x), model(x), atol=1e-3)  # the content branch is what differs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_base_rows_keep_their_bits(dtype):
    torch.manual_seed(0)
    base = nn.Linear(64, 48).to(dtype)
    x = torch.randn(5, 9, 64).to(dtype)
    x[0] *= 1000
    before = base(x)
    layer = coupled(base).to(dtype)
    layer.routing.set([BASE_ROW, Row(style=2.0), BASE_ROW, Row(pair=0), BASE_ROW])
    after = base(x)
    bits = {torch.float32: torch.int32}.get(dtype, torch.int16)
    for row in (0, 2, 4):
        assert torch.equal(after[row].view(bits), before[row].view(bits))
    for row in (1, 3):
        assert not torch.equal(after[row], before[row])
    layer.routing.set([BASE_ROW] * 3 + [Row(style=2.0)] * 2)
    with torch.no_grad():
        after = base(x)
    assert torch.equal(after[:3].view(bits), before[:3].view(bits)) and not torch.equal(after[3:], before[3:])


def test_multiplier_zero_and_detaching_leave_the_base_bit_for_bit():
    torch.manual_seed(0)
    base = nn.Linear(10, 7).double()
    x = torch.randn(2, 10, dtype=torch.float64)
    plain = base(x)
    layer = coupled(base)
    layer.routing.set_multiplier(0)
    assert torch.equal(base(x), plain)
    layer.routing.set_multiplier(0.5)
    assert not torch.equal(base(x), plain)
    layer.detach_from_base()
    assert torch.equal(base(x), plain) and not base._forward_hooks


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_with_checkpointing_in_the_hosts_order(reentrant):
    """Backward runs after the batch function returned, and recomputes the forward under the route that stayed set."""
    gradients = []
    for mode in (None, reentrant):
        bases, layers, routing = two_layers()
        x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
        gradients.append(_host_step(bases, layers, routing, x, mode))
    for on, off in zip(*gradients, strict=True):
        assert torch.equal(on, off)
    assert gradients[0][1].abs().max() > 0

    bases, layers, routing = two_layers()
    x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    forgotten = _host_step(bases, layers, routing, x, reentrant, forget_route=True)
    assert not torch.equal(forgotten[1], gradients[0][1])


def _host_step(bases, layers, routing, x, reentrant, forget_route=False):
    def process_batch():
        routing.set(content_rows([0, 0]) + style_rows([0, 0]))

        def block(value):
            return bases[1](torch.tanh(bases[0](value)))

        output = block(x) if reentrant is None else checkpoint(block, x, use_reentrant=reentrant)
        return output.square().mean()

    loss = process_batch()
    if forget_route:
        routing.set(content_rows([0, 0]) + [Row(pair=0, style=0.5)] * 2)
    loss.backward()
    return [parameter.grad for layer in layers for parameter in layer.parameters()]


def test_text_encoder_chunks_repeat_the_route():
    """Two captions of three chunks: rows 0-2 belong to the first caption, 3-5 to the second."""
    torch.manual_seed(0)
    base = nn.Linear(10, 7).double()
    plain = copy.deepcopy(base)
    layer = coupled(base)
    layer.routing.set([BASE_ROW, Row(style=1.0)])
    x = torch.randn(6, 4, 10, dtype=torch.float64)
    changed = (base(x) - plain(x)).flatten(1).abs().amax(1) > 0
    assert changed.tolist() == [False] * 3 + [True] * 3
    with pytest.raises(RuntimeError, match=r"5 rows.*2"):
        base(x[:5])


def test_dropout_acts_while_training_only_and_checkpointing_repeats_it():
    torch.manual_seed(0)
    config = PairConfig(rank=4, alpha=4.0, content_rank=4, content_alpha=4.0, dropout=0.3, rank_dropout=0.3)
    layer = coupled(nn.Linear(16, 7).double(), config)
    layer.base.requires_grad_(False)
    layer.routing.set(content_rows([0]) + style_rows([0]))
    x = torch.randn(2, 50, 16, dtype=torch.float64, requires_grad=True)
    assert not torch.equal(layer.base(x), layer.base(x))
    torch.manual_seed(3)
    layer.base(x).square().sum().backward()
    straight, layer.style_up.grad = layer.style_up.grad, None
    torch.manual_seed(3)
    checkpoint(layer.base, x, use_reentrant=False).square().sum().backward()
    assert torch.equal(straight, layer.style_up.grad)
    layer.eval()
    assert torch.equal(layer.base(x), layer.base(x))


def test_dropout_keeps_the_mean():
    """A missing 1 / (1 − p) would shift the mean by 30 %, far outside the tolerance."""
    torch.manual_seed(0)
    for settings in ({"dropout": 0.3}, {"rank_dropout": 0.3}):
        config = PairConfig(rank=4, alpha=4.0, content_rank=4, content_alpha=4.0, **settings)
        layer = coupled(nn.Linear(16, 7, bias=False).double(), config)
        x = torch.randn(1, 16, dtype=torch.float64).expand(20000, -1)
        expected = layer.eval().base(x[:1]) - nn.functional.linear(x[:1], layer.base.weight)
        mean = (layer.train().base(x) - nn.functional.linear(x, layer.base.weight)).mean(0)
        torch.testing.assert_close(mean, expected[0], rtol=0, atol=0.05 * float(expected.detach().abs().max()))


def test_module_dropout_skips_whole_steps():
    torch.manual_seed(0)
    layer = coupled(nn.Linear(16, 7).double(), PairConfig(rank=4, content_rank=4, module_dropout=0.5))
    x = torch.randn(1, 16, dtype=torch.float64)
    plain = nn.functional.linear(x, layer.base.weight, layer.base.bias)
    skipped = sum(torch.equal(layer.base(x), plain) for _ in range(200))
    assert 60 < skipped < 140
    assert not torch.equal(layer.eval().base(x), plain)


def test_autocast_keeps_float32_gradients():
    torch.manual_seed(0)
    base = nn.Linear(16, 7)
    layer = coupled(base).float()
    layer.routing.set(content_rows([0]) + style_rows([0]))
    with torch.autocast("cpu", torch.bfloat16):
        output = base(torch.randn(2, 3, 16))
        assert output.dtype == torch.bfloat16
        loss = output.float().square().mean()
    loss.backward()
    assert layer.style_up.grad.dtype == torch.float32 and layer.style_up.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), "my_layer: a grouped convolution"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "my_layer: padding mode 'reflect'"),
        (nn.LayerNorm(8), "my_layer: only Linear and Conv2d"),
        (nn.Linear(4, 8), "my_layer: 5 orthogonal rows .* do not fit an input of width 4"),
    ],
)
def test_layers_that_cannot_be_coupled_are_refused_by_name(base, message):
    with pytest.raises(PairError, match=message):
        CoupledLayer("my_layer", base, PairConfig(rank=3, content_rank=2), Routing(), 3, 2)
