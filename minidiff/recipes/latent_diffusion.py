"""Chapter 6's weights: the latent auto-encoder, CLIP with its text encoder, the text-to-image model.

Each function is a whole run that goes on where it was interrupted; what it measured goes into the weight file.
"""
from pathlib import Path

import torch

from minidiff import captions, data, weights
from minidiff.clip import Clip, ClipConfig
from minidiff.data import rng
from minidiff.latent import LatentAutoencoder, LatentConfig, TextToImage, TextToImageConfig
from minidiff.oracle import Rate, prompt_accuracy, read
from minidiff.recipes.about import RUNS, Notes, fast_precision, followed, machine, made
from minidiff.scenes import Scene, full, render
from minidiff.text import TextConfig, TextEncoder
from minidiff.train import Training

# Captions of the accuracy table: name, split of world `full`.
TABLE = {"one object, seen": "one", "two objects, seen": "two",
         "one object, held-out pair": "one, held-out pair", "two objects, a held-out pair": "two, held-out pair",
         "two objects, held-out relation": "two, held-out relation"}


def latent_autoencoder(folder: Path = weights.TRAINED, steps: int = 6000) -> None:
    """latent-autoencoder: 32x32 pictures of world `full` into 8x8x4 codes."""
    model = made(lambda: LatentAutoencoder(LatentConfig()))
    run = Training(model, model.loss, data.pictures(64), steps=steps, lr=1e-3, warmup=200, ema=.999,
                   autocast=fast_precision(), checkpoint=RUNS / "latent-autoencoder.safetensors")
    for _ in followed(run, "latent-autoencoder"):
        pass
    best = run.averaged
    best.standardise(data.pictures(2048, seed=1)(0))
    about = {"recipe": "latent_diffusion.latent_autoencoder", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": round(run.logs[-1].seconds / 60, 1), "quality": reconstruction(best)}
    weights.save(folder / "latent-autoencoder.safetensors", best, dtype=torch.float16, about=about)


@torch.no_grad()
def reconstruction(model: LatentAutoencoder, n: int = 10_000, seed: int = 2) -> dict:
    """PSNR of reconstructions (peak 2), whole and inside the objects, and how many are read as the same scene."""
    scenes = full(n, rng("reconstruction", seed))
    x = render(scenes)
    y = torch.cat([model.decode(model.encode(part)) for part in x.split(256)]).clamp(-1, 1)
    square, inside = (x - y).square().mean(1), (x - x[:, :, :1, :1]).abs().amax(1) > .02
    same = sum(after is not None and words(before) == words(after)
               for before, after in zip(scenes, read(y), strict=True))
    psnr = {name: round(float(10 * torch.log10(4 / value)), 2) for name, value in
            (("psnr", square.mean()), ("psnr inside objects", square[inside].mean()))}
    return psnr | {"read as the same scene": str(Rate(same, n))}


def words(scene: Scene) -> tuple:
    """What a scene shows, places apart: the background and, in any order, the words of its things."""
    return scene.background, sorted((t.shape, t.colour, t.size, t.style) for t in scene.things)


def clip(folder: Path = weights.TRAINED, steps: int = 4000) -> None:
    """text-encoder and clip: pictures and captions (a quarter Chinese) into one space, near misses as negatives."""
    model = made(lambda: Clip(ClipConfig(), text=TextEncoder(TextConfig())))
    run = Training(model, model.loss, data.contrasts(128, chinese=.25), steps=steps, lr=1e-3, warmup=200,
                   weight_decay=.01, autocast=fast_precision(), checkpoint=RUNS / "clip.safetensors")
    for _ in followed(run, "clip"):
        pass
    with torch.no_grad():
        quality = {k: round(float(v), 4) for k, v in model.loss(data.contrasts(512, seed=1)(0)).items()}
    about = {"recipe": "latent_diffusion.clip", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": round(run.logs[-1].seconds / 60, 1), "quality of 512 English pairs": quality}
    weights.save(folder / "text-encoder.safetensors", model.text, dtype=torch.float16, about=about)
    weights.save(folder / "clip.safetensors", model, dtype=torch.float16, parts={"text": "text-encoder"}, about=about)


def text_to_image(folder: Path = weights.TRAINED, steps: int = 18_000) -> None:
    """text-to-image: a U-Net with cross-attention that denoises codes, both other parts frozen."""
    parts = {"autoencoder": "latent-autoencoder", "text_encoder": "text-encoder"}
    loaded = {child: weights.load(folder / f"{file}.safetensors") for child, file in parts.items()}
    model = made(lambda: TextToImage(TextToImageConfig(), **loaded))
    run = Training(model, model.loss, data.pairs(128, chinese=.2), steps=steps, lr=1.5e-3, warmup=500, ema=.9995,
                   weight_decay=.01, autocast=fast_precision(), checkpoint=RUNS / "text-to-image.safetensors")
    curve = Notes(RUNS / "text-to-image.curve.json")
    for log in followed(run, "text-to-image"):
        if (log.step + 1) % 1000 == 0:
            curve.add({"minutes": round(log.seconds / 60, 1), "step": log.step + 1, "accuracy": {
                name: {k: round(r.value, 3) for k, r in rates.items()}
                for name, rates in table(run.averaged, 128, "curve").items()}})
    about = {"recipe": "latent_diffusion.text_to_image", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": round(run.logs[-1].seconds / 60, 1), "curve": curve.rows}
    path = folder / "text-to-image.safetensors"
    weights.save(path, run.averaged, dtype=torch.float16, about=about, parts=parts)
    quality = {name: {k: str(r) for k, r in rates.items()}
               for name, rates in table(weights.load(path), 2000, "score", 0).items()}
    weights.save(path, weights.load(path), dtype=torch.float16, about=about | {"quality": quality}, parts=parts)


def table(model: TextToImage, n: int = 2000, *key: int | str, language: str = "en") -> dict[str, dict[str, Rate]]:
    """Prompt accuracy by kind of caption: n complete captions of each, default steps and scale; `key` seeds scenes."""
    out = {}
    for row, (name, split) in enumerate(TABLE.items()):
        scenes = full(n, rng("table", *key, split), split)
        told = captions.write(scenes, rng("told", *key, split), language, complete=True)
        seed = rng("noise", *key, row).initial_seed()
        pictures = [model.paint(told[i:i + 250], seed=seed + i) for i in range(0, n, 250)]
        out[name] = prompt_accuracy(torch.cat(pictures), told)
    return out


RECIPES = {"latent-autoencoder": latent_autoencoder, "clip": clip, "text-to-image": text_to_image}
