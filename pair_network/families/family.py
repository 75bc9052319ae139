"""What a model family is: the one record that training, previews, sampling and the converters ask.

Only facts stand here and in the files beside this one, no tensor: nothing but Python is needed to import them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from .layers import Blocks, Entry, entries_of
from .text_encoders import TextEncoder

# Kinds of layer that ``targets`` of the network arguments names, in the order in which a layer's kind is decided.
KINDS = ("attention", "ff", "modulation", "conv", "full")


@dataclass(frozen=True)
class PreviewInputs:
    """What a preview must know about a model's forward.

    Attributes:
        text: Parameters that come from the prompt.
        cond_row: Row of the prompt in a batch of two, the other being the negative prompt's.
        default_steps: Sampling steps of a prompt that names none.
    """

    text: tuple[str, ...]
    cond_row: int
    default_steps: int


@dataclass(frozen=True)
class SdScripts:
    """A family's trainer in kohya-ss sd-scripts.

    Attributes:
        model_type: Value of --model_type.
        module: Module of the checkout with the trainer and ``setup_parser``.
        trainer: Name of the trainer class.
        previews: None: kohya's own samples, with the style branch on.
        needs: Options that name the files without which it cannot start, besides the model itself.
        takes_folders: Options that name a .safetensors file, or a folder, a hub name or a pickle in its place.
    """

    model_type: str
    module: str
    trainer: str
    previews: PreviewInputs | None = None
    needs: tuple[str, ...] = ()
    takes_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Musubi:
    """A family's trainer in kohya-ss musubi-tuner.

    Attributes:
        model_type: Value of --model_type.
        scripts: What its scripts' names begin with.
        trainer: Name of the trainer class.
        caches: Options of the two caching scripts that name models: for the latents, for the text.
        versions: Values of --model_version that mean this size of the model, the one to train first; none: it has
            one size.
    """

    model_type: str
    scripts: str
    trainer: str
    caches: tuple[tuple[str, ...], tuple[str, ...]] = (("vae",), ("text_encoder",))
    versions: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return f"{self.scripts}_train_network"

    @property
    def cache_scripts(self) -> tuple[str, str]:
        """Names of the scripts that encode images and captions once."""
        return f"{self.scripts}_cache_latents.py", f"{self.scripts}_cache_text_encoder_outputs.py"


@dataclass(frozen=True)
class Words:
    """How files name the family in their metadata.

    Attributes:
        version: kohya's ``ss_base_model_version``, as it is written.
        architecture: ``modelspec.architecture`` of a LoRA, as it is written.
        versions: Beginnings, in lower case, of the versions that mean this family.
        architectures: Beginnings, in lower case, of the architectures that mean this family.
        ui: Version that the cards of A1111 and Forge know, or "".
    """

    version: str
    architecture: str
    versions: tuple[str, ...]
    architectures: tuple[str, ...]
    ui: str = ""


@dataclass(frozen=True, eq=False)
class Family:
    """A model family.

    Attributes:
        name: Short name, as ``--family`` takes it.
        title: Name for people.
        order: Place among the families: in lists, and in a guess where a file fits several.
        words: Its names in metadata.
        blocks: The denoiser's layers, original name by diffusers' name; empty: not known to the converters.
        hidden: Hidden widths, "h" of ``blocks``, of the published models.
        kinds: Regular expression of the layers' paths, as the trainers' models have them, by kind: "attention";
            "ff", feed-forward parts and projections; "modulation"; "conv"; and "full", what the host's own network
            module of the family takes without further options.
        component: diffusers' name of the denoiser, "unet" or "transformer".
        kohya_is_native: kohya's files name the denoiser's layers by the original names, not by diffusers'.
        text_encoders: Its text encoders, as files name them.
        trains_text_encoders: The trainers train them.
        model_classes: Classes of its denoiser in the trainers.
        diffusers_class: Class of its denoiser in diffusers.
        pipelines: Beginnings of its pipelines' class names in diffusers.
        marks: A tensor of a checkpoint, in the original layout or diffusers', that no other family's have.
        reads: The UIs that have the model, and the forms of names that each takes of its denoiser's layers: "kohya"
            (what its trainer writes), "kohya-native" and "kohya-diffusers" (the other model's names, likewise
            underscored), "native" (the original's after ``diffusion_model.``), "native-split" (diffusers' after the
            same), "dotted" (diffusers' after their component), "bare" (without), "peft" (after ``base_model.model.``),
            "lycoris", "onetrainer", "processor" (diffusers' first releases), "transformer-native", "peft-native",
            "xflux". Of diffusers each is a rule for a whole file: the form, the ends of the tensors' names, and "+",
            "-" or "*": with alphas, without, either.
        unread: Regular expression, by UI, of names in these forms that it does not take all the same.
        comfyui: What ComfyUI's model calls parts of the original's names: pairs of a text and what is there instead.
        presets: Its presets.
        sd_scripts: Its trainer in sd-scripts.
        musubi: Its trainer in musubi-tuner.
    """

    name: str
    title: str
    order: int
    words: Words
    kinds: Mapping[str, str]
    component: str = "transformer"
    kohya_is_native: bool = True
    blocks: tuple[Blocks, ...] = ()
    hidden: tuple[int, ...] = ()
    text_encoders: tuple[TextEncoder, ...] = ()
    trains_text_encoders: bool = True
    model_classes: tuple[str, ...] = ()
    diffusers_class: str = ""
    pipelines: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    unread: Mapping[str, str] = field(default_factory=dict, repr=False)
    comfyui: tuple[tuple[str, str], ...] = ()
    presets: tuple[str, ...] = ()
    sd_scripts: SdScripts | None = field(default=None, repr=False)
    musubi: Musubi | None = field(default=None, repr=False)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every layer of the denoiser that a LoRA can carry."""
        return entries_of(self.blocks)

    def in_comfyui(self, native: str) -> str:
        """An original name as ComfyUI's model has it."""
        for text, other in self.comfyui:
            native = native.replace(text, other)
        return native

    @property
    def is_v2(self) -> bool:
        """kohya's ``ss_v2``."""
        return self.name == "sd2"

    def to_convert(self) -> dict[str, str]:
        """The UIs that leave out a part of the trainer's file or all of it, each with the verb of ``convert`` for it.

        A UI for which no verb writes a file that it applies whole is not among them.
        """
        keys = self._trainers_names()
        verbs = {}
        for ui, forms in self.reads.items():
            if ui == "diffusers":
                if not any(form.split()[0] == "kohya" for form in forms):
                    verbs[ui] = "diffusers"
            elif (ui in self.unread and any(re.search(self.unread[ui], key) for key in keys)) or (
                ui == "ComfyUI" and self._is_renamed_in_comfyui(keys)
            ):
                verbs[ui] = "a1111 --ui comfyui"
        return verbs

    def _is_renamed_in_comfyui(self, keys: list[str]) -> bool:
        """Whether some of kohya's keys are others than ComfyUI's own names under kohya's prefix."""
        flat = [(ours.replace(".", "_"), theirs.replace(".", "_")) for ours, theirs in self.comfyui]
        return any(ours != theirs and ours in key for ours, theirs in flat for key in keys)

    def _trainers_names(self) -> list[str]:
        """The layers in the denoiser's numbered blocks as kohya's file names them."""
        paths = [
            path for entry in self.entries for path in ((entry.native,) if self.kohya_is_native else entry.modules)
        ]
        return ["lora_unet_" + path.replace(".", "_") for path in paths if re.search(r"\.\d+\.", path)]

    def kind_of(self, path: str) -> str | None:
        """The kind of a layer by its path in the trainer's model, or None: of no kind."""
        return next((kind for kind in KINDS if kind in self.kinds and re.search(self.kinds[kind], path)), None)
