"""Pair training on the embedded host, from the command line to the files."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator

from pair_network.files import only_writer
from pair_network.sampling.protocols import Pipeline, Tokenizer, UNet, Vae

from ...pair_dataset import write_pair_dataset
from ...preview_prompts import write_default_prompts
from ...trainer import PairTraining, check_parts, trains_text_encoder
from .config import EmbeddedOptions, frozen
from .config_file import read_config_file
from .measuring import Measuring
from .model import TextEncoders
from .options import training_parser
from .previews import PreviewWriter, Prompt, are_due, make_pipeline, read_prompts
from .trainer import EmbeddedTrainer


class PairTrainer(PairTraining[EmbeddedOptions], EmbeddedTrainer):
    """Trains a coupled network on the embedded host, and shows it in previews."""

    def __init__(self) -> None:
        super().__init__()
        self._writer: PreviewWriter | None = None

    def is_train_text_encoder(self, args: EmbeddedOptions) -> bool:
        return super().is_train_text_encoder(args) and trains_text_encoder(args)

    def assert_extra_args(self, args: EmbeddedOptions, train_dataset_group: object, val_dataset_group: object) -> None:
        super().assert_extra_args(args, train_dataset_group, val_dataset_group)
        self.prompts = read_prompts(args.sample_prompts) if args.sample_prompts else []
        like = self.prompts[0] if self.prompts else Prompt("")
        self.prompts.append(replace(like, text=self.pair_captions[0][0], content=True))

    def sample_images(
        self,
        accelerator: Accelerator,
        args: EmbeddedOptions,
        epoch: int | None,
        global_step: int,
        device: torch.device,
        vae: Vae,
        tokenizers: Sequence[Tokenizer],
        text_encoder: TextEncoders,
        unet: UNet,
    ) -> None:
        """Writes a grid for every prompt, the training prompt last, to OUTPUT_DIR/sample."""
        if not accelerator.is_main_process or not are_due(args, epoch, global_step):
            return
        assert self.pair_network is not None
        if self._writer is None:
            self._writer = PreviewWriter(self.pair_network, args, self.trigger_words(args))
        encoders = text_encoder if isinstance(text_encoder, list) else [text_encoder]
        pipe = make_pipeline(args, vae, [accelerator.unwrap_model(one) for one in encoders], tokenizers, unet)
        name = f"{args.output_name or 'last'}_{global_step:06d}"
        sheets = self._writer.write(pipe, self.prompts, Path(args.output_dir) / "sample", name, accelerator.autocast())
        found = self._measured(args, pipe, accelerator, global_step)
        recording = self.recording(args)
        recording.note_previews(global_step, sheets, [prompt.text for prompt in self.prompts], found)

    def _measured(
        self, args: EmbeddedOptions, pipe: Pipeline, accelerator: Accelerator, step: int
    ) -> dict[str, dict[str, float]]:
        """Figures of the previews by column, in the log and the trackers too; after the last step also the advice."""
        recording, writer = self.recording(args), self._writer
        pair = [Path(path) for path in recording.record.pair[:2]]
        assert writer is not None
        if len(self.prompts) < 2 or len(pair) < 2:
            return {}
        with writer.drawing(pipe, accelerator.autocast()):
            measuring = Measuring(pipe, pair, writer.drawn)
            found = measuring.columns()
            if step == args.max_train_steps and all(found.values()):
                recording.record.note_figures(step, found)  # beside those of earlier steps
                recording.note_advice(*measuring.by_strength(pipe, writer))
        for column, values in found.items():
            accelerator.print(f"{column}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
        if accelerator.trackers:
            accelerator.log(
                {f"{name}/{column}": v for column, values in found.items() for name, v in values.items()}, step
            )
        return found


def train_pairs(argv: Sequence[str], trainer: type[PairTrainer] = PairTrainer) -> int:
    """Trains as the command line says; see ``hosts.embedded.train``.

    Args:
        argv: The command line, without the program's name.
        trainer: Class of the trainer, for methods that change its hooks.
    """
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # every process of accelerate launch comes through here
    logging.basicConfig(level=logging.INFO if is_first else logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    parser = training_parser()
    options = frozen(read_config_file(parser.parse_args(argv), parser, argv))
    check_parts(options.network_train_unet_only, options)
    with only_writer(Path(options.output_dir), options.output_name or "last"):
        dataset = write_pair_dataset(options) or options.dataset_config
        prompts = write_default_prompts(options)
        named = options.sample_prompts if prompts is None else str(prompts)
        trainer().train(replace(options, dataset_config=dataset, sample_prompts=named))
    return 0
