"""StyleGuidance: eq. 10 and 11 (paper) as a guider."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput, rescale_noise_cfg
from diffusers.modular_pipelines import ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import BlockState
from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import Row

from ..guidance import content_cfg, style_guided
from ..pipelines.networks import attached, is_compiled, networks_of
from ..pipelines.schedule import schedule_progress
from ..pipelines.style import Style
from ..protocols import Scheduler
from .prompt_step import StylePrompt, StylePromptStep, prompt_of_rows

# Blocks whose guided pictures are tested against eq. 10, by diffusers' name of the model that they are for.
KNOWN = ("stable-diffusion-xl", "stable-diffusion-3", "qwenimage", "z-image", "flux2-klein")
# A denoiser's text inputs, and what the text encoder's block calls them.
TEXT_INPUTS = {
    "prompt_embeds": "prompt_embeds",
    "encoder_hidden_states": "prompt_embeds",
    "cap_feats": "prompt_embeds",
    "text_embeds": "pooled_prompt_embeds",
    "encoder_hidden_states_mask": "prompt_embeds_mask",
}
COND, UNCOND, STYLE = "pred_cond", "pred_uncond", "pred_style_"
SAVED = ("file_or_network", "prompt_words", "scale", "start", "end", "multiplier")  # of a Style


@dataclasses.dataclass
class _Run:
    """What holds for one call of the pipeline.

    Attributes:
        prompts: Each style's; None where λ is 0.
        plain: The run's own prompts, where there are several: they tell which prompt a row of the batch has.
        places: The prompt of each row, by the denoiser's name of the text input.
    """

    model: nn.Module
    scheduler: Scheduler
    networks: list[PairNetwork]
    prompts: list[StylePrompt | None]
    plain: StylePrompt | None
    places: dict[str, list[int]] = dataclasses.field(default_factory=dict)


class StyleGuidance(BaseGuidance):
    """uncond + s (cond − uncond) + Σ λ_i (style_i − cond), each prediction a model call of its own.

    Its configuration is the numbers, the words and the files' paths: ``save_pretrained`` writes them.

    Args:
        styles: One style or several, made from files; each has its own λ and interval.
        guidance_scale: s, the content's CFG; 1 for distilled models.
        guidance_rescale: In [0, 1], as ClassifierFreeGuidance's: towards the spread of cond where CFG is on.
        cfg_end: As in ``style_guidance``: part of the noise schedule after which s is 1.
        enabled: False: cond alone.

    Raises:
        PairError: A number is out of its range, or a style is no file or has its prompt encoded already.
    """

    _enabled: bool
    _input_predictions = [COND, UNCOND]  # noqa: RUF012  (the base class wants a list)

    def __init__(
        self,
        styles: Style | Mapping[str, Any] | Sequence[Style | Mapping[str, Any]],
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        cfg_end: float = 1.0,
        enabled: bool = True,
    ):
        super().__init__(enabled=enabled)
        several = [styles] if isinstance(styles, (Style, Mapping)) else list(styles)
        self.styles = [one if isinstance(one, Style) else _style(one) for one in several]
        self.guidance_scale, self.guidance_rescale, self.cfg_end = guidance_scale, guidance_rescale, cfg_end
        self._check()
        saved = [{name: getattr(style, name) for name in SAVED} for style in self.styles]
        self.register_to_config(
            styles=[{**one, "file_or_network": str(one["file_or_network"])} for one in saved],
            guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, cfg_end=cfg_end, enabled=enabled,
        )  # fmt: skip
        self._run: _Run | None = None
        self._order: list[str] = []  # the step's predictions, in the order of its model calls
        self._switched = ExitStack()

    def _check(self) -> None:
        for style in self.styles:
            if isinstance(style.file_or_network, PairNetwork) or style.prompt_embeds is not None:
                raise PairError(
                    f"style {style.name}: StyleGuidance takes a file and words, which it can save; style_guidance "
                    "takes networks and embeddings too"
                )
        if not math.isfinite(self.guidance_scale):
            raise PairError(f"guidance_scale={self.guidance_scale}: a finite number is needed")
        for name in ("guidance_rescale", "cfg_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise PairError(f"{name}={getattr(self, name)}: a number from 0 to 1 is needed")

    def add_to(self, pipe: ModularPipeline) -> ModularPipeline:
        """Makes this the pipeline's guider, and adds the block that encodes the styles' prompts if it lacks it.

        ``pipe.update_components(guider=…)`` puts another guider in its place, of this kind or any other.

        Raises:
            PairError: It is no modular pipeline, or one without a guider or of a family that is not known.
        """
        kind = type(pipe).__name__
        if not isinstance(pipe, ModularPipeline):
            raise PairError(f"{kind}: StyleGuidance is for modular pipelines; use style_guidance(pipe, …)")
        blocks = pipe._blocks
        if "guider" not in pipe.component_names:
            raise PairError(f"{kind}: its blocks have no guider; use style_guidance with the classic pipeline")
        if blocks.model_name not in KNOWN or "text_encoder" not in getattr(blocks, "sub_blocks", {}):
            raise PairError(
                f"{kind}: StyleGuidance knows the blocks of {', '.join(KNOWN)} with a text_encoder among them, not "
                f"{type(blocks).__name__}"
            )
        encoder = blocks.sub_blocks["text_encoder"]
        others = [name for name in blocks.sub_blocks if name != "style_prompt"]
        blocks.sub_blocks.insert("style_prompt", StylePromptStep(encoder), others.index("text_encoder"))
        pipe.update_components(guider=self)
        return pipe

    def start_run(self, pipe: Any, encode: Callable[[str], StylePrompt]) -> None:
        """Reads the styles' files and encodes their prompts for the call of the pipeline that begins.

        Raises:
            PairError: A file does not fit the pipeline's models, or a model is compiled.
        """
        self._switched.close()
        self._run = None
        found = (getattr(pipe, name, None) for name in ("unet", "transformer"))
        model: Any = next(model for model in found if model is not None)
        if is_compiled(model):
            raise PairError(
                f"{type(pipe).__name__}: its model is compiled, and compiled code does not see a style come and go; "
                "leave out torch.compile, or use style_guidance with the classic pipeline"
            )
        networks = networks_of(pipe, model, self.styles)
        prompts: list[StylePrompt | None] = []
        for style, network in zip(self.styles, networks, strict=True):
            if not (style.scale and self._enabled):
                prompts.append(None)
                continue
            network.to(pipe._execution_device)
            with _switched_on(network, style), self._without_negative():
                prompts.append(encode(style.prompt_words or ""))
        plain = None
        if any(prompt is not None and len(prompt["prompt_embeds"]) > 1 for prompt in prompts):
            with self._without_negative():
                plain = encode("")
        self._run = _Run(model, pipe.scheduler, networks, prompts, plain)

    @contextmanager
    def _without_negative(self) -> Iterator[None]:
        """Text encoders ask the guider whether to encode the negative prompt, which a style has no use for."""
        was_enabled, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled = was_enabled

    # --- what the denoising loop calls in every step -----------------------------------------------------------------

    def prepare_inputs(self, data: dict[str, object]) -> list[BlockState]:
        """The step's batches: cond, uncond unless CFG is 1, and one for each style that guides."""
        return self._batches(lambda index, name: self._prepare_batch(data, index, name))

    def prepare_inputs_from_block_state(self, data: BlockState, input_fields: dict[str, object]) -> list[BlockState]:
        """As ``prepare_inputs``, for loops that name their inputs."""
        return self._batches(lambda index, name: self._prepare_batch_from_block_state(input_fields, data, index, name))

    def _batches(self, prepare: Callable[[int, str], BlockState]) -> list[BlockState]:
        run = self._run
        if run is None:
            raise PairError("StyleGuidance: this pipeline does not encode the style's prompt; call .add_to(pipe) once")
        self._order = [COND]
        if self._enabled:
            progress = schedule_progress(run.scheduler, self._timestep)
            if content_cfg(self.guidance_scale, progress, self.cfg_end) != 1:
                self._order.append(UNCOND)
            self._order += [f"{STYLE}{i}" for i, style in enumerate(self.styles) if style.is_guiding(progress)]
        batches = [prepare(1 if name == UNCOND else 0, name) for name in self._order]
        for name, batch in zip(self._order, batches, strict=True):
            if name.startswith(STYLE):
                self._replace_text(batch, int(name.removeprefix(STYLE)))
        return batches

    def _replace_text(self, batch: BlockState, index: int) -> None:
        run = self._run
        assert run is not None
        prompt = run.prompts[index]
        assert prompt is not None
        for field, name in TEXT_INPUTS.items():
            base, own = getattr(batch, field, None), prompt.get(name)
            if base is None or own is None:
                continue
            if isinstance(own, list):
                setattr(batch, field, [one.to(base[0]) for one in own for _ in range(len(base) // len(own))])
                continue
            if field not in run.places:
                run.places[field] = prompt_of_rows(base, None if run.plain is None else run.plain[name], len(own))
            setattr(batch, field, own[run.places[field]].to(base))

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Before a model call: the style's network on, where the call is a style's."""
        super().prepare_models(denoiser)
        name = self._order[self._count_prepared - 1]
        if not name.startswith(STYLE):
            return
        assert self._run is not None
        index = int(name.removeprefix(STYLE))
        switched = ExitStack()
        switched.enter_context(_switched_on(self._run.networks[index], self.styles[index]))
        # Also when the call fails, which leaves the loop without cleanup_models.
        hook = denoiser.register_forward_hook(lambda *_: switched.close(), always_call=True)
        self._switched.callback(hook.remove)
        self._switched.callback(switched.close)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """After a model call: the base model again."""
        self._switched.close()

    def __call__(self, data: list[BlockState]) -> GuiderOutput:
        """The step's guided prediction, from batches that each hold their own."""
        return self.forward(**{getattr(batch, self._identifier_key): batch.noise_pred for batch in data})

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None, **styled: Tensor) -> GuiderOutput:
        """Eq. 10 and 11.

        Args:
            pred_cond, pred_uncond: The base model's predictions, of one shape; None where CFG is 1.
            styled: Each guiding style's, by the name that ``prepare_inputs`` gave its batch.
        """
        styles, scales = list(styled.values()), [self.styles[int(n.removeprefix(STYLE))].scale for n in styled]
        pred = style_guided(pred_uncond, pred_cond, styles, self.guidance_scale, scales)
        if pred_uncond is not None and self.guidance_rescale > 0:
            pred = rescale_noise_cfg(pred, pred_cond, self.guidance_rescale)
        # Qwen-Image's loop brings pred to the norm of pred_cond, to take back what CFG adds: not what the style does.
        shifted = style_guided(None, pred_cond, styles, 1.0, scales)
        return GuiderOutput(pred=pred, pred_cond=shifted, pred_uncond=pred_uncond)

    @property
    def is_conditional(self) -> bool:
        """Whether the model call that is prepared carries a prompt, not the negative one."""
        return self._order[self._count_prepared - 1] != UNCOND

    @property
    def num_conditions(self) -> int:
        """2 where some step needs the negative prompt, else 1: what text encoders ask, also between two runs."""
        return 2 if self._enabled and self.guidance_scale != 1 and self.cfg_end > 0 else 1


def _style(saved: Mapping[str, Any]) -> Style:
    """A style as the guider's configuration has it.

    Raises:
        PairError: A field is unknown, or the file is missing.
    """
    if set(saved) - set(SAVED) or "file_or_network" not in saved:
        raise PairError(
            f"StyleGuidance: a style has the fields {', '.join(sorted(saved))}; a file_or_network is needed, and "
            f"{', '.join(SAVED[1:])} may stand beside it"
        )
    return Style(**saved)


@contextmanager
def _switched_on(network: PairNetwork, style: Style) -> Iterator[None]:
    """The style's network in every row; hooks and route are put back as they were."""
    with attached(network, next(network.parameters()).device), network.route([Row(style=style.multiplier)]):
        yield
