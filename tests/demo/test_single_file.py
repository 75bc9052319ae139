"""The embedded model as one file in the original layout is the same model."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from convert.files.header import read_header
from convert.formats.checkpoints import family_of_checkpoint
from demo.model_config import MODEL_DIR, build_text_encoder, build_unet, build_vae, save_pipeline
from demo.sample_sheet import generate
from demo.single_file import write_single_file
from demo.vocabulary import write_tokenizer

PROMPTS = ["a photo of a red house on a blue background", "a photo of a pink fish on a green background in neon style"]


def pictures(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return generate(pipeline.to(torch.float32), PROMPTS, seed=5, steps=4, guidance_scale=3.0)


def from_file(path, folder):
    return StableDiffusionPipeline.from_single_file(str(path), config=str(folder), local_files_only=True)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """A folder of the shapes that model_config names now, whatever the shipped weights have."""
    from transformers import CLIPTokenizer

    root = tmp_path_factory.mktemp("random")
    write_tokenizer(root / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer")
    torch.manual_seed(0)
    save_pipeline(root / "model", build_vae(), build_text_encoder(tokenizer), tokenizer, build_unet())
    return root / "model"


@pytest.fixture(scope="module")
def folders(random_model):
    return [random_model, *([MODEL_DIR] if MODEL_DIR.exists() else [])]


def test_the_same_pictures_as_from_the_folder(folders, tmp_path):
    for number, folder in enumerate(folders):
        file = tmp_path / f"{number}.safetensors"
        write_single_file(file, folder)
        expected = pictures(StableDiffusionPipeline.from_pretrained(folder, local_files_only=True))
        assert (pictures(from_file(file, folder)) == expected).all(), folder


def test_every_tensor_is_there_once_and_known_to_the_converters(random_model, tmp_path):
    file = tmp_path / "model.safetensors"
    write_single_file(file, random_model)
    written = load_file(file)
    expected = sum(len(load_file(part)) for part in random_model.rglob("*.safetensors"))
    assert len(written) == expected
    family, prefix = family_of_checkpoint(read_header(file))
    assert (family.name, prefix) == ("sd1", "model.diffusion_model.")


def test_a_wrong_tensor_shows_in_the_pictures(random_model, tmp_path):
    file = tmp_path / "model.safetensors"
    write_single_file(file, random_model)
    before = pictures(from_file(file, random_model))
    tensors = load_file(file)
    key = "model.diffusion_model.middle_block.1.proj_out.weight"
    save_file({**tensors, key: tensors[key] + 1}, file, metadata={"format": "pt"})
    assert (pictures(from_file(file, random_model)) != before).any()
