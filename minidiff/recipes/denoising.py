"""Chapter 5's comparisons on world `single`, 16x16: a run for each kind of denoiser and seed, and what it is worth."""
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minidiff import weights
from minidiff.data import noise
from minidiff.denoiser import Denoiser
from minidiff.dit import DiT, DiTConfig
from minidiff.flow import bits_per_dim
from minidiff.gan import Discriminator, DiscriminatorConfig
from minidiff.guidance import clamp
from minidiff.likelihood import bound
from minidiff.plot import write
from minidiff.recipes import denoisers as d
from minidiff.recipes.about import RUNS, device, fast_precision, machine, made, there
from minidiff.recipes.diffusion import nats
from minidiff.recipes.flows import exact
from minidiff.recipes.gans import STD, covered, duel, key, singles
from minidiff.recipes.quality import legible
from minidiff.samplers import Pair, added_variance, ancestral_step, last, noise_like, sample
from minidiff.schedules import DiscreteSchedule, like, times
from minidiff.train import Training, seeded
from minidiff.unet import UNet
from minidiff.variances import LearnedVariance, large, reverse_path, small

STEPS, N = 2000, 300                                               # of a training; pictures that judge what came of it
SHOWN = 10, 50                                                     # steps of sampling
LINEAR, COSINE = DiscreteSchedule.linear(d.T), DiscreteSchedule.cosine(d.T)
CHAIN = 100                                                        # steps of the chain whose bound every arm has
EDGE = 1.5                                                         # of x0_hat: pictures in [-1, 1] with noise


@dataclass(frozen=True)
class Arm:
    """One kind of denoiser and its training."""
    net: Callable[[], nn.Module] = lambda: UNet(d.NET)
    target: str = "v"
    schedule: DiscreteSchedule = COSINE
    loss: Callable[[Denoiser, Tensor], dict[str, Tensor]] = d.plain
    kind: type[Denoiser] = Denoiser
    fast: bool = True                                              # bfloat16, which x_{t-1} is too fine for


def wide(heads: int, width: int) -> Callable[[], nn.Module]:
    """The U-Net with other heads and widths."""
    return lambda: UNet(replace(d.NET, heads=heads, widths=(width, width)))


def two() -> nn.Module:
    """The U-Net with an answer for the variance too."""
    return UNet(replace(d.NET, answers=2))


def hybrid(model: LearnedVariance, x0: Tensor) -> dict[str, Tensor]:
    """Its loss at random steps."""
    return model.hybrid(x0, d.drawn_times(len(x0)))


EPS, LEARNED = Arm(target="eps"), Arm(two, "eps", kind=LearnedVariance)
ARMS = {
    "eps": EPS, "x0": Arm(target="x0"), "v": Arm(), "x_{t-1}": Arm(kind=d.Previous, fast=False),
    "x0, weights of eps": Arm(target="x0", loss=d.in_eps), "v, weights of eps": Arm(loss=d.in_eps),
    "x_{t-1}, weights of eps": Arm(kind=d.Previous, loss=d.in_eps, fast=False),
    "no step": Arm(lambda: d.Deaf(UNet(d.NET))), "linear": Arm(schedule=LINEAR),
    "half as wide": Arm(wide(4, 16)), "one head": Arm(wide(1, 32)),
    "last noise": Arm(target="eps", kind=d.LastNoise),
    "eps, full": replace(EPS, loss=d.full), "eps, hybrid": replace(LEARNED, loss=hybrid),
    "eps, full, learned": replace(LEARNED, loss=d.full),
    "no skips": Arm(d.without_skips), "step at the start": Arm(d.Once), "no transformer": Arm(d.without_attention),
    "DiT": Arm(lambda: DiT(DiTConfig(width=84, depth=4)))}
TOLD = {"t": lambda t: t, "0.8 t": lambda t: .8 * t, "1 - t": lambda t: 1 - t}         # what a network may hear of t
WIDTHS = ("eps", "eps, full", "eps, hybrid", "eps, full, learned")          # whose variances are compared


# --- one run ----------------------------------------------------------------------------------------------------------

def trained(arm: Arm, seed: int, steps: int) -> Denoiser:
    """The averaged denoiser after so many steps of 32 pictures."""
    model = made(lambda: arm.kind(arm.net(), arm.schedule, arm.target), seed).to(device())
    return ended(Training(model, partial(arm.loss, model), there(singles(32, seed, STD)), steps=steps, lr=2e-3,
                          warmup=100, ema=.99, seed=seed, autocast=fast_precision(device()) if arm.fast else None))


def ended(run: Training) -> nn.Module:
    """The averaged model at the end of a run."""
    for _ in run:
        pass
    return run.averaged


def cost(net: nn.Module) -> dict:
    """Parameters, and multiply-adds for one picture in millions."""
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 16, 16).to(device()), torch.ones(1).to(device()))
    return {"parameters": sum(p.numel() for p in net.parameters()),
            "multiply-adds (M)": round(counter.get_total_flops() / 2e6, 1)}


# --- what it is worth -------------------------------------------------------------------------------------------------

def start(n: int, seed: int) -> Float[Tensor, "n 3 16 16"]:
    """Where samples begin."""
    return noise((n, 3, 16, 16), 50_000 + seed).to(device())


def shown(x: Float[Tensor, "n 3 16 16"]) -> dict:
    """Legal pictures; those with one thing on its place; how far all are from their nearest scene, root mean square.

    A legal picture may show two things, or one off its place. True draws are as far away as their noise: its std.
    """
    x = x.cpu()
    scenes = [scene for scene in legible(x) if scene]
    near = torch.cdist(x.flatten(1), exact().means_.float()).amin(1).square().mean() / x[0].numel()
    return {"of": len(x), "legal": len(scenes), "in the world": sum(key(scene) is not None for scene in scenes),
            "away": round(float(near.sqrt()), 3)}


def by_ddim(denoiser: Denoiser, n: int, seed: int, steps: int, *, told: Callable[[Tensor], Tensor] = TOLD["t"]) -> dict:
    """Its samples in so many steps; told: what the network hears of the time."""
    guess = clamp(lambda x, t: denoiser.solved(x, t, denoiser.predict(x, told(t))), -EDGE, EDGE)
    return shown(sample(guess, start(n, seed), times(steps, d.T), denoiser.schedule))


def subtract(x: Tensor, x0: Tensor, at: Pair, to: Pair) -> Tensor:
    """x_t minus the noise that came in since s, as the network guesses it: what "subtract the noise" says."""
    alpha, sigma = at
    return x - like(added_variance(at, to) / sigma ** 2, x) * (x - like(alpha, x) * x0)


def distance(reverse: Callable, schedule: DiscreteSchedule, steps: int, *, n: int, seed: int) -> dict:
    """KL(world || model) in nats a picture, at most, by the bound of a chain of so many steps; as bits a number too."""
    @torch.no_grad()
    def at_least(x: Tensor, first: int) -> Tensor:
        return -bound(reverse, x.to(device()), times(steps, d.T), schedule, seed=seed, first=first).total.cpu()
    found = nats(at_least, n, seed)
    entropy, _ = exact().entropy(n, seed=10_000 + seed)
    return found | {"bits a number": round(float(bits_per_dim(-(entropy + found["KL"]), 768)), 4)}


def kept_in(reverse: Callable) -> Callable:
    """A way back whose guesses stay where pictures are."""
    def inside(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        x0_hat, var = reverse(x, t, s)
        return x0_hat.clamp(-EDGE, EDGE), var
    return inside


def rows(name: str, seed: int, steps: int, n: int) -> Iterator[dict]:
    """What one arm reaches; for some arms also with other variances, or used wrongly."""
    arm, began = ARMS[name], time.process_time()
    model = trained(arm, seed, steps)
    about = {"steps": steps, "minutes": round((time.process_time() - began) / 60, 2)} | cost(model.net)
    main = kept_in(d.way_back(model))
    yield about | {f"{k} steps": by_ddim(model, n, seed, k) for k in SHOWN} | {
        "bound": distance(main, arm.schedule, CHAIN, n=max(n // 3, 2), seed=seed)}
    if name == "v":
        for word in ("0.8 t", "1 - t"):
            found = {f"{k} steps": by_ddim(model, n, seed, k, told=TOLD[word]) for k in SHOWN}
            yield {"variant": f"told {word}"} | found
    if name == "eps":
        x = sample(clamp(model, -EDGE, EDGE), start(n, seed), times(SHOWN[1], d.T), arm.schedule, step=subtract)
        yield {"variant": "plain subtraction", f"{SHOWN[1]} steps": shown(x)}
    if name in WIDTHS:
        yield from variances(model, n, seed)


def variances(model: Denoiser, n: int, seed: int) -> Iterator[dict]:
    """Samples by Algorithm 2 in 10, 50 and all steps, and the bound of all, for each width that the model may have."""
    learned = isinstance(model, LearnedVariance)
    for name, width in ({"learned": large} if learned else {"beta-tilde": small, "beta": large}).items():
        reverse, found = kept_in(d.way_back(model, width)), {"variant": name}
        for steps, share in ((SHOWN[0], 1), (SHOWN[1], 1), (d.T, 6)):
            path = reverse_path(reverse, start(max(n // share, 2), seed), times(steps, d.T), model.schedule,
                                randn_like=noise_like(seed))
            found |= {f"{steps} steps": shown(last(path))}
        yield found | {"bound": distance(reverse, model.schedule, d.T, n=max(n // 12, 2), seed=seed)}


def truth(seed: int, n: int) -> dict:
    """What the best denoiser there is reaches, E[x0 | x_t] of the world itself: the bench's ceiling."""
    def best(x: Tensor, t: Tensor) -> Tensor:
        return exact().posterior_mean(x.flatten(1).double(), *COSINE(t)).reshape(x.shape).to(x)
    x = start(n, seed).cpu()
    return {f"{k} steps": shown(sample(best, x, times(k, d.T), COSINE)) for k in SHOWN}


def few(adversary: bool, seed: int, steps: int, n: int) -> dict:
    """A denoiser of four steps on clean pictures, alone or with D behind it: what it shows of the world."""
    began, g = time.process_time(), made(lambda: Denoiser(d.Dreaming(), COSINE, "x0"), seed).to(device())
    if adversary:
        judge = made(lambda: Discriminator(DiscriminatorConfig((7, 16, 16), (32, 64))), seed).to(device())
        run = duel(d.behind_few_steps(g, judge), (g, judge), there(singles(32, seed)),
                   steps=max(steps // 2, 1), seed=seed)
    else:
        run = Training(g, partial(d.in_few_steps, g), there(singles(32, seed)), steps=steps, lr=2e-3, warmup=100,
                       ema=.998, seed=seed, autocast=fast_precision(device()))
    model = ended(run)
    minutes = round((time.process_time() - began) / 60, 2)
    with seeded("few", seed), torch.no_grad():
        x = sample(model, start(5 * n, seed), d.FEW, COSINE, step=ancestral_step)
    return {"steps": run.steps, "minutes": minutes} | cost(model.net) | covered(x.cpu())


# --- all of them ------------------------------------------------------------------------------------------------------

def made_rows(name: str, seed: int, steps: int, n: int) -> list[dict]:
    """All rows of one arm and seed."""
    if name == "exact":
        return [truth(seed, n)]
    if name.startswith("few steps"):
        return [few(name.endswith("+GAN"), seed, 2 * steps, n)]
    return list(rows(name, seed, steps, n))


def compared(folder: Path = weights.TRAINED, seeds: int = 3, steps: int = STEPS, n: int = N) -> None:
    """diffusion.json: all rows; an interrupted run keeps what it has in runs/."""
    kept = RUNS / f"diffusion-{steps}-{n}.json"
    done = json.loads(kept.read_text()) if kept.exists() else {}
    for seed in range(seeds):
        for name in ("exact", *ARMS, "few steps", "few steps+GAN"):
            if f"{name} {seed}" not in done:
                done[f"{name} {seed}"] = [{"model": name, "seed": seed} | row
                                          for row in made_rows(name, seed, steps, n)]
                print(*done[f"{name} {seed}"], sep="\n", flush=True)
                RUNS.mkdir(exist_ok=True)
                write(kept, json.dumps(done).encode())
    about = {"recipe": "denoising.compared", "machine": machine(on=device()), "date": str(date.today()),
             "rows": [row for found in done.values() for row in found]}
    write(folder / "diffusion.json", json.dumps(about, indent=1).encode())


RECIPES = {"diffusions": compared}
