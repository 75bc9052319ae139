"""Previews on sd-scripts: kohya's own sampling, run three times for a prompt and put side by side.

Base model, style LoRA, style guidance (paper, eq. 10): all three with kohya's sampler, seed and text encoding. In the
third run every prediction is shifted by λ (style − cond), which a forward hook adds to both rows of kohya's batch, so
that whatever CFG the sampler does with them is shifted by exactly that much. Where the content's CFG has ended both
rows get the prompt's shifted prediction, which CFG of any scale leaves as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.families import PreviewInputs, SdScripts
from pair_network.images import open_image
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import BASE_ROW, Row
from pair_network.sampling.guidance import is_in_interval, style_shift
from pair_network.sampling.previews import grid, save_picture

from ...protocols import Accelerator
from ...replaced import evaluated
from ...report.recording import Recording
from .protocols import ModelOutput, Prompt, SamplingTrainer

STYLE_ROW = Row(style=1.0)
Models = tuple[object, object, object, object, nn.Module]  # device, VAE, tokenizers, text encoders, denoiser


class StylePreviews(SamplingTrainer):
    """Mixin over an sd-scripts trainer; needs ``PairTraining`` before it."""

    family: SdScripts
    pair_network: PairNetwork | None
    recording: Callable[[argparse.Namespace], Recording]

    def cache_text_encoder_outputs_if_needed(self, args: argparse.Namespace, *rest: object) -> None:
        """Prompts are encoded before text encoders are freed: the styled prompts join them there."""
        if not args.sample_prompts or self.family.previews is None:
            super().cache_text_encoder_outputs_if_needed(args, *rest)
            return
        prompts = load_prompts(args.sample_prompts)
        prompts += [self._styled(args, prompt) for prompt in prompts]
        with tempfile.TemporaryDirectory() as folder:
            super().cache_text_encoder_outputs_if_needed(with_prompts(args, prompts, Path(folder)), *rest)

    def sample_images(
        self,
        accelerator: Accelerator,
        args: argparse.Namespace,
        epoch: int | None,
        global_step: int,
        device: object,
        vae: object,
        tokenizers: object,
        text_encoder: object,
        unet: nn.Module,
    ) -> None:
        if not are_due(args, epoch, global_step):
            return
        network = self.pair_network
        assert network is not None
        models = (device, vae, tokenizers, text_encoder, unet)
        with evaluated(network):
            if self.family.previews is None:
                with network.route(None):
                    super().sample_images(accelerator, args, epoch, global_step, *models)
                return
            sheets, prompts = [], load_prompts(args.sample_prompts)
            for number, prompt in enumerate(prompts):
                # Three pictures are compared, so they need one seed; kohya draws a new one where none is given.
                prompt = {"sample_steps": self.family.previews.default_steps, "seed": args.seed + number, **prompt}
                pictures = self._pictures(accelerator, args, epoch, global_step, models, prompt)
                if accelerator.is_main_process:
                    labels = ["base", "style LoRA", f"style guidance {args.sample_style_scale:g}"]
                    sheet = grid([pictures], labels, title=prompt["prompt"])
                    sheets.append(sheet_path(args, epoch, global_step, number, prompt["seed"]))
                    save_picture(sheets[-1], sheet)
            if sheets:
                self.recording(args).note_previews(global_step, sheets, [prompt["prompt"] for prompt in prompts], {})

    def _pictures(
        self,
        accelerator: Accelerator,
        args: argparse.Namespace,
        epoch: int | None,
        step: int,
        models: Models,
        prompt: Prompt,
    ) -> list[Image.Image]:
        """The prompt's three pictures; an empty list on other processes than the main one."""
        network, inputs = self.pair_network, self.family.previews
        assert network is not None and inputs is not None
        model = accelerator.unwrap_model(models[-1])
        guide = StyleGuide(
            network, model, inputs, args.sample_style_scale, args.sample_style_start, args.sample_cfg_end
        )

        def sampled(given: Prompt) -> list[Image.Image]:
            with tempfile.TemporaryDirectory() as folder:
                own = with_prompts(args, [given], Path(folder))
                own.output_dir = folder
                super(StylePreviews, self).sample_images(accelerator, own, epoch, step, *models)
                return [open_image(path) for path in sorted(Path(folder, "sample").glob("*.png"))]

        with network.route([BASE_ROW]):
            pictures = sampled(prompt)
        with network.route([STYLE_ROW]), guide.recording():
            pictures += sampled(self._styled(args, prompt))
        with network.route([BASE_ROW]), guide.guiding():
            pictures += sampled(prompt)
        return pictures

    def _styled(self, args: argparse.Namespace, prompt: Prompt) -> Prompt:
        words = self.trigger_words(args)
        return {**prompt, "prompt": f"{prompt.get('prompt', '')} {words}".strip()}


class StyleGuide:
    """Adds style guidance to a model's predictions, from the text inputs of an earlier run with the styled prompt.

    Args:
        network: Its style branch gives the style's prediction.
        model: The denoiser that kohya's sampler calls.
        inputs: Which of its inputs are text, and which row is the prompt's.
        scale: λ of eq. 10.
        start: Share of the model's calls that stay without style.
        cfg_end: Share of the model's calls after which the content's CFG is 1.
    """

    def __init__(
        self,
        network: PairNetwork,
        model: nn.Module,
        inputs: PreviewInputs,
        scale: float,
        start: float,
        cfg_end: float = 1.0,
    ):
        self.network, self.model, self.inputs = network, model, inputs
        self.scale, self.start, self.cfg_end = scale, start, cfg_end
        self.signature = inspect.signature(type(model).forward)
        self.text: dict[str, object] = {}
        self.calls = self.recorded_calls = 0
        self._is_own_call = False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Inside the block, the prompt's text inputs and the number of calls are noted."""
        self.recorded_calls = 0
        with self.model.register_forward_pre_hook(self._record, with_kwargs=True):
            yield

    @contextlib.contextmanager
    def guiding(self) -> Iterator[None]:
        """Inside the block, every prediction after the start is shifted, and without CFG after its end."""
        self.calls = 0
        with self.model.register_forward_hook(self._shift, with_kwargs=True):
            yield

    def _record(self, model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.recorded_calls += 1
        if self.recorded_calls == 1:
            given = self.signature.bind(model, *args, **kwargs).arguments
            rows = self._rows(given)
            texts = {name: self._own(given.get(name), rows) for name in self.inputs.text}
            self.text = {name: text.clone() if isinstance(text, Tensor) else text for name, text in texts.items()}

    def _shift(
        self, model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: Tensor | ModelOutput
    ) -> Tensor | ModelOutput | None:
        if self._is_own_call:
            return None
        progress = self.calls / max(1, self.recorded_calls)
        self.calls += 1
        has_style, has_cfg = (is_in_interval(progress, *part) for part in ((self.start, 1.0), (0.0, self.cfg_end)))
        if has_cfg and not has_style:
            return None
        bound = self.signature.bind(model, *args, **kwargs)
        rows, prediction = self._rows(bound.arguments), _prediction(output)
        cond, styles = self._own_row(prediction, rows), []
        if has_style:
            own = {name: self._own(value, rows) for name, value in bound.arguments.items() if name != "self"}
            bound.arguments.update({**own, **self.text})
            styles = [_prediction(self._styled_prediction(bound))]
        unshifted = prediction if has_cfg else cond.expand_as(prediction)
        return _with_prediction(output, unshifted + style_shift(cond, styles, [self.scale] * len(styles)))

    def _styled_prediction(self, bound: inspect.BoundArguments) -> Tensor | ModelOutput:
        # A second forward before any backward: swapped blocks must come back to their places first.
        prepare = getattr(self.model, "prepare_block_swap_before_forward", None)
        if prepare is not None:
            prepare()
        self._is_own_call = True
        try:
            with self.network.route([STYLE_ROW]):
                return self.model(*bound.args[1:], **bound.kwargs)
        finally:
            self._is_own_call = False

    def _rows(self, given: Mapping[str, object]) -> int:
        """Rows of the model's batch: 1, or 2 with the negative prompt's."""
        rows = next(value.shape[0] for name, value in given.items() if isinstance(value, Tensor) and value.dim() > 1)
        if rows > 2:
            raise PairError(f"previews: kohya's sampler passes {rows} rows instead of 1 or 2; use another version")
        return rows

    def _own(self, value: object, rows: int) -> object:
        """An input of the prompt alone."""
        return self._own_row(value, rows) if isinstance(value, Tensor) else value

    def _own_row(self, value: Tensor, rows: int) -> Tensor:
        """The prompt's row of a tensor that has one for each row."""
        if value.dim() == 0 or value.shape[0] != rows:
            return value
        row = self.inputs.cond_row % rows
        return value[row : row + 1]


def _prediction(output: Tensor | ModelOutput) -> Tensor:
    return output if isinstance(output, Tensor) else output.sample


def _with_prediction(output: Tensor | ModelOutput, prediction: Tensor) -> Tensor | ModelOutput:
    if isinstance(output, Tensor):
        return prediction.to(output.dtype)
    output.sample = prediction.to(output.sample.dtype)
    return output


def are_due(args: argparse.Namespace, epoch: int | None, step: int) -> bool:
    """Whether sd-scripts samples now: before the first step, after an epoch, or after a step (``epoch`` None)."""
    if step == 0:
        return bool(args.sample_at_first and args.sample_prompts)
    if not args.sample_prompts:
        return False
    if args.sample_every_n_epochs is not None:
        return bool(epoch is not None and epoch % args.sample_every_n_epochs == 0)
    return bool(args.sample_every_n_steps and epoch is None and step % args.sample_every_n_steps == 0)


def load_prompts(path: str) -> list[Prompt]:
    """The prompts of a .txt, .toml or .json file, read by sd-scripts.

    Raises:
        PairError: The file is missing or of another kind.
    """
    if not Path(path).is_file() or Path(path).suffix not in (".txt", ".toml", ".json"):
        raise PairError(f"--sample_prompts {path}: there is no such .txt, .toml or .json file")
    from library import train_util  # of the checkout

    return train_util.load_prompts(path)


def with_prompts(args: argparse.Namespace, prompts: Sequence[Prompt], folder: Path) -> argparse.Namespace:
    """A copy of the options whose --sample_prompts is a file in ``folder`` with the given prompts."""
    path = folder / "prompts.json"
    path.write_text(json.dumps(list(prompts)), encoding="utf-8")
    return argparse.Namespace(**{**vars(args), "sample_prompts": str(path)})


def sheet_path(args: argparse.Namespace, epoch: int | None, step: int, number: int, seed: int) -> Path:
    """Named as kohya names its samples, without the time of day."""
    when = f"{step:06d}" if epoch is None else f"e{epoch:06d}"
    return Path(args.output_dir) / "sample" / f"{args.output_name or 'last'}_{when}_{number:02d}_{seed}.png"
