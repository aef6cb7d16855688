"""Latent diffusion: an auto-encoder that makes pictures small, and the text-to-image model that paints in its code."""
import math
from collections.abc import Callable, Sequence
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
from minidiff.samplers import Denoise, Path, dpmpp_path, heun_path, last
from minidiff.schedules import add_noise, like, times, trigonometric
from minidiff.text import TextEncoder
from minidiff.unet import UNet, UNetConfig


@dataclass(frozen=True)
class LatentConfig:
    """What a latent auto-encoder is made of; the code's side is the picture's by 2^(number of the decoder's widths)."""
    channels: int = 4                                   # of the code
    side: int = 8                                       # of the code of the pictures it is trained on
    encoder: tuple[int, ...] = (32, 64)                 # channels inside, from the picture to the code
    decoder: tuple[int, ...] = (96, 64)                 # and back
    kl: float = 2e-5                                    # weight of the KL term

    def __post_init__(self):
        if len(self.encoder) > len(self.decoder):
            raise ValueError(f"the decoder needs at least as many widths as the encoder, {len(self.encoder)}")


class LatentAutoencoder(nn.Module):
    """Pictures [b 3 h w] to codes [b c h/4 w/4] and back; it owns the code's mean and std: codes have unit variance.

    A decoder with more widths than the encoder paints larger pictures than are looked at: before they are encoded,
    pictures are halved by averaging, once for each width more. So a decoder can be exchanged for a larger one.
    """

    def __init__(self, config: LatentConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(3, 2 * config.channels, config.encoder)
        self.decoder = Decoder(config.channels, 3, config.decoder)
        self.register_buffer("mean", torch.zeros(config.channels, 1, 1))
        self.register_buffer("std", torch.ones(config.channels, 1, 1))

    def posterior(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), before standardisation."""
        step, more = 2 ** len(self.config.decoder), len(self.config.decoder) - len(self.config.encoder)
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % step or x.shape[3] % step:
            raise ValueError(f"pictures are [b, 3, h, w] with sides divisible by {step}, not {list(x.shape)}")
        mean, log_var = self.encoder(F.avg_pool2d(x, 2 ** more)).float().chunk(2, 1)
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

    @property
    def side(self) -> int:
        """Of the pictures: that of their codes, doubled by each level of the auto-encoder."""
        return self.config.unet.side * 2 ** len(self.autoencoder.config.decoder)

    def shape(self, n: int) -> tuple[int, int, int, int]:
        """Of n codes."""
        return n, self.config.unet.channels, self.config.unet.side, self.config.unet.side

    def denoise(self, captions: Sequence[str], negative: str, scale: float) -> Denoise:
        """The guided denoiser of these captions: (z, t) -> z0_hat."""
        if isinstance(captions, str) or not captions:
            raise TypeError("captions come as a list of at least one; put a single one into brackets")
        if scale == 1:
            return partial(self.denoiser, cond=self.text_encoder(encode(captions)))
        both = self.text_encoder(encode([*captions, *[negative] * len(captions)]))
        return cfg_doubled(partial(self.denoiser, cond=both), scale)

    def code(self, pictures: Tensor, captions: Sequence[str]) -> Float[Tensor, "b c i j"]:
        """z0 = encode(pictures), once they are known to be of this model's kind, with a caption each."""
        if pictures.ndim != 4 or pictures.shape[1:] != (3, self.side, self.side):
            raise ValueError(f"pictures are [b, 3, {self.side}, {self.side}], not {list(pictures.shape)}")
        if len(pictures) != len(captions):
            raise ValueError(f"every picture needs a caption of its own ('' for any picture), but there are "
                             f"{len(pictures)} pictures and {len(captions)} captions")
        low, high = pictures.min(), pictures.max()
        if not (pictures.is_floating_point() and low >= -1.001 and high <= 1.001):
            advice = "; levels 0..255 become x / 127.5 - 1" if high > 1.5 else ""
            raise ValueError(f"pictures are floats from -1 to 1, not {pictures.dtype} from {low:g} to {high:g}{advice}")
        return self.autoencoder.encode(pictures.float())

    def finish(self, path: Path) -> Float[Tensor, "b 3 h w"]:
        """The pictures at the end of a path, in [-1, 1]."""
        return self.autoencoder.decode(last(path)).clamp(-1, 1)

    @torch.no_grad()
    def path(self, captions: list[str], *, scale: float = 3., steps: int = 25, seed: int = 0, first: int = 0,
             negative: str = "", start: Float[Tensor, "b c i j"] | None = None) -> Path:
        """(z_t, z0_hat) after each step from noise to a code; `autoencoder.decode` shows either of them.

        start: the noise to begin with, such as that of `invert`, in place of the seed's.
        """
        guess, shape = self.denoise(captions, negative, scale), self.shape(len(captions))
        z = noise(shape, seed, first=first) if start is None else start
        if z.shape != shape:
            raise ValueError(f"start is noise for each caption, {list(shape)}, not {list(z.shape)}")
        yield from dpmpp_path(guess, z, times(steps), self.schedule)

    @torch.no_grad()
    def paint(self, captions: list[str], *, scale: float = 3., steps: int = 25, seed: int = 0, first: int = 0,
              negative: str = "", start: Float[Tensor, "b c i j"] | None = None) -> Float[Tensor, "b 3 h w"]:
        """Pictures of the captions in [-1, 1]; the i-th depends on its caption, the seed and first + i alone.

        scale: how far to go from the guess without a caption towards the one with it (1: no guidance, and `negative`
        has no effect); negative: a caption to keep away from; start: noise in place of the seed's. Unknown words raise
        `captions.UnknownWord`, the empty caption paints anything.
        """
        return self.finish(self.path(captions, scale=scale, steps=steps, seed=seed, first=first, negative=negative,
                                     start=start))

    @torch.no_grad()
    def edit(self, pictures: Float[Tensor, "b 3 h w"], captions: list[str], strength: float, *, scale: float = 3.,
             steps: int = 25, seed: int = 0, first: int = 0, negative: str = "") -> Float[Tensor, "b 3 h w"]:
        """z_t = alpha_t encode(picture) + sigma_t eps at t = strength, and from there to 0 as in `paint`.

        strength: 0 gives the picture back, as well as the auto-encoder can; 1 is `paint`, and forgets it. Between them
        the coarse stays and the fine is painted anew, in about strength * steps steps.
        Source: Meng et al. 2021 (arXiv 2108.01073), algorithm 1.
        """
        guess, z0 = self.denoise(captions, negative, scale), self.code(pictures, captions)
        if not 0 <= strength <= 1:
            raise ValueError(f"the strength goes from 0 (keep the picture) to 1 (paint afresh), and is not {strength}")
        if strength == 0:
            return self.autoencoder.decode(z0).clamp(-1, 1)
        t = strength * times(max(min(2, steps), round(strength * steps)))
        z = add_noise(self.schedule, z0, t[0], noise(tuple(z0.shape), seed, first=first))
        return self.finish(dpmpp_path(guess, z, t, self.schedule))

    @torch.no_grad()
    def invert(self, pictures: Float[Tensor, "b 3 h w"], captions: list[str], *,
               steps: int = 50) -> Float[Tensor, "b c i j"]:
        """z_1, from which `paint(captions, scale=1., start=z_1)` comes back: the list of times backwards, unguided.

        At t = 0 no direction of noise shows, so the picture is taken for one at t = 0.01.
        Source: Song, Meng & Ermon 2020 (arXiv 2010.02502), section 5.4, by Heun's steps in place of theirs.
        """
        guess, z0 = self.denoise(captions, "", 1.), self.code(pictures, captions)
        return last(heun_path(guess, z0, times(steps).flip(0).clamp(min=.01), self.schedule))

    @torch.no_grad()
    def interpolate(self, a: str, b: str, n: int, *, scale: float = 3., steps: int = 25, seed: int = 0,
                    negative: str = "") -> Float[Tensor, "n 3 h w"]:
        """n pictures from caption a to caption b: z0_hat = (1 - u) z0_hat_a + u z0_hat_b, with u = 0, ..., 1.

        Each starts on the great circle from noise(seed) to noise(seed + 1): the ends are those that `paint` gives.
        Source: Song, Meng & Ermon 2020 (arXiv 2010.02502), section 5.3; captions are mixed as `cfg` mixes them.
        """
        if n < 2:
            raise ValueError(f"from one caption to another there are at least 2 pictures, not {n}")
        guess_a, guess_b = (self.denoise([caption] * n, negative, scale) for caption in (a, b))
        x, y = (noise(self.shape(1), seed + k).expand(self.shape(n)) for k in (0, 1))
        u = torch.linspace(0, 1, n)

        def between(z: Float[Tensor, "n *d"], t: Float[Tensor, "..."]) -> Float[Tensor, "n *d"]:
            return torch.lerp(guess_a(z, t), guess_b(z, t), like(u, z))

        return self.finish(dpmpp_path(between, slerp(x, y, u), times(steps), self.schedule))


def slerp(x: Float[Tensor, "b *d"], y: Float[Tensor, "b *d"], u: Float[Tensor, "..."]) -> Float[Tensor, "b *d"]:
    """(sin((1 - u) theta) x + sin(u theta) y) / sin(theta), theta the angle between x and y; u is [] or [b].

    On the great circle normal noise keeps its length, on the straight line it would not. (sin(u theta) is written
    u theta sinc(u theta), which also holds at theta = 0.)
    Source: Shoemake 1985 (Animating rotation with quaternion curves, SIGGRAPH), section 3.3.
    """
    e, f = (F.normalize(end.double().flatten(1), dim=1) for end in (x, y))
    turn = 2 / math.pi * torch.atan2((e - f).norm(dim=1), (e + f).norm(dim=1))              # theta / pi
    if (turn > 1 - 1e-6).any():
        raise ValueError("between opposite points there are many great circles: change one end a little")
    to_x, to_y = (like(v * torch.sinc(v * turn) / torch.sinc(turn), x) for v in (1 - u, u))
    return to_x * x + to_y * y


def drop(cond: Int[Tensor, "b l"], null: Int[Tensor, "1 l"], p: float) -> Int[Tensor, "b l"]:
    """Each row replaced by `null` with probability p."""
    return torch.where(torch.rand(len(cond), 1) < p, null, cond)
