"""The scoreboard: every shipped generator of pictures, and as many fresh pictures of its world, by every metric.

A generator is judged at the side that it was built for, against pictures of its own world at that side; those of side
16 are shown to the feature network with every pixel twice as wide. Nothing is thrown away or drawn again.
"""
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff import captions, weights
from minidiff.autoregressive import independent_pixels
from minidiff.data import pictures, rng
from minidiff.metrics import FeatureStatistics, clip_score, frechet_distance, kid, precision_recall
from minidiff.oracle import analyse, prompt_accuracy
from minidiff.recipes.about import RUNS, recorded
from minidiff.recipes.autoencoding import fitted_prior, from_normal, from_prior
from minidiff.recipes.diffusion import drawn as diffused
from minidiff.recipes.mixtures import drawn as mixed
from minidiff.scenes import Scenes, full, render, single

N, MANY, BLOCKS = 1000, 20_000, 10                         # pictures judged; of the reference; blocks of the jackknife
SIZES = .25, .35, .5, .7, 1.                               # shares of the pictures that the limit is fitted to
Told = list[str]
Paint = Callable[[Told, int], Float[Tensor, "n 3 h w"]]    # captions, seed -> a picture each; most do not read them


@dataclass(frozen=True)
class Family:
    """How one row paints, the weights it is made of, and the world it is measured against."""
    paint: Paint
    made_of: tuple[str, ...] = ()
    world: str = "full"
    side: int = 32
    reads: bool = False                                    # whether it is told the captions


# --- how each of them paints ------------------------------------------------------------------------------------------

def alone(told: Told, seed: int) -> Tensor:
    """Every pixel by itself, from 5,000 pictures of the world."""
    return independent_pixels(pictures(5000, 3)(0), len(told), rng("independent", seed))


def anyway(told: Told, seed: int) -> Tensor:
    """An auto-encoder that nobody meant to be drawn from: codes from one Gaussian fitted to the codes of pictures."""
    model = weights.load("denoising-autoencoder")
    return from_prior(model, fitted_prior(model, pictures(20_000, 4)(0), 1, 2), len(told), seed)


def by_vae(told: Told, seed: int, k: int = 0) -> Tensor:
    """The VAE with codes from N(0, I), or from k Gaussians fitted to the codes of pictures."""
    model = weights.load("vae")
    return from_prior(model, fitted_prior(model, pictures(20_000, 4)(0), k, 10), len(told), seed) if k else (
        from_normal(model, len(told), seed))


@torch.no_grad()
def by_flow(told: Told, seed: int, temperature: float = 1.) -> Tensor:
    """Glow, cut off at -1 and 1."""
    flow = weights.load("glow")
    return torch.cat([flow.sample(min(200, len(told) - i), seed=seed, first=i, temperature=temperature).clamp(-1, 1)
                      for i in range(0, len(told), 200)])


@torch.no_grad()
def by_gan(told: Told, seed: int) -> Tensor:
    """One call of the generator."""
    return torch.cat([weights.load("gan").sample(min(200, len(told) - i), seed=seed, first=i)
                      for i in range(0, len(told), 200)])


def by_gpt(told: Told, seed: int) -> Tensor:
    """Pixel after pixel."""
    model = weights.load("pixel-gpt")
    return torch.cat([model.paint(told[i:i + 100], seed=seed, first=i) for i in range(0, len(told), 100)])


def in_codes(told: Told, seed: int, scale: float = 1., silent: bool = False) -> Tensor:
    """The text-to-image model in 25 steps, told the captions or nothing."""
    model, said = weights.load("text-to-image"), [""] * len(told) if silent else told
    return torch.cat([model.paint(said[i:i + 100], scale=scale, steps=25, seed=seed, first=i)
                      for i in range(0, len(told), 100)])


FAMILIES = {
    "the world, again": Family(lambda told, seed: render(full(len(told), rng("again", seed)))),
    "independent pixels": Family(alone),
    "Gaussian mixture": Family(lambda told, seed: mixed(weights.load("gaussian-mixture").mixture(), len(told), seed),
                               ("gaussian-mixture",), side=16),
    "the world at side 16, again": Family(lambda told, seed: render(full(len(told), rng("again", seed)), 16), side=16),
    "pixel GPT": Family(by_gpt, ("pixel-gpt",), "single", 16, reads=True),
    "world single, again": Family(lambda told, seed: render(scenes_of("single", len(told), "again", seed), 16),
                                  world="single", side=16),
    "auto-encoder, sampled anyway": Family(anyway, ("denoising-autoencoder",)),
    "VAE": Family(by_vae, ("vae",)), "VAE, fitted prior": Family(partial(by_vae, k=300), ("vae",)),
    "flow": Family(by_flow, ("glow",)), "flow, temperature 0.7": Family(partial(by_flow, temperature=.7), ("glow",)),
    "GAN": Family(by_gan, ("gan",)),
    "diffusion, 50 steps of DDIM": Family(lambda told, seed: diffused(weights.load("ddpm"), len(told), seed),
                                          ("ddpm",)),
    "diffusion, 50 steps with fresh noise": Family(
        lambda told, seed: diffused(weights.load("ddpm"), len(told), seed, eta=1.), ("ddpm",)),
    "latent diffusion, told nothing": Family(partial(in_codes, silent=True), ("text-to-image",)),
    "latent diffusion, told": Family(in_codes, ("text-to-image",), reads=True),
    "latent diffusion, guided": Family(partial(in_codes, scale=3.), ("text-to-image",), reads=True)}


# --- judging ----------------------------------------------------------------------------------------------------------

@torch.no_grad()
def features(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """What the shipped feature network sees, after every pixel has become as wide as in a picture of side 32."""
    net, k = weights.load("features"), 32 // x.shape[-1]
    return torch.cat([net(part.repeat_interleave(k, 2).repeat_interleave(k, 3)) for part in x.split(500)])


def scenes_of(world: str, n: int, *key: int | str) -> Scenes:
    """Scenes that a training of this world may show."""
    if world == "full":
        return full(n, rng(*key))
    every = single("train")
    return every[torch.randint(len(every), (n,), generator=rng(*key))]


@cache
def reference(world: str, side: int, n: int = MANY) -> tuple[FeatureStatistics, Tensor]:
    """The moments of a world's features, and the features of some of its pictures."""
    found = features(render(scenes_of(world, n, "scoreboard reference"), side))
    return FeatureStatistics.of(found), found[:N]


def distance(found: Float[Tensor, "n d"], there: FeatureStatistics) -> float:
    """FID against a world's moments."""
    here = FeatureStatistics.of(found)
    return frechet_distance(here.mean, here.covariance, there.mean, there.covariance)


def with_error(found: Float[Tensor, "n d"], there: FeatureStatistics) -> dict[str, float]:
    """FID, its standard error by leaving out one block after the other, and its limit for endless pictures.

    The limit is where the straight line through FID against 1/n meets 1/n = 0. Source: Chong & Forsyth 2020 (arXiv
    1911.07023), section 3.3.
    """
    blocks = found.chunk(BLOCKS)
    without = torch.tensor([distance(torch.cat([b for b in blocks if b is not left]), there) for left in blocks])
    error = ((len(blocks) - 1) * without.var(correction=0)).sqrt()
    counts = [round(share * len(found)) for share in SIZES]
    line = torch.tensor([[1., 1 / n, distance(part, there)] for k in range(5) for n in counts
                         for part in [found[torch.randperm(len(found), generator=rng("limit", k))[:n]]]]).double()
    limit = torch.linalg.lstsq(line[:, :2], line[:, 2:]).solution[0]
    return {"fid": round(distance(found, there), 4), "error": round(float(error), 4), "limit": round(float(limit), 4)}


def row(name: str, n: int = N, seed: int = 50) -> dict:
    """One family's pictures, judged; seconds are of the processor, the trainings' minutes as their files tell them."""
    family = FAMILIES[name]
    told = captions.write(scenes_of(family.world, n, "scoreboard", seed), rng("scoreboard told", seed), complete=True)
    family.paint(told[:1], seed)                           # weights are read from disk
    began = time.process_time()
    x = family.paint(told, seed).float().clamp(-1, 1)
    seconds = (time.process_time() - began) / n
    there, some = reference(family.world, family.side)
    found, reading = features(x), analyse(x)
    out = {"name": name, "world": family.world, "side": family.side, "n": n, "ms a picture": round(1000 * seconds, 2)}
    out |= {"FID": with_error(found, there), "KID": kid(some, found), "legal": int(reading.legal.sum())}
    out |= precision_recall(some, found) | cost(family.made_of)
    if not family.reads:
        return out
    enlarged = x.repeat_interleave(32 // family.side, 2).repeat_interleave(32 // family.side, 3)
    return out | {"right": prompt_accuracy(x, told)["right"].k,
                  "CLIP score": float(clip_score(weights.load("clip"), enlarged, told).mean())}


def cost(made_of: tuple[str, ...]) -> dict:
    """Numbers in the weights, and the minutes that they were trained for, parts included."""
    names = [*made_of, *(["latent-autoencoder", "clip"] if "text-to-image" in made_of else [])]
    minutes = [weights.describe(name).get("minutes") for name in names]
    return {"parameters": sum(p.numel() for name in made_of for p in weights.load(name).state_dict().values()),
            "trained for": sum(sum(m) if isinstance(m, list) else m for m in minutes)}


def scored(folder: Path = weights.TRAINED) -> None:
    """scoreboard.json: a row a family; an interrupted run keeps what it has in runs/."""
    recorded(folder / "scoreboard.json", "scoreboard.scored",
             {f"scoreboard-{name.replace(',', '')}": partial(row, name) for name in FAMILIES}, RUNS)


RECIPES = {"scoreboard": scored}
