"""What SDXL has that Stable Diffusion 1 and 2 have not: two text encoders, a pooled text, and sizes as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...protocols import Batch
from .model import TextEncodingStrategy, TokenizeStrategy

# SDXL always reads the layer before the last of both encoders (the first has twelve; sd-scripts counts its eleventh).
SKIPPED_STATE = -2
# What the second encoder was trained on and sd-scripts gives it, whatever a model's files say of the tokenizer.
OPEN_CLIP_PADDING = 0


class SdxlTokenizeStrategy(TokenizeStrategy):
    """Captions to the ids of both tokenizers, which differ in their padding."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        second = self.load(folder / "tokenizer_2")
        second.pad_token_id = OPEN_CLIP_PADDING
        self.tokenizers.append(second)


class SdxlTextEncodingStrategy(TextEncodingStrategy):
    """Token ids to the states of both encoders and the second one's pooled text."""

    def __init__(self) -> None:
        super().__init__(None)

    def encode_tokens(
        self, tokenize_strategy: TokenizeStrategy, models: Sequence[nn.Module], tokens: Sequence[Tensor]
    ) -> list[Tensor]:
        """States (captions, length, width) of either encoder, and the pooled text (captions, width).

        Args:
            tokenize_strategy: What made the tokens.
            models: Both encoders.
            tokens: Ids (captions, length) for either.
        """
        outputs = [
            encoder(ids.to(next(encoder.parameters()).device), output_hidden_states=True, return_dict=True)
            for encoder, ids in zip(models, tokens, strict=True)
        ]
        return [*(output.hidden_states[SKIPPED_STATE] for output in outputs), outputs[1].text_embeds]


def size_ids(batch: Batch) -> Tensor:
    """SDXL's size conditioning (rows, 6): original height and width, crop top and left, target height and width."""
    parts = (batch["original_sizes_hw"], batch["crop_top_lefts"], batch["target_sizes_hw"])
    return torch.cat([part.float() for part in parts], dim=1)


def unet_inputs(text_conds: Sequence[Tensor], batch: Batch, dtype: torch.dtype) -> dict[str, object]:
    """The U-Net's conditions as diffusers names them; sizes stay in float32, where every pixel counts."""
    first, second, pooled = (cond.to(dtype) for cond in text_conds)
    return {
        "encoder_hidden_states": torch.cat([first, second], dim=-1),
        "added_cond_kwargs": {"text_embeds": pooled, "time_ids": size_ids(batch).to(pooled.device)},
    }
