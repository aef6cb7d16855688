"""Chapter 3: a flow for world `single`, whose distance from the truth is known; Glow for world `full`; a comparison."""
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from functools import cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff import weights
from minidiff.data import pictures, rng
from minidiff.flow import Flow, FlowConfig, bits_per_dim
from minidiff.mixture import GaussianMixture, of_world
from minidiff.plot import write
from minidiff.recipes.about import RUNS, followed, machine, made, measured
from minidiff.recipes.quality import judged, legible, psnr
from minidiff.train import Training

# Noise on all pictures: without it they lie on thin sheets, where a density has no bound. The oracle reads through 0.1
# without an error in a hundred; with 0.05 a mean that is wrong by the same amount costs four times as many nats.
STD = .1
SINGLE = FlowConfig(3, 16, levels=3, steps=4, width=48)
GLOW = FlowConfig(3, 32, levels=4, steps=3, width=44)
TEMPERATURES = (.95, .9, .8, .7, .5)
TUNING = (100, 101)                                    # seeds of the pictures that the temperature is chosen by
SHARES = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)                                # of the code kept


# --- pictures with noise ----------------------------------------------------------------------------------------------

@cache
def exact() -> GaussianMixture:
    """World `single` with its noise: samples and the true density."""
    return of_world("single", STD, size=16)


def of_single(batch: int, seed: int = 0) -> Callable[[int], Float[Tensor, "b 3 16 16"]]:
    """Endless fresh samples of the exact world `single`: step -> batch."""
    means, shares = exact().means_.float(), exact().weights_

    def at(step: int) -> Float[Tensor, "b 3 16 16"]:
        generator = rng("flow", seed, step)
        x = means[torch.multinomial(shares, batch, replacement=True, generator=generator)]
        return (x + STD * torch.randn(x.shape, generator=generator)).reshape(-1, 3, 16, 16)
    return at


def of_full(batch: int, seed: int = 0) -> Callable[[int], Float[Tensor, "b 3 32 32"]]:
    """Endless fresh pictures of world `full` with noise: step -> batch."""
    clean = pictures(batch, seed)

    def at(step: int) -> Float[Tensor, "b 3 32 32"]:
        x = clean(step)
        return x + STD * torch.randn(x.shape, generator=rng("grain", seed, step))
    return at


# --- what a flow is worth ---------------------------------------------------------------------------------------------

def distance(flow: Flow, n: int = 8000, seed: int = 0) -> dict:
    """KL(world || flow) in nats a picture on n fresh samples of `single`; bits a number beside the entropy's."""
    kl, error = exact().kl(lambda x: flow.log_prob(x.float().reshape(-1, *flow.config.shape)), n, seed=10_000 + seed)
    entropy, _ = exact().entropy(n, seed=10_000 + seed)
    bits = {"bits a number": entropy + kl, "least possible": entropy}
    return {"n": n, "KL": round(kl, 2), "standard error": round(error, 2)} | {
        name: round(float(bits_per_dim(-nats, flow.dims)), 4) for name, nats in bits.items()}


@torch.no_grad()
def kept(flow: Flow, x: Float[Tensor, "b c h w"]) -> dict:
    """The largest error of decode(encode(x)), and PSNR in dB against x when only a share of the code is kept."""
    z, _ = flow.encode(x)
    error, kept = float((flow.decode(z) - x).abs().max()), {}
    for share in SHARES:
        few = z.clone()
        few[:, round(share * flow.dims):] = 0
        kept[f"{share:.4g}"] = psnr(flow.decode(few), x)
    return {"inverse error": float(f"{error:.1e}"), "PSNR": kept}


def best_temperature(flow: Flow, n: int = 1000) -> dict[float, float]:
    """The share of legal pictures in % at each lower temperature, on the tuning seeds; the best one first."""
    tried = {t: 100 * sum(scene is not None for seed in TUNING
                          for scene in legible(flow.sample(n, seed=seed, temperature=t))) / (n * len(TUNING))
             for t in TEMPERATURES}
    return dict(sorted(tried.items(), key=lambda pair: -pair[1]))


@torch.no_grad()
def painted(flow: Flow, n: int = 2000, seeds: int = 5) -> dict:
    """Its samples, cut off at -1 and 1, judged: as they are, and at the temperature that was best on other seeds.

    Cut off, because now and then a sample at temperature 1 is beyond all bounds: "wild" counts those beyond 10.
    """
    tried = best_temperature(flow, n // 2)
    best = next(iter(tried))
    shown = {"samples": 1., f"temperature {best}": best}
    wild = 0

    def drawn(n: int, seed: int, t: float) -> Tensor:
        nonlocal wild
        x = flow.sample(n, seed=seed, temperature=t)
        wild += int((t == 1) * (x.abs().amax((1, 2, 3)) > 10).sum())
        return x.clamp(-1, 1)
    out = {name: judged(partial(drawn, t=t), n, seeds) for name, t in shown.items()}
    x = of_full(256, seed=1)(0)
    return {"n": n, "seeds": seeds, "tuning": {"seeds": TUNING, "legal": tried}, "wild": wild} | out | kept(flow, x) | {
        "nats a picture": round(float(flow.log_prob(x).mean()), 1)}


# --- recipes ----------------------------------------------------------------------------------------------------------

def flow_single(folder: Path = weights.TRAINED, steps: int = 11_000, n: int = 8000) -> None:
    """flow-single: a flow for 16x16 pictures of world `single` with noise; n fresh samples measure the file."""
    flow = made(lambda: Flow(SINGLE))
    run = Training(flow, flow.loss, of_single(64), steps=steps, lr=1e-2, warmup=200, ema=.998,
                   checkpoint=RUNS / "flow-single.safetensors")
    path = stored(run, folder / "flow-single.safetensors")
    measured(path, lambda flow: distance(flow, n) | kept(flow, of_single(256, seed=1)(0)))


def glow(folder: Path = weights.TRAINED, steps: int = 14_000, n: int = 2000) -> None:
    """glow: a flow for 32x32 pictures of world `full` with noise; n samples a seed measure the file."""
    flow = made(lambda: Flow(GLOW))
    run = Training(flow, flow.loss, of_full(32), steps=steps, lr=1e-2, warmup=200, ema=.998,
                   checkpoint=RUNS / "glow.safetensors")
    path = stored(run, folder / "glow.safetensors")
    measured(path, lambda flow: painted(flow, n))


def stored(run: Training, path: Path) -> Path:
    """Train, and write the averaged flow."""
    for _ in followed(run, path.stem):
        pass
    about = {"recipe": f"flows.{path.stem.replace('-', '_')}", "seed": run.seed, "steps": run.steps,
             "machine": machine(torch.float32), "minutes": round(run.logs[-1].seconds / 60, 1)}
    weights.save(path, run.averaged, dtype=torch.float16, about=about)
    return path


# --- a comparison at equal minutes ------------------------------------------------------------------------------------

BENCH = FlowConfig(3, 16, levels=3, steps=3, width=32)
# Each flow with the steps that half a minute of one thread is enough for, on the machine that this was written on.
VARIANTS = {"affine": (BENCH, 1050), "splines": (replace(BENCH, bins=8), 290),
            "one level": (replace(BENCH, levels=1), 2170), "two levels": (replace(BENCH, levels=2), 1270),
            "four levels": (replace(BENCH, levels=4), 780), "without mix": (replace(BENCH, mix=False), 1090),
            "without norm": (replace(BENCH, norm=False), 1060)}


def compare(folder: Path = weights.TRAINED, seeds: int = 3, share: float = 1., n: int = 2000) -> None:
    """flows.json: each kind of flow on world `single` for some seeds; share: of the steps, n: samples to measure."""
    rows = [compared(name, seed=seed, share=share, n=n) for seed in range(seeds) for name in VARIANTS]
    about = {"recipe": "flows.compare", "machine": machine(torch.float32), "date": str(date.today()), "rows": rows}
    write(folder / "flows.json", json.dumps(about, indent=1).encode())


def compared(name: str, *, seed: int, share: float = 1., n: int = 2000) -> dict:
    """One flow of the comparison: how far it is from the truth, and what a share of its code keeps of a picture."""
    (config, steps), start = VARIANTS[name], time.process_time()
    flow = made(lambda: Flow(config), seed)
    run = Training(flow, flow.loss, of_single(64, seed), steps=round(share * steps), lr=1e-2, ema=.99, seed=seed)
    for _ in followed(run, f"{name}, seed {seed}", every=500):
        pass
    minutes = (time.process_time() - start) / 60
    row = {"name": name, "seed": seed, "config": asdict(config), "steps": run.steps,
           "parameters": sum(p.numel() for p in flow.parameters()), "minutes of a processor": round(minutes, 2)}
    row |= distance(run.averaged, n, seed) | kept(run.averaged, of_single(256, 1000 + seed)(0))
    print(row, flush=True)
    return row


RECIPES = {"flow-single": flow_single, "glow": glow, "flows": compare}
