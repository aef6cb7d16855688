"""Chapter 4: a GAN for world `full`; one for world `single`, where what it leaves out is counted; games and hybrids."""
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minidiff import gan as g
from minidiff import weights
from minidiff.autoencoder import VAE, AutoencoderConfig, kl_to_normal, log_normal
from minidiff.data import pictures, rng
from minidiff.flow import Flow, FlowConfig, bits_per_dim
from minidiff.gan import Discriminator, DiscriminatorConfig, Duel, Generator, GeneratorConfig, believed, telling_apart
from minidiff.mixture import of_world
from minidiff.plot import write
from minidiff.recipes.about import RUNS, fast_precision, followed, machine, made, measured
from minidiff.recipes.quality import judged, legible, sharpness
from minidiff.scenes import Scene, render, single
from minidiff.train import Training

SIDE, STD = 16, .1                            # of pictures of `single`; of the noise on those that need a density
Loss = Callable[[Tensor], dict[str, Tensor]]


# --- the pictures of world `single`, and how much of it a generator shows ---------------------------------------------

def singles(batch: int, seed: int = 0, std: float = 0.) -> Callable[[int], Float[Tensor, "b 3 h w"]]:
    """Endless fresh draws of the 3,024 training scenes, with noise where std is not 0: step -> batch.

    A GAN needs no density, so its pictures stay clean: noise would only be one more thing to imitate.
    """
    world = render(single(), SIDE)

    def at(step: int) -> Float[Tensor, "b 3 h w"]:
        generator = rng("singles", seed, step)
        x = world[torch.randint(len(world), (batch,), generator=generator)]
        return x + std * torch.randn(x.shape, generator=generator)
    return at


def key(scene: Scene) -> tuple | None:
    """A scene of one thing on one of the nine places, in words that tell it from every other; None for all others."""
    if len(scene.things) != 1:
        return None
    t = scene.things[0]
    off = max(abs(c - round(4 * c) / 4) for c in (t.x, t.y))
    return (scene.background, t.shape, t.colour, t.size, t.place) if off < 1.5 / 32 else None


def covered(x: Float[Tensor, "n 3 h w"]) -> dict:
    """What n pictures show of `single`: how many are legal, how many scenes they are and how evenly (in nats).

    "repeats": how many scenes were drawn once, twice, …, so that coverage can be told for fewer pictures, too.
    """
    found = Counter(key(scene) for scene in legible(x) if scene)
    known, held_out = ({key(scene) for scene in single(split)} for split in ("train", "held out"))
    counts = torch.tensor([n for scene, n in found.items() if scene in known], dtype=torch.float64)
    shares = counts / counts.sum()
    return {"n": len(x), "legal": found.total(), "of the world": int(counts.sum()), "scenes": len(counts),
            "entropy": round(float(-(shares * shares.log()).sum()), 3),
            "repeats": {str(k): m for k, m in sorted(Counter(counts.int().tolist()).items())},
            "held-out pairs": sum(n for scene, n in found.items() if scene in held_out),
            "short waves": round(sharpness(x) / sharpness(render(single(), SIDE)), 3)}


# --- games, each with the steps that 45 seconds of one thread allow ---------------------------------------------------

@dataclass(frozen=True)
class Setting:
    """One way to play."""
    steps: int
    game: g.Game = g.NON_SATURATING
    r1: float = 0.
    gp: float = 0.
    spectral: bool = False
    minibatch: bool = False
    d_steps: int = 1
    lr: float = 2e-3                                # of both players


# All tuned alike: rates of 1e-3, 2e-3 and 4e-3 for both players, seed 100, by the number of good pictures of 4,000.
GAMES = {"plain": Setting(2900), "R1": Setting(2200, r1=.1),
         "hinge, spectral norm": Setting(2600, g.HINGE, spectral=True, lr=1e-3),
         "WGAN-GP": Setting(1100, g.WASSERSTEIN, gp=10., d_steps=3, lr=1e-3),
         "minibatch": Setting(2700, minibatch=True, lr=1e-3), "R1, minibatch": Setting(1850, r1=.1, minibatch=True)}
SMALL_G, SMALL_D = GeneratorConfig((3, SIDE, SIDE), widths=(64, 32)), DiscriminatorConfig((3, SIDE, SIDE), (32, 64))


def duel(loss: dict[str, Loss], players: tuple[nn.Module, nn.Module], batches: Callable, *, steps: int,
         lr: float = 2e-3, d_steps: int = 1, seed: int = 0, name: str | None = None,
         fast: bool = True) -> Duel:
    """A duel of (G, D) as all here are: Adam without a first moment, rates that fall at the end, G averaged."""
    on = next(players[0].parameters()).device.type
    return Duel(nn.ModuleDict({"d": players[1], "g": players[0]}), loss, batches, steps=steps, lr=lr, lr_d=lr,
                d_steps=d_steps, betas=(0., .99), warmup=0, lr_schedule=falling, ema=.998, seed=seed,
                grad_clip=float("inf"), autocast=fast_precision(on) if fast else None,
                checkpoint=name and RUNS / f"{name}.safetensors")


def falling(u: float) -> float:
    """1 in the first half of the run, then down to 0 in a straight line."""
    return min(1., 2 * (1 - u))


def adversarial(setting: Setting, seed: int, batch: int = 32) -> Duel:
    """A small GAN on `single`."""
    config = DiscriminatorConfig(SMALL_D.shape, SMALL_D.widths, setting.spectral, setting.minibatch)
    players = made(lambda: Generator(SMALL_G), seed), made(lambda: Discriminator(config), seed)
    loss = g.rules(*players, setting.game, r1_weight=setting.r1, gp_weight=setting.gp)
    return duel(loss, players, singles(batch, seed), steps=setting.steps, lr=setting.lr,
                d_steps=setting.d_steps, seed=seed)


# --- a discriminator behind other decoders ----------------------------------------------------------------------------

def behind_vae(vae: VAE, d: Discriminator, weight: float = .1) -> dict[str, Loss]:
    """VAE+GAN: log p(x | z) is that of D's features, and decoded codes, of pictures and of noise, must pass for real.

    The encoder learns nothing from D's verdict, only from D's features. Source: Larsen et al. 2016 (arXiv 1512.09300).
    """
    def fakes(z: Tensor) -> Tensor:
        return vae.decode(torch.cat([z, torch.randn_like(z)])[::2])                 # half of each kind

    def fooling(x: Tensor) -> dict[str, Tensor]:
        z, mean, std = vae.drawn(x)
        seen, shown = (d.features(y).flatten(1) for y in (x, vae.decode(z)))
        likeness = log_normal(shown, seen.detach(), torch.ones(())).mean()
        kl, fooled = kl_to_normal(mean, std).mean(), believed(d(fakes(z.detach())))
        return {"loss": (kl - likeness) / x[0].numel() + weight * fooled, "kl": kl, "fooled": fooled}
    return {"d": telling_apart(lambda x: fakes(vae.drawn(x)[0]), d, r1_weight=.1), "g": fooling}


def behind_flow(flow: Flow, d: Discriminator, weight: float = .03) -> dict[str, Loss]:
    """Flow+GAN: -log p(x), and samples must pass for real. Source: Grover et al. 2018 (arXiv 1705.08868), section 3."""
    def fakes(x: Tensor) -> Tensor:
        return flow.decode(torch.randn(len(x), flow.dims))

    def fooling(x: Tensor) -> dict[str, Tensor]:
        likelihood, fooled = flow.loss(x), believed(d(fakes(x)))
        return likelihood | {"loss": likelihood["loss"] + weight * fooled, "fooled": fooled}
    return {"d": telling_apart(fakes, d, r1_weight=.1), "g": fooling}


@dataclass(frozen=True)
class Decoding:
    """A model with a decoder, the pictures that it learns from, and how D gets behind it."""
    build: Callable[[], nn.Module]
    std: float                                              # of the noise on the pictures
    behind: Callable[..., dict[str, Loss]]
    steps: tuple[int, int]                                  # that 45 seconds of one thread allow, without D and with D


# The weights of D's verdict: the best of .01, .03 and .1, as above; more steps without D, for equal minutes. The
# VAE at 4e-3 and the flow at 1e-2 drew as many good pictures alone as at 2e-3 (the flow with 8 nats less KL), and the
# flow with D at 1e-2 none.
HYBRIDS = {
    "VAE": Decoding(lambda: VAE(AutoencoderConfig(d=32)), 0., behind_vae, (2800, 1150)),
    "Flow": Decoding(lambda: Flow(FlowConfig(3, SIDE, levels=3, steps=2, width=48)), STD, behind_flow, (2400, 850))}


def decoding(kind: Decoding, adversary: bool, seed: int, batch: int = 32) -> Training:
    """The model trained alone, or as G in a duel."""
    model, batches = made(kind.build, seed), singles(batch, seed, kind.std)
    if not adversary:
        return Training(model, model.loss, batches, steps=kind.steps[0], lr=2e-3, lr_schedule=falling, ema=.998,
                        seed=seed)
    d = made(lambda: Discriminator(SMALL_D), seed)
    return duel(kind.behind(model, d), (model, d), batches, steps=kind.steps[1], seed=seed, fast=False)


def likelihood(flow: Flow, n: int, seed: int) -> dict:
    """Bits a number on n fresh pictures of `single` with noise, and the distance from the truth in nats a picture."""
    world = of_world("single", STD, size=SIDE)
    kl, error = world.kl(lambda x: flow.log_prob(x.float().reshape(-1, *flow.config.shape)), n, seed=10_000 + seed)
    entropy, _ = world.entropy(n, seed=10_000 + seed)
    return {"bits a number": round(float(bits_per_dim(-(entropy + kl), flow.dims)), 4), "KL": round(kl, 1),
            "standard error": round(error, 1)}


# --- recipes ----------------------------------------------------------------------------------------------------------

def finished(run: Duel, name: str, folder: Path, measure: Callable[[nn.Module], dict]) -> None:
    """Play to the end, store the averaged generator, measure the file."""
    for _ in followed(run, name):
        pass
    about = {"recipe": f"gans.{name.replace('-', '_')}", "seed": 0, "steps": run.steps, "machine": machine(),
             "minutes": round(run.logs[-1].seconds / 60, 1)}
    path = folder / f"{name}.safetensors"
    weights.save(path, run.averaged, dtype=torch.float16, about=about)
    measured(path, measure)


def gan(folder: Path = weights.TRAINED, steps: int = 28_000, n: int = 2000) -> None:
    """gan: 32x32 pictures of world `full` out of 64 numbers of noise; n samples a seed measure the file."""
    players = made(lambda: Generator(GeneratorConfig())), made(lambda: Discriminator(DiscriminatorConfig()))
    run = duel(g.rules(*players, r1_weight=.5), players, pictures(32), steps=steps, lr=1e-3, name="gan")
    finished(run, "gan", folder, lambda model: {"n": n, "seeds": 5} | judged(
        lambda n, seed: model.sample(n, seed=seed), n))


def gan_single(folder: Path = weights.TRAINED, steps: int = 20_000, n: int = 20_000) -> None:
    """gan-single: 16x16 pictures of world `single`; n samples tell how much of it the file covers."""
    players = made(lambda: Generator(SMALL_G)), made(lambda: Discriminator(SMALL_D))
    run = duel(g.rules(*players, r1_weight=.1), players, singles(32), steps=steps, name="gan-single")
    finished(run, "gan-single", folder, lambda model: covered(model.sample(n, seed=0)))


def games(folder: Path = weights.TRAINED, seeds: int = 3, n: int = 20_000, share: float = 1.) -> None:
    """gans.json: coverage of `single` by each game and each hybrid, for some seeds; share: of the steps (for tests)."""
    rows = [{"model": "true draws", "seed": seed, **covered(singles(n, 1000 + seed)(0))} for seed in range(seeds)]
    for seed in range(seeds):
        for name, setting in GAMES.items():
            rows.append(row(name, seed, adversarial(shorter(setting, share), seed), n))
        for name, kind in HYBRIDS.items():
            for adversary in (False, True):
                run = decoding(shorter(kind, share), adversary, seed)
                rows.append(row(name + "+GAN" * adversary, seed, run, n))
    about = {"recipe": "gans.games", "machine": machine(), "date": str(date.today()), "rows": rows}
    write(folder / "gans.json", json.dumps(about, indent=1).encode())


def shorter(setting: Setting | Decoding, share: float) -> Setting | Decoding:
    """The same with fewer steps."""
    steps = setting.steps
    few = tuple(max(1, round(k * share)) for k in steps) if isinstance(steps, tuple) else max(1, round(steps * share))
    return replace(setting, steps=few)


def row(name: str, seed: int, run: Training, n: int) -> dict:
    """One run from its beginning to what its samples are worth; minutes are the processor's, whoever else is at it."""
    started = time.process_time()
    for _ in run:
        pass
    minutes = (time.process_time() - started) / 60
    model = run.averaged
    found = {"model": name, "seed": seed, "steps": run.steps, "CPU minutes": round(minutes, 2),
             **covered(torch.cat([model.sample(1000, seed=seed, first=i) for i in range(0, n, 1000)]))}
    found |= likelihood(model, n // 10, seed) if isinstance(model, Flow) else {}
    print(found, flush=True)
    return found


RECIPES = {"gan": gan, "gan-single": gan_single, "gans": games}
