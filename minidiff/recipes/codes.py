"""Chapter 2's comparisons, small and with three seeds: what a code is worth that was learned in one way or another."""
import json
import math
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import cups, weights
from minidiff.autoencoder import HIDDEN, VAE, Autoencoder, AutoencoderConfig, hidden, noised
from minidiff.data import noise, pictures, rng
from minidiff.layers import GroupNorm, ResidualBlock
from minidiff.mixture import of_world
from minidiff.plot import write
from minidiff.recipes.about import RUNS, machine, made
from minidiff.recipes.autoencoding import any_noise, clean, fitted_prior, from_normal, from_prior
from minidiff.recipes.quality import legible, psnr
from minidiff.scenes import BACKGROUNDS, COLOURS, render, single
from minidiff.train import Training, seeded

SMALL = AutoencoderConfig(d=16, encoder=(16, 32), decoder=(32, 16), neck=32)
Row = dict[str, float | int | str | None]


def trained(model: nn.Module, loss: Callable, batches: Callable, steps: int, *, seed: int) -> nn.Module:
    """The averaged model after so many steps."""
    run = Training(model, loss, batches, steps=steps, lr=3e-3, warmup=100, ema=.99, seed=seed)
    for _ in run:
        pass
    return run.averaged


@torch.no_grad()
def through(f: Callable[[Tensor], Tensor], x: Float[Tensor, "n *d"]) -> Tensor:
    """f(x), piece by piece."""
    return torch.cat([f(part) for part in x.split(250)])


# --- C06: codes from N(0, I) ------------------------------------------------------------------------------------------
# The rule: legal(model) is the share of legal pictures of codes from N(0, I) on one world, mean of the seeds. The
# claim holds there if legal(VAE) > 2 legal(AE) and legal(VAE) is at least half of what the VAE's reconstructions reach;
# partly if only the first; it does not hold if not even that.

def sampled(seed: int, steps: int, n: int) -> list[Row]:
    """An AE and a VAE on both worlds: pictures of codes from N(0, I), from a Gaussian and from a mixture of codes."""
    rows = []
    for world, batches in (("full", pictures(32, seed, 16)), ("single", clean(32, seed))):
        x, fresh = ((pictures if world == "full" else clean)(m, 1000 + seed, size=16)(0) for m in (20 * n, n))
        for name, kind in (("AE", Autoencoder), ("VAE", VAE)):
            model = made(lambda kind=kind: kind(SMALL), seed)
            model = trained(model, model.loss, batches, 8 * steps, seed=seed)
            again = through(model, fresh)
            codes = {"of pictures": again, "Gaussian": from_prior(model, fitted_prior(model, x, 1, 1), n, seed),
                     "mixture": from_prior(model, fitted_prior(model, x, 50), n, seed),
                     "N(0, I)": from_normal(model, n, seed)}
            rows += [{"world": world, "model": name, "codes": drawn, "n": n, "psnr": psnr(fresh, again),
                      "legal": sum(scene is not None for scene in legible(y))} for drawn, y in codes.items()]
    return rows


# --- C07: damaged pictures --------------------------------------------------------------------------------------------
# The rule: the claim holds if at every strength the restored picture is nearer to the clean one than the damaged one is
# (a hidden square filled with the mean colour of what is seen), in all seeds; partly, if at some strengths. The PSNR
# "where damaged", of the hidden squares alone, was added after the first seed; the rule does not use it.

STRENGTHS = {"noise": (.1, .2, .4, .7, 1.), "hidden": (.1, .25, .5, .75, .9)}


def spoilt(damage: str, x: Tensor, strength: float, seed: int) -> Tensor:
    """x damaged; picture i depends on (seed, i)."""
    if damage == "noise":
        return noised(x, strength, lambda x: noise(x.shape, seed))
    generator = rng("hidden", seed)
    return hidden(x, strength, draw=lambda *shape, device: torch.rand(shape, generator=generator))


def best(damage: str, y: Float[Tensor, "n 3 h w"], strength: float) -> Float[Tensor, "n 3 h w"]:
    """E[x0 | y], what is nearest to the clean picture on average if the world `single` is known."""
    if damage == "noise":
        return of_world("single", 1e-3, size=16).posterior_mean(y, 1., strength)
    every, seen = render(single(), 16).flatten(1), (y != HIDDEN).flatten(1).float()
    y = y.flatten(1) * seen
    squares = (y.square().sum(1, keepdim=True) - 2 * y @ every.T + seen @ every.square().T).clamp(min=0)
    return ((-squares / 2e-4).softmax(1) @ every).unflatten(1, (3, 16, 16))


def filled(y: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Hidden pixels filled with the mean of the others."""
    mean = torch.where(y == HIDDEN, torch.nan, y).nanmean((2, 3), keepdim=True).nan_to_num()
    return torch.where(y == HIDDEN, mean, y)


def mended(seed: int, steps: int, n: int) -> list[Row]:
    """Auto-encoders that saw clean, noisy and partly hidden pictures of `single`, and the best there is."""
    ways = {"AE": None, "DAE": any_noise, "MAE": lambda x: hidden(x, .95 * float(torch.rand(())))}
    x, fixed, models = clean(n, 1000 + seed)(0), [("noise", "DAE"), ("hidden", "MAE")], {}
    for name, spoil in ways.items():
        model = made(lambda: Autoencoder(SMALL), seed)
        models[name] = trained(model, partial(model.loss, spoil=spoil), clean(32, seed), 2 * steps, seed=seed)
    rows = []
    for damage, expert in fixed:
        for strength in STRENGTHS[damage]:
            y = spoilt(damage, x, strength, seed)
            told = {name: through(models[name], y) for name in ("AE", expert)} | {"exact": best(damage, y, strength)}
            gone, before = (y == HIDDEN) | (damage == "noise"), filled(y)
            rows += [{"model": name, "damage": damage, "strength": strength, "psnr": psnr(x, z),
                      "damaged": psnr(x, before), "psnr where damaged": psnr(x[gone], z[gone]),
                      "damaged where damaged": psnr(x[gone], before[gone])} for name, z in told.items()]
    return rows


# --- C09: half a cup --------------------------------------------------------------------------------------------------
# The rule: half(s) is the share of colours and backgrounds for which the mean of two codes is half a cup, mean of the
# seeds, s the noise on the code. The claim holds if half(.2) - half(0) > .1 and more than twice the standard error of
# the difference between seeds; partly if that is so of the best s > 0 only; otherwise it does not hold here. What is
# half a cup: the level read lies within .1 of .5, and the picture is at least twice as near to that cup as the mean of
# the two pictures is to any. Control: the same of reconstructed half-full cups; where few of those pass, nothing can be
# said (so it was after 600 steps, hence four times as many). "near" asks for the level alone.

NOISES, BETAS = (0., .05, .1, .2, .4), (1., 10.)


def cup_batches(batch: int, seed: int, held_out: bool = False) -> Callable[[int], Float[Tensor, "b 3 h w"]]:
    """Cups of all colours and backgrounds with levels outside of, or within, 0.4 to 0.6."""
    def at(step: int) -> Tensor:
        generator = rng("cups", seed, step)
        u = torch.rand(batch, generator=generator)
        level = .4 + .2 * u if held_out else .8 * u + .2 * (u > .5)
        return cups.render(level, *(torch.randint(len(table), (batch,), generator=generator)
                                    for table in (COLOURS, BACKGROUNDS)))
    return at


def shaken(model: Autoencoder, share: float) -> Callable[[Tensor], dict[str, Tensor]]:
    """The loss of an auto-encoder whose code comes with noise, of so many times the std that each number has."""
    def loss(x: Tensor) -> dict[str, Tensor]:
        z = model.encode(x)
        return {"loss": F.mse_loss(model.decode(z + share * z.std(0) * torch.randn_like(z)), x)}
    return loss


def halved(seed: int, steps: int, n: int) -> list[Row]:
    """(full cup + empty cup) / 2, as the noise on the code grows."""
    config = AutoencoderConfig(d=8, encoder=(16, 32), decoder=(32, 16), neck=16)
    rows = []
    for name, amount in [("AE", share) for share in NOISES] + [("VAE", beta) for beta in BETAS]:
        model = made(lambda name=name: (VAE if name == "VAE" else Autoencoder)(config), seed)
        loss = partial(model.loss, beta=amount) if name == "VAE" else shaken(model, amount)
        model = trained(model, loss, cup_batches(32, seed), 4 * steps, seed=seed)
        known, between = (cup_batches(n, 1000 + seed, held_out)(0) for held_out in (False, True))
        rows.append({"model": name, "noise": None if name == "VAE" else amount,
                     "beta": amount if name == "VAE" else None, "psnr": psnr(known, through(model, known)),
                     "held out": psnr(between, through(model, between))} | half_a_cup(model))
    return rows


@torch.no_grad()
def half_a_cup(model: Autoencoder) -> Row:
    """What the means of the codes of full and empty cups show, for all colours and backgrounds."""
    colour, background = torch.cartesian_prod(torch.arange(len(COLOURS)), torch.arange(len(BACKGROUNDS))).T
    empty, half, full = (cups.render(torch.full((len(colour),), level), colour, background) for level in (0., .5, 1.))
    overlaid = cups.read((empty + full) / 2)[3]

    def told(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        level, _, _, rest = cups.read(model.decode(z))
        return level, rest, ((level - .5).abs() <= .1 + 1e-6) & (rest <= overlaid / 2)
    level, rest, passed = told((model.encode(empty) + model.encode(full)) / 2)
    off = (level - .5).abs()
    found = {"half": passed.float().mean(), "near": (off <= .1 + 1e-6).float().mean(), "level": level.median(),
             "off": off.mean(), "rms": rest.median(), "overlaid rms": overlaid.median(),
             "control": told(model.encode(half))[2].float().mean()}
    return {"pairs": len(colour)} | {name: round(float(value), 3) for name, value in found.items()}


# --- C58: one half alone ----------------------------------------------------------------------------------------------
# The rule: the claim holds for the decoder if its output varies less than 5 % of what the pictures do when codes and
# pictures are paired at random. If codes that are learned without an encoder come within 1 dB of the auto-encoder on
# the pictures both were trained on, it holds only of codes that are not learned: "holds partly".

def alone(seed: int, steps: int, n: int) -> list[Row]:
    """A decoder for n pictures: codes paired anew in each step, or once; codes that are learned; an encoder."""
    x, codes, fresh = pictures(n, 3000 + seed, 16)(0), noise((n, SMALL.d), seed), noise((n, SMALL.d), seed + 1)
    ways = {"alone": lambda model, i: torch.randn(len(i), SMALL.d), "alone, fixed pairs": lambda model, i: codes[i],
            "learned codes": lambda model, i: 10 * model.codes[i], "with encoder": lambda model, i: model.encode(x[i])}
    rows = []
    for name, code in ways.items():
        model = made(lambda: Autoencoder(SMALL), seed)
        model.codes = nn.Parameter(.1 * codes)                               # ten times the learning rate

        def loss(i: Tensor, model: Autoencoder = model, code: Callable = code) -> dict[str, Tensor]:
            return {"loss": F.mse_loss(model.decode(code(model, i)), x[i])}
        model = trained(model, loss, lambda step: torch.randint(n, (32,)), 2 * steps, seed=seed)
        with torch.no_grad(), seeded("alone", seed):
            z = code(model, torch.arange(n))
        y = through(model.decode, fresh if name == "alone" else z)
        rows.append({"trained": name, "n": n, "variance": round(float(y.var(0).mean() / x.var(0).mean()), 4),
                     "psnr": psnr(x, y), "mean picture": psnr(x, x.mean(0, keepdim=True).expand_as(x))})
    return rows


# --- C59: what 1x1 convolutions save ----------------------------------------------------------------------------------
# The rule: 1x1 bottlenecks save computation if the multiply-adds fall by 30 % or more while PSNR at equal steps falls
# by less than .5 dB, mean of the seeds; partly if they fall and PSNR too. Fully connected layers hold most parameters
# if that is more than half of them in the network without a neck, which unrolls all its channels.

class Bottleneck(ResidualBlock):
    """x + 1x1(silu(3x3(silu(1x1(silu(norm(x))))))), the 3x3 on a quarter of the channels.

    Source: He et al. 2016 (arXiv 1512.03385), figure 5.
    """

    def __init__(self, c: int):
        super().__init__(c, c)
        few = c // 4
        self.conv1 = nn.Sequential(nn.Conv2d(c, few, 1), nn.SiLU(), nn.Conv2d(few, few, 3, padding=1))
        self.norm2, self.conv2 = GroupNorm(few), nn.Conv2d(few, c, 1)
        nn.init.zeros_(self.conv2.weight)


def narrowed(model: nn.Module) -> nn.Module:
    """The model with bottlenecks in place of its residual blocks."""
    for name, child in model.named_children():
        if isinstance(child, ResidualBlock):
            setattr(model, name, Bottleneck(child.conv1.in_channels))
        else:
            narrowed(child)
    return model


def connected(config: AutoencoderConfig, widths: tuple[int, ...] = (256, 128)) -> Autoencoder:
    """An auto-encoder of fully connected layers."""
    def chain(sizes: list[int]) -> list[nn.Module]:
        pairs = zip(sizes, sizes[1:], strict=False)
        return [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.SiLU())][:-1]
    model, shape = Autoencoder(config), (config.channels, config.side, config.side)
    down = [math.prod(shape), *widths, config.d]
    model.encoder = nn.Sequential(nn.Flatten(), *chain(down))
    model.decoder = nn.Sequential(*chain(down[::-1]), nn.Unflatten(1, shape))
    return model


@torch.no_grad()
def multiply_adds(model: nn.Module, x: Float[Tensor, "1 c h w"]) -> int:
    """How often a number is multiplied with a weight, in convolutions and linear maps."""
    counts = []

    def count(layer: nn.Module, _: tuple, y: Tensor) -> None:
        counts.append(y.numel() * layer.weight[0].numel())
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model(x)
    for hook in hooks:
        hook.remove()
    return sum(counts)


WIDE, OPEN = (AutoencoderConfig(d=32, encoder=(32, 64), decoder=(64, 32), neck=neck) for neck in (16, 64))
NETWORKS = {"3x3 blocks": lambda: Autoencoder(WIDE), "1x1 bottlenecks": lambda: narrowed(Autoencoder(WIDE)),
            "no neck": lambda: Autoencoder(OPEN), "fully connected": lambda: connected(WIDE)}


def narrow(seed: int, steps: int, n: int) -> list[Row]:
    """Four auto-encoders of pictures of `full` after equally many steps."""
    return [crossed(name, seed, steps, n) for name in NETWORKS]


def crossed(name: str, seed: int, steps: int, n: int) -> Row:
    """One of them."""
    model, x, start = made(NETWORKS[name], seed), pictures(n, 1000 + seed, 16)(0), time.monotonic()
    model = trained(model, model.loss, pictures(32, seed, 16), steps, seed=seed)
    spent, sizes = time.monotonic() - start, {True: 0, False: 0}
    for layer in model.modules():
        sizes[isinstance(layer, nn.Linear)] += sum(p.numel() for p in layer.parameters(recurse=False))
    return {"network": name, "multiply-adds": multiply_adds(model, x[:1]), "parameters": sum(sizes.values()),
            "fully connected": round(sizes[True] / sum(sizes.values()), 3), "psnr": psnr(x, through(model, x)),
            "ms": round(1000 * spent / steps, 1)}


# --- all of them ------------------------------------------------------------------------------------------------------

EXPERIMENTS = {"C06": sampled, "C07": mended, "C09": halved, "C58": alone, "C59": narrow}


def compared(folder: Path = weights.TRAINED, seeds: int = 3, steps: int = 600, n: int = 500) -> None:
    """autoencoding.json: all rows; an interrupted run keeps what it has in runs/."""
    kept = RUNS / f"autoencoding-{steps}-{n}.json"
    done = json.loads(kept.read_text()) if kept.exists() else {}
    for seed in range(seeds):
        for claim, experiment in EXPERIMENTS.items():
            if f"{claim} {seed}" not in done:
                start = time.monotonic()
                rows = experiment(seed, steps, n)
                minutes = round((time.monotonic() - start) / 60, 2)
                done[f"{claim} {seed}"] = [{"claim": claim, "seed": seed} | row | {"minutes": minutes} for row in rows]
                print(f"{claim}, seed {seed}: {minutes} min", flush=True)
                RUNS.mkdir(exist_ok=True)
                write(kept, json.dumps(done).encode())
    about = {"recipe": "codes.compared", "machine": machine(torch.float32), "date": str(date.today()), "steps": steps,
             "rows": [row for rows in done.values() for row in rows]}
    write(folder / "autoencoding.json", json.dumps(about, indent=1).encode())


RECIPES = {"autoencoding": compared}
