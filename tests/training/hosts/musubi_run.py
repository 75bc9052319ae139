"""Runs in musubi-tuner's environment: several trainings of a tiny model of one family, one after the other.

Arguments: the checkout, the project's folder, a folder with pairs, the model, as MODELS has it. Prints JSON lines: what
happened.
"""

import json
import sys
from pathlib import Path

import torch

MODELS = {  # (--model_type, architecture in the names of caches, further options)
    "flux2_klein_4b": ("flux2", "f2k4b", ["--model_version", "klein-4b"]),
    "flux2_klein_9b": ("flux2", "f2k9b", ["--model_version", "klein-base-9b"]),
    "flux2_dev": ("flux2", "f2d", ["--model_version", "dev"]),
    "qwen_image": ("qwen_image", "qi", []),
    "z_image": ("z_image", "zi", []),
    "krea2": ("krea2", "kr2", []),
    "ideogram4": ("ideogram4", "i4", []),
}


def report(name, **facts):
    print("RESULT " + json.dumps({"name": name, **facts}), flush=True)


def forget_accelerate():
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def spy(trainer_class):
    """Counts rows whose content latents are not their twin's, and keeps the last batch."""
    from pair_network.training.batch import CONTENT

    seen = {"steps": 0, "misaligned": 0}
    original = trainer_class.process_batch

    def process_batch(self, args, accelerator, transformer, network, batch, *rest):
        content, style = batch[CONTENT]["latents"], batch["latents"]
        seen["steps"] += 1
        seen["misaligned"] += sum(not torch.equal(c, s) for c, s in zip(content, style, strict=True))
        seen["last"] = (self, args, accelerator, transformer, network, batch, rest)
        return original(self, args, accelerator, transformer, network, batch, *rest)

    trainer_class.process_batch = process_batch
    return seen


def phases_agree(seen):
    """Losses of each branch alone and in one joint batch, on the same noise and timesteps."""
    from unittest import mock

    from pair_network.training.objective import Phase

    self, args, accelerator, transformer, network, batch, rest = seen["last"]

    def fixed(like, **options):
        return torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(3)).expand(like.shape).clone()

    def noisy(args, noise, latents, timesteps, *rest):
        return 0.5 * latents + 0.5 * noise, torch.full((len(latents),), 501.0)

    latents = self.scale_shift_latents(batch["latents"])
    losses = {}
    with torch.no_grad(), mock.patch.object(torch, "randn_like", fixed):
        self.get_noisy_model_input_and_timesteps = noisy
        for phase in Phase:
            self._begin_step = lambda *_, phase=phase: phase
            self.process_batch(
                args, accelerator, transformer, network, dict(batch), latents.clone(), fixed(latents), *rest[2:]
            )
            losses[phase.value] = {name: float(value) for name, value in self._last_losses.items()}
    return losses


def main():
    checkout, project, folder, name = sys.argv[1:]
    folder = Path(folder)
    out = folder / "out"
    sys.path[:0] = [project, str(Path(__file__).parent)]
    import musubi_tiny
    from safetensors.torch import save_file

    from pair_network import PairError
    from pair_network.training.hosts import musubi
    from pair_network.training.hosts.musubi import entry
    from pair_network.training.hosts.musubi.families import TRAINERS
    from pair_network.training.hosts.musubi.trainer import MusubiPairTraining

    model_type, architecture, size = MODELS[name]
    family = TRAINERS[model_type]
    save_file({}, folder / "tiny.safetensors")  # its tensors come from musubi_tiny
    module = entry.import_musubi(checkout, family.module)
    musubi_tiny.patch(getattr(module, family.trainer), name)
    seen = spy(MusubiPairTraining)

    def train(*options, output="style"):
        forget_accelerate()
        musubi.train(checkout, [
            "--model_type", model_type, *size, "--dit", str(folder / "tiny.safetensors"), "--output_dir", str(out),
            "--network_dim", "4", "--network_alpha", "4", "--max_train_steps", "4", "--learning_rate", "1e-2",
            "--seed", "1", "--style_start_step", "1", "--max_data_loader_n_workers", "0", "--sdpa",
            "--mixed_precision", "no", "--timestep_sampling", "shift", "--discrete_flow_shift", "3.0",
            "--output_name", output, *map(str, options),
        ])  # fmt: skip

    pairs = ["--content", folder / "content", "--style", folder / "style", "--resolution", "128",
             "--content_prompt", "a photo of a house", "--style_prompt", "in ink style",
             "--train_batch_size", "2", "--unchecked"]  # fmt: skip  # the two halves are alike: rows can be compared
    try:
        train(*pairs)
    except PairError as mistake:
        report("uncached", error=str(mistake))
    musubi_tiny.save_caches(name, architecture, out / "style-dataset/musubi.toml")
    train(*pairs)
    report("trained", **{key: seen[key] for key in ("steps", "misaligned")}, losses=phases_agree(seen))
    dataset = folder / "own.toml"
    dataset.write_text(
        f'[general]\nresolution = [128, 128]\nbatch_size = 1\nenable_bucket = true\ncaption_extension = ".txt"\n'
        f'[[datasets]]\nimage_directory = "{(folder / "style").as_posix()}"\n'
        f'cache_directory = "{(out / "style-dataset/cache-style").as_posix()}"\n'
        f'content_directory = "{(folder / "content").as_posix()}"\n'
        f'content_cache_directory = "{(out / "style-dataset/cache-content").as_posix()}"\n',
        encoding="utf-8",
    )
    if not torch.cuda.is_available():  # block swap asks for a GPU's number; without one it moves nothing anywhere
        torch.cuda.current_device, torch.cuda.set_device = lambda: 0, lambda device: None
    low_memory = ["--gradient_checkpointing", "--blocks_to_swap", "2", "--pair_schedule", "alternate"]
    train("--dataset_config", dataset, *low_memory, "--network_args", "targets=full", output="low")
    train(
        "--dataset_config", dataset, "--gradient_checkpointing", "--network_weights", out / "style.pair.safetensors",
        "--learning_rate", "1e-6", "--save_every_n_steps", "2", "--save_state", output="more",
    )  # fmt: skip
    train("--dataset_config", dataset, "--base_weights", out / "style.safetensors", output="merged")
    report("all", files=sorted(path.name for path in out.iterdir()))


if __name__ == "__main__":
    main()
