"""Chapter 6's auto-encoders compared: the weight of the KL term, what counts as an error, how many numbers a code has.

All are small (side 32, a run takes a minute or two), trained on fresh pictures of world `full` and judged on others.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import weights
from minidiff.data import batches, noise, pictures, rng
from minidiff.gan import Duel, believed, halvings, telling_apart
from minidiff.latent import LatentAutoencoder, LatentConfig
from minidiff.oracle import same
from minidiff.recipes.about import RUNS, fast_precision, made, recorded
from minidiff.recipes.quality import legible, psnr, sharpness
from minidiff.scenes import full, render
from minidiff.train import Training

STEPS, BATCH, RATE = 800, 16, 8e-3
N = 500                                                                     # fresh pictures that judge
ENCODERS, DECODERS = ((16,), (16, 32), (16, 32, 48)), ((24,), (48, 24), (64, 48, 24))          # by halvings of the side
FEW = 500                                                                   # pictures, where they are few


def code(channels: int, halvings: int) -> LatentConfig:
    """Codes [channels, side, side], side = 32 / 2^halvings."""
    return LatentConfig(channels, 32 >> halvings, ENCODERS[halvings - 1], DECODERS[halvings - 1])


REFERENCE = code(4, 2)


# --- what counts as an error ------------------------------------------------------------------------------------------

Error = Callable[[Tensor, Tensor], Tensor]                                  # picture, what became of it -> scalar


def features(network: nn.Sequential, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c i j"]]:
    """What an encoder of chapter 2 sees after each halving of the side, each place a unit vector."""
    found, last = [], len(network) - 1
    for k, layer in enumerate(network):
        x = layer(x)
        if k == last or isinstance(network[k + 1], nn.Conv2d) and k > 1:
            found.append(F.normalize(x.float(), dim=1))
    return found


def perceptual(weight: float) -> Error:
    """Mean squared error + weight * that of the features of chapter 2's denoising auto-encoder, which saw no label.

    Source: Zhang et al. 2018 (arXiv 1801.03924), equation 1, all layers alike.
    """
    network = weights.load("denoising-autoencoder").encoder[0].net[:-3].requires_grad_(False)

    def error(x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(features(network, x), features(network, y), strict=True)
        return F.mse_loss(y, x) + weight * sum((a - b).square().sum(1).mean() for a, b in pairs)
    return error


class Patches(nn.Module):
    """A discriminator that judges patches of 10 x 10, each on its own.

    Source: Isola et al. 2017 (arXiv 1611.07004), section 3.2.2.
    """

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(*halvings(3, 24, 48), nn.Conv2d(48, 1, 1))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "n"]:
        """A logit a patch, n = b h/4 w/4."""
        return self.net(x).float().flatten()


# --- the kinds --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Kind:
    """One kind of auto-encoder and its training."""
    config: LatentConfig = REFERENCE
    error: Callable[[], Error] = lambda: lambda x, y: F.mse_loss(y, x)
    fooling: float = 0.                                                     # weight of a discriminator of patches
    pictures: int | None = None                                             # how many it may see; None: always new ones


KINDS = {
    "8x8x4": Kind(),
    "kl 0": Kind(replace(REFERENCE, kl=0.)), "kl 1e-2": Kind(replace(REFERENCE, kl=1e-2)),
    "absolute": Kind(error=lambda: lambda x, y: F.l1_loss(y, x)),
    "perceptual": Kind(error=partial(perceptual, .03)), "patches": Kind(fooling=3e-4),     # each the best of three
    "16x16x1": Kind(code(1, 1)), "4x4x16": Kind(code(16, 3)),                              # weights, seed 100
    "8x8x2": Kind(code(2, 2)), "8x8x10": Kind(code(10, 2)),
    "500 pictures": Kind(pictures=FEW)}


def through(model: LatentAutoencoder, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
    """The picture of a draw from q(z | x), and the KL term, per dimension."""
    mean, log_var = model.posterior(x)
    z = mean + (log_var / 2).exp() * torch.randn_like(mean)
    return model.decoder(z).float(), (mean.square() + log_var.exp() - 1 - log_var).mean() / 2


def allowed(kind: Kind, seed: int) -> Float[Tensor, "n 3 32 32"] | None:
    """The only pictures that a kind may see, or None if they are always new."""
    return render(full(kind.pictures, rng("few", seed))) if kind.pictures else None


def training(kind: Kind, seed: int, steps: int, few: Tensor | None = None) -> Training:
    """Its training, with a discriminator as a duel; few: the only pictures that it may see."""
    model, error = made(lambda: LatentAutoencoder(kind.config), seed), kind.error()

    def alone(x: Tensor) -> dict[str, Tensor]:
        y, kl = through(model, x)
        return {"loss": error(x, y) + kind.config.kl * kl}
    shown = pictures(BATCH, seed) if few is None else batches(few, BATCH, seed)
    same = {"steps": steps, "lr": RATE, "ema": .99, "seed": seed, "autocast": fast_precision()}
    if not kind.fooling:
        return Training(model, alone, shown, warmup=100, **same)
    judge = made(Patches, seed)

    def fooling(x: Tensor) -> dict[str, Tensor]:
        y, kl = through(model, x)
        return {"loss": error(x, y) + kind.config.kl * kl + kind.fooling * believed(judge(y))}
    apart = telling_apart(lambda x: through(model, x)[0], judge, r1_weight=.1)
    return Duel(nn.ModuleDict({"d": judge, "g": model}), {"d": apart, "g": fooling}, shown, lr_d=2e-3,
                warmup=100, **same)


def trained(name: str, seed: int, steps: int = STEPS, few: Tensor | None = None) -> tuple[LatentAutoencoder, float]:
    """The averaged auto-encoder, its code standardised on pictures of its kind, and the seconds that it took."""
    few = allowed(KINDS[name], seed) if few is None else few
    run = training(KINDS[name], seed, steps, few)
    for _ in run:
        pass
    run.averaged.standardise(pictures(500, seed + 50)(0) if few is None else few)
    return run.averaged, run.logs[-1].seconds


# --- what it is worth -------------------------------------------------------------------------------------------------

@torch.no_grad()
def worth(model: LatentAutoencoder, n: int, seed: int, blurs: tuple[float, ...] = (.1, .2, .4)) -> dict:
    """Reconstructions of n fresh pictures, exact and with noise of some std on the standardised code."""
    scenes = full(n, rng("compressed", seed))
    x = render(scenes)
    mean, log_var = model.posterior(x)
    z = model.encode(x)
    y = model.decode(z).clamp(-1, 1)
    inside = (x - x[:, :, :1, :1]).abs().amax(1) > .02
    spoilt = {str(std): model.decode(z + std * noise(tuple(z.shape), seed)) for std in blurs}
    kl = (mean.square() + log_var.exp() - 1 - log_var).sum((1, 2, 3)).mean() / 2
    return {"n": n, "psnr": psnr(x, y), "inside": psnr(*(p.movedim(1, -1)[inside] for p in (x, y))),
            "same": sum(map(same, scenes, legible(y))), "short waves": round(sharpness(y) / sharpness(x), 3),
            "noised": {std: sum(map(same, scenes, legible(p))) for std, p in spoilt.items()},
            "kl": round(float(kl), 1), "std of mean": round(float(mean.std()), 3),
            "std of draw": round(float((log_var / 2).exp().mean()), 4), "numbers": z[0].numel()}


def row(name: str, seed: int, steps: int, n: int) -> dict:
    """What one kind reaches from one seed."""
    model, seconds = trained(name, seed, steps)
    sizes = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in ("encoder", "decoder")}
    return {"model": name, "seed": seed, "steps": steps, "seconds": round(seconds, 1), "parameters": sizes,
            } | worth(model, n, seed)


def compared(folder: Path = weights.TRAINED, seeds: int = 3, steps: int = STEPS, n: int = N) -> None:
    """compressors.json: all rows; an interrupted run keeps what it has in runs/."""
    rows = {f"compressors-{steps}-{n}-{name}-{seed}": partial(row, name, seed, steps, n)
            for seed in range(seeds) for name in KINDS}
    recorded(folder / "compressors.json", "compressors.compared", rows, RUNS)


RECIPES = {"compressors": compared}
