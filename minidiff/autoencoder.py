"""Auto-encoders, plain, denoising, masked and variational: a picture into a code and back.

`Encoder` and `Decoder` are convolutions, and the code keeps rows and columns; chapter 6 uses them as they are. An
`Autoencoder` makes a code of d numbers with them, which can be drawn from N(0, I) in a `VAE`.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.data import noise
from minidiff.layers import GroupNorm, ResidualBlock

Draw = Callable[[Tensor], Tensor]                       # a tensor like the given one, filled with random numbers
Doubling = Callable[[int, int, int], list[nn.Module]]   # channels before and after, side of the kernel -> layers
STANDARD = torch.zeros(()), torch.ones(())              # mean and standard deviation of the prior
HIDDEN = 2.                                             # what a hidden pixel is replaced by: no picture has this value


class Encoder(nn.Module):
    """Pictures [b c h w] to codes [b d h/f w/f], f = 2^len(widths): each width halves the side."""

    def __init__(self, c: int, d: int, widths: tuple[int, ...], blocks: int = 1):
        super().__init__()
        layers = [nn.PixelUnshuffle(2), nn.Conv2d(4 * c, widths[0], 3, padding=1)]
        for before, width in zip((None, *widths), widths, strict=False):
            if before:
                layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width, width) for _ in range(blocks)]
        self.net = nn.Sequential(*layers, GroupNorm(widths[-1]), nn.SiLU(),
                                 nn.Conv2d(widths[-1], d, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The code of pictures; their sides must be multiples of f."""
        return self.net(x)


class Decoder(nn.Module):
    """Codes [b d i j] to pictures [b c h w]: the encoder backwards; widths from the code's side to the picture's.

    `double(c_in, c_out, kernel)` gives the layers that double the side.
    """

    def __init__(self, d: int, c: int, widths: tuple[int, ...], blocks: int = 2, *, double: Doubling | None = None):
        super().__init__()
        layers, double = [nn.Conv2d(d, widths[0], 3, padding=1)], double or shuffled
        for before, width in zip((None, *widths), widths, strict=False):
            if before:
                layers += double(before, width, 1)
            layers += [ResidualBlock(width, width) for _ in range(blocks)]
        self.net = nn.Sequential(*layers, GroupNorm(widths[-1]), nn.SiLU(), *double(widths[-1], c, 3))

    def forward(self, z: Float[Tensor, "b d i j"]) -> Float[Tensor, "b c h w"]:
        """The picture of codes, not kept within [-1, 1]."""
        return self.net(z)


def shuffled(c_in: int, c_out: int, kernel: int) -> list[nn.Module]:
    """Each place's four numbers become a square of 2 x 2. Source: Shi et al. 2016 (arXiv 1609.05158), section 3.2."""
    return [nn.Conv2d(c_in, 4 * c_out, kernel, padding=kernel // 2), nn.PixelShuffle(2)]


def stretched(c_in: int, c_out: int, kernel: int) -> list[nn.Module]:
    """Each place becomes a square of 2 x 2 alike: no checkerboard. Source: Odena et al. 2016 (distill.00003).

    A 1 x 1 convolution may as well come first, where it costs a quarter.
    """
    layers = [nn.Upsample(scale_factor=2), nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)]
    return layers if kernel > 1 else layers[::-1]


# --- the auto-encoder and what it may be shown ------------------------------------------------------------------------

@dataclass(frozen=True)
class AutoencoderConfig:
    """What an auto-encoder is made of; encoder=() and decoder=() make both of them linear."""
    d: int = 32                                         # numbers in the code
    channels: int = 3                                   # of the pictures
    side: int = 16
    encoder: tuple[int, ...] = (32, 64)                 # channels inside, from picture to code; each halves the side
    decoder: tuple[int, ...] = (64, 32)                 # and back
    neck: int = 16                                      # channels where the picture is unrolled into a vector
    std: float = .1                                     # of p(x | z), as training begins; only a VAE has it

    def __post_init__(self):
        for widths in (self.encoder, self.decoder):
            if self.side % 2 ** len(widths):
                raise ValueError(f"{len(widths)} widths halve the side {len(widths)} times, which {self.side} does not "
                                 f"allow: it must be a multiple of {2 ** len(widths)}")
        if min(self.d, self.channels, self.neck) < 1 or not self.std > 0:
            raise ValueError("d, channels and neck must be at least 1, and std positive")


class Autoencoder(nn.Module):
    """x -> z = encode(x), d numbers -> decode(z), a picture again."""

    def __init__(self, config: AutoencoderConfig, outputs: int | None = None):
        super().__init__()
        self.config, outputs = config, outputs or config.d
        self.encoder, self.decoder = to_vector(config, outputs), to_picture(config)

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The code."""
        return self.encoder(self.checked(x)).float()

    def decode(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b c h w"]:
        """The picture of a code, not kept within [-1, 1]."""
        if z.shape[-1] != self.config.d:
            raise ValueError(f"this model's codes have {self.config.d} numbers, not {z.shape[-1]}")
        x = self.decoder(z.reshape(-1, self.config.d)).float()
        return x.reshape(*z.shape[:-1], *x.shape[1:])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """decode(encode(x)), the reconstruction."""
        return self.decode(self.encode(x))

    def loss(self, x: Float[Tensor, "b c h w"], spoil: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """The mean squared error of a number of the picture, restored from x itself or from spoil(x).

        With `noised` as spoil it is a denoising auto-encoder (Vincent et al. 2008, section 2), with `hidden` a masked
        one (He et al. 2022, arXiv 2111.06377, which counts the hidden patches only; we count all).
        """
        return {"loss": F.mse_loss(self(x if spoil is None else spoil(x)), x)}

    def checked(self, x: Tensor) -> Tensor:
        """x, if it is a batch of pictures for this model."""
        c, side = self.config.channels, self.config.side
        if x.ndim != 4 or x.shape[1:] != (c, side, side):
            raise ValueError(f"this model reads pictures [b, {c}, {side}, {side}], not {list(x.shape)}")
        return x


def to_vector(config: AutoencoderConfig, outputs: int) -> nn.Sequential:
    """Pictures to vectors: convolutions down to a small grid of `neck` channels, then one linear map."""
    if not config.encoder:
        return nn.Sequential(nn.Flatten(), nn.Linear(config.channels * config.side ** 2, outputs))
    grid = config.side // 2 ** len(config.encoder)
    return nn.Sequential(Encoder(config.channels, config.neck, config.encoder), nn.Flatten(),
                         nn.Linear(config.neck * grid ** 2, outputs))


def to_picture(config: AutoencoderConfig) -> nn.Sequential:
    """Vectors to pictures: the same backwards."""
    grid, c = config.side // 2 ** len(config.decoder), config.neck if config.decoder else config.channels
    convolutions = [Decoder(c, config.channels, config.decoder)] if config.decoder else []
    return nn.Sequential(nn.Linear(config.d, c * grid ** 2), nn.Unflatten(1, (c, grid, grid)), *convolutions)


def noised(x: Float[Tensor, "b c h w"], std: float | int, draw: Draw = torch.randn_like) -> Float[Tensor, "b c h w"]:
    """x + std * noise."""
    return x + std * draw(x)


def hidden(x: Float[Tensor, "b c h w"], share: float | int, patch: int = 4,
           draw: Callable[..., Tensor] = torch.rand) -> Float[Tensor, "b c h w"]:
    """x with about this share of its patch x patch squares replaced by the value HIDDEN, in all channels."""
    if not 0 <= share <= 1 or x.shape[-1] % patch or x.shape[-2] % patch:
        raise ValueError(f"share is between 0 and 1, and patch divides the sides {list(x.shape[-2:])}; they are "
                         f"{share} and {patch}")
    cells = draw(len(x), 1, x.shape[-2] // patch, x.shape[-1] // patch, device=x.device) < share
    return x.masked_fill(cells.repeat_interleave(patch, 2).repeat_interleave(patch, 3), HIDDEN)


# --- the variational auto-encoder -------------------------------------------------------------------------------------

def log_normal(x: Float[Tensor, "*b d"], mean: Float[Tensor, "..."], std: Float[Tensor, "..."]) -> Float[Tensor, "*b"]:
    """log N(x; mean, diag(std^2)), summed over the last axis."""
    return (-((x - mean) / std).square() / 2 - std.log() - math.log(2 * math.pi) / 2).expand_as(x).sum(-1)


def kl_to_normal(mean: Float[Tensor, "b d"], std: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """KL(N(mean, diag(std^2)) || N(0, I)) = sum (mean^2 + std^2 - 1) / 2 - log std, in nats.

    Source: Kingma & Welling 2014 (arXiv 1312.6114), appendix B.
    """
    return ((mean.square() + std.square() - 1) / 2 - std.log()).sum(-1)


class VAE(Autoencoder):
    """z ~ N(0, I), x ~ N(decode(z), std^2 I) with one learned std; q(z | x) = N(mean, diag(std^2)) from the encoder.

    All likelihoods are in nats a picture. Source: Kingma & Welling 2014; the learned std: Rybkin et al. 2021 (arXiv
    2006.13202), section 3.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__(config, 2 * config.d)
        self.log_std = nn.Parameter(torch.tensor(math.log(config.std)))

    def posterior(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each [b d]."""
        mean, log_std = self.encoder(self.checked(x)).float().chunk(2, 1)
        return mean, log_std.clamp(-8, 3).exp()

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The mean of q(z | x)."""
        return self.posterior(x)[0]

    def log_likelihood(self, x: Float[Tensor, "b c h w"], z: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
        """log p(x | z)."""
        return log_normal(x.flatten(1), self.decode(z).flatten(1), self.log_std.exp())

    def drawn(self, x: Float[Tensor, "b c h w"], draw: Draw = torch.randn_like) -> tuple[Tensor, Tensor, Tensor]:
        """z = mean + std * eps from q(z | x), with mean and std, each [b d]: the reparameterisation."""
        mean, std = self.posterior(x)
        return mean + std * draw(mean), mean, std

    def elbo(self, x: Float[Tensor, "b c h w"], *, beta: float | int = 1., closed: bool = True,
             draw: Draw = torch.randn_like) -> Float[Tensor, "b"]:
        """log p(x | z) - beta * KL(q(z | x) || p(z)) for one z a picture; for beta = 1 its mean is at most log p(x).

        closed: the divergence by its formula; otherwise log q(z | x) - log p(z) at the same z, of equal mean.
        Source: Kingma & Welling 2014, equations 3 and 2; beta: Higgins et al. 2017.
        """
        z, mean, std = self.drawn(x, draw)
        kl = kl_to_normal(mean, std) if closed else log_normal(z, mean, std) - log_normal(z, *STANDARD)
        return self.log_likelihood(x, z) - beta * kl

    def iwae(self, x: Float[Tensor, "b c h w"], k: int, draw: Draw = torch.randn_like) -> Float[Tensor, "b"]:
        """log (1/k) sum_i p(x, z_i) / q(z_i | x): its mean rises with k towards log p(x); k = 1 is the sampled ELBO.

        Source: Burda et al. 2016 (arXiv 1509.00519), equation 8.
        """
        if k < 1:
            raise ValueError(f"the mean of k weights needs k >= 1, not {k}")
        return torch.stack([self.elbo(x, closed=False, draw=draw) for _ in range(k)]).logsumexp(0) - math.log(k)

    def loss(self, x: Float[Tensor, "b c h w"], beta: float | int = 1.) -> dict[str, Tensor]:
        """-ELBO per number of the picture, and in nats a picture its two parts."""
        z, mean, std = self.drawn(x)
        seen, kl = self.log_likelihood(x, z).mean(), kl_to_normal(mean, std).mean()
        return {"loss": (beta * kl - seen) / x[0].numel(), "kl": kl, "log p(x|z)": seen}

    @torch.no_grad()
    def sample(self, n: int, *, seed: int, first: int = 0, grain: bool = False) -> Float[Tensor, "n c h w"]:
        """Pictures decode(z), z ~ N(0, I); with grain, as the model has it, std * noise is added to each number."""
        x = self.decode(noise((n, self.config.d), seed, first=first))
        return x + self.log_std.exp() * noise(x.shape, seed + 1_000_003, first=first) if grain else x
