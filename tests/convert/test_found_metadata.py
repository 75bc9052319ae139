"""What programs write about the model into a LoRA, and what is made of it: ai-toolkit, OneTrainer, musubi-tuner, kohya.

A model that is known is certain, one that is known to be another refuses the file, words that name none are no proof;
what is written into the result says nothing that was not known.
"""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

SD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
LAYERS = {
    "sd1": {SD: (320, 768)},
    "sd2": {SD: (320, 1024)},
    "sdxl": {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048)},
    "sd3": {"lora_unet_joint_blocks_0_x_block_attn_qkv": (4608, 1536)},
    "flux": {"lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072)},
    "z_image": {"lora_unet_layers_0_attention_to_q": (3840, 3840)},
}
VERSION, ARCHITECTURE = "ss_base_model_version", "modelspec.architecture"


@pytest.fixture
def written(tmp_path, run):
    """Function: info's report (or its error) on such a LoRA, and the metadata of its kohya file (or None)."""

    def call(layers, metadata, *options):
        tensors = {}
        for name, (rows, columns) in layers.items():
            tensors[f"{name}.lora_down.weight"] = torch.full((1, columns), 0.5)
            tensors[f"{name}.lora_up.weight"] = torch.full((rows, 1), 0.5)
        save_file(tensors, tmp_path / "found.safetensors", metadata)
        status, out, errors = run("info", tmp_path / "found.safetensors", "--json", *options)
        report = json.loads(out)[0] if status == 0 else errors
        target = tmp_path / "out.safetensors"
        if run("kohya", tmp_path / "found.safetensors", "-o", target, *options)[0]:
            return report, None
        with safe_open(str(target), "pt") as file:
            return report, file.metadata()

    return call


CERTAIN = [
    ("sd1", {VERSION: "sd_1.5"}),  # ai-toolkit
    ("sd1", {ARCHITECTURE: "stable-diffusion-v1-inpainting/lora"}),  # OneTrainer
    ("sd1", {VERSION: "", ARCHITECTURE: " "}),
    ("sd2", {VERSION: "sd_2.1"}),
    ("sd2", {VERSION: "sd_v2_v", "ss_v2": "True"}),  # kohya's v-prediction
    ("sd2", {ARCHITECTURE: "stable-diffusion-v2-768-v/lora", "modelspec.prediction_type": "v"}),
    ("sdxl", {VERSION: "sdxl_1.0"}),
    ("sdxl", {ARCHITECTURE: "stable-diffusion-xl-v1-base-inpainting/lora"}),
    ("sdxl", {VERSION: "sdxl_base_v1-0", "ss_sd_model_name": "ponyDiffusionV6XL.safetensors"}),
    ("sdxl", {VERSION: "Illustrious"}),
    ("sdxl", {VERSION: "NoobAI-XL", "ss_v_parameterization": "True"}),
    ("sd3", {ARCHITECTURE: "stable-diffusion-v3.5/lora"}),
    ("sd3", {VERSION: "sd3m"}),
    ("flux", {VERSION: "flux_kontext", ARCHITECTURE: "Flux.1-dev/lora"}),  # musubi-tuner
    ("flux", {VERSION: "flux.1_kontext"}),
    ("flux", {ARCHITECTURE: "Flux.1-fill-dev/lora"}),
    ("chroma", {ARCHITECTURE: "Chroma1/lora"}),
    ("flux2_klein_4b", {ARCHITECTURE: "Flux.2/lora"}),
    ("z_image", {VERSION: "zimage"}),
]


@pytest.mark.parametrize("family, metadata", CERTAIN)
def test_a_model_that_is_named_is_certain(family, metadata, written):
    report, result = written(LAYERS.get(family, LAYERS["flux"]), metadata)
    assert report["family"] == family and report["family_is_certain"], report
    said = metadata.get(VERSION, "")
    assert result[VERSION] == said or not said, "what its own program called the model stays, if it is that model"
    assert "512" not in result[ARCHITECTURE], "nothing said so"


ANOTHER = [
    ("flux", {VERSION: "chroma_radiance"}, "chroma_radiance"),
    ("flux", {VERSION: "zeta_chroma"}, "zeta_chroma"),
    ("flux", {VERSION: "hidream_i1"}, "hidream_i1"),
    ("flux", {VERSION: "flux1", ARCHITECTURE: "hunyuan-video/lora"}, "hunyuan-video/lora"),
    ("sdxl", {ARCHITECTURE: "stable-diffusion-xl-v1-refiner/lora"}, "refiner"),
    ("sdxl", {VERSION: "Kolors"}, "Kolors"),
    ("sdxl", {VERSION: "sd_v1"}, "sd_v1"),
    ("sd1", {"ss_v2": "True"}, "ss_v2 = True"),
    ("sd1", {VERSION: "pony"}, "pony"),
    ("z_image", {VERSION: "wan_2.1"}, "wan_2.1"),
]


@pytest.mark.parametrize("layers, metadata, words", ANOTHER)
def test_another_model_that_is_named_refuses_the_file_and_names_the_option(layers, metadata, words, written):
    report, result = written(LAYERS[layers], metadata)
    assert result is None and words in report and "--family" in report and len(report.splitlines()) == 1
    assert written(LAYERS[layers], metadata, "--family", layers)[1] is not None, "the option helps"


@pytest.mark.parametrize("said", ["flex1", "unknown", "my best merge v2", "SD 1.5"])
def test_words_that_name_no_model_are_no_proof_and_are_kept(said, written, run, tmp_path):
    report, result = written(LAYERS["sd1"], {VERSION: said})
    assert report["family"] == "sd1" and not report["family_is_certain"]
    assert result[VERSION] == said and ARCHITECTURE not in result
    out = run("info", tmp_path / "found.safetensors")[1]
    assert f"its metadata says {said!r}" in out, "not that the file says nothing"


def test_metadata_that_contradicts_itself_is_shown_whole(written):
    """With one of the two alone the message would say that the file is what it was refused for not being."""
    said = {ARCHITECTURE: "stable-diffusion-v1/lora", VERSION: "sdxl_base_v1-0"}
    report, result = written(LAYERS["sd1"], said)
    assert result is None and "'stable-diffusion-v1/lora' and 'sdxl_base_v1-0'" in report and "--family" in report


@pytest.mark.parametrize(
    "said, meant",
    [
        ("flux-2-klein-4b", {"flux2_klein_4b"}),
        ("flux-2", {"flux2_dev", "flux2_klein_4b", "flux2_klein_9b"}),
        ("flux-1-dev", {"flux"}),
        ("Qwen-Image-Edit", {"qwen_image"}),
        ("sd-v1-5", {"sd1"}),
        ("animagine-xl-4.0", {"sdxl"}),
        ("anima_preview", {"anima"}),
    ],
)
def test_one_name_in_several_spellings(said, meant):
    """FLUX.2 is no FLUX.1 for its hyphen, and Animagine, an SDXL, no Anima."""
    from pair_network.families import claims_of_metadata

    assert claims_of_metadata({VERSION: said}) == [frozenset(meant)]
