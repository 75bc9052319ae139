"""A tiny Stable Diffusion 1 model, pairs of images, and runs of the real entry point on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[4]
ENTRY = (sys.executable, str(REPOSITORY / "train_pair_network.py"), "--host", "embedded")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def save_tokenizer(folder: Path) -> None:
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,."
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    source = folder.parent / "tokenizer-source"
    source.mkdir(parents=True)
    (source / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (source / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (source / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}), encoding="utf-8")
    CLIPTokenizer.from_pretrained(str(source)).save_pretrained(str(folder))


def build_model(folder: Path, **scheduler: object) -> Path:
    """A Stable Diffusion 1 layout small enough for 20 ms steps."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=58,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=56,
            eos_token_id=57,
            pad_token_id=57,
        )
    )
    unet.save_pretrained(str(folder / "unet"))
    vae.save_pretrained(str(folder / "vae"))
    text.save_pretrained(str(folder / "text_encoder"))
    save_tokenizer(folder / "tokenizer")
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    settings = {**settings, "steps_offset": 1, "clip_sample": False, **scheduler}
    DDPMScheduler(**settings).save_pretrained(str(folder / "scheduler"))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps its state per process; every run in a test starts without any."""
    yield
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def v_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a v-prediction, zero-terminal-SNR schedule."""
    folder = tmp_path_factory.mktemp("tiny-v") / "model"
    return build_model(folder, prediction_type="v_prediction", rescale_betas_zero_snr=True)


def clip_config(hidden, layers):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=58, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=hidden, bos_token_id=56, eos_token_id=57,
        pad_token_id=57,
    )  # fmt: skip


def build_sdxl(folder, tokenizer):
    """A diffusers folder with SDXL's layout: two encoders, size conditions, attention in two of three blocks."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(16, 32, 32), cross_attention_dim=16 + 24,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2,
        norm_num_groups=8, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8, use_linear_projection=True,
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, scaling_factor=0.13025,
    ).save_pretrained(folder / "vae")  # fmt: skip
    CLIPTextModel(clip_config(16, 3)).save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(clip_config(24, 2)).save_pretrained(folder / "text_encoder_2")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(tokenizer, folder / name)
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory, model):
    return build_sdxl(tmp_path_factory.mktemp("tiny-sdxl") / "model", model / "tokenizer")


def picture(path: Path, size: tuple[int, int], seed: int) -> Path:
    """A smooth random picture: every position looks different, so a shift or a mirror shows."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> dict:
    """Three pairs of 64 × 64 pixels, and the dataset settings that name them."""
    for i, name in enumerate(("cat", "dog", "fox")):
        picture(tmp_path / "content" / f"{name}.png", (64, 64), i)
        picture(tmp_path / "style" / f"{name}.png", (64, 64), 10 + i)
    return pair_settings(tmp_path)


def pair_settings(folder: Path, **subset: object) -> dict:
    settings = {
        "image_dir": str(folder / "style"),
        "class_tokens": "a photo of a dog in digital style",
        "custom_attributes": {"content_dir": str(folder / "content"), "content_class_tokens": "a photo of a dog"},
    }
    return {"datasets": [{"resolution": 64, "batch_size": 1, "subsets": [{**settings, **subset}]}]}


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def options():
    """Parsed options with the plug-in's own, from a command line."""

    def parse(*argv: str):
        from pair_network.training.hosts.embedded.options import setup_parser
        from pair_network.training.options import add_pair_options

        parser = setup_parser()
        add_pair_options(parser)
        return parser.parse_args(argv)

    return parse


@pytest.fixture
def train(model: Path, options, tmp_path: Path):
    """Trains in this process: train(dataset settings, *options) → output folder; previews only with --sample_…"""

    def run(dataset: dict, *argv: str, name: str = "out", base: Path = model) -> Path:
        from pair_network.training.hosts.embedded.entry import PairTrainer
        from pair_network.training.hosts.embedded.trainer import EmbeddedTrainer

        class Trainer(PairTrainer):
            if not any(arg.startswith("--sample_") for arg in argv):
                sample_images = EmbeddedTrainer.sample_images

        defaults = ["--network_dim", "2", "--learning_rate", "1e-2", "--seed", "7", "--output_name", "x"]
        if "--max_train_epochs" not in argv:
            defaults += ["--max_train_steps", "4"]
        where = ["--pretrained_model_name_or_path", str(base), "--output_dir", str(tmp_path / name)]
        args = options(*where, *defaults, *argv)
        args.dataset_config = dataset
        Trainer().train(args)
        return tmp_path / name

    return run


@pytest.fixture
def start_process(model: Path, tmp_path: Path):
    """Starts training in a process of its own, as ``launcher`` does it: for signals and for several processes."""

    def start(*argv: str, launcher: tuple[str, ...] = ENTRY, out: str = "out") -> subprocess.Popen:
        command = [*launcher]
        command += ["--pretrained_model_name_or_path", str(model), "--output_dir", str(tmp_path / out)]
        command += ["--network_dim", "2", "--learning_rate", "1e-2", "--seed", "7", "--output_name", "x", *argv]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        environment.pop("SD_SCRIPTS_DIR", None)
        environment["PYTHONPATH"] = str(REPOSITORY)
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
        )

    return start


NOISE = """
import torch


def draw_noise(args, latents):
    seeds = [int(row.double().abs().sum().item() * 1e4) % 2**31 for row in latents]
    return torch.stack([torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])


def draw_timesteps(args, num_train_timesteps, rows, device):
    return torch.full((rows,), 500)
"""


@pytest.fixture
def noise_source() -> str:
    """Source of draw_noise and draw_timesteps that depend on a row alone, not on its place in a batch or process."""
    return NOISE


@pytest.fixture
def noise_by_row(monkeypatch: pytest.MonkeyPatch, noise_source: str) -> None:
    """Makes runs in this process use ``noise_source``."""
    from pair_network.training.hosts.embedded import hooks

    functions: dict = {}
    exec(noise_source, functions)
    monkeypatch.setattr(hooks, "draw_noise", functions["draw_noise"])
    monkeypatch.setattr(hooks, "draw_timesteps", functions["draw_timesteps"])
