"""``generate`` on a tiny model: what it writes, and that each picture is what its label says."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from demo.model_config import load_pipeline
from pair_network.__main__ import main
from pair_network.errors import PairError
from pair_network.network.checkpoint import write_together
from pair_network.sampling.cli import generate
from pair_network.sampling.cli.models import default_cfg, pipeline_of
from pair_network.sampling.cli.options import read_generate
from pair_network.sampling.cli.tasks import open_picture, task_of


def made(argv):
    return generate.run(read_generate(argv))


def pixels(path):
    return np.asarray(Image.open(path))


def test_one_picture_for_each_prompt_and_seed(args, tmp_path):
    paths = made([*args("--seed 3 4 --width 16 --height 16"), "--prompt", "a dog", "a cat"])
    assert [path.name for path in paths] == [f"generate_000{n}_{s}.png" for n, s in zip("1234", "3434", strict=True)]
    assert len({pixels(path).tobytes() for path in paths}) == 4
    text = Image.open(paths[3]).info["parameters"]
    assert text.startswith("a cat\nSteps: 2, Sampler: DDIM, CFG scale: 5, Seed: 4, Size: 16x16, Model: model, ")
    assert "Style guidance LoRA 1: ink, Style guidance words 1: in ink style, Style guidance scale 1: 3" in text
    again = made([*args("--seed 4 --width 16 --height 16"), "--prompt", "a cat"])
    assert again[0].name == "generate_0005_4.png"
    assert np.array_equal(pixels(again[0]), pixels(paths[3]))


def test_comparison_shows_base_lora_and_guidance(args):
    base, lora, guided, sheet = made([*args("--compare --width 16 --height 16 --start 0"), "--prompt", "a dog"])
    (alone,) = made([*args("--width 16 --height 16", style=False), "--prompt", "a dog"])
    assert np.array_equal(pixels(base), pixels(alone))
    assert len({pixels(path).tobytes() for path in (base, lora, guided)}) == 3
    assert Image.open(sheet).size[0] > 3 * 256
    assert Image.open(lora).info["parameters"].startswith("a dog in ink style <lora:ink:1>\n")
    assert "Style guidance" not in Image.open(lora).info["parameters"]


def test_the_contents_cfg_ends(args):
    """From 0 on there is no CFG: the picture is that of --cfg 1. It leaves its mark in the infotext."""
    line = args("--width 16 --height 16 --start 0")
    (ended,) = made([*line, "--cfg_end", "0", "--prompt", "a dog"])
    (none,) = made([*line, "--cfg", "1", "--prompt", "a dog"])
    (full,) = made([*line, "--prompt", "a dog"])
    assert np.array_equal(pixels(ended), pixels(none)) and not np.array_equal(pixels(ended), pixels(full))
    assert "Style guidance content CFG until: 0" in Image.open(ended).info["parameters"]
    base, *_ = made([*line, "--cfg_end", "0", "--compare", "--prompt", "a dog"])
    (alone,) = made([*args("--width 16 --height 16", style=False), "--prompt", "a dog"])
    assert np.array_equal(pixels(base), pixels(alone)), "the base picture stays what it is without guidance"


def test_grid_over_scale_and_strength(args):
    run = args("--grid_scale 0 4 --grid_multiplier 0.5 1 --width 16 --height 16 --start 0")
    *cells, sheet = made([*run, "--prompt", "a dog"])
    none_half, some_half, none_full, some_full = (pixels(cell) for cell in cells)
    assert np.array_equal(none_half, none_full), "scale 0 is the base picture at any strength"
    assert not np.array_equal(some_half, some_full)
    assert sheet.name.endswith("_sheet.png")


@pytest.mark.parametrize(
    "options",
    [
        "--image @photo.png --strength 0.5",
        "--image @photo.png --mask @mask.png --strength 1",
        "--controlnet @controlnet --control_image @photo.png",
        "--controlnet @controlnet --control_image @photo.png --image @photo.png",
        "--guidance_rescale 0.5 --sampler dpmpp_2m_karras --width 16 --height 16 --low_memory",
    ],
)
def test_pictures_to_start_from(args, options):
    (guided,) = made([*args(options + " --start 0"), "--prompt", "a dog"])
    (base,) = made([*args(options, style=False), "--prompt", "a dog"])
    assert Image.open(guided).size == (16, 16)
    assert not np.array_equal(pixels(guided), pixels(base))


def test_two_styles_of_their_own_strength(args, folder):
    more = ["--style", *[str(folder / "ink.safetensors")] * 2, "--words", "in ink", "as chalk", "--scale", "1", "2"]
    (path,) = made([*args("--width 16 --height 16", style=False), *more, "--prompt", "a dog"])
    text = Image.open(path).info["parameters"]
    assert "words 1: in ink, Style guidance scale 1: 1" in text
    assert "words 2: as chalk, Style guidance scale 2: 2" in text


@pytest.mark.parametrize("kind", ["flux", "sd3", "sdxl"])
def test_settings_of_the_other_families(builders, folder, kind):
    pipe = getattr(builders, f"make_{kind}")()
    line = f"--model m --prompt x --cfg 2 --negative bad --width 16 --height 16 --image {folder / 'photo.png'}"
    task = task_of(read_generate(line.split()), pipe)
    assert type(task.pipe).__name__.endswith("Img2ImgPipeline")
    cfg = "true_cfg_scale" if kind == "flux" else "guidance_scale"
    assert task.settings[cfg] == 2
    assert task.settings["negative_prompt"] == "bad"


@pytest.mark.parametrize(
    ("tensor", "pipeline"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "FluxPipeline"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "StableDiffusion3Pipeline"),
        ("conditioner.embedders.1.model.ln_final.weight", "StableDiffusionXLPipeline"),
        ("model.diffusion_model.input_blocks.0.0.weight", "StableDiffusionPipeline"),
    ],
)
def test_checkpoints_in_one_file_are_recognised(tmp_path, tensor, pipeline):
    write_together({tmp_path / "model.safetensors": ({tensor: torch.zeros(1)}, {})})
    assert pipeline_of(tmp_path / "model.safetensors") == pipeline


def test_a_model_that_diffusers_cannot_inpaint_with_is_named():
    args = SimpleNamespace(mask=Path("mask.png"), image=Path("photo.png"), controlnet=None, model="demo/model")
    with pytest.raises(PairError, match="4 or 9 input channels, --model demo/model has 8; use --image alone"):
        task_of(args, load_pipeline())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate", "--model"),
        ("generate --model m --prompt x --stile a", "unknown option --stile (did you mean --style?)"),
        ("generate --model nowhere --prompt x", "--model nowhere: diffusers cannot load it"),
        ("generate --model model.ckpt --prompt x", "pickled weights"),
        ("generate --model none.safetensors --prompt x", "no such file"),
        ("generate --model m --prompt x --compare", "name it with --style"),
        ("generate --model m --prompt x --style none.safetensors", "none.safetensors: no such file"),
        ("generate --model m --prompt x --style @ink.safetensors --scale 1 2", "--scale has 2 values for 1 styles"),
        ("generate --model m --prompt x --style @ink.safetensors --compare --grid_scale 1", "two sheets"),
        ("generate --model m --prompt x --mask @mask.png", "--image"),
        ("generate --model m --prompt x --controlnet c", "--control_image"),
        ("generate --model m --prompt x --image @ink.safetensors", "not a readable image"),
        ("generate --model m --prompt x --steps 0", "--steps: 0 is not a whole number from 1 on"),
        ("generate --model m --prompt x --steps many", "--steps: many is not a whole number"),
        ("generate --model m --prompt x --seed -1", "--seed: -1 is not a whole number from 0"),
        ("generate --model m --prompt x --cfg nan", "--cfg: nan is not a number"),
        ("generate --model m --prompt x --guidance_rescale 2", "2 is not a number from 0 to 1"),
        ("generate --model m --prompt x --width 60 --height 64", "--width: 60 is not a multiple of 8 from 8 on"),
        ("generate --model m --prompt x --width 64", "--width and --height go together"),
        ("generate --model m --prompt x --image @photo.png --strength 1.5", "1.5 is not a number from 0 to 1"),
        ("generate --model m --prompt x --image @photo.png --strength 0.01", "leaves no step"),
        ("generate --model m --prompt x --scale 2", "--scale is of a style: name it with --style"),
        ("generate --model m --prompt x --cfg_end 0.4", "--cfg_end is of a style: name it with --style"),
        ("generate --model m --prompt x --cfg_end 2", "--cfg_end: 2 is not a number from 0 to 1"),
        ("generate --model m --prompt x --device nowhere", "--device nowhere: cannot be used here"),
        ("generate --model m --prompt x --out @photo.png", "photo.png is a file; name another folder"),
        ("generate --model m --prompt x --out @photo.png/deeper", "photo.png is a file; name another folder"),
        ("generate --model m --prompt x --name a/b", "the folder goes into --out"),
        ("generate --model @ink.safetensors --prompt x", "is a LoRA, not a model"),
        ("restyle @photo.png --model m --style @ink.safetensors --name a/b", "the folder goes into --out"),
        ("restyle @photo.png --model m --style @ink.safetensors --steps 0", "--steps: 0"),
        ("restyle none.png --model m --style @ink.safetensors", "no such image"),
        ("restyle @photo.png --model m", "--style FILE"),
        ("paint", "unknown verb"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, line, message):
    assert main(line.replace("@", f"{folder}/").split()) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ")
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_option_lists_fit_the_styles(folder):
    line = f"--model m --prompt x --style {folder / 'ink.safetensors'} --start 0.6 --end 0.5"
    with pytest.raises(PairError, match=r"start=0.6"):
        generate.cells_of(read_generate(line.split()))


@pytest.mark.parametrize(("family", "cfg"), [("sd", 5.0), ("sd3", 5.0), ("flux", 1.0)])
def test_flux_has_no_true_cfg_by_default(builders, family, cfg):
    assert default_cfg(getattr(builders, f"make_{family}")()) == cfg


def test_controlnet_of_another_family_is_refused(args, builders, tmp_path):
    builders.make_controlnet(builders.make_sd(cross_attention_dim=48).unet).save_pretrained(tmp_path / "other")
    line = f"--controlnet {tmp_path / 'other'} --control_image @photo.png"
    with pytest.raises(PairError, match="its text is 48 wide, this model's 32"):
        made([*args(line), "--prompt", "a dog"])


def test_names_with_pattern_signs_are_never_overwritten(args):
    line = args("--width 16 --height 16 --name ink[1]", style=False)
    paths = [made([*line, "--prompt", "a dog"])[0].name for _ in range(2)]
    assert paths == ["ink[1]_0001_0.png", "ink[1]_0002_0.png"]


def test_pictures_as_cameras_and_scanners_store_them(tmp_path):
    """Turned by a mark in the file; one side of a wanted size; 16 bits, which would come out white."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture("--image", tmp_path / "turned.jpg").size == (32, 64)
    assert open_picture("--image", tmp_path / "turned.jpg", width=16).size == (16, 32)
    assert open_picture("--image", tmp_path / "turned.jpg", height=16).size == (8, 16)
    Image.fromarray(np.full((16, 16), 30000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(PairError, match="more than 8 bits"):
        open_picture("--image", tmp_path / "deep.png")


def test_too_little_memory_is_one_line(monkeypatch, capsys):
    def fail(failure):
        def run(_):
            raise failure

        return run

    monkeypatch.setattr(generate, "run", fail(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB.")))
    line = ["generate", "--model", "m", "--prompt", "a cat"]
    assert main(line) == 2
    assert "too little memory (CUDA out of memory. Tried to allocate 9 GiB.); --low_memory" in capsys.readouterr().err
    monkeypatch.setattr(generate, "run", fail(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(line)
