"""Curves: rising functions of one number, used on each number of a tensor, each with parameters of its own.

A curve is told its parameters and keeps none: forward(x, given) -> (y, log dy/dx) and inverse(y, given) -> (x, log
dx/dy) for x [b *d] and given [b numbers *d], `numbers` for each number of x. With zeros given, y = x.
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Curve = tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]


@dataclass(frozen=True)
class Affine:
    """y = x exp(s) + t, where s = most tanh(s' / most): no step scales by more than exp(most); s', t are given."""
    most: float = 2.
    numbers = 2                                                    # so many are given for each number of x

    def forward(self, x: Float[Tensor, "b *d"], given: Float[Tensor, "b 2 *d"]) -> Curve:
        """y and log dy/dx. Source: Dinh et al. 2017 (arXiv 1605.08803), equation 4 and, for the tanh, section 4.1."""
        s = self.log_scale(given)
        return x * s.exp() + given[:, 1], s

    def inverse(self, y: Float[Tensor, "b *d"], given: Float[Tensor, "b 2 *d"]) -> Curve:
        """x and log dx/dy."""
        s = self.log_scale(given)
        return (y - given[:, 1]) * (-s).exp(), -s

    def log_scale(self, given: Float[Tensor, "b 2 *d"]) -> Float[Tensor, "b *d"]:
        """s, never beyond most."""
        return self.most * torch.tanh(given[:, 0] / self.most)


@dataclass(frozen=True)
class Spline:
    """y = a rising curve of quotients of parabolas, `bins` of them between -edge and edge; outside y = x.

    Given are the bins' widths, their heights and the slopes where they meet. A curve can pull two modes into one.
    """
    bins: int = 8
    edge: float = 4.
    least: float = 1e-3                                            # width, height (as shares) and slope

    @property
    def numbers(self) -> int:
        """So many are given for each number of x."""
        return 3 * self.bins - 1

    def knots(self, given: Float[Tensor, "b p *d"]) -> Float[Tensor, "3 b *d k"]:
        """Where the bins meet: x, y and the slope; with zeros given all lie on y = x."""
        widths, heights, slopes = given.movedim(1, -1).split([self.bins, self.bins, self.bins - 1], -1)
        shares = torch.stack([widths, heights]).softmax(-1) * (1 - self.least * self.bins) + self.least
        places = F.pad(shares.cumsum(-1), (1, 0)) * 2 * self.edge - self.edge
        slopes = self.least + F.softplus(slopes + math.log(math.expm1(1 - self.least)))
        return torch.cat([places, F.pad(slopes, (1, 1), value=1.)[None]])

    def piece(self, x: Float[Tensor, "b *d"], given: Float[Tensor, "b p *d"], axis: int) -> tuple[Tensor, ...]:
        """The bin that x (axis 0) or y (axis 1) lies in: its corner, width, height, mean slope, slopes at its ends."""
        knots = self.knots(given)
        i = (x[..., None] >= knots[axis, ..., 1:-1]).sum(-1, keepdim=True).expand(3, *x.shape, 1)
        (x0, y0, d0), (x1, y1, d1) = knots.gather(-1, i)[..., 0], knots.gather(-1, i + 1)[..., 0]
        return x0, y0, x1 - x0, y1 - y0, (y1 - y0) / (x1 - x0), d0, d1

    def forward(self, x: Float[Tensor, "b *d"], given: Float[Tensor, "b p *d"]) -> Curve:
        """y and log dy/dx. Source: Durkan et al. 2019 (arXiv 1906.04032), equations 4 and 5."""
        x0, y0, width, height, s, d0, d1 = self.piece(x, given, 0)
        u = ((x - x0) / width).clamp(0, 1)
        y = y0 + height * (s * u * u + d0 * u * (1 - u)) / (s + (d1 + d0 - 2 * s) * u * (1 - u))
        outside = x.abs() >= self.edge
        return torch.where(outside, x, y), self.log_slope(u, s, d0, d1).masked_fill(outside, 0)

    def inverse(self, y: Float[Tensor, "b *d"], given: Float[Tensor, "b p *d"]) -> Curve:
        """x and log dx/dy: the root of a parabola, in the form without cancellation. Source: equations 6 to 8."""
        x0, y0, width, height, s, d0, d1 = self.piece(y, given, 1)
        up, bend = (y - y0).clamp(min=0), d1 + d0 - 2 * s
        a, b, c = height * (s - d0) + up * bend, height * d0 - up * bend, -s * up
        u = (2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())).clamp(0, 1)
        outside = y.abs() >= self.edge
        return torch.where(outside, y, x0 + u * width), -self.log_slope(u, s, d0, d1).masked_fill(outside, 0)

    def log_slope(self, u: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
        """log dy/dx at the share u of a bin's width."""
        v = u * (1 - u)
        top = d1 * u * u + 2 * s * v + d0 * (1 - u) ** 2
        return 2 * s.log() + top.log() - 2 * (s + (d1 + d0 - 2 * s) * v).log()
