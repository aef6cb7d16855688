"""Chapter 8's metrics on trial: pictures damaged in known ways, judged by every metric and by the oracle.

All begin with fresh pictures of world `full` and their complete captions. A damage has a name and a strength; what is
damaged is known, so a metric can be caught when it does not notice.
"""
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import captions, weights
from minidiff.data import noise, rng
from minidiff.metrics import FeatureStatistics, clip_score, frechet_distance, kid, precision_recall
from minidiff.oracle import prompt_accuracy
from minidiff.recipes.about import RUNS, made, recorded
from minidiff.scenes import Scenes, full, join, render

N, MANY, FORGED, STEPS = 2000, 20_000, 256, 200            # pictures judged; of the reference; forged; their steps
Damage = Callable[[Scenes, float | int, torch.Generator], Float[Tensor, "n 3 h w"]]


# --- damages: scenes, strength, dice -> pictures ----------------------------------------------------------------------

def blurred(scenes: Scenes, std: float, dice: torch.Generator) -> Tensor:
    """Every picture blurred by a Gaussian, std in pixels."""
    at = torch.arange(-8., 9.)
    kernel = torch.exp(-at.square() / (2 * std ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(render(scenes), (8, 8, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(x, (0, 0, 8, 8), mode="replicate"), kernel.mT, groups=3)


def grainy(scenes: Scenes, std: float, dice: torch.Generator) -> Tensor:
    """Noise on every picture."""
    x = render(scenes)
    return x + std * torch.randn(x.shape, generator=dice)


def swirled(scenes: Scenes, turn: float, dice: torch.Generator) -> Tensor:
    """Turned about the picture's middle by so many radians, less and less towards its edge."""
    x, line = render(scenes), (torch.arange(32) + .5) / 16 - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    angle = turn * (1 - (u * u + v * v).sqrt()).clamp(min=0)
    grid = torch.stack([u * angle.cos() - v * angle.sin(), u * angle.sin() + v * angle.cos()], -1)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), mode="bilinear", padding_mode="border",
                         align_corners=False)


def some(n: int, share: float, dice: torch.Generator) -> Tensor:
    """Which rows are hit."""
    return torch.rand(n, generator=dice) < share


def without_a_thing(scenes: Scenes, share: float, dice: torch.Generator) -> Tensor:
    """Of so many pictures with two things the second is missing."""
    hit = some(len(scenes), share, dice) & (scenes.number == 2)
    shape = scenes.shape.clone()
    shape[hit, 1] = -1
    return render(replace(scenes, shape=shape))


def other_colours(scenes: Scenes, share: float, dice: torch.Generator) -> Tensor:
    """In so many pictures two things have exchanged their colours, or a single thing has another's from the world."""
    hit = some(len(scenes), share, dice)[:, None]
    other = full(len(scenes), dice).colour[:, :1].expand_as(scenes.colour)
    changed = torch.where((scenes.number == 2)[:, None], scenes.colour.flip(1), other)
    return render(replace(scenes, colour=torch.where(hit, changed, scenes.colour)))


def other_places(scenes: Scenes, share: float, dice: torch.Generator) -> Tensor:
    """In so many pictures two things have exchanged their places, or a single thing is at another's."""
    hit = some(len(scenes), share, dice)[:, None, None]
    other = full(len(scenes), dice, "one").xy[:, :1].expand_as(scenes.xy)
    changed = torch.where((scenes.number == 2)[:, None, None], scenes.xy.flip(1), other)
    return render(replace(scenes, xy=torch.where(hit, changed, scenes.xy)))


def fewer_shapes(scenes: Scenes, dropped: int, dice: torch.Generator) -> Tensor:
    """So many of the six shapes never come; as many pictures show two things as before."""
    pool = full(60 * len(scenes), dice)
    kept, alone = pool[((pool.shape < 0) | (pool.shape >= dropped)).all(1)], int((scenes.number == 1).sum())
    both = join([kept[kept.number == 1][:alone], kept[kept.number == 2][:len(scenes) - alone]])
    return render(both[torch.randperm(len(both), generator=dice)])


def copies(scenes: Scenes, different: int, dice: torch.Generator) -> Tensor:
    """So many of the pictures, each many times."""
    return render(scenes)[torch.arange(len(scenes)) % different]


DAMAGES: dict[str, tuple[Damage, tuple[float | int, ...]]] = {
    "blur": (blurred, (.5, 1., 1.5, 2.5)), "noise": (grainy, (.05, .1, .2, .4)),
    "swirl": (swirled, (.25, .5, 1., 2.)), "a thing missing": (without_a_thing, (.1, .25, .5, 1.)),
    "other colours": (other_colours, (.1, .25, .5, 1.)), "other places": (other_places, (.1, .25, .5, 1.)),
    "shapes dropped": (fewer_shapes, (1, 2, 3, 5)), "copies": (copies, (1000, 300, 100, 30))}


# --- eyes: pictures -> features ---------------------------------------------------------------------------------------

@cache
def eyes() -> dict[str, Callable[[Tensor], Tensor]]:
    """Features of four kinds; "untrained" is the same network with its first weights."""
    trained = weights.load("features")
    return {"trained": trained, "untrained": made(lambda: type(trained)(trained.config), 0).eval(),
            "CLIP": weights.load("clip").encode_pictures, "pixels": lambda x: F.avg_pool2d(x, 4).flatten(1)}


@torch.no_grad()
def seen(eye: Callable[[Tensor], Tensor], x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """Features, in pieces."""
    return torch.cat([eye(part) for part in x.split(500)])


@cache
def world(seed: int, n: int = MANY) -> dict[str, tuple[FeatureStatistics, Tensor]]:
    """What undamaged pictures look like to each eye: the moments of n, and the features of the first of them."""
    x = render(full(n, rng("reference", seed)))
    features = {name: seen(eye, x) for name, eye in eyes().items()}
    return {name: (FeatureStatistics.of(found), found[:N]) for name, found in features.items()}


def distance(name: str, found: Tensor, seed: int) -> float:
    """FID of features seen by an eye, against the world's moments."""
    here, there = FeatureStatistics.of(found), world(seed)[name][0]
    return frechet_distance(here.mean, here.covariance, there.mean, there.covariance)


def scores(x: Float[Tensor, "n 3 h w"], told: list[str], seed: int) -> dict:
    """Every metric, and the oracle."""
    found = {name: seen(eye, x) for name, eye in eyes().items()}
    there = world(seed)["trained"][1]
    near, oracle = precision_recall(there, found["trained"]), prompt_accuracy(x.clamp(-1, 1), told)
    return {"fid": {name: round(distance(name, f, seed), 5) for name, f in found.items()},
            "kid": [round(k, 5) for k in kid(there, found["trained"])]} | {
        name: round(value, 4) for name, value in near.items()} | {
        "clip": round(float(clip_score(weights.load("clip"), x, told).mean()), 3),
        "of": len(x), "legal": oracle["legal"].k, "right": oracle["right"].k}


def damaged(seed: int, n: int = N) -> dict:
    """All damages at all strengths, strength 0 being none; each begins with the same scenes and dice."""
    scenes = full(n, rng("trial", seed))
    told = captions.write(scenes, rng("trial told", seed), complete=True)
    cells = {name: {strength: scores(damage(scenes, strength, rng("dice", seed)), told, seed)
                    for strength in strengths} for name, (damage, strengths) in DAMAGES.items()}
    return {"seed": seed, "undamaged": scores(render(scenes), told, seed), "damages": cells}


# --- a forgery --------------------------------------------------------------------------------------------------------

def fooled(x: Float[Tensor, "n d"], there: FeatureStatistics) -> Float[Tensor, ""]:
    """The Frechet distance of features to a world's moments, with its gradient; as `frechet_distance`, in float64."""
    x = x.double()
    mean, root = x.mean(0), torch.linalg.cholesky(there.covariance)
    here = torch.cov(x.T)
    roots = torch.linalg.eigvalsh(root.T @ here @ root).clamp(min=1e-12).sqrt()
    return (mean - there.mean).square().sum() + (here + there.covariance).trace() - 2 * roots.sum()


def forged(eye: nn.Module, there: FeatureStatistics, seed: int, *, n: int = FORGED,
           steps: int = STEPS) -> Float[Tensor, "n 3 h w"]:
    """Pictures that begin as noise and whose pixels walk downhill in FID: no scene is ever shown to them."""
    x = (.3 * noise((n, 3, 32, 32), 900 + seed)).requires_grad_()
    walk = torch.optim.Adam([x], lr=.05)
    for _ in range(steps):
        walk.zero_grad()
        fooled(eye(x), there).backward()
        walk.step()
        with torch.no_grad():
            x.clamp_(-1, 1)
    return x.detach()


def forgery(seed: int, n: int = FORGED, steps: int = STEPS) -> dict:
    """The forged pictures and as many of the world, by every eye and by the oracle."""
    there = world(seed)["trained"][0]
    trained = weights.load("features").requires_grad_(False)
    scenes = full(n, rng("as many", seed))
    sets = {"of the world": render(scenes), "noise": (.3 * noise((n, 3, 32, 32), 900 + seed)).clamp(-1, 1),
            "forged": forged(trained, there, seed, n=n, steps=steps)}
    told = captions.write(scenes, rng("as many told", seed), complete=True)
    return {"seed": seed, "n": n, "steps": steps, "sets": {name: scores(x, told, seed) for name, x in sets.items()}}


def row(seed: int, n: int = N, steps: int = STEPS) -> dict:
    """The whole trial from one seed."""
    return damaged(seed, n) | {"forgery": forgery(seed, steps=steps)}


def tried(folder: Path = weights.TRAINED, seeds: int = 3) -> None:
    """trial.json: all rows; an interrupted run keeps what it has in runs/."""
    recorded(folder / "trial.json", "trial.tried", {f"trial-{seed}": partial(row, seed) for seed in range(seeds)}, RUNS)


RECIPES = {"trial": tried}
