"""CLIP's text encoder in the shape that sd-scripts reads, whatever transformers is installed.

Up to transformers 4, ``CLIPTextModel`` held its layers in ``text_model``; transformers 5 holds them itself. sd-scripts
(0.11.1 asks for transformers 4.54) names that level where it loads a checkpoint's text encoder, trains it with gradient
checkpointing, keeps it in fp8 or skips its last layers: none of these works on the flat class.
"""

from __future__ import annotations

import sys
from typing import Any

INNER = "text_model"


def restore_text_model() -> None:
    """Gives ``transformers.CLIPTextModel`` its inner level back, for the modules that import it afterwards."""
    from transformers import CLIPPreTrainedModel, CLIPTextModel, __version__

    if int(__version__.partition(".")[0]) < 5 or CLIPTextModel.base_model_prefix == INNER:
        return
    # Its first import puts a new module object in the package's place.
    package: Any = sys.modules["transformers"]
    package.CLIPTextModel = nested_class(CLIPTextModel, CLIPPreTrainedModel)


def nested_class(flat: Any, base: Any) -> type:
    """A model class that holds ``flat`` as ``text_model``; tensors, arguments and outputs are as before."""

    class CLIPTextModel(base):
        config_class = flat.config_class
        base_model_prefix = INNER

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.text_model = flat._from_config(config)
            self.post_init()

        def get_input_embeddings(self) -> Any:
            return self.text_model.get_input_embeddings()

        def set_input_embeddings(self, value: Any) -> None:
            self.text_model.set_input_embeddings(value)

        def forward(self, *inputs: Any, **named: Any) -> Any:
            return self.text_model(*inputs, **named)

    return CLIPTextModel
