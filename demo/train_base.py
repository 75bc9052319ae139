"""Makes the embedded model from nothing: `python -m demo.train_base`.

Stages, each skipped when its result lies in the work folder: tokenizer, scenes, autoencoder, latents, then text encoder
and U-Net together. The result is a diffusers folder in fp16. A run that is stopped goes on where it was when started
again with the same work folder; `--init` starts from committed weights instead, with a fresh optimizer.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from demo import parallel
from demo.model_config import MODEL_DIR, SHAPES
from demo.scenes import SIZE
from demo.train_unet import train_unet
from demo.train_vae import load_pools, train_vae, trains_vae

log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".work", help="scenes, checkpoints")
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="where the model is written")
    parser.add_argument(
        "--init", type=Path, help="a model folder to start from; its autoencoder is kept unless --vae_init"
    )
    parser.add_argument("--processes", type=int, default=2, help="that render, and train on CPUs; a GPU is used by one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, choices=list(SHAPES), default=SIZE, help="side of the pictures, in pixels")
    parser.add_argument("--scenes", type=int, default=40_000, help="photos and base styles rendered in advance")
    parser.add_argument("--family", type=int, default=40_000, help="pictures in styles of the family, as well")
    parser.add_argument("--first_scene", type=int, default=0, help="seed of the first; another gives new pictures")
    parser.add_argument("--textures", type=int, default=12_000, help="random textures for the autoencoder")
    parser.add_argument("--save_every", type=int, default=500, help="steps between checkpoints")
    vae = parser.add_argument_group("autoencoder")
    vae.add_argument("--vae_init", type=Path, help="an autoencoder folder to train on from")
    vae.add_argument("--vae_steps", type=int, default=8000)
    vae.add_argument("--vae_minutes", type=float, default=1e9, help="ends earlier when these have passed")
    vae.add_argument("--vae_batch", type=int, default=8, help="pictures per process and step")
    vae.add_argument("--vae_lr", type=float, default=1.5e-3)
    unet = parser.add_argument_group("U-Net and text encoder")
    unet.add_argument("--max_steps", type=int, default=20_000)
    unet.add_argument("--max_minutes", type=float, default=1e9, help="ends earlier when these have passed")
    unet.add_argument("--batch", type=int, default=24, help="latents per process and step")
    unet.add_argument("--lr", type=float, default=1.2e-3)
    unet.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights, which are saved")
    return parser


def train_base(args: argparse.Namespace) -> None:
    """All stages, in one process of possibly several."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if trains_vae(args) and not (args.work / "vae" / "config.json").exists():
        train_vae(args)
    train_unet(args)


def main() -> None:
    """Command line."""
    args = build_parser().parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    # Rendered before the processes part, as each of them reads the same files.
    load_pools(args)
    parallel.run_parallel(train_base, args)


if __name__ == "__main__":
    main()
