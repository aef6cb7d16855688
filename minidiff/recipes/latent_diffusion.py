"""Chapter 6's weights: the latent auto-encoder, CLIP with its text encoder, the text-to-image model.

Each function is a whole run that goes on where it was interrupted; what it measured goes into the weight file.
"""
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from minidiff import captions, data, weights
from minidiff.clip import Clip, ClipConfig
from minidiff.data import rng
from minidiff.latent import LatentAutoencoder, LatentConfig, TextToImage, TextToImageConfig
from minidiff.oracle import prompt_accuracy, read, same
from minidiff.rates import Rate
from minidiff.recipes.about import RUNS, Notes, fast_precision, followed, machine, made, measured
from minidiff.recipes.quality import psnr
from minidiff.samplers import last
from minidiff.scenes import full, render
from minidiff.schedules import logit_normal
from minidiff.text import TextConfig, TextEncoder
from minidiff.train import Training

# Captions of the accuracy table: name, split of world `full`.
TABLE = {"one object, seen": "one", "two objects, seen": "two",
         "one object, held-out pair": "one, held-out pair", "two objects, a held-out pair": "two, held-out pair",
         "two objects, held-out relation": "two, held-out relation"}


def latent_autoencoder(folder: Path = weights.TRAINED, steps: int = 6000, n: int = 10_000) -> None:
    """latent-autoencoder: 32x32 pictures of world `full` into 8x8x4 codes; n pictures measure the file."""
    model = made(lambda: LatentAutoencoder(LatentConfig()))
    run = Training(model, model.loss, data.pictures(64), steps=steps, lr=1e-3, warmup=200, ema=.999,
                   autocast=fast_precision(), checkpoint=RUNS / "latent-autoencoder.safetensors")
    for _ in followed(run, "latent-autoencoder"):
        pass
    best = run.averaged
    best.standardise(data.pictures(2048, seed=1)(0))
    about = {"recipe": "latent_diffusion.latent_autoencoder", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": round(run.logs[-1].seconds / 60, 1)}
    path = folder / "latent-autoencoder.safetensors"
    weights.save(path, best, dtype=torch.float16, about=about)
    measured(path, lambda model: reconstruction(model, n))


def latent_autoencoder_64(folder: Path = weights.TRAINED, steps: tuple[int, int] = (4000, 2500),
                          n: int = 400) -> None:
    """latent-autoencoder-64: the same codes, painted at 64x64 by a decoder with one level more.

    The encoder stays as it is, so the text-to-image model, which knows only codes, need not be trained again. The
    second stage shakes the codes: those of a painter are a little off, and after the first they were painted with dirt.
    """
    model = made(lambda: enlarged(weights.load(folder / "latent-autoencoder.safetensors")))
    same = {"ema": .999, "autocast": fast_precision()}
    first = Training(model, model.loss, data.pictures(32, seed=3, size=64), steps=steps[0], lr=1e-3, warmup=200,
                     checkpoint=RUNS / "latent-autoencoder-64.safetensors", **same)
    if not first.logs:
        (RUNS / "latent-autoencoder-64-2.safetensors").unlink(missing_ok=True)      # of an earlier run
    for _ in followed(first, "latent-autoencoder-64"):
        pass
    model.load_state_dict(first.averaged.state_dict())
    second = Training(model, partial(shaken, model), data.pictures(16, seed=4, size=64), steps=steps[1], lr=7e-4,
                      seed=1, warmup=100, checkpoint=RUNS / "latent-autoencoder-64-2.safetensors", **same)
    for _ in followed(second, "latent-autoencoder-64-2"):
        pass
    about = {"recipe": "latent_diffusion.latent_autoencoder_64", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": [round(run.logs[-1].seconds / 60, 1) for run in (first, second)]}
    path = folder / "latent-autoencoder-64.safetensors"
    weights.save(path, second.averaged, dtype=torch.float16, about=about)
    painter = weights.load(folder / "text-to-image.safetensors")
    measured(path, lambda model: reconstruction(model, 5 * n) | {"painted": at_both_sides(painter, model, n)})


def shaken(model: LatentAutoencoder, x: Tensor, most: float = .3) -> dict[str, Tensor]:
    """The squared error of pictures whose standardised codes got noise, for each of a std between 0 and most."""
    z = model.encode(x)
    z = z + most * torch.rand(len(z), 1, 1, 1) * torch.randn_like(z)
    return {"loss": (model.decode(z) - x).square().mean()}


def enlarged(small: LatentAutoencoder, width: int = 24) -> LatentAutoencoder:
    """The encoder and the first levels of the decoder as they are, one level more; the encoder is frozen."""
    large = LatentAutoencoder(replace(small.config, decoder=(*small.config.decoder, width)))
    known = 4 * len(small.config.decoder) - 1                             # layers up to the last doubling of the side
    large.decoder.net[:known].load_state_dict(small.decoder.net[:known].state_dict())
    large.encoder.load_state_dict(small.encoder.state_dict())
    large.mean, large.std = small.mean, small.std
    large.encoder.requires_grad_(False)
    return large


@torch.no_grad()
def at_both_sides(painter: TextToImage, large: LatentAutoencoder, n: int) -> dict:
    """The same painted codes through the small decoder and through the large: accuracy of both, by kind of caption."""
    out = {}
    for name, split in TABLE.items():
        told = captions.write(full(n, rng("both", 1, split), split), rng("told both", 1, split), complete=True)
        seed = rng("noise both", 1, split).initial_seed()
        codes = [last(painter.path(told[i:i + 100], seed=seed, first=i)) for i in range(0, n, 100)]
        out[name] = {decoder.config.side * 2 ** len(decoder.config.decoder): str(prompt_accuracy(
            torch.cat([decoder.decode(z).clamp(-1, 1) for z in codes]), told)["right"])
            for decoder in (painter.autoencoder, large)}
    return out


@torch.no_grad()
def reconstruction(model: LatentAutoencoder, n: int = 10_000, seed: int = 2) -> dict:
    """PSNR of reconstructions (peak 2), whole and inside the objects, and how many are read as the same scene."""
    scenes = full(n, rng("reconstruction", seed))
    x = render(scenes, model.config.side * 2 ** len(model.config.decoder))
    y = torch.cat([model.decode(model.encode(part)) for part in x.split(256)]).clamp(-1, 1)
    inside = (x - x[:, :, :1, :1]).abs().amax(1) > .02
    kept = sum(map(same, scenes, read(y)))
    inner = (picture.movedim(1, -1)[inside] for picture in (x, y))
    return {"psnr": psnr(x, y), "psnr inside objects": psnr(*inner), "read as the same scene": str(Rate(kept, n))}


def clip(folder: Path = weights.TRAINED, steps: int = 4000) -> None:
    """text-encoder and clip: pictures and captions (a quarter Chinese) into one space, near misses as negatives."""
    model = made(lambda: Clip(ClipConfig(), text=TextEncoder(TextConfig())))
    run = Training(model, model.loss, data.contrasts(128, chinese=.25), steps=steps, lr=1e-3, warmup=200,
                   weight_decay=.01, autocast=fast_precision(), checkpoint=RUNS / "clip.safetensors")
    for _ in followed(run, "clip"):
        pass
    about = {"recipe": "latent_diffusion.clip", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": round(run.logs[-1].seconds / 60, 1)}
    weights.save(folder / "text-encoder.safetensors", model.text, dtype=torch.float16, about=about)
    weights.save(folder / "clip.safetensors", model, dtype=torch.float16, parts={"text": "text-encoder"}, about=about)
    measured(folder / "clip.safetensors", near_misses)


@torch.no_grad()
def near_misses(model: Clip, n: int = 1000) -> dict:
    """How often a picture is nearer to its complete caption than to one with a word of its things exchanged."""
    out = {}
    for split in ("one", "two"):
        scenes = full(n, rng("near misses", split), split)
        pictures, generator = model.encode_pictures(render(scenes)), rng("told", split)
        state, misses = generator.get_state(), data.swapped(scenes, rng("swapped", split))
        told = [captions.write(s, generator.set_state(state), complete=True) for s in (scenes, *misses)]
        right, *wrong = ((pictures * model.encode_text(captions.encode(t))).sum(1) for t in told)
        for name, near, text in zip(("colour", "shape", "size", "place"), wrong, told[1:], strict=True):
            counts = torch.tensor([not captions.matches(s, t) for s, t in zip(scenes, text, strict=True)])
            out[f"{split}: {name}"] = str(Rate(int((right > near)[counts].sum()), int(counts.sum())))
    return out


def text_to_image(folder: Path = weights.TRAINED, steps: tuple[int, int] = (18_000, 12_000), n: int = 2000) -> None:
    """text-to-image: a U-Net with cross-attention that denoises codes, both other parts frozen; n captions a row.

    First everything at all times. Then it dwells on what still went wrong: two things, often alike, at the times around
    0.7 where it is decided which has which shape and colour (97 % come out right if the true code is given up to 0.7).
    """
    parts = {"autoencoder": "latent-autoencoder", "text_encoder": "text-encoder"}
    loaded = {child: weights.load(folder / f"{file}.safetensors") for child, file in parts.items()}
    model = made(lambda: TextToImage(TextToImageConfig(), **loaded))
    same = {"weight_decay": .01, "ema": .9995, "autocast": fast_precision()}
    first = Training(model, model.loss, data.pairs(128, chinese=.2), steps=steps[0], lr=1.5e-3, warmup=500,
                     checkpoint=RUNS / "text-to-image.safetensors", **same)
    if not first.logs:
        (RUNS / "text-to-image-2.safetensors").unlink(missing_ok=True)              # of an earlier run
    curve = followed_closely(first, "text-to-image")
    model.load_state_dict(first.averaged.state_dict())
    second = Training(model, partial(model.loss, draw=dwelling), data.pairs(128, seed=1, chinese=.25, hard=.5), seed=1,
                      steps=steps[1], lr=7e-4, warmup=200, checkpoint=RUNS / "text-to-image-2.safetensors", **same)
    more = followed_closely(second, "text-to-image-2")
    about = {"recipe": "latent_diffusion.text_to_image", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": [round(run.logs[-1].seconds / 60, 1) for run in (first, second)], "curve": [curve, more]}
    weights.save(folder / "text-to-image.safetensors", second.averaged, dtype=torch.float16, about=about, parts=parts)
    measured(folder / "text-to-image.safetensors", lambda model: quality(model, n))


def dwelling(n: int) -> Tensor:
    """Times in [0, 1], every second one uniform, the others around 0.7."""
    return torch.where(torch.arange(n) % 2 == 0, torch.rand(n), logit_normal(n, .85, .8))


def followed_closely(run: Training, name: str) -> list[dict]:
    """Train to the end; the curve of accuracy on the way."""
    curve = Notes(RUNS / f"{name}.curve.json", len(run.logs))
    look(run, curve)                                              # if the interruption came in the middle of a look
    for _ in followed(run, name):
        look(run, curve)
    return curve.rows


def look(run: Training, curve: Notes, every: int = 2000) -> None:
    """A row of the curve of accuracy against minutes, after every so many steps: 128 captions of each kind."""
    done = len(run.logs)
    if done and done % every == 0 and not curve.has(done):
        curve.add({"minutes": round(run.logs[-1].seconds / 60, 1), "step": done, "accuracy": {
            name: {k: round(r.value, 3) for k, r in rates.items()}
            for name, rates in table(run.averaged, 128, "curve").items()}})


def quality(model: TextToImage, n: int) -> dict:
    """The accuracy table in both languages, on seeds used for nothing else (0 judged the first stage alone)."""
    return {language: {name: {k: str(r) for k, r in rates.items()}
                       for name, rates in table(model, n, "score", 1, language=language).items()}
            for language, n in (("en", n), ("zh", n // 4))}


def table(model: TextToImage, n: int = 2000, *key: int | str, language: str = "en") -> dict[str, dict[str, Rate]]:
    """Prompt accuracy by kind of caption: n complete captions of each, default steps and scale; `key` is the seed."""
    return {name: accuracy(model, split, n, *key, language=language) for name, split in TABLE.items()}


def accuracy(model: TextToImage, split: str, n: int, *key: int | str, language: str = "en") -> dict[str, Rate]:
    """Prompt accuracy on n complete captions of one split."""
    scenes = full(n, rng("table", *key, split), split)
    told = captions.write(scenes, rng("told", *key, split), language, complete=True)
    seed = rng("noise", *key, split).initial_seed()
    pictures = [model.paint(told[i:i + 250], seed=seed, first=i) for i in range(0, n, 250)]
    return prompt_accuracy(torch.cat(pictures), told)


RECIPES = {"latent-autoencoder": latent_autoencoder, "latent-autoencoder-64": latent_autoencoder_64, "clip": clip,
           "text-to-image": text_to_image}
