"""Flows: invertible maps from pictures to noise whose log-determinants are known, so that log p(x) is exact.

Every map f is a module with forward(x) -> (f(x), log |det df/dx|) and inverse(z) -> (f^-1(z), log |det df^-1/dz|),
one log-determinant a row. Maps work on [b c *d]: points in the plane, rows, pictures.
"""
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.curves import Affine, Spline
from minidiff.data import noise

Mapped = tuple[Float[Tensor, "b *out"], Float[Tensor, "b"]]


# --- maps ------------------------------------------------------------------------------------------------------------

class ActNorm(nn.Module):
    """z = (x - mean) / std by channel: at first those of the first batch in training, parameters from then on."""

    def __init__(self, c: int):
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.zeros(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("begun", torch.tensor(False))

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "b c *d"]) -> None:
        """Take mean and std from a batch."""
        std, mean = torch.std_mean(x.transpose(0, 1).flatten(1), 1, correction=0)
        if not (std > 0).all():
            raise ValueError("the first batch of an ActNorm must vary in every channel: add noise, or take more rows")
        self.mean.copy_(mean)
        self.log_std.copy_(std.log())
        self.begun.fill_(True)

    def forward(self, x: Float[Tensor, "b c *d"]) -> Mapped:
        """Source: Kingma & Dhariwal 2018 (arXiv 1807.03039), section 3.1."""
        if self.training and not self.begun:
            self.begin(x)
        return (x - by_channel(self.mean, x)) * by_channel(-self.log_std, x).exp(), self.log_det(x, -1)

    def inverse(self, z: Float[Tensor, "b c *d"]) -> Mapped:
        """x = mean + std z."""
        return z * by_channel(self.log_std, z).exp() + by_channel(self.mean, z), self.log_det(z, 1)

    def log_det(self, x: Float[Tensor, "b c *d"], sign: int) -> Float[Tensor, "b"]:
        """Each channel is scaled in all its pixels."""
        return (sign * x[0, 0].numel() * self.log_std.sum()).expand(len(x))


class Mix(nn.Module):
    """z = W x in every pixel: an invertible 1x1 convolution, at first a random rotation of the channels.

    log |det W| is taken from the matrix itself: at c channels it costs c^3 operations a batch, nothing beside the
    convolutions while c is small. Glow's LU form, cheaper for large c, has the same W's and more to explain.
    """

    def __init__(self, c: int):
        super().__init__()
        self.w = nn.Parameter(torch.linalg.qr(torch.randn(c, c))[0])

    def forward(self, x: Float[Tensor, "b c *d"]) -> Mapped:
        """Source: Kingma & Dhariwal 2018, section 3.2."""
        return torch.einsum("ij,bj...->bi...", self.w, x), self.log_det(x, 1)

    def inverse(self, z: Float[Tensor, "b c *d"]) -> Mapped:
        """x = W^-1 z."""
        return torch.linalg.solve(self.w, z.flatten(2) if z.ndim > 2 else z[..., None]).view_as(z), self.log_det(z, -1)

    def log_det(self, x: Float[Tensor, "b c *d"], sign: int) -> Float[Tensor, "b"]:
        """Once a pixel."""
        return (sign * x[0, 0].numel() * torch.linalg.slogdet(self.w).logabsdet).expand(len(x))


class Flip(nn.Module):
    """The channels in reverse order: what a flow without `Mix` needs, so that both halves get their turn."""

    def forward(self, x: Float[Tensor, "b c *d"]) -> Mapped:
        """Source: Dinh et al. 2017 (arXiv 1605.08803), section 3.5."""
        return x.flip(1), x.new_zeros(len(x))

    inverse = forward


class Squeeze(nn.Module):
    """Each 2x2 pixels become one pixel of 4 times the channels."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Mapped:
        """Source: Dinh et al. 2017, section 3.6."""
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, z: Float[Tensor, "b c h w"]) -> Mapped:
        """And back."""
        return F.pixel_shuffle(z, 2), z.new_zeros(len(z))


class Flat(nn.Module):
    """x of a known shape as a vector."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x: Float[Tensor, "b *d"]) -> Mapped:
        """[b *shape] -> [b D]."""
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Float[Tensor, "b d"]) -> Mapped:
        """[b D] -> [b *shape]."""
        return z.unflatten(1, self.shape), z.new_zeros(len(z))


class Coupling(nn.Module):
    """The first half of the channels stays; each number of the second goes through a curve that the first half gives.

    transform: `Affine` or `Spline`. net: the first half [b c/2 *d] -> what the transform is given [b numbers*c/2 *d].
    """

    def __init__(self, net: nn.Module, transform: Affine | Spline = Affine()):  # noqa: B008  (frozen)
        super().__init__()
        self.net, self.transform = net, transform

    def forward(self, x: Float[Tensor, "b c *d"]) -> Mapped:
        """Source: Dinh et al. 2015 (arXiv 1410.8516), section 3.2; scale: Dinh et al. 2017, equations 4 and 5."""
        return self.with_half(x, self.transform.forward)

    def inverse(self, z: Float[Tensor, "b c *d"]) -> Mapped:
        """The half that stayed gives the same curves again, now taken backwards: the net is never inverted."""
        return self.with_half(z, self.transform.inverse)

    def with_half(self, x: Float[Tensor, "b c *d"], curve: Callable) -> Mapped:
        """One of the two directions: the Jacobian is triangular, so its log-determinant is the sum of log-slopes."""
        if x.shape[1] % 2:
            raise ValueError(f"a coupling halves the channels, so their number must be even, not {x.shape[1]}")
        stay, change = x.chunk(2, 1)
        given = self.net(stay).unflatten(1, (self.transform.numbers, -1))
        change, log_slope = curve(change, given)
        return torch.cat([stay, change], 1), log_slope.flatten(1).sum(1)


class Chain(nn.Module):
    """One map after the other: their log-determinants add up."""

    def __init__(self, maps: Iterable[nn.Module]):
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def forward(self, x: Float[Tensor, "b *d"]) -> Mapped:
        """f_n(... f_2(f_1(x)))."""
        total = x.new_zeros(len(x))
        for f in self.maps:
            x, log_det = f(x)
            total = total + log_det
        return x, total

    def inverse(self, z: Float[Tensor, "b *d"]) -> Mapped:
        """f_1^-1(f_2^-1(... f_n^-1(z)))."""
        total = z.new_zeros(len(z))
        for f in reversed(self.maps):
            z, log_det = f.inverse(z)
            total = total + log_det
        return z, total


class Split(nn.Module):
    """Half of the channels leave early as noise, with mean and std given by the other half, which goes on.

    `leave` is a coupling (the half that leaves is the one that it changes), `rest` a map to a vector. The code begins
    with that vector: it is in an order from coarse to fine.
    """

    def __init__(self, leave: Coupling, rest: nn.Module):
        super().__init__()
        self.leave, self.rest = leave, rest

    def forward(self, x: Float[Tensor, "b c *d"]) -> Mapped:
        """Source: Dinh et al. 2017, section 3.6; mean and std as in Glow's code, Kingma & Dhariwal 2018."""
        y, here = self.leave(x)
        stay, early = y.chunk(2, 1)
        z, further = self.rest(stay)
        return torch.cat([z, early.flatten(1)], 1), here + further

    def inverse(self, z: Float[Tensor, "b d"]) -> Mapped:
        """The coarse half of the code first."""
        coarse, fine = z.chunk(2, 1)
        stay, further = self.rest.inverse(coarse)
        x, here = self.leave.inverse(torch.cat([stay, fine.view_as(stay)], 1))
        return x, here + further


# --- a model ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class FlowConfig:
    """Glow for pictures [b c side side]; RealNVP for vectors [b c], where side is 0 and there is one level."""
    c: int
    side: int = 0
    levels: int = 1                                               # so often the side is halved
    steps: int = 4                                                # ActNorm, Mix, Coupling: so many on each level
    width: int = 64                                               # of the networks in the couplings
    bins: int = 0                                                 # of the couplings' splines; 0: affine couplings
    norm: bool = True                                             # with ActNorm
    mix: bool = True                                              # with Mix, or else Flip

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x."""
        return (self.c, self.side, self.side) if self.side else (self.c,)


class Flow(nn.Module):
    """log p(x) = log N(z; 0, I) + log |det dz/dx| with z = f(x), a code of as many numbers as x, coarse to fine."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        if config.side % 2 ** config.levels or (not config.side and config.levels > 1) or config.levels < 1:
            raise ValueError(f"a side of {config.side} cannot be halved {config.levels} times: the side must be a "
                             f"multiple of 2^levels, and vectors (side 0) have 1 level")
        self.config, self.dims = config, math.prod(config.shape)
        self.map = multi_scale(config, config.c, config.side, config.levels)

    def encode(self, x: Float[Tensor, "b *d"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b"]]:
        """z [b D] and log |det dz/dx|."""
        if tuple(x.shape[1:]) != self.config.shape:
            raise ValueError(f"this flow takes x of shape {['b', *self.config.shape]}, not {list(x.shape)}")
        return self.map(x)

    def decode(self, z: Float[Tensor, "b n"]) -> Float[Tensor, "b *d"]:
        """x of a code."""
        if z.ndim != 2 or z.shape[1] != self.dims:
            raise ValueError(f"a code of this flow has the shape ['b', {self.dims}], not {list(z.shape)}")
        return self.map.inverse(z)[0]

    def log_prob(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
        """log p(x) in nats, exact: a density in the units of x."""
        z, log_det = self.encode(x)
        return normal(z) + log_det

    def loss(self, x: Float[Tensor, "b *d"]) -> dict[str, Float[Tensor, ""]]:
        """-log p(x) in nats for each of the D numbers, and the two parts that it is the sum of."""
        z, log_det = self.encode(x)
        code, volume = -normal(z).mean() / self.dims, -log_det.mean() / self.dims
        return {"loss": code + volume, "code": code, "volume": volume}

    @torch.no_grad()
    def sample(self, n: int, *, seed: int, temperature: float | int = 1., first: int = 0) -> Float[Tensor, "n *d"]:
        """f^-1(temperature eps); x number first + i depends on (seed, first + i) alone.

        Temperature: Kingma & Dhariwal 2018, section 6.
        """
        if temperature < 0:
            raise ValueError(f"temperature scales the noise and is at least 0, not {temperature:g}")
        z = temperature * noise((n, self.dims), seed, first=first).to(next(self.parameters()))
        return torch.cat([self.decode(piece) for piece in z.split(256)])


def multi_scale(config: FlowConfig, c: int, side: int, levels: int) -> Chain:
    """Squeeze, some steps; then half of the channels leave, and the rest goes on in the same way."""
    maps = [Squeeze()] if side else []
    c, side = (4 * c, side // 2) if side else (c, side)
    for _ in range(config.steps):
        maps += [ActNorm(c)] if config.norm else []
        maps += [Mix(c) if config.mix else Flip(), coupling(config, c, side)]
    if levels == 1:
        return Chain([*maps, Flat(*(c, side, side) if side else (c,))])
    leave = Coupling(network(c // 2, c, config.width, side))
    return Chain([*maps, Split(leave, multi_scale(config, c // 2, side, levels - 1))])


def coupling(config: FlowConfig, c: int, side: int) -> Coupling:
    """A coupling for c channels, with a network of its own."""
    transform = Spline(config.bins) if config.bins else Affine()
    return Coupling(network(c // 2, transform.numbers * (c // 2), config.width, side), transform)


def network(c_in: int, c_out: int, width: int, side: int) -> nn.Sequential:
    """Three layers, the last of which starts at zero, so that a coupling begins as the identity."""
    def layer(c_in: int, c_out: int, kernel: int) -> nn.Module:
        return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2) if side else nn.Linear(c_in, c_out)
    near = 3 if side > 1 else 1
    last = layer(width, c_out, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(layer(c_in, width, near), nn.SiLU(), layer(width, width, near), nn.SiLU(), last)


def by_channel(numbers: Float[Tensor, "c"], x: Float[Tensor, "b c *d"]) -> Float[Tensor, "c *one"]:
    """One number a channel, in a shape that meets x."""
    return numbers.view(-1, *[1] * (x.ndim - 2))


def normal(z: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """log N(z; 0, I)."""
    return -(z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) / 2


# --- pictures of whole numbers ---------------------------------------------------------------------------------------

def dequantise(x: Float[Tensor, "*b"], u: Float[Tensor, "*b"], levels: int = 256) -> Float[Tensor, "*b"]:
    """x + (u - 1/2) step: pictures on `levels` even steps from -1 to 1, spread over their steps by u in [0, 1).

    Source: Theis et al. 2016 (arXiv 1511.01844), section 3.1.
    """
    return x + (u - .5) * (2 / (levels - 1))


def log_mass(log_prob: Callable[[Tensor], Tensor], x: Float[Tensor, "b *d"], u: Float[Tensor, "k b *d"],
             levels: int = 256) -> Float[Tensor, "b"]:
    """log P(x) >= log mean_k p(dequantise(x, u_k)) + D log step, in nats: a bound on average, tighter with each k.

    Source: Theis et al. 2016, section 3.1; several draws: Hoogeboom et al. 2020 (arXiv 2001.11235); draws that a second
    flow learns, which are not here: Ho et al. 2019 (arXiv 1902.00275).
    """
    nats = torch.stack([log_prob(dequantise(x, draw, levels)) for draw in u])
    return nats.logsumexp(0) - math.log(len(u)) - x[0].numel() * math.log((levels - 1) / 2)


def bits_per_dim(log_prob: Float[Tensor, "*b"] | float, dims: int, levels: int | None = 256
                 ) -> Float[Tensor, "*b"] | float:
    """-(log p + D log step) / (D log 2): bits for each number of a picture that is told to `levels` steps.

    log_prob: log-density in nats of pictures in [-1, 1], where a step is 2/(levels - 1) wide; dims: D, the numbers of a
    picture. levels=None: log_prob is a log-probability, such as `log_mass`, and no step is missing.
    """
    step = 1 if levels is None else 2 / (levels - 1)
    return -(log_prob / dims + math.log(step)) / math.log(2)
