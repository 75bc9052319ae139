"""Files that say they are LoRAs and are not quite, or not at all; the same ones for every seed."""

import json
import struct

import torch
from safetensors.torch import save

LAYER = "lora_unet_conv_in"
ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.uint8,
          torch.float8_e4m3fn]  # fmt: skip
NAMES = ["lora_down.weight", "lora_up.weight", "alpha", "lora_mid.weight", "dora_scale", "hada_w1_a", "weight", "",
         "lora_A.weight", "lora.up.weight", "lora_down.weight\nTraceback (most recent call last)"]  # fmt: skip
PREFIXES = ["lora_unet_conv_in", "lora_unet_out_0", "lora_unet_input_blocks_1_1", "lora_te_x",
            "style.lora_unet_conv_in", "lora_unet_\x1b[31m", "x" * 2000, "", "lora_unet_out_2"]  # fmt: skip


def nearly_right(generator):
    """A LoRA of the stand-in's layers in which one tensor may be of another shape, type, value or name."""
    tensors = {}
    for key, (out, *rest) in {LAYER: (8, 4, 3, 3), f"{ATTENTION}_to_q": (8, 8), f"{ATTENTION}_to_v": (8, 6)}.items():
        tensors |= {f"{key}.lora_down.weight": torch.ones(2, *rest), f"{key}.alpha": torch.tensor(1.0)}
        tensors[f"{key}.lora_up.weight"] = torch.ones(out, 2, *(1,) * (len(rest) - 1))
    name = generator.choice(list(tensors))
    value = tensors[name]
    change = generator.randrange(6)
    if change == 1:
        shape = [generator.choice([0, 1, 2, 3, 4, 8]) for _ in range(generator.randint(0, 5))]
        tensors[name] = torch.ones(shape)
    elif change == 2:
        tensors[name] = value.to(generator.choice(DTYPES))
    elif change == 3:
        tensors[name] = value * generator.choice([float("nan"), float("inf"), 1e38, 0.0])
    elif change == 4:
        del tensors[name]
        tensors[f"{generator.choice(PREFIXES)}.{generator.choice(NAMES)}"] = value
    elif change == 5:
        tensors[f"{generator.choice(PREFIXES)}.{generator.choice(NAMES)}"] = value
    return save({name: value.clone() for name, value in tensors.items()})


def hostile(generator):
    """Bytes of a file that says it is a LoRA: nearly one, or with a header that is none."""
    kind = generator.random()
    if kind < 0.7:
        return nearly_right(generator)
    header = {
        "lora_unet_conv_in.alpha": {
            "dtype": generator.choice(["F32", "F64", "I64", "BOOL", "C64", "F4", "X", 3, None]),
            "shape": generator.choice([[], [1], [2], [-1], [10**12], "x", [[1]], [1.5]]),
            "data_offsets": generator.choice([[0, 4], [4, 0], [0, 10**12], [-1, 3], [], "x", [0, 1]]),
        },
        "__metadata__": generator.choice([{}, {"a": 1}, [], None, {"a": "b"}, {"modelspec.trigger_phrase": "\n"}]),
    }
    text = json.dumps(header).encode() if kind < 0.9 else generator.randbytes(generator.randint(0, 60))
    length = len(text) if generator.random() < 0.8 else generator.choice([0, 1, 2**63, 2**64 - 1, len(text) * 2])
    return struct.pack("<Q", length) + text + generator.randbytes(generator.choice([0, 4, 8]))
