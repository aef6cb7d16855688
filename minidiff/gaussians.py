"""k Gaussians with their weights, and covariances of every kind in one form.

C_k = diag(a_k) + U_k U_k^T. Without columns in U it is spherical or diagonal, with a few of them low-rank, with d of
them full. The inverse, what noise makes of it, and the regression of a clean point on a noisy one have the same form:
so one density, one score and one posterior serve all kinds. Numbers are float64 inside.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PIECE = 2 ** 19                                            # so many numbers are worked on at a time
SINGULAR = "a covariance is singular or not positive: give another; in a fit, take a larger reg or fewer components"


def in_pieces(f: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], width: int) -> Tensor:
    """f(x) in float64 with bounded memory: for one row f needs about `width` numbers."""
    return torch.cat([f(piece.double()) for piece in x.split(max(1, PIECE // width))])


def cholesky(matrices: Float[Tensor, "k r r"]) -> Float[Tensor, "k r r"]:
    """L with L L^T = A, lower triangular."""
    root, failed = torch.linalg.cholesky_ex(matrices)
    if failed.any():
        raise ValueError(SINGULAR)
    return root


def log_det(root: Float[Tensor, "k r r"]) -> Float[Tensor, "k"]:
    """log det L L^T."""
    return 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)


@dataclass(frozen=True)
class Matrices:
    """k symmetric matrices A_k = diag(a_k) + sign U_k U_k^T, seldom written out."""
    a: Float[Tensor, "k #d"]                               # [k 1]: the same number all along the diagonal
    u: Float[Tensor, "k d r"]
    sign: int = 1

    def diagonal(self) -> Float[Tensor, "k d"]:
        """The diagonals of A_k."""
        return self.a + self.sign * self.u.square().sum(2)

    def dense(self) -> Float[Tensor, "k d d"]:
        """A_k written out."""
        return torch.diag_embed(self.a.expand(self.u.shape[:2])) + self.sign * self.u @ self.u.mT

    def project(self, x: Float[Tensor, "b d"], centres: Float[Tensor, "k d"]) -> Float[Tensor, "b k r"]:
        """y_k = U_k^T (x - c_k)."""
        return torch.einsum("bd,kdr->bkr", x, self.u) - torch.einsum("kd,kdr->kr", centres, self.u)

    def squares(self, x: Float[Tensor, "b d"], centres: Float[Tensor, "k d"],
                y: Float[Tensor, "b k r"]) -> Float[Tensor, "b k"]:
        """(x - c_k)^T A_k (x - c_k), with y = project(x, centres)."""
        cross = x @ (self.a * centres).T - (self.a * centres.square()).sum(1) / 2
        return torch.einsum("bd,kd->bk", x.square(), self.a) - 2 * cross + self.sign * y.square().sum(2)

    def pull(self, r: Float[Tensor, "b k"], x: Float[Tensor, "b d"],
             centres: Float[Tensor, "k d"]) -> Float[Tensor, "b d"]:
        """sum_k r_k A_k (x - c_k)."""
        y = (r[..., None] * self.project(x, centres)).flatten(1)
        return (r @ self.a) * x - r @ (self.a * centres) + self.sign * y @ self.u.mT.flatten(0, 1)

    def woodbury(self, a: Tensor, alpha: float = 1.) -> tuple[Tensor, Tensor]:
        """L and a^-1 U L^-T, with L L^T = I + alpha^2 U^T a^-1 U: what the inverse of a + alpha^2 U U^T is made of."""
        scaled = self.u / a[..., None]
        root = cholesky(torch.eye(self.u.shape[2]).to(a) + alpha ** 2 * self.u.mT @ scaled)
        return root, torch.linalg.solve_triangular(root, scaled.mT, upper=False).mT

    def inverse(self) -> "Inverse":
        """A_k^-1 and log det A_k, for sign 1; where U is square, nothing is saved by not writing A_k out.

        Source: Woodbury 1950, Inverting Modified Matrices.
        """
        k, d, rank = self.u.shape
        if rank == d:
            root = cholesky(self.dense())
            u = torch.linalg.solve_triangular(root, torch.eye(d).to(root), upper=False).mT
            return Inverse(Matrices(torch.zeros_like(root[:, :1, 0]), u), log_det(root))
        if not (self.a > 0).all():
            raise ValueError(SINGULAR)
        root, u = self.woodbury(self.a)
        return Inverse(Matrices(1 / self.a, u, -1), log_det(root) + self.a.log().expand(k, d).sum(1))

    def noised(self, alpha: float, sigma: float) -> "Matrices":
        """alpha^2 A_k + sigma^2 I, for sign 1."""
        return Matrices(alpha ** 2 * self.a + sigma ** 2, alpha * self.u)

    def gain(self, alpha: float, sigma: float) -> "Matrices":
        """alpha A_k (alpha^2 A_k + sigma^2 I)^-1, for sign 1 and sigma > 0; a sum, so that nothing cancels."""
        a = self.noised(alpha, sigma).a
        return Matrices(alpha * self.a / a, math.sqrt(alpha) * sigma * self.woodbury(a, alpha)[1])


class Inverse(NamedTuple):
    """The inverses of k matrices, and the logarithms of the determinants of the matrices themselves."""
    precisions: Matrices
    log_dets: Float[Tensor, "k"]


@dataclass(frozen=True)
class Gaussians:
    """k Gaussians N(x; mu_k, C_k) with weights w_k; z is x counted from `middle`, so that no large numbers cancel."""
    weights: Float[Tensor, "k"]
    means: Float[Tensor, "k d"]
    covariances: Matrices

    @cached_property
    def middle(self) -> Float[Tensor, "d"]:
        """The mean of the mixture."""
        return self.weights @ self.means

    @cached_property
    def centres(self) -> Float[Tensor, "k d"]:
        """The means, counted from the middle."""
        return self.means - self.middle

    @cached_property
    def inverse(self) -> Inverse:
        """C_k^-1 and log det C_k."""
        return self.covariances.inverse()

    @property
    def width(self) -> int:
        """So many numbers `joint` needs for a point."""
        k, d, rank = self.covariances.u.shape
        return k * max(rank, 1) + d

    def over(self, f: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"]) -> Tensor:
        """f(z) for any number of points."""
        return in_pieces(lambda piece: f(piece - self.middle), x, self.width)

    def joint(self, z: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k r"]]:
        """log w_k + log N(x; mu_k, C_k), and the projections of z that it is made of."""
        precisions, log_dets = self.inverse
        y = precisions.project(z, self.centres)
        constant = log_dets + z.shape[1] * math.log(2 * math.pi)
        return self.weights.log() - (precisions.squares(z, self.centres, y) + constant) / 2, y

    def noised(self, alpha: float, sigma: float) -> "Gaussians":
        """The mixture that alpha x + sigma eps comes from."""
        return Gaussians(self.weights, alpha * self.means, self.covariances.noised(alpha, sigma))

    def log_steps(self, x: Float[Tensor, "n d"], levels: int) -> Float[Tensor, "n"]:
        """log sum_k w_k prod_i P(x_i | k), when each number is rounded to the nearest of `levels` steps from -1 to 1.

        Exact, where the numbers of a component are independent.
        """
        k, d, rank = self.covariances.u.shape
        step = (x.double() + 1) / 2 * (levels - 1)
        if rank or levels < 2 or ((step - step.round().clamp(0, levels - 1)).abs() > .01).any():
            raise ValueError(f"levels={levels} needs spherical or diag covariances and numbers on its steps in [-1, 1]")
        means, i = self.means.unique(return_inverse=True)
        stds, j = self.covariances.a.sqrt().expand(k, d).unique(return_inverse=True)
        pairs, which = (i * len(stds) + j).unique(return_inverse=True)           # scenes share most of their colours
        table = step_masses(means[pairs // len(stds)], stds[pairs % len(stds)], levels).flatten()

        def log_prob(step: Tensor) -> Tensor:
            return (self.weights.log() + table[which * levels + step.long()[:, None]].sum(2)).logsumexp(1)
        return in_pieces(log_prob, step.round(), k * d)


def step_masses(means: Float[Tensor, "m"], stds: Float[Tensor, "m"], levels: int) -> Float[Tensor, "m levels"]:
    """log(Phi(high) - Phi(low)) for each step; the outer ones are open."""
    edges = (2 * torch.arange(levels + 1, dtype=torch.float64) - 1) / (levels - 1) - 1
    edges[0], edges[-1] = -math.inf, math.inf
    z = (edges - means[:, None]) / stds[:, None]
    return log_mass(z[:, :-1], z[:, 1:])


def log_mass(low: Float[Tensor, "*b"], high: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """log(Phi(high) - Phi(low)), taken on the side where Phi is small: nothing is lost far from the mean."""
    right = low + high > 0
    low, high = (torch.special.log_ndtr(torch.where(right, -a, b)) for a, b in ((high, low), (low, high)))
    return high + torch.log(-torch.expm1(low - high))
