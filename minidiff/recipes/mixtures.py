"""Chapter 1: a mixture of Gaussians for pictures of world `full`, and mixtures of all kinds and sizes to compare."""
import json
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff import weights
from minidiff.data import pictures, rng
from minidiff.gaussians import Gaussians, Matrices
from minidiff.mixture import GaussianMixture, Stored, of_world
from minidiff.plot import write
from minidiff.recipes.about import machine, measured
from minidiff.recipes.quality import judged, legible, sharpness
from minidiff.scenes import full, render, single

SIDE, STD = 16, .1                                     # of all pictures here; of the noise on those of `single`
REG = {"single": 1e-6, "full": 1e-3}                   # pictures of `full` come without noise: this is the least width
KINDS = {"full": 0, "spherical": 0, "diag": 0, "lowrank": 6}                        # and the ranks
LADDER = [("full", 1), *((kind, k) for kind in ("spherical", "diag", "lowrank") for k in (1, 10, 100))]


# --- what a mixture's pictures are worth ------------------------------------------------------------------------------

def without_grain(mixture: GaussianMixture) -> GaussianMixture:
    """The mixture without the noise that each number has of its own: C = diag(a) + U U^T keeps U U^T alone.

    Of a full covariance nothing is left out: it does not tell the two apart.
    """
    g = mixture.gaussians
    if mixture.covariance == "full":
        return mixture
    covariances = Matrices(1e-12 * g.covariances.a.clamp(min=1e-3), g.covariances.u)
    return mixture.holding(Gaussians(g.weights, g.means, covariances))


def drawn(mixture: GaussianMixture, n: int, seed: int = 0) -> Float[Tensor, "n 3 h w"]:
    """n samples as colour pictures."""
    x = mixture.sample(n, seed=seed).float()
    return x.reshape(n, 3, *[round((x.shape[1] / 3) ** .5)] * 2)


def quality(mixture: GaussianMixture, n: int = 2000, seeds: int = 5) -> dict:
    """Its pictures with and without grain, judged."""
    models = {"samples": mixture, "without grain": without_grain(mixture)}
    return {"n": n, "seeds": seeds} | {name: judged(partial(drawn, model), n, seeds) for name, model in models.items()}


# --- recipes ----------------------------------------------------------------------------------------------------------

def gaussian_mixture(folder: Path = weights.TRAINED, k: int = 600, n: int = 30_000, count: int = 2000) -> None:
    """gaussian-mixture: k round Gaussians for 16x16 pictures of world `full`; `count` pictures a seed measure it."""
    start, x = time.monotonic(), pictures(n, 0, SIDE)(0).flatten(1)
    fitted = GaussianMixture(k, "spherical", reg=REG["full"], tol=0, max_iter=10).fit(x)
    test = fitted.log_prob(pictures(count, 1, SIDE)(0))
    about = {"recipe": "mixtures.gaussian_mixture", "seed": 0, "steps": 10, "machine": machine(torch.float64),
             "minutes": round((time.monotonic() - start) / 60, 1),
             "log-likelihood": {"training": round(fitted.history_[-1], 1), "fresh": round(float(test.mean()), 1)}}
    path = folder / "gaussian-mixture.safetensors"
    weights.save(path, Stored.of(fitted), dtype=torch.float16, about=about)
    measured(path, lambda stored: quality(stored.mixture(), count))


def ladder(folder: Path = weights.TRAINED, seeds: int = 5, sizes: tuple[int, int] = (8000, 1000)) -> None:
    """mixtures.json: mixtures of each kind and size on both worlds, for some seeds; sizes: to fit, to measure."""
    rows = [compared(world, kind, k, seed=seed, sizes=sizes)
            for seed in range(seeds) for world in ("full", "single") for kind, k in LADDER]
    about = {"recipe": "mixtures.ladder", "machine": machine(torch.float64), "date": str(date.today()),
             "sizes": sizes, "rows": rows}
    write(folder / "mixtures.json", json.dumps(about, indent=1).encode())


def points(world: str, n: int, seed: int) -> Float[Tensor, "n d"]:
    """n pictures of a world as rows: of `single` with noise, of `full` without."""
    if world == "single":
        return of_world("single", STD, size=SIDE).sample(n, seed=seed).float()
    return pictures(n, seed, SIDE)(0).flatten(1)


def compared(world: str, kind: str, k: int, *, seed: int, sizes: tuple[int, int] = (8000, 1000)) -> dict:
    """One mixture: nats on fresh pictures, on `single` as KL to the truth; legal pictures, energy of short waves."""
    n, m = sizes
    x, fresh = points(world, n, seed), points(world, m, 10_000 + seed)
    fitted = GaussianMixture(k, kind, reg=REG[world], tol=0, max_iter=10, rank=KINDS[kind] or 8, seed=seed).fit(x)
    nats = [fitted.log_prob(part) for part in (x[:m], fresh)]
    if world == "single":
        truth = of_world("single", STD, size=SIDE)
        nats = [truth.log_prob(part) - log_prob for part, log_prob in zip((x[:m], fresh), nats, strict=True)]
    clean = render(single() if world == "single" else full(m, rng("clean")), SIDE)
    shown = {"": drawn(fitted, m, seed), " without grain": drawn(without_grain(fitted), m, seed)}
    row = {"world": world, "kind": kind, "k": k, "seed": seed, "n": m, "training": round(float(nats[0].mean()), 2),
           "fresh": round(float(nats[1].mean()), 2), "error": round(float(nats[1].std() / m ** .5), 2)}
    for name, x in shown.items():
        row[f"legal{name}"] = sum(scene is not None for scene in legible(x))
        row[f"short waves{name}"] = round(sharpness(x) / sharpness(clean), 3)
    print(row, flush=True)
    return row


RECIPES = {"gaussian-mixture": gaussian_mixture, "mixtures": ladder}
