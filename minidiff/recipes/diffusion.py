"""Chapter 5: a diffusion model for world `full`; one for `single`, whose distance from the truth is measured."""
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff import weights
from minidiff.data import pictures
from minidiff.ddpm import DDPM, DDPMConfig
from minidiff.likelihood import bound, by_probes, ode_log_prob, signs
from minidiff.rates import Rate
from minidiff.recipes.about import RUNS, fast_precision, followed, machine, made, measured
from minidiff.recipes.flows import exact, of_single
from minidiff.recipes.gans import covered
from minidiff.recipes.quality import judged, legible
from minidiff.schedules import times
from minidiff.train import Training
from minidiff.unet import UNetConfig
from minidiff.variances import fixed, large

FULL = DDPMConfig(UNetConfig(3, 32, (24, 36, 48), d_time=64, d_text=0, attend=(False, False, True)))
SINGLE = DDPMConfig(UNetConfig(3, 16, (32, 48), d_time=64, d_text=0, attend=(False, True)))
STEPS = 200                # of the ODE; with the exact denoiser of `single` they are 0.2 nats off, 100 are 0.95


# --- what a diffusion model is worth ----------------------------------------------------------------------------------

def drawn(model: DDPM, n: int, seed: int, steps: int = 50) -> Float[Tensor, "n 3 h w"]:
    """n pictures by DDIM in so many steps, in pieces."""
    return torch.cat([model.sample(min(100, n - i), seed=seed, first=i, steps=steps) for i in range(0, n, 100)])


def painted(model: DDPM, n: int = 2000, seeds: int = 5, few: Sequence[int] = (5, 10, 20)) -> dict:
    """Its samples in 50 steps, judged; the share of legal ones with fewer steps, from a quarter as many."""
    fewer = {k: legible(drawn(model, max(n // 4, 1), 0, k)) for k in few}
    return {"n": n, "seeds": seeds, "steps": 50} | judged(partial(drawn, model), n, seeds) | {
        "legal in fewer steps": {k: str(Rate(sum(s is not None for s in found), len(found)))
                                 for k, found in fewer.items()}}


def nats(log_prob: Callable[[Tensor, int], Tensor], n: int, seed: int) -> dict:
    """KL(world || model) from n fresh samples of `single`; log_prob(x, i) for the pictures from the i-th on."""
    rows = exact().sample(n, seed=10_000 + seed)
    x = rows.float().reshape(-1, 3, 16, 16)
    gap = exact().log_prob(rows) - torch.cat([log_prob(x[i:i + 250], i) for i in range(0, n, 250)])
    return {"n": n, "KL": round(float(gap.mean()), 2), "standard error": round(float(gap.std() / n ** .5), 2)}


def distance(model: DDPM, n: int = 500, seed: int = 0) -> dict:
    """KL(world || model) in nats a picture: at most, by the bound of all T steps; and by the ODE with Heun's steps.

    The divergence in the ODE comes from one probe a picture.
    """
    T, schedule = model.config.T, model.schedule

    def at_least(x: Tensor, first: int) -> Tensor:
        with torch.no_grad():
            reverse = fixed(model.denoiser, schedule, large)
            return -bound(reverse, x, times(T, T), schedule, seed=seed, first=first).total

    def by_ode(x: Tensor, first: int) -> Tensor:
        probes = signs(1, x.shape, seed, first=first)
        return ode_log_prob(by_probes(model.denoiser, probes), x, times(STEPS, T), schedule)
    return {"bound": nats(at_least, n, seed), "ODE": {"steps": STEPS} | nats(by_ode, n, seed)}


# --- the two files ----------------------------------------------------------------------------------------------------

def finished(run: Training, path: Path) -> Path:
    """Train to the end, and write the averaged model with its story."""
    for _ in followed(run, path.stem):
        pass
    about = {"recipe": f"diffusion.{path.stem.replace('-', '_')}", "seed": run.seed, "steps": run.steps,
             "machine": machine(), "minutes": round(run.logs[-1].seconds / 60, 1)}
    weights.save(path, run.averaged, dtype=torch.float16, about=about)
    return path


def ddpm(folder: Path = weights.TRAINED, steps: int = 40_000, n: int = 2000) -> None:
    """ddpm: 32x32 pictures of world `full`, without noise; n samples a seed measure the file."""
    model = made(lambda: DDPM(FULL))
    run = Training(model, model.loss, pictures(32), steps=steps, lr=2e-3, warmup=500, ema=.9995,
                   autocast=fast_precision(), checkpoint=RUNS / "ddpm.safetensors")
    measured(finished(run, folder / "ddpm.safetensors"), lambda model: painted(model, n))


def ddpm_single(folder: Path = weights.TRAINED, steps: int = 15_000, n: int = 500) -> None:
    """ddpm-single: 16x16 pictures of world `single` with noise; n fresh samples measure the file."""
    model = made(lambda: DDPM(SINGLE))
    run = Training(model, model.loss, of_single(64), steps=steps, lr=2e-3, warmup=500, ema=.9995,
                   autocast=fast_precision(), checkpoint=RUNS / "ddpm-single.safetensors")
    path = finished(run, folder / "ddpm-single.safetensors")
    measured(path, lambda model: distance(model, n) | covered(drawn(model, 40 * n, 0)))


RECIPES = {"ddpm": ddpm, "ddpm-single": ddpm_single}
