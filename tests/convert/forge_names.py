"""Prints, as JSON, the layer names that Forge's LoRA loader knows for each model that it has.

    python tests/convert/forge_names.py FORGE_DIR

Its loader asks a model for the names of its weights and its settings; no weights are needed.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from comfyui_names import MODELS, OF_FAMILY, Encoders  # noqa: E402

from convert.formats.families import FAMILIES  # noqa: E402

REPOSITORIES = {
    "sd1": "runwayml/stable-diffusion-v1-5", "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "flux": "black-forest-labs/FLUX.1-dev", "sd3": "stabilityai/stable-diffusion-3-medium", "chroma": "Chroma",
}  # fmt: skip


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    loader = importlib.import_module("packages_3rdparty.comfyui_lora_collection.lora")
    found = {}
    for family, repository in REPOSITORIES.items():
        weights = {f"diffusion_model.{entry.native}.weight": None for entry in FAMILIES[family].entries}
        model = SimpleNamespace(
            state_dict=lambda weights=weights: weights,
            diffusion_model=SimpleNamespace(config=MODELS[family][1]),
            config=SimpleNamespace(huggingface_repo=repository),
        )
        names = loader.model_lora_keys_unet(model, {})[1]
        names.update(loader.model_lora_keys_clip(Encoders(OF_FAMILY[family]), {})[1])
        found[family] = list(names)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
