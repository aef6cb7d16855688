"""Chapter 5: a diffusion model for world `full`; one for `single`, whose distance from the truth is measured.

These two trainings, and what they draw, use a graphics card where there is one.
"""
import json
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff import weights
from minidiff.data import noise, pictures
from minidiff.ddpm import DDPM, DDPMConfig
from minidiff.likelihood import bound, by_probes, ode_log_prob, signs
from minidiff.plot import write
from minidiff.rates import Rate
from minidiff.recipes.about import RUNS, device, fast_precision, followed, machine, made, measured, there
from minidiff.recipes.flows import exact, of_single
from minidiff.recipes.gans import covered
from minidiff.recipes.quality import judged, legible
from minidiff.samplers import ancestral_step, ddim_step, dpmpp_path, heun_path, last, noise_like, sample_path
from minidiff.schedules import logit_normal, times
from minidiff.train import Training
from minidiff.unet import UNetConfig
from minidiff.variances import fixed, large

FULL = DDPMConfig(UNetConfig(3, 32, (24, 36, 48), d_time=64, d_text=0, attend=(False, False, True)))
SINGLE = DDPMConfig(UNetConfig(3, 16, (32, 48), d_time=64, d_text=0, attend=(False, True)))
STEPS = 200                # of the ODE; with the exact denoiser of `single` they are 0.2 nats off, 100 are 0.95


# --- what a diffusion model is worth ----------------------------------------------------------------------------------

def drawn(model: DDPM, n: int, seed: int, *, steps: int = 50, eta: float = 0.) -> Float[Tensor, "n 3 h w"]:
    """n pictures by DDIM in so many steps, in pieces; eta = 1 draws fresh noise at each step, as DDPM does."""
    def piece(i: int) -> Tensor:
        step = partial(ddim_step, eta=eta, randn_like=noise_like(seed, first=i))
        return model.sample(min(100, n - i), seed=seed, first=i, steps=steps, step=step).cpu()
    return torch.cat([piece(i) for i in range(0, n, 100)])


def painted(model: DDPM, n: int = 400, seeds: int = 5, few: Sequence[int] = (5, 10, 20)) -> dict:
    """Its samples in 50 steps, judged; the share of legal ones with fewer steps, from a quarter as many."""
    model = model.to(device())
    fewer = {k: legible(drawn(model, max(n // 4, 1), 0, steps=k)) for k in few}
    fresh = judged(partial(drawn, model, eta=1.), n, seeds)
    return {"n": n, "seeds": seeds, "steps": 50} | judged(partial(drawn, model), n, seeds) | {
        "with fresh noise (eta = 1)": {name: fresh[name] for name in ("legal", "spread")},
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
    T, schedule, model = model.config.T, model.schedule, model.to(device())

    def at_least(x: Tensor, first: int) -> Tensor:
        with torch.no_grad():
            reverse = fixed(model.denoiser, schedule, large)
            return -bound(reverse, x.to(device()), times(T, T), schedule, seed=seed, first=first).total.cpu()

    def by_ode(x: Tensor, first: int) -> Tensor:
        x, probes = x.to(device()), signs(1, x.shape, seed, first=first).to(device())
        return ode_log_prob(by_probes(model.denoiser, probes), x, times(STEPS, T), schedule).cpu()
    return {"bound": nats(at_least, n, seed), "ODE": {"steps": STEPS} | nats(by_ode, n, seed)}


# --- the two files ----------------------------------------------------------------------------------------------------

def finished(run: Training, path: Path, before: dict | None = None) -> Path:
    """Train to the end, and write the averaged model with its story, that of a first stage in it."""
    for _ in followed(run, path.stem):
        pass
    about = {"recipe": f"diffusion.{path.stem.replace('-', '_')}", "seed": run.seed, "steps": run.steps,
             "machine": machine(on=device()), "minutes": round(run.logs[-1].seconds / 60, 1)}
    if before:
        about["first stage"] = {key: before[key] for key in ("steps", "machine", "minutes")}
    weights.save(path, run.averaged.cpu(), dtype=torch.float16, about=about)
    return path


def middle(n: int, T: int = 1000) -> Float[Tensor, "n"]:
    """n times k / T, those in the middle more often: what a thing is, and where, is decided there."""
    return (logit_normal(n, .3, 1.2) * T).ceil().clamp(1, T) / T


def stage(model: DDPM, name: str, *, steps: int, lr: float, ema: float, seed: int) -> Training:
    """A training on clean pictures of `full`, 32 a step."""
    def loss(x0: Tensor) -> dict[str, Tensor]:
        return {"loss": model.denoiser.loss(x0, middle(len(x0), model.config.T))}
    return Training(model, loss, there(pictures(32, seed)), steps=steps, lr=lr, warmup=500, ema=ema, seed=seed,
                    autocast=fast_precision(device()), checkpoint=RUNS / f"{name}.safetensors")


def ddpm(folder: Path = weights.TRAINED, steps: int = 14_000, more: int = 8_000, n: int = 400) -> None:
    """ddpm: 32x32 pictures of world `full`, without noise, in two stages; n samples a seed measure the file.

    The second stage begins with the averaged weights of the first, which are kept in runs/.
    """
    first = RUNS / "first" / "ddpm.safetensors"
    if not first.exists() or weights.describe(first)["steps"] != steps:
        first.parent.mkdir(parents=True, exist_ok=True)
        finished(stage(made(lambda: DDPM(FULL)).to(device()), "ddpm-1", steps=steps, lr=2e-3, ema=.9995, seed=0), first)
    model = weights.load(first).requires_grad_().to(device(), memory_format=torch.channels_last)
    run = stage(model, "ddpm-2", steps=more, lr=1e-3, ema=.999, seed=1)
    measured(finished(run, folder / "ddpm.safetensors", weights.describe(first)), lambda model: painted(model, n))


def ddpm_single(folder: Path = weights.TRAINED, steps: int = 12_000, n: int = 500) -> None:
    """ddpm-single: 16x16 pictures of world `single` with noise; n fresh samples measure the file."""
    model = made(lambda: DDPM(SINGLE)).to(device())
    run = Training(model, model.loss, there(of_single(64)), steps=steps, lr=2e-3, warmup=500, ema=.9995,
                   autocast=fast_precision(device()), checkpoint=RUNS / "ddpm-single.safetensors")
    path = finished(run, folder / "ddpm-single.safetensors")
    measured(path, lambda model: distance(model, n) | covered(drawn(model, 40 * n, 0)))


# --- the ways down: quality against steps ----------------------------------------------------------------------------

def by(sampler: str, model: DDPM, n: int, *, seed: int, steps: int) -> Float[Tensor, "n 3 h w"]:
    """n pictures by a sampler of this name, from the same noise for all."""
    def piece(i: int, k: int) -> Tensor:
        x, at = noise((k, 3, model.config.net.side, model.config.net.side), seed, first=i), times(steps, model.config.T)
        walk = {"ddim": partial(sample_path, step=ddim_step), "heun": heun_path, "dpmpp": dpmpp_path,
                "ancestral": partial(sample_path, step=partial(
                    ancestral_step, randn_like=noise_like(seed, first=i)))}[sampler]
        return last(walk(model.denoiser, x.to(device()), at, model.schedule)).cpu()
    return torch.cat([piece(i, min(250, n - i)) for i in range(0, n, 250)])


def samplers(folder: Path = weights.TRAINED, *, n: int = 100, seeds: int = 2,
             counts: Sequence[int] = (5, 10, 20, 50, 100), long: Sequence[int] = (1000,)) -> None:
    """samplers.json: legal pictures by `ddpm` for each sampler and number of calls; Heun takes two a step.

    long: numbers of calls that only DDIM and Algorithm 2 are asked for, with one seed and half as many pictures.
    """
    model, rows = weights.load(folder / "ddpm.safetensors").to(device()), []
    asked = [(name, calls, seed) for name in ("ddim", "ancestral", "heun", "dpmpp")
             for calls in counts for seed in range(seeds)]
    for name, calls, seed in asked + [(name, calls, 0) for name in ("ddim", "ancestral") for calls in long]:
        many = max(n // 2, 1) if calls in long else n
        found = legible(by(name, model, many, seed=70_000 + seed,
                           steps=max(calls // 2, 1) if name == "heun" else calls))
        rows.append({"sampler": name, "calls": calls, "seed": seed, "of": many,
                     "legal": sum(scene is not None for scene in found)})
        print(rows[-1], flush=True)
    about = {"recipe": "diffusion.samplers", "machine": machine(on=device()), "date": str(date.today()), "rows": rows}
    write(folder / "samplers.json", json.dumps(about, indent=1).encode())


RECIPES = {"ddpm": ddpm, "ddpm-single": ddpm_single, "samplers": samplers}
