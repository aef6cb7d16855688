"""Chapter 8's feature network: it answers what is shown where, so that its features tell one scene from another."""
import time
from datetime import date
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from minidiff import weights
from minidiff.data import rng
from minidiff.metrics import Features, FeaturesConfig
from minidiff.recipes.about import RUNS, fast_precision, followed, machine, made, measured
from minidiff.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scenes, full, render
from minidiff.train import Training

STEPS, BATCH = 4000, 64
WORDS = 1 + len(COLOURS) + len(SHAPES) + len(SIZES)               # of a ninth: is a thing there, and which
N = 10_000                                                        # fresh pictures that judge what it learned


def questions(scenes: Scenes) -> Float[Tensor, "b k"]:
    """1 or 0 for each of the nine places and each word: is a thing there, of this colour, shape, size; then grounds.

    A thing on the border of two places counts for the left or upper one.
    """
    column, row = ((scenes.xy > 3 / 8).long() + (scenes.xy > 5 / 8)).unbind(2)                  # [b things]
    there = F.one_hot(column + 3 * row, len(PLACES)) * (scenes.shape >= 0)[:, :, None]          # [b things 9]
    tables = (scenes.colour, COLOURS), (scenes.shape, SHAPES), (scenes.size, SIZES)
    words = [torch.ones_like(scenes.shape)[:, :, None]]
    words += [F.one_hot(chosen.clamp(min=0), len(table)) for chosen, table in tables]
    of_places = torch.einsum("bnp,bnw->bpw", there, torch.cat(words, 2)).clamp(max=1)
    return torch.cat([of_places.flatten(1), F.one_hot(scenes.background, len(BACKGROUNDS))], 1).float()


def training(steps: int = STEPS, seed: int = 0) -> Training:
    """Cross-entropy of every question, on fresh pictures of world `full`."""
    model = made(lambda: Features(FeaturesConfig(answers=WORDS * len(PLACES) + len(BACKGROUNDS))), seed)

    def loss(scenes: Scenes) -> dict[str, Tensor]:
        logits = model.logits(render(scenes)).float()
        return {"loss": F.binary_cross_entropy_with_logits(logits, questions(scenes), reduction="none").sum(1).mean()}
    return Training(model, loss, lambda step: full(BATCH, rng("features", seed, step)), steps=steps, lr=2e-3,
                    warmup=200, ema=.998, seed=seed, weight_decay=.01, autocast=fast_precision(),
                    checkpoint=RUNS / "features.safetensors")


@torch.no_grad()
def answered(model: Features, n: int = N, split: str = "train") -> dict:
    """Of fresh pictures: questions answered rightly, and pictures of which all are."""
    scenes = full(n, rng("features judged", split), split)
    said = torch.cat([model.logits(part) for part in render(scenes).split(500)]) > 0
    right = said == questions(scenes).bool()
    return {"pictures": n, "questions right": float(right.double().mean()),
            "all right": round(float(right.all(1).double().mean()), 4)}


@torch.no_grad()
def scaled(model: Features, n: int = N) -> Features:
    """The network whose features have variance 1 on average, over n fresh pictures."""
    x = render(full(n, rng("features scaled")))
    model.unit = torch.cat([model(part) for part in x.split(500)]).var(0).mean().sqrt() * model.unit
    return model


def features(folder: Path = weights.TRAINED, steps: int = STEPS, n: int = N) -> None:
    """features.safetensors, with how well it answers on seen and on held-out pairs."""
    run, began = training(steps), time.process_time()
    for _ in followed(run, "features", 500):
        pass
    path = folder / "features.safetensors"
    about = {"recipe": "features.features", "seed": 0, "steps": steps, "machine": machine(), "date": str(date.today()),
             "minutes": round(run.logs[-1].seconds / 60, 1),
             "cpu_minutes": round((time.process_time() - began) / 60, 1)}
    weights.save(path, scaled(run.averaged.eval()), dtype=torch.float16, about=about)
    measured(path, lambda model: {split: answered(model, n, split) for split in ("train", "one, held-out pair")})


RECIPES = {"features": features}
