"""The paper's procedure on the embedded host: warm-up, both losses, files and previews."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pair_network import PairError, create_network_from_weights
from pair_network.training.objective import Phase
from pair_network.training.trainer import PairTraining


def ups(path, branch=""):
    found = {key: value for key, value in load_file(path).items() if "lora_up" in key and key.startswith(branch)}
    assert found
    return found


def largest(tensors):
    return max(value.abs().max().item() for value in tensors.values())


@pytest.fixture
def phases(monkeypatch):
    """The phases and batch rows of every step."""
    seen = []
    begin = PairTraining._begin_step

    def recorded(self, *args):
        seen.append(begin(self, *args))
        return seen[-1]

    monkeypatch.setattr(PairTraining, "_begin_step", recorded)
    return seen


def test_warm_up_trains_the_content_branch_alone(train, pairs, phases):
    out = train(pairs, "--style_start_step", "3", "--save_every_n_steps", "3")
    assert phases == [Phase.CONTENT] * 3 + [Phase.JOINT]
    assert largest(ups(out / "x-step00000003.safetensors")) == 0
    assert largest(ups(out / "x-step00000003.pair.safetensors", "content.")) > 0
    assert largest(ups(out / "x.safetensors")) > 0


def test_the_run_ends_with_the_orthogonality_in_print_and_metadata(train, pairs, capsys):
    from safetensors import safe_open

    for orthogonality, small in (("frozen", True), ("none", False)):
        out = train(pairs, "--network_args", f"orthogonality={orthogonality}", name=orthogonality)
        last = capsys.readouterr().out.strip().splitlines()[-1]
        assert last.startswith("orthogonality: largest |Gram - I| ")
        with safe_open(out / "x.safetensors", "pt") as handle:
            metadata = handle.metadata()
        assert (float(metadata["pair_network_gram_defect"]) < 1e-5) == small
        assert (float(metadata["pair_network_branch_overlap"]) < 1e-5) == small


def test_the_default_warm_up_is_a_third_of_the_run(train, pairs, phases):
    train(pairs, "--max_train_steps", "6")
    assert phases.index(Phase.JOINT) == 2


def test_warm_up_spends_nothing_on_style_rows(train, pairs, monkeypatch):
    from pair_network.training.hosts.embedded.trainer import EmbeddedTrainer

    rows = []
    call = EmbeddedTrainer.call_unet

    def recorded(self, args, accelerator, unet, noisy_latents, *rest):
        rows.append(noisy_latents.shape[0])
        return call(self, args, accelerator, unet, noisy_latents, *rest)

    monkeypatch.setattr(EmbeddedTrainer, "call_unet", recorded)
    train(pairs, "--style_start_step", "2")
    assert rows == [1, 1, 2, 2]


def test_alternating_steps_train_both_branches(train, pairs, phases):
    out = train(pairs, "--style_start_step", "1", "--pair_schedule", "alternate")
    assert phases == [Phase.CONTENT, Phase.STYLE, Phase.CONTENT, Phase.STYLE]
    assert largest(ups(out / "x.safetensors")) > 0 < largest(ups(out / "x.pair.safetensors", "content."))


def test_every_pair_has_a_content_branch_of_its_own(train, pairs):
    """Three pairs, one step: one branch moved; nine steps: all three, and they differ."""
    one = ups(train(pairs, "--max_train_steps", "1", "--style_start_step", "0") / "x.pair.safetensors", "content.")
    moved = {tuple(value.abs().amax((1, 2)).gt(0).tolist()) for value in one.values()}
    assert len(moved) == 1 and sum(moved.pop()) == 1
    nine = ups(train(pairs, "--max_train_steps", "9", "--style_start_step", "0") / "x.pair.safetensors", "content.")
    for value in nine.values():
        assert value.shape[0] == 3 and not torch.equal(value[0], value[1]) and value.abs().amax((1, 2)).gt(0).all()


def test_penalty_is_logged_and_lowers_the_overlap(train, pairs, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pair_network.training.hosts.embedded.trainer.EmbeddedTrainer.step_logging",
        lambda self, accelerator, logs, step, epoch: seen.append(logs),
    )
    train(
        pairs, "--network_args", "orthogonality=penalty", "penalty_weight=10", "--max_train_steps", "12",
        "--logging_dir", str(tmp_path / "logs"), "--learning_rate", "3e-2",
    )  # fmt: skip
    overlaps = [logs["loss/orthogonality"] for logs in seen]
    assert len(overlaps) == 12 and overlaps[-1] < 0.7 * overlaps[0]
    assert {"loss/content", "loss/style"} <= set(seen[-1])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_files(train, pairs, tmp_path, monkeypatch):
    from pair_network.training.hosts.embedded.trainer import EmbeddedTrainer

    call, calls = EmbeddedTrainer.call_unet, []

    def broken(self, *args):
        calls.append(1)
        return call(self, *args) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(EmbeddedTrainer, "call_unet", broken)
    with pytest.raises(PairError, match=r"the loss is nan at step 2: training stopped, .* lower the learning rate"):
        train(pairs, "--save_every_n_steps", "2", name="broken")
    names = sorted(path.name for path in (tmp_path / "broken").glob("*.safetensors"))
    assert names == ["x-step00000002.pair.safetensors", "x-step00000002.safetensors"]
    assert largest(ups(tmp_path / "broken" / "x-step00000002.safetensors")) < float("inf")


def test_previews_show_every_column_and_change_nothing(train, pairs, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# comment\na cat on a mat --d 5 --s 4 --l 2\n")
    asked = ("--sample_prompts", str(prompts))
    plain = train(pairs, *asked, name="plain")
    often = train(pairs, *asked, "--sample_every_n_steps", "1", "--sample_at_first", name="often")
    assert [p.name for p in sorted((plain / "sample").iterdir())] == ["x_000004_00_5.png", "x_000004_01_5.png"]
    assert len(list((often / "sample").iterdir())) == 10
    for key, value in load_file(plain / "x.safetensors").items():
        assert torch.equal(value, load_file(often / "x.safetensors")[key])
    sheets = [Image.open(p) for p in sorted((plain / "sample").iterdir())]
    assert sheets[1].width > sheets[0].width  # the training prompt has a column for the content branch


def test_the_contents_cfg_ends_in_previews(train, pairs, tmp_path):
    """Guidance of scale 1 without CFG is the style's own prediction: the LoRA's picture at a CFG of 1."""
    (tmp_path / "prompts.txt").write_text("a cat --d 5 --s 4 --l 4\na cat --d 5 --s 4 --l 1\n")
    options = ("--sample_prompts", str(tmp_path / "prompts.txt"), "--sample_style_scale", "1", "--learning_rate", "0.1")
    out = train(pairs, *options, "--sample_style_start", "0", "--sample_cfg_end", "0")
    with_cfg, without = (Image.open(out / "sample" / f"x_000004_0{i}_5.png") for i in (0, 1))

    def column(sheet, number):
        return np.asarray(sheet.crop((8 + 264 * number, 56, 264 + 264 * number, sheet.height - 8))).astype(int)

    assert np.abs(column(with_cfg, 2) - column(without, 1)).max() <= 1
    assert np.abs(column(with_cfg, 1) - column(without, 1)).max() > 1, "CFG must change the picture"


def test_previews_read_the_text_encoders_layer_that_training_reads(model):
    """diffusers' own clip_skip counts from 0, and needs what transformers 5 dropped."""
    from diffusers import StableDiffusionPipeline

    from pair_network.training.hosts.embedded.model import TextEncodingStrategy, TokenizeStrategy, skipped_layers

    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    tokens = TokenizeStrategy(model)
    found = []
    for clip_skip in (None, 1, 2):
        ids = tokens.tokenize(["a dog"])
        expected = TextEncodingStrategy(clip_skip).encode_tokens(tokens, [pipe.text_encoder], ids)[0]
        with skipped_layers(pipe.text_encoder, clip_skip):
            found.append(pipe.encode_prompt("a dog", "cpu", 1, False)[0])
        assert torch.equal(found[-1], expected)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    assert torch.equal(pipe.encode_prompt("a dog", "cpu", 1, False)[0], found[0]), "undone afterwards"


def test_clip_skip_reaches_the_previews(train, pairs):
    """The base column shows the untrained model, so only the text encoder's layer can change it."""
    sheets = []
    for skip in ("1", "2"):
        argv = ["--clip_skip", skip, "--cache_latents", "--sample_at_first", "--sample_every_n_steps", "9"]
        out = train(pairs, *argv, name=f"skip{skip}")
        sheet = Image.open(next((out / "sample").glob("x_000000_*.png")))
        sheets.append(sheet.crop((0, 0, sheet.width // 4, sheet.height)).tobytes())
    assert sheets[0] != sheets[1]


def test_the_style_file_gives_the_same_picture_in_diffusers(train, pairs, model):
    from diffusers import StableDiffusionPipeline

    out = train(pairs, "--network_args", "targets=attention+ff+conv", "--network_alpha", "3", "--learning_rate", "0.1")
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)

    def paint():
        generator = torch.Generator().manual_seed(1)
        return pipe("a dog", num_inference_steps=3, generator=generator, output_type="latent").images

    base = paint()
    network, _ = create_network_from_weights(1.0, str(out / "x.safetensors"), None, None, pipe.unet, for_inference=True)
    network.apply_to(None, pipe.unet)
    ours = paint()
    network.restore()
    assert torch.equal(paint(), base)
    pipe.load_lora_weights(out / "x.safetensors")
    torch.testing.assert_close(paint(), ours, rtol=0, atol=1e-4)
    assert (ours - base).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("argv", "line", "words"),
    [
        (["--sample_style_start", "20"], "a cat", "--sample_style_start 20.0: a share of the steps"),
        (["--sample_cfg_end", "-1"], "a cat", "--sample_cfg_end -1.0: a share of the steps"),
        (["--sample_style_scale", "nan"], "a cat", "--sample_style_scale nan: a finite number"),
        ([], "a cat --w 60", "--w 60 .* positive multiple of 8"),
        ([], "a cat --s 0", "--s 0 .* positive multiple of 1"),
        ([], "a cat --x 1", "unknown flag --x"),
    ],
)
def test_mistakes_in_previews_are_found_before_training(train, pairs, tmp_path, argv, line, words):
    (tmp_path / "prompts.txt").write_text(line)
    with pytest.raises(PairError, match=words):
        train(pairs, "--sample_prompts", str(tmp_path / "prompts.txt"), *argv)
    assert not (tmp_path / "out").exists()


def test_a_preview_that_fails_after_the_last_step_does_not_lose_the_files(train, pairs, tmp_path, monkeypatch):
    def fails(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("pair_network.training.hosts.embedded.entry.make_pipeline", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(pairs, "--sample_every_n_steps", "100")
    assert largest(ups(tmp_path / "out" / "x.safetensors")) > 0


def test_style_steps_leave_the_only_pairs_content_branch_where_it_was(train, pairs, tmp_path):
    """Step 0 content, step 1 style: momentum must not move the content branch in the second."""
    for name in ("cat", "fox"):
        (tmp_path / "content" / f"{name}.png").unlink()
        (tmp_path / "style" / f"{name}.png").unlink()
    schedule = ("--pair_schedule", "alternate", "--style_start_step", "1", "--save_every_n_steps", "1")
    out = train(pairs, *schedule, "--max_train_steps", "3")
    content = [ups(out / f"{name}.pair.safetensors", "content.") for name in ("x-step00000001", "x-step00000002", "x")]
    assert all(torch.equal(value, content[1][key]) for key, value in content[0].items())
    assert not all(torch.equal(value, content[2][key]) for key, value in content[1].items())
