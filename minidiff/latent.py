"""Latent diffusion: an auto-encoder that makes pictures small, and the text-to-image model that paints in its code."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.autoencoder import Decoder, Encoder
from minidiff.captions import encode
from minidiff.data import Pairs, noise
from minidiff.denoiser import Denoiser
from minidiff.guidance import cfg_doubled
from minidiff.samplers import Denoise, dpmpp_path, last
from minidiff.schedules import times, trigonometric
from minidiff.text import TextEncoder
from minidiff.unet import UNet, UNetConfig


@dataclass(frozen=True)
class LatentConfig:
    """What a latent auto-encoder is made of; the code's side is the picture's by 2^(number of widths)."""
    channels: int = 4                                   # of the code
    side: int = 8                                       # of the code of the pictures it is trained on
    encoder: tuple[int, ...] = (32, 64)                 # channels inside, from the picture to the code
    decoder: tuple[int, ...] = (96, 64)                 # and back
    kl: float = 2e-5                                    # weight of the KL term


class LatentAutoencoder(nn.Module):
    """Pictures [b 3 h w] to codes [b c h/4 w/4] and back; it owns the code's mean and std: codes have unit variance."""

    def __init__(self, config: LatentConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(3, 2 * config.channels, config.encoder)
        self.decoder = Decoder(config.channels, 3, config.decoder)
        self.register_buffer("mean", torch.zeros(config.channels, 1, 1))
        self.register_buffer("std", torch.ones(config.channels, 1, 1))

    def posterior(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), before standardisation."""
        step = 2 ** len(self.config.encoder)
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % step or x.shape[3] % step:
            raise ValueError(f"pictures are [b, 3, h, w] with sides divisible by {step}, not {list(x.shape)}")
        mean, log_var = self.encoder(x).float().chunk(2, 1)
        return mean, log_var.clamp(-15, 5)

    def encode(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """The mean code of pictures in [-1, 1], standardised: after `standardise`, of mean 0 and variance 1."""
        return (self.posterior(x)[0] - self.mean) / self.std

    def decode(self, z: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures of standardised codes."""
        return self.decoder(z * self.std + self.mean).float()

    def loss(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Mean squared error of the reconstruction + kl * KL(q(z | x) || N(0, 1)), both per dimension.

        Source: Kingma & Welling 2014 (arXiv 1312.6114), equation 10; the small weight: Rombach et al. 2022
        (arXiv 2112.10752), section 3.1.
        """
        mean, log_var = self.posterior(x)
        z = mean + (log_var / 2).exp() * torch.randn_like(mean)
        error = F.mse_loss(self.decoder(z).float(), x)
        kl = (mean.square() + log_var.exp() - 1 - log_var).mean() / 2
        return {"loss": error + self.config.kl * kl, "error": error, "kl": kl}

    @torch.no_grad()
    def standardise(self, x: Float[Tensor, "b 3 h w"]) -> None:
        """Measure the mean and std of the code, channel by channel, on these pictures."""
        z = self.posterior(x)[0]
        self.mean.copy_(z.mean((0, 2, 3))[:, None, None])
        self.std.copy_(z.std((0, 2, 3))[:, None, None])


@dataclass(frozen=True)
class TextToImageConfig:
    """The U-Net that denoises codes."""
    unet: UNetConfig = UNetConfig()


class TextToImage(nn.Module):
    """Three parts trained apart: a text encoder reads, a U-Net denoises codes, a decoder paints.

    The first and the last are frozen; x_t = cos(pi t/2) x0 + sin(pi t/2) eps in the code, and the U-Net predicts v.
    """
    schedule = staticmethod(trigonometric)

    def __init__(self, config: TextToImageConfig, *, autoencoder: LatentAutoencoder, text_encoder: TextEncoder):
        super().__init__()
        code, unet = autoencoder.config, config.unet
        if (code.channels, code.side, text_encoder.config.d) != (unet.channels, unet.side, unet.d_text):
            raise ValueError(f"the U-Net is for codes of {unet.channels} channels and side {unet.side} and text of "
                             f"width {unet.d_text}, not {code.channels}, {code.side} and {text_encoder.config.d}")
        self.config = config
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.denoiser = Denoiser(UNet(config.unet), self.schedule, "v")

    def train(self, mode: bool = True) -> "TextToImage":
        """The frozen parts stay in eval mode."""
        super().train(mode)
        self.autoencoder.eval(), self.text_encoder.eval()
        return self

    def loss(self, pairs: Pairs, p: float = .1, draw: Callable[[int], Tensor] = torch.rand) -> dict[str, Tensor]:
        """Mean squared error of v at times from `draw`; a share p of the captions is left out, for guidance.

        Source: Rombach et al. 2022 (arXiv 2112.10752), equation 3; v: Salimans & Ho 2022 (arXiv 2202.00512); captions
        left out: Ho & Salimans 2022 (arXiv 2207.12598), algorithm 1.
        """
        with torch.no_grad():
            z0 = self.autoencoder.encode(pairs.pictures)
            text = self.text_encoder(drop(pairs.captions, encode([""]), p))
        return {"loss": self.denoiser.loss(z0, draw(len(z0)), text)}

    def denoise(self, captions: list[str], negative: str, scale: float) -> Denoise:
        """The guided denoiser of these captions: (z, t) -> z0_hat."""
        if scale == 1:
            return partial(self.denoiser, cond=self.text_encoder(encode(captions)))
        both = self.text_encoder(encode(captions + [negative] * len(captions)))
        return cfg_doubled(partial(self.denoiser, cond=both), scale)

    @torch.no_grad()
    def path(self, captions: list[str], *, scale: float = 3., steps: int = 25, seed: int = 0, first: int = 0,
             negative: str = "") -> Iterator[tuple[Tensor, Tensor]]:
        """(z_t, z0_hat) after each step from noise to a code; `autoencoder.decode` shows either of them."""
        if isinstance(captions, str) or not captions:
            raise TypeError("captions come as a list of at least one; put a single one into brackets")
        unet = self.config.unet
        z = noise((len(captions), unet.channels, unet.side, unet.side), seed, first=first)
        yield from dpmpp_path(self.denoise(list(captions), negative, scale), z, times(steps), self.schedule)

    @torch.no_grad()
    def paint(self, captions: list[str], *, scale: float = 3., steps: int = 25, seed: int = 0, first: int = 0,
              negative: str = "") -> Float[Tensor, "b 3 h w"]:
        """Pictures of the captions in [-1, 1]; the i-th depends on its caption, the seed and first + i alone.

        scale: how far to go from the guess without a caption towards the one with it (1: no guidance, and `negative`
        has no effect); negative: a caption to keep away from. Unknown words raise `captions.UnknownWord`, the empty
        caption paints anything.
        """
        path = self.path(captions, scale=scale, steps=steps, seed=seed, first=first, negative=negative)
        return self.autoencoder.decode(last(path)).clamp(-1, 1)


def drop(cond: Int[Tensor, "b l"], null: Int[Tensor, "1 l"], p: float) -> Int[Tensor, "b l"]:
    """Each row replaced by `null` with probability p."""
    return torch.where(torch.rand(len(cond), 1) < p, null, cond)
