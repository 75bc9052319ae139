"""Patch for runs on identical pairs: counts batches whose content rows are not those of their style rows."""

import atexit

import torch


def patch(host):
    import train_network
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    # Caching draws latents per image; without noise, equal images have equal latents.
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()
    counts = {"rows": 0, "misaligned": 0, "flipped": 0, "sizes": set()}
    original = train_network.NetworkTrainer.process_batch

    def process_batch(self, batch, *rest, **named):
        values = batch["latents"] if batch.get("latents") is not None else batch["images"]
        content, style = values.chunk(2)
        counts["rows"] += len(style)
        counts["sizes"].add(tuple(values.shape[2:]))
        counts["misaligned"] += sum(not torch.equal(c, s) for c, s in zip(content, style, strict=True))
        flips = batch["flippeds"]
        counts["flipped"] += sum(map(bool, flips[: len(style)]))
        counts["misaligned"] += flips[: len(style)] != flips[len(style) :]
        captions = batch["captions"]
        pairs = zip(captions[: len(style)], captions[len(style) :], strict=True)
        counts["misaligned"] += sum(not s.startswith(c) for c, s in pairs)
        return original(self, batch, *rest, **named)

    train_network.NetworkTrainer.process_batch = process_batch
    atexit.register(lambda: print("ALIGNMENT", {**counts, "sizes": sorted(counts["sizes"])}))
