"""Chapter 2: a VAE for world `single`, whose likelihood is measured; one for `full`; a denoising auto-encoder."""
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff import weights
from minidiff.autoencoder import VAE, Autoencoder, AutoencoderConfig, kl_to_normal, noised
from minidiff.data import noise, pictures, rng
from minidiff.mixture import GaussianMixture, of_world
from minidiff.oracle import read, same
from minidiff.rates import Rate
from minidiff.recipes.about import RUNS, followed, machine, made, measured
from minidiff.recipes.quality import judged, legible, psnr
from minidiff.scenes import full, render, single
from minidiff.train import Training

STD = .1                                               # of the noise on pictures of `single`



# --- training ---------------------------------------------------------------------------------------------------------

def clean(batch: int, seed: int = 0, size: int = 16) -> Callable[[int], Float[Tensor, "b 3 h w"]]:
    """Endless pictures of world `single`, each scene as often as any other: step -> batch."""
    every = render(single(), size)
    return lambda step: every[torch.randint(len(every), (batch,), generator=rng("single", seed, step))]


def grained(batch: int, seed: int = 0) -> Callable[[int], Float[Tensor, "b 3 h w"]]:
    """The same with fresh noise."""
    at = clean(batch, seed)
    return lambda step: noised(at(step), STD)


def warmed(batches: Callable[[int], Tensor], steps: int) -> Callable[[int], tuple[Tensor, float]]:
    """step -> batch and beta, which grows from 0 to 1: what `VAE.loss(x, beta)` takes.

    Source: Bowman et al. 2016 (arXiv 1511.06349), section 3.1.
    """
    return lambda step: (batches(step), min(1., (step + 1) / max(steps, 1)))


def finished(run: Training, name: str, folder: Path) -> Path:
    """Train to the end and write the averaged weights with their story."""
    for _ in followed(run, name, every=500):
        pass
    about = {"recipe": f"autoencoding.{name.replace('-', '_')}", "seed": run.seed, "steps": run.steps,
             "machine": machine(torch.float32), "minutes": round(run.logs[-1].seconds / 60, 1)}
    weights.save(folder / f"{name}.safetensors", run.averaged, dtype=torch.float16, about=about)
    return folder / f"{name}.safetensors"


# --- the three files --------------------------------------------------------------------------------------------------

def vae_single(folder: Path = weights.TRAINED, steps: int = 24_000, n: int = 8000) -> None:
    """vae-single: 16x16 pictures of world `single` with noise; n fresh pictures measure the bound."""
    model = made(lambda: VAE(AutoencoderConfig(d=16, neck=64)))
    run = Training(model, lambda batch: model.loss(*batch), warmed(grained(32), steps // 3), steps=steps, lr=2e-3,
                   warmup=200, ema=.999, checkpoint=RUNS / "vae-single.safetensors")
    measured(finished(run, "vae-single", folder), lambda model: nats(model, n))


def vae(folder: Path = weights.TRAINED, steps: int = 40_000, n: int = 2000) -> None:
    """vae: 32x32 pictures of world `full`, without noise; n pictures a seed from N(0, I) and from a fitted prior."""
    model = made(lambda: VAE(AutoencoderConfig(d=32, side=32, encoder=(16, 32, 64), decoder=(64, 32, 16), neck=48)))
    run = Training(model, lambda batch: model.loss(*batch), warmed(pictures(32), steps // 3), steps=steps, lr=2e-3,
                   warmup=200, ema=.999, checkpoint=RUNS / "vae.safetensors")
    measured(finished(run, "vae", folder), lambda model: quality(model, n))


def denoising_autoencoder(folder: Path = weights.TRAINED, steps: int = 6000, n: int = 2000) -> None:
    """denoising-autoencoder: 32x32 pictures of world `full` out of noise of any std up to 1; n pictures measure it.

    One std a batch, drawn anew: what an encoder must keep to undo weak noise are edges, for strong noise the things
    themselves, and chapter 6 wants both of it.
    """
    config = AutoencoderConfig(d=48, side=32, encoder=(16, 32, 64), decoder=(64, 32, 16), neck=48)
    model = made(lambda: Autoencoder(config))
    run = Training(model, lambda x: model.loss(x, any_noise), pictures(32), steps=steps, lr=2e-3, warmup=200, ema=.999,
                   checkpoint=RUNS / "denoising-autoencoder.safetensors")
    measured(finished(run, "denoising-autoencoder", folder), lambda model: restored(model, n))


def any_noise(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """x with noise of a std between 0 and 1, one for the batch."""
    return noised(x, float(torch.rand(())))


# --- what they are worth ----------------------------------------------------------------------------------------------

@torch.no_grad()
def nats(model: VAE, n: int = 8000, ks: Sequence[tuple[int, int]] = ((10, 4), (100, 10), (1000, 50)),
         seed: int = 1) -> dict:
    """Upper bounds of KL(p || p_theta), E_p[log p - bound] in nats a picture; ks: k, and by how much n is divided."""
    truth = of_world("single", STD, size=16)
    rows, generator = truth.sample(n, seed=seed), rng("nats")
    x, log_p = rows.float().unflatten(1, (3, 16, 16)), truth.log_prob(rows)

    def draw(mean: Tensor) -> Tensor:
        return torch.randn(mean.shape, generator=generator)

    def gap(bound: Callable[[Tensor], Tensor], m: int) -> dict:
        found = log_p[:m] - torch.cat([bound(part) for part in x[:m].split(250)]).double()
        return {"kl": round(float(found.mean()), 2), "error": round(float(found.std() / m ** .5), 2), "n": m}
    iwae = {str(k): gap(partial(model.iwae, k=k, draw=draw), max(n // parts, 2)) for k, parts in ks}
    legal = sum(scene is not None for scene in legible(from_normal(model, n, 0)))
    return {"-H(p)": round(-truth.entropy(n)[0], 2), "elbo": gap(partial(model.elbo, draw=draw), n), "iwae": iwae,
            "rate": rate(model, x), "std": round(float(model.log_std.exp()), 4), "legal": str(Rate(legal, n))}


@torch.no_grad()
def rate(model: VAE, x: Float[Tensor, "n 3 h w"]) -> float:
    """The mean of KL(q(z | x) || N(0, I)) in nats: what a code tells of its picture."""
    return round(float(torch.cat([kl_to_normal(*model.posterior(part)) for part in x.split(250)]).mean()), 2)


@torch.no_grad()
def from_normal(model: Autoencoder, n: int, seed: int) -> Float[Tensor, "n 3 h w"]:
    """Pictures of codes from N(0, I)."""
    return torch.cat([model.decode(z) for z in noise((n, model.config.d), seed).split(250)])


@torch.no_grad()
def from_prior(model: Autoencoder, prior: GaussianMixture, n: int, seed: int) -> Float[Tensor, "n 3 h w"]:
    """Pictures of codes from a mixture."""
    return torch.cat([model.decode(z) for z in prior.sample(n, seed=seed).float().split(250)])


@torch.no_grad()
def fitted_prior(model: Autoencoder, x: Float[Tensor, "n 3 h w"], k: int, steps: int = 20) -> GaussianMixture:
    """A mixture of k Gaussians of the codes of pictures, to draw new codes from when N(0, I) fits them badly.

    Source: Ghosh et al. 2020 (arXiv 1903.12436), section 4, ex-post density estimation.
    """
    codes = torch.cat([model.encode(part) for part in x.split(250)])
    return GaussianMixture(k, "full", reg=1e-4, tol=0, max_iter=steps).fit(codes)


@torch.no_grad()
def reconstructions(model: Autoencoder, n: int = 2000) -> dict:
    """PSNR (peak 2) of reconstructions of world `full`, how many are legal, and how many show the same scene."""
    scenes = full(n, rng("reconstructions"))
    x = render(scenes, model.config.side)
    y = torch.cat([model(part) for part in x.split(250)])
    told = [scene for part in y.clamp(-1, 1).split(250) for scene in read(part)]
    return {"psnr": psnr(x, y), "legal": str(Rate(sum(scene is not None for scene in told), n)),
            "same scene": str(Rate(sum(map(same, scenes, told)), n))}


@torch.no_grad()
def quality(model: VAE, n: int = 2000, seeds: int = 5, k: int = 300) -> dict:
    """Pictures of codes from N(0, I) and from a mixture of k fitted to the codes of 20 n pictures, judged."""
    x = pictures(20 * n, 1, model.config.side)(0)
    prior = fitted_prior(model, x, k, 10)
    return {"n": n, "seeds": seeds, "N(0, I)": judged(partial(from_normal, model), n, seeds),
            "fitted prior": judged(partial(from_prior, model, prior), n, seeds) | {"k": k, "codes": len(x)},
            "reconstructions": reconstructions(model, n), "rate": rate(model, x[:n]),
            "std": round(float(model.log_std.exp()), 4)}


@torch.no_grad()
def restored(model: Autoencoder, n: int = 2000) -> dict:
    """PSNR before and after, by the std of the noise."""
    x, found = pictures(n, 1, model.config.side)(0), {}
    for std in (.1, .3, .5, 1.):
        spoilt = noised(x, std, lambda x: noise(x.shape, 0))
        y = torch.cat([model(part) for part in spoilt.split(250)])
        found[str(std)] = {"restored": psnr(x, y), "damaged": psnr(x, spoilt)}
    return {"n": n, "psnr": found}


RECIPES = {"vae": vae, "vae-single": vae_single, "denoising-autoencoder": denoising_autoencoder}
