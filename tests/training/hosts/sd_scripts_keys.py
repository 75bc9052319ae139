"""Runs in sd-scripts' environment: layers and files of this plug-in against kohya's own network modules.

Arguments: the checkout, the project's folder, "layers" or "load", the model type, and for "load" a style file.
Prints JSON: the names that only one of the two has.
"""

import json
import sys
from pathlib import Path

MODULES = {
    "sd": "networks.lora",
    "sdxl": "networks.lora",
    "sd3": "networks.lora_sd3",
    "flux": "networks.lora_flux",
    "lumina": "networks.lora_lumina",
    "hunyuan_image": "networks.lora_hunyuan_image",
    "anima": "networks.lora_anima",
}


def text_encoders(model_type):
    import sd_scripts_tiny as tiny

    makers = {
        "sd": lambda: tiny.clip(),
        "sdxl": lambda: [tiny.clip(layers=12), tiny.clip(projection=True)],
        "sd3": lambda: [tiny.clip(projection=True), tiny.clip(projection=True), tiny.t5(32)],
        "flux": lambda: [tiny.clip(), tiny.t5(32)],
        "lumina": lambda: [tiny.gemma()],
        "hunyuan_image": lambda: [tiny.clip(), tiny.clip()],
        "anima": lambda: [tiny.qwen3()],
    }
    return makers[model_type]()


def kohya_network(model_type, encoders, unet):
    """kohya's own network with everything that it trains without further choice of blocks."""
    module = __import__(MODULES[model_type], fromlist=["create_network"])
    options = {"train_t5xxl": "True"} if model_type in ("sd3", "flux") else {}
    return module.create_network(1.0, 4, 4, None, encoders, unet, **options)


def compare_layers(model_type, encoders, unet):
    from pair_network import create_network
    from pair_network.network.checkpoint import standard_key

    theirs = kohya_network(model_type, encoders, unet)
    names = [lora.lora_name for lora in theirs.unet_loras + theirs.text_encoder_loras]
    kohya = set(map(standard_key, names))
    assert len(kohya) == len(names)
    kinds = "full" if model_type == "hunyuan_image" else "full+text_encoder+t5"
    ours = set(create_network(1.0, 4, 4, None, encoders, unet, targets=kinds).layers)
    attention = set(create_network(1.0, 4, 4, None, encoders, unet).layers)
    return {
        "only_ours": sorted(ours - kohya), "only_kohya": sorted(kohya - ours), "layers": len(kohya),
        "attention_outside": sorted(attention - kohya), "attention": len(attention),
    }  # fmt: skip


def load_style(model_type, encoders, unet, file):
    """kohya's loader on a file of ours: its network of the file's layers, then its load_weights."""
    module = __import__(MODULES[model_type], fromlist=["create_network_from_weights"])
    network, _ = module.create_network_from_weights(1.0, file, None, encoders, unet)
    has_encoder = any(lora.lora_name.startswith("lora_te") for lora in network.text_encoder_loras)
    network.apply_to(encoders, unet, has_encoder, True)
    info = network.load_weights(file)
    return {
        "missing": list(info.missing_keys),
        "unexpected": list(info.unexpected_keys),
        "layers": len(network.unet_loras),
    }


def main():
    checkout, project, task, model_type, *rest = sys.argv[1:]
    sys.path[:0] = [checkout, project, str(Path(__file__).parent)]
    import sd_scripts_tiny

    unet = sd_scripts_tiny.unet_of(model_type)
    encoders = text_encoders(model_type)
    result = (
        compare_layers(model_type, encoders, unet)
        if task == "layers"
        else load_style(model_type, encoders, unet, *rest)
    )
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
