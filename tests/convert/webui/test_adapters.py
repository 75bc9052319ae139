"""The adapters on stand-ins of the UIs' sampling, in float64: equal to the formula, and without a trace afterwards."""

import gc
import importlib
import weakref
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

NEGATIVE, LONG = "bad", "bad, noise, blurry, watermark, text, more of it"
STYLE = {"lora": "a", "words": "in ink", "scale": 1.0, "start": 0.0, "end": 1.0}


KINDS = ["a1111", "forge", "forge-neo", "reforge"]


@pytest.fixture(params=KINDS)
def ui(request, monkeypatch, tmp_path, standins):
    """A stand-in UI with its adapter loaded, and LoRAs a, b, zero and with-text in its folder."""
    folder = tmp_path / "loras"
    folder.mkdir()
    ui = standins.install(monkeypatch, folder)
    if request.param == "forge":
        standins.install_forge(monkeypatch)
    elif request.param == "forge-neo":
        standins.install_forge_neo(monkeypatch, ui, folder)
    elif request.param == "reforge":
        standins.install_reforge(monkeypatch)
    ui.kind, ui.standins, ui.folder = request.param, standins, folder
    ui.processing = importlib.import_module("pair_network_ui.processing")
    ui.adapter = importlib.import_module("pair_network_ui.detect").find_sampling()
    ui.adapter.register()
    ui.tensors = {"a": standins.lora_tensors(1), "b": standins.lora_tensors(2), "zero": standins.lora_tensors(1, 0.0)}
    ui.tensors["with-text"] = {
        **ui.tensors["a"],
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
    }
    for name, tensors in ui.tensors.items():
        save_file(tensors, folder / f"{name}.safetensors")
    ui.unet = standins.TinyUnet()
    ui.make = lambda: standins.A1111Model(ui.unet) if ui.kind == "a1111" else standins.ForgeModel(ui.unet)
    ui.shared.sd_model = ui.make()
    return ui


def sample(ui, prompts, arguments=(False,), scale=5.0, negative=NEGATIVE, between=None, **options):
    """(last x, processing object) of ``STEPS`` steps of a sampler that follows the predictions."""
    standins = ui.standins
    fields = options.pop("fields", {})
    ui.shared.sd_model = model = ui.make()
    p = standins.Processing(prompts, model, **fields)
    ui.processing.begin(p, arguments)
    session = ui.processing.session_of(p)
    if session is not None and session.failure is None:
        with session.guarded("the preparation of the styles"):
            ui.adapter.before_sampling(p, session)
    kind = standins.A1111Denoiser if ui.kind == "a1111" else standins.ForgeDenoiser
    denoiser = kind(ui, p, standins.Conds(prompts), standins.Conds([negative] * len(prompts)), scale, **options)
    x = torch.randn(len(prompts), 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for step in range(standins.STEPS):
        if between:
            between(step, denoiser)
        x = x + 0.3 * (denoiser(x, torch.full((len(prompts),), 0.9 - 0.2 * step, dtype=torch.float64)) - x)
    ui.processing.check_batch(p)
    ui.denoiser = denoiser
    ui.processing.end(p)
    return x, p


def merged(ui, name, *arguments, **options):
    """The same sampling with the LoRA in the weights."""
    own, ui.unet = ui.unet, ui.standins.TinyUnet()
    ui.standins.merge(ui.unet, ui.tensors[name])
    result = sample(ui, *arguments, **options)
    ui.unet = own
    return result


def close(found, wanted):
    return torch.allclose(found, wanted, rtol=0, atol=1e-10)


PROMPTS = [["a cat"], ["a cat", "a dog"], ["a cat :0.5 AND a dog :0.5"]]


@pytest.mark.parametrize("negative", [NEGATIVE, LONG])
@pytest.mark.parametrize("prompts", PROMPTS)
def test_at_cfg_1_and_scale_1_it_is_the_merged_model(ui, prompts, negative):
    from lib_pair_network.prompts import with_words

    found, p = sample(ui, prompts, [True, STYLE], scale=1.0, negative=negative)
    wanted, _ = merged(ui, "a", [with_words(prompt, "in ink") for prompt in prompts], scale=1.0, negative=negative)
    plain, _ = sample(ui, prompts, scale=1.0, negative=negative)
    assert close(found, wanted) and not close(found, plain), p.comments


@pytest.mark.parametrize("prompts", [*PROMPTS, ["a cat AND a dog :0.3", "one AND two"]])
def test_a_lora_without_effect_gives_the_style_prompt(ui, prompts):
    from lib_pair_network.prompts import with_words

    found, p = sample(ui, prompts, [True, {**STYLE, "lora": "zero", "scale": 5}])
    wanted, _ = sample(ui, [with_words(prompt, "in ink") for prompt in prompts])
    if ui.kind != "a1111" and len(prompts) == 2 and " AND " in prompts[0]:
        pytest.skip("Forge itself takes the last image's weights for the whole batch")
    assert close(found, wanted), p.comments


def test_styles_add(ui):
    halves = [True, {**STYLE, "scale": 0.25}, {**STYLE, "scale": 0.75}]
    assert close(sample(ui, ["a cat"], halves)[0], sample(ui, ["a cat"], [True, STYLE])[0])
    both = sample(ui, ["a cat"], [True, STYLE, {**STYLE, "lora": "b"}])[0]
    assert not close(both, sample(ui, ["a cat"], [True, STYLE])[0])


@pytest.mark.parametrize("start, end, wanted", [(0, 1, 4), (0.25, 1, 3), (0, 0.5, 2), (0.5, 0.75, 1)])
def test_interval_counts_steps_of_the_schedule(ui, start, end, wanted):
    calls = []
    handle = ui.unet.register_forward_hook(lambda *_: calls.append(1))
    sample(ui, ["a cat"], [True, {**STYLE, "start": start, "end": end}])
    styled = len(calls)
    calls.clear()
    sample(ui, ["a cat"])
    handle.remove()
    assert styled - len(calls) == wanted


def test_image_to_image_enters_the_schedule_late(ui):
    p = SimpleNamespace(init_images=[1], steps=10, denoising_strength=0.5)
    assert ui.processing.entered(p) == pytest.approx(0.4)
    fields = {"init_images": [1], "denoising_strength": 0.0}  # a quarter of the schedule is left, all 4 calls in it
    assert close(sample(ui, ["a cat"], [True, {**STYLE, "end": 0.75}], fields=fields)[0], sample(ui, ["a cat"])[0])


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("cfg_end", [0.0, 0.5, 0.75])
def test_content_cfg_ends(ui, prompts, cfg_end):
    """From there on each step is the one of CFG 1; before, the one of the whole formula."""
    general = {"cfg_end": cfg_end}
    style = {**STYLE, "scale": 1.5}
    edges = [0.0, 0.25, 0.5, 0.75]
    denoisers = {}

    def change(step, denoiser):  # the reference: the UI's own CFG scale is 1 from that step on
        denoisers[step] = denoiser.scale
        if edges[step] >= cfg_end:
            denoiser.scale = 1.0

    wanted, _ = sample(ui, prompts, [True, style], between=change)
    found, p = sample(ui, prompts, [True, style, general])
    assert close(found, wanted) and "Style guidance error" not in p.extra_generation_params
    assert p.extra_generation_params["Style guidance content CFG until"] == f"{cfg_end:g}"
    whole, _ = sample(ui, prompts, [True, style])
    assert not close(found, whole)
    assert torch.equal(sample(ui, prompts, [True, style, {"cfg_end": 1.0}])[0], whole)


def test_content_cfg_ends_without_a_style_in_the_step(ui):
    """A style that has ended already does not keep the content's CFG."""
    style = {**STYLE, "end": 0.25}

    def change(step, denoiser):
        denoiser.scale = 1.0 if step >= 2 else 5.0

    wanted, _ = sample(ui, ["a cat"], [True, style], between=change)
    assert close(sample(ui, ["a cat"], [True, style, {"cfg_end": 0.5}])[0], wanted)


def test_null_predictions_that_are_not_needed(ui):
    """Forge and its kin are asked for none once the content's CFG is 1; A1111 has made its own by then."""
    calls = []
    handle = ui.unet.register_forward_hook(lambda *_: calls.append(1))
    sample(ui, ["a cat"], [True, STYLE])
    whole = len(calls)
    calls.clear()
    sample(ui, ["a cat"], [True, STYLE, {"cfg_end": 0.5}])
    handle.remove()
    assert whole - len(calls) == (0 if ui.kind == "a1111" else 2)


def test_off_and_scale_0_change_no_bit(ui):
    plain = sample(ui, ["a cat"])[0]
    assert torch.equal(sample(ui, ["a cat"], [False, STYLE])[0], plain)
    assert torch.equal(sample(ui, ["a cat"], [True, {**STYLE, "scale": 0}])[0], plain)


@pytest.mark.parametrize(
    "style, words",
    [
        ({"lora": "with-text"}, "with-text.safetensors: has text-encoder layers"),
        ({"lora": "zera"}, "did you mean zero"),
        ({"scale": "x"}, "is not a number"),
        ({"start": 0.9, "end": 0.95}, "no step was guided"),
    ],
)
def test_failures_are_shown_and_nothing_is_guided(ui, style, words):
    found, p = sample(ui, ["a cat"], [True, {**STYLE, **style}])
    assert words in p.extra_generation_params["Style guidance error"]
    assert any("FAILED" in line and words in line for line in p.comments)
    assert torch.equal(found, sample(ui, ["a cat"])[0])


def test_a_failure_in_the_style_call_is_shown(ui, monkeypatch):
    """The UIs swallow exceptions of callbacks: only what is shown tells the user."""

    def fail(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ui.adapter, "_predict", fail)
    found, p = sample(ui, ["a cat"], [True, STYLE])
    assert "RuntimeError: out of memory" in p.extra_generation_params["Style guidance error"]
    assert torch.equal(found, sample(ui, ["a cat"])[0])
    assert not any(kind.swallowed for kind in ui.callbacks.values())


def test_nothing_stays_in_the_model_or_in_memory(ui):
    weights = {name: tensor.clone() for name, tensor in ui.unet.state_dict().items()}

    def interrupt(step, denoiser):
        if step == 2:
            raise KeyboardInterrupt

    held = []
    watch = lambda step, denoiser: held.append(weakref.ref(ui.processing.session_of(denoiser.p)))  # noqa: E731
    sample(ui, ["a cat"], [True, STYLE], between=watch)
    with pytest.raises(KeyboardInterrupt):
        sample(ui, ["a cat"], [True, STYLE], between=lambda *a: (watch(*a), interrupt(*a)))
    ui.denoiser = None
    gc.collect()
    assert not any(reference() for reference in held)
    assert not any(module._forward_hooks for module in ui.unet.modules())
    assert all(torch.equal(weights[name], tensor) for name, tensor in ui.unet.state_dict().items())


def test_a_refiner_ends_guidance_with_a_note(ui):
    def refine(step, denoiser):
        if step == 2:
            if ui.kind == "a1111":
                ui.shared.sd_model.sd_checkpoint_info = object()
            else:
                denoiser.inner_model.inner_model = ui.standins.ForgeModel(ui.unet)

    found, p = sample(ui, ["a cat"], [True, STYLE], between=refine)
    assert "refiner" in p.extra_generation_params["Style guidance note"]
    assert close(found, sample(ui, ["a cat"], [True, {**STYLE, "end": 0.5}])[0])


def test_inner_passes_are_left_alone_unless_wanted(ui):
    """As when ADetailer runs a generation inside another one, of the same job."""
    controls = [True, "a", "in ink", 1.0, 0.0, 1.0]
    filler = ["None", "", 3.0, 0.2, 1.0] * 2
    plain = sample(ui, ["a cat"])[0]
    outer = ui.standins.Processing(["outside"], ui.make())
    ui.processing.begin(outer, controls)
    assert torch.equal(sample(ui, ["a cat"], controls)[0], plain)
    assert not torch.equal(sample(ui, ["a cat"], [*controls, *filler, True])[0], plain)
    assert not torch.equal(sample(ui, ["a cat"], [*controls, *filler, True, 1.0])[0], plain)
    ui.shared.state.job_timestamp = "2"  # the next job, whose outer generation failed before its end
    assert not torch.equal(sample(ui, ["a cat"], controls)[0], plain)


def test_plots_set_fields_of_a_shallow_copy(ui):
    p = ui.standins.Processing(["a cat"], ui.make())
    p._pair_network_axes = {(0, "scale"): 2.0}
    ui.processing.begin(p, [True, STYLE])
    assert p.extra_generation_params["Style guidance scale 1"] == "2"


@pytest.mark.parametrize("ui", ["a1111"], indirect=True)
class TestA1111:
    """What A1111 alone does with its rows."""

    def test_skipped_null_rows(self, ui):
        found = sample(ui, ["a cat", "a dog"], [True, STYLE], skips_null=True)[0]
        assert close(found, merged(ui, "a", ["a cat in ink", "a dog in ink"], skips_null=True)[0])

    def test_delta_comes_before_the_inpaint_blend(self, ui):
        mask = torch.zeros(4, 4, dtype=torch.float64)
        mask[:2] = 1
        found = sample(ui, ["a cat"], [True, STYLE], scale=1.0, mask=mask)[0]
        assert close(found, merged(ui, "a", ["a cat in ink"], scale=1.0, mask=mask)[0])

    def test_cfg_plus_plus_keeps_its_null_prediction(self, ui, monkeypatch):
        monkeypatch.setattr(ui.standins.A1111Denoiser, "need_last_noise_uncond", True)
        nulls = []
        for arguments in ([True, STYLE], [False]):
            seen = []
            sample(ui, ["a cat"], arguments, between=lambda step, d, seen=seen: seen.append(d.last_noise_uncond))
            nulls.append(seen[1])
        assert close(*nulls)

    def test_cfg_plus_plus_with_a_content_cfg_that_ends(self, ui, monkeypatch):
        """CFG 1 is that of the sampler's own slider, of which it takes a fraction."""
        monkeypatch.setattr(ui.standins.A1111Denoiser, "need_last_noise_uncond", True)
        monkeypatch.setattr(ui.standins.A1111Denoiser, "cond_scale_miltiplier", 0.2, raising=False)
        wanted, _ = sample(ui, ["a cat"], [True, STYLE], scale=0.2 * 1.0)
        assert close(sample(ui, ["a cat"], [True, STYLE, {"cfg_end": 0}], scale=0.2 * 5.0)[0], wanted)

    def test_rows_are_evaluated_as_many_at_once_as_the_ui_does(self, ui):
        wanted = sample(ui, ["a cat AND a dog", "one AND two"], [True, STYLE])[0]
        ui.shared.opts.batch_cond_uncond = False
        assert close(sample(ui, ["a cat AND a dog", "one AND two"], [True, STYLE])[0], wanted)


@pytest.mark.parametrize("ui", KINDS[1:], indirect=True)
class TestForge:
    """What Forge and its kin do with their patchers."""

    def test_a_stale_patcher_does_nothing(self, ui):
        """Forge prepares twice before a hires pass, the first time on the patcher of the pass before."""
        model = ui.make()
        p = ui.standins.Processing(["a cat"], model)
        ui.processing.begin(p, [True, STYLE])
        session = ui.processing.session_of(p)
        ui.adapter.before_sampling(p, session)
        stale = model.forge_objects.unet.after_cfg[0]
        ui.adapter.before_sampling(p, session)
        assert stale({"denoised": "as it was"}) == "as it was"
        assert model.forge_objects.unet.preserved > 0

    def test_the_patcher_does_not_keep_the_generation(self, ui):
        model = ui.make()
        p = ui.standins.Processing(["a cat"], model)
        ui.processing.begin(p, [True, STYLE])
        ui.adapter.before_sampling(p, ui.processing.session_of(p))
        function, reference = model.forge_objects.unet.after_cfg[0], weakref.ref(p)
        del p
        gc.collect()
        assert reference() is None and function({"denoised": 1}) == 1
