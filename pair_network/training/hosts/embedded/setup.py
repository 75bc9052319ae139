"""Everything before the first step: models and caches, then network, optimizer and schedule."""

from __future__ import annotations

import logging
from types import ModuleType

import torch
from accelerate.utils import set_seed

from pair_network.errors import PairError
from pair_network.starting import installed_module

from ...options import key_values
from ...protocols import Network
from .caching import cache_latents
from .config import EmbeddedOptions
from .dataset import DatasetGroup
from .disk_cache import latents_on_disk
from .hooks import TrainerHooks
from .model import move
from .optimizers import get_lr_scheduler, get_optimizer
from .session import DTYPES, Session, make_accelerator

logger = logging.getLogger(__name__)


def load_session(trainer: TrainerHooks, args: EmbeddedOptions, dataset: DatasetGroup) -> Session:
    """Accelerator, models and cached latents."""
    accelerator = make_accelerator(args)
    weight_dtype = DTYPES[args.mixed_precision]
    vae_dtype = torch.float32 if args.no_half_vae else weight_dtype
    dataset.tokenize_strategy = trainer.get_tokenize_strategy(args)
    version, text_encoder, vae, unet = trainer.load_target_model(args, weight_dtype, accelerator)
    for caption in dataset.captions():
        if dataset.tokenize_strategy.is_cut(caption):
            logger.warning("caption %r is longer than the model can read; its end is ignored", caption)
    if args.cache_latents:
        on_device = move(vae, accelerator.device, vae_dtype)
        cache_latents(dataset, on_device, args.vae_batch_size, latents_on_disk(args, vae_dtype))
        vae.to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return Session(
        args,
        accelerator,
        dataset,
        dataset.tokenize_strategy,
        trainer.get_text_encoding_strategy(args),
        text_encoder,
        vae,
        unet,
        version,
        weight_dtype,
        vae_dtype,
        train_unet=not args.network_train_text_encoder_only,
        train_text_encoder=trainer.is_train_text_encoder(args),
    )


def attach_network(trainer: TrainerHooks, session: Session) -> None:
    """Creates the network, applies it and prepares everything for the first step."""
    args, accelerator = session.args, session.accelerator
    module = import_network_module(args)
    # before captions are cached: the merged weights may change the text encoder
    merge_base_weights(args, module, session)
    trainer.cache_text_encoder_outputs_if_needed(
        args, accelerator, session.unet, session.vae, session.text_encoders, session.dataset, session.weight_dtype
    )
    session.network = create_network(args, module, session)
    trainer.post_process_network(args, accelerator, session.network, session.text_encoders, session.unet)
    apply_network(args, session)
    prepare_optimizer(args, session)
    move(session.unet.requires_grad_(False), "cpu", session.weight_dtype)
    for text_encoder in session.text_encoders:
        text_encoder.requires_grad_(False)
    session.unet = trainer.prepare_unet_with_accelerator(args, accelerator, session.unet)
    session.network, session.optimizer, session.lr_scheduler = accelerator.prepare(
        session.network, session.optimizer, session.lr_scheduler
    )
    prepare_modes(args, session)
    session.bare_network.prepare_grad_etc(session.text_encoder, session.unet)
    session.noise_scheduler = trainer.get_noise_scheduler(args, accelerator.device)
    if accelerator.num_processes > 1:
        # from here on, processes draw different noise and timesteps
        set_seed(args.seed, device_specific=True)


def import_network_module(args: EmbeddedOptions) -> ModuleType:
    """The network module; PairError when it cannot be imported or has no ``create_network``."""
    try:
        module = installed_module(args.network_module, "--network_module")
    except ImportError as cause:
        raise PairError(
            f"--network_module {args.network_module} cannot be imported ({cause}); check its name"
        ) from cause
    if not hasattr(module, "create_network"):
        raise PairError(f"--network_module {args.network_module} is no network module: it has no create_network")
    return module


def merge_base_weights(args: EmbeddedOptions, module: ModuleType, session: Session) -> None:
    """Merges the LoRAs of --base_weights into the model."""
    multipliers = list(args.base_weights_multiplier or [])
    for i, path in enumerate(args.base_weights or []):
        multiplier = multipliers[i] if i < len(multipliers) else 1.0
        network, weights = module.create_network_from_weights(
            multiplier, path, session.vae, session.text_encoder, session.unet, for_inference=True
        )
        network.merge_to(session.text_encoder, session.unet, weights, session.weight_dtype, "cpu")
        session.accelerator.print(f"merged {path} with multiplier {multiplier}")


def create_network(args: EmbeddedOptions, module: ModuleType, session: Session) -> Network:
    """A new network from the options, or one of the shape that --network_weights has with --dim_from_weights."""
    kwargs: dict[str, object] = {**key_values(args.network_args)}
    models = (session.vae, session.text_encoder, session.unet)
    if args.dim_from_weights:
        network, _ = module.create_network_from_weights(1, args.network_weights, *models, **kwargs)
    else:
        kwargs.setdefault("dropout", args.network_dropout)
        network = module.create_network(
            1.0, args.network_dim, args.network_alpha, *models, neuron_dropout=args.network_dropout, **kwargs
        )
    if hasattr(network, "prepare_network"):
        network.prepare_network(args)
    if args.scale_weight_norms and not hasattr(network, "apply_max_norm_regularization"):
        raise PairError(f"--scale_weight_norms: {args.network_module} does not support it; leave it out")
    return network


def apply_network(args: EmbeddedOptions, session: Session) -> None:
    """Puts the network into the model, loads --network_weights and turns on gradient checkpointing."""
    network = session.network
    network.apply_to(session.text_encoder, session.unet, session.train_text_encoder, session.train_unet)
    if args.network_weights:
        info = network.load_weights(args.network_weights)
        session.accelerator.print(f"loaded {args.network_weights}: {info}")
    if args.gradient_checkpointing:
        session.unet.enable_gradient_checkpointing()
        if session.train_text_encoder:
            for text_encoder in session.text_encoders:
                text_encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        network.enable_gradient_checkpointing()


def prepare_optimizer(args: EmbeddedOptions, session: Session) -> None:
    """Makes the optimizer over the network's parameter groups, and its schedule."""
    network = session.network
    rates = args.text_encoder_lr
    if hasattr(network, "prepare_optimizer_params_with_multiple_te_lrs"):
        made = network.prepare_optimizer_params_with_multiple_te_lrs(rates, args.unet_lr, args.learning_rate)
    else:
        made = network.prepare_optimizer_params(rates[0] if rates else None, args.unet_lr, args.learning_rate)
    if isinstance(made, tuple):
        groups, session.lr_descriptions = made
    else:
        groups = made
    name, text, session.optimizer = get_optimizer(args, groups)
    session.optimizer_name = f"{name}({text})" if text else name
    session.lr_scheduler = get_lr_scheduler(args, session.optimizer, session.accelerator.num_processes)


def prepare_modes(args: EmbeddedOptions, session: Session) -> None:
    """Sets the models' training flags; the base model is frozen either way."""
    unet = session.unet
    # some diffusers and transformers versions checkpoint in training mode only; neither has active dropout
    unet.train(args.gradient_checkpointing)
    for text_encoder in session.text_encoders:
        text_encoder.train(args.gradient_checkpointing and session.train_text_encoder)
    if not args.cache_latents:
        move(session.vae, session.accelerator.device, session.vae_dtype)
