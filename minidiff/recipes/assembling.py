"""Chapter 6's second comparison: which parts a text-to-image model is put together from, and which of them learn.

Pixels against codes, at equal steps and at equal time; readers and codes that go on learning with the network; an
auto-encoder that saw few pictures or many. The painters are those of `painting`.
"""
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from minidiff import weights
from minidiff.data import rng
from minidiff.latent import LatentAutoencoder
from minidiff.recipes import compressors
from minidiff.recipes import painters as p
from minidiff.recipes.about import RUNS, recorded
from minidiff.recipes.latent_diffusion import reconstruction
from minidiff.recipes.painting import Arm, Pool, encoded, kinds, tidied, tidy, training
from minidiff.scenes import render

LONG, SHORT, LEAST = 400, 100, 50             # steps; LONG of codes take the time of SHORT, LEAST in pixels of 32, 64
N = 256                                                       # captions of each kind that judge a painter
PIXELS, LATE = 3e-3, .3                                       # rates: in pixels; of readers and codes, over the others


# --- parts that are made here, each once ------------------------------------------------------------------------------

@cache
def compressed(seed: int, n: int, key: str) -> LatentAutoencoder:
    """An auto-encoder of `compressors` from n tidy pictures: those of the pairs (key "pool"), or others."""
    return compressors.trained("8x8x4", seed, few=render(tidy(n, rng(key, seed))))[0]


# --- the kinds --------------------------------------------------------------------------------------------------------

def pixels(widths: tuple[int, ...], side: int, steps: int) -> Arm:
    """No codes: the U-Net has more levels."""
    return Arm(net=partial(p.in_pixels, widths, side), steps=steps, rate=PIXELS, codes=p.Pixels, shape=(3, side, side),
               size=side)


ARMS: dict[str, Callable[[int], Arm]] = {
    "codes": lambda seed: Arm(steps=LONG),
    "pixels": lambda seed: pixels((16, 16, 24, 48), 32, LONG),
    "pixels, short": lambda seed: pixels((16, 16, 24, 48), 32, SHORT),
    "pixels 64, short": lambda seed: pixels((8, 16, 24, 24, 48), 64, LEAST),
    "text learns": lambda seed: Arm(frozen=False, steps=LONG, slow=LATE),
    "all learn": lambda seed: Arm(frozen=False, steps=LONG, slow=LATE, together=True),
    "codes of 500": lambda seed: Arm(pairs=500, codes=partial(compressed, seed, 500, "pool"), steps=LONG),
    "codes of many": lambda seed: Arm(pairs=500, codes=partial(compressed, seed, 12_800, "others"), steps=LONG)}


# --- rows -------------------------------------------------------------------------------------------------------------

def row(name: str, seed: int, n: int = N) -> dict:
    """What one kind of painter reaches from one seed; of codes also what is left of a picture, and their spread."""
    arm = ARMS[name](seed)
    pool = Pool(arm, seed)
    run = training(arm, pool, seed, arm.steps)
    for _ in run:
        pass
    model, shown = run.averaged.eval(), {tidied(scene) for scene in pool.scenes}
    coded = {}
    if arm.codes is not p.Pixels:
        z = encoded(model.codes, pool.pictures[:500])
        coded = {"std": round(float(z.std()), 3)} | reconstruction(model.codes, 500)
    return {"model": name, "seed": seed, "steps": arm.steps, "seconds": round(run.logs[-1].seconds, 1),
            "parameters": sum(q.numel() for q in run.parameters.values()), "codes": coded,
            "end": kinds(model, seed, n, shown)}


def compared(folder: Path = weights.TRAINED, seeds: int = 3) -> None:
    """assembling.json: all rows; an interrupted run keeps what it has in runs/."""
    rows = {f"assembling-{name}-{seed}": partial(row, name, seed) for name in ARMS for seed in range(seeds)}
    recorded(folder / "assembling.json", "assembling.compared", rows, RUNS)


RECIPES = {"assembling": compared}
