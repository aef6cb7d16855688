"""EM for mixtures of Gaussians: k-means to begin with, the two steps, and what differs between kinds of covariance."""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minidiff.gaussians import PIECE, Gaussians, Matrices, cholesky, in_pieces

EMPTY = 1e-9                                               # who holds fewer points than this stays as it is
ROUNDS = 20                                                # of k-means
Covariances = Tensor | tuple[Tensor, Tensor]               # [k d d], [k d], [k]; of lowrank a [k d] with U [k d r]


# --- the kinds of covariance: what differs between them --------------------------------------------------------------

# An M-step knows, of S_k, the covariance of the points of component k: its diagonal, var, and su = S_k U_k, where U_k
# is u, that of the precision C_k^-1 before the step.

def full_step(var: Float[Tensor, "k d"], su: Float[Tensor, "k d d"], u: Float[Tensor, "k d d"],
              reg: float | int) -> Matrices:
    """C = S + reg I, from S = (S U) U^-1."""
    c = torch.linalg.solve_triangular(u, su, upper=True, left=False)
    return Matrices(torch.zeros_like(var[:, :1]), cholesky((c + c.mT) / 2 + reg * torch.eye(c.shape[1]).to(c)))


def lowrank_step(var: Float[Tensor, "k d"], su: Float[Tensor, "k d r"], u: Float[Tensor, "k d r"],
                 reg: float | int) -> Matrices:
    """One step of EM for C = diag(a) + U U^T, where the coordinates of a point along U are hidden.

    Their covariance is fitted, too, and put into U, which takes many steps fewer.
    Source: Ghahramani & Hinton 1996, The EM Algorithm for Mixtures of Factor Analyzers; fewer steps: Liu, Rubin & Wu
    1998, Parameter Expansion to Accelerate EM; for pictures: Richardson & Weiss 2018 (arXiv 1805.12462).
    """
    root = cholesky(torch.eye(u.shape[2]).to(u) + u.mT @ su)
    new = torch.linalg.solve_triangular(root, su.mT, upper=False).mT
    return Matrices((var - new.square().sum(2)).clamp(min=0) + reg, new)


@dataclass(frozen=True)
class Kind:
    """What one kind of covariance C = diag(a) + U U^T does in its own way."""
    columns: Callable[[int, int], tuple[int, int]]         # of d and rank: how many columns a and U have
    shapes: Callable[[int, int, int], list[tuple]]         # of k, d and rank: the shapes of what is given
    given: Callable[[list[Tensor], Tensor], Matrices]      # of what is given, and of a U without columns
    shown: Callable[[Matrices], Covariances]               # the way back
    step: Callable[[Tensor, Tensor, Tensor, float], Matrices]          # the M-step: of var, su, u and reg


KINDS = {
    "full": Kind(columns=lambda d, rank: (1, d),
                 shapes=lambda k, d, rank: [(k, d, d)],
                 given=lambda c, none: Matrices(torch.zeros_like(c[0][:, :1, 0]), cholesky(c[0])),
                 shown=Matrices.dense,
                 step=full_step),
    "diag": Kind(columns=lambda d, rank: (d, 0),
                 shapes=lambda k, d, rank: [(k, d)],
                 given=lambda c, none: Matrices(c[0], none),
                 shown=lambda c: c.a,
                 step=lambda var, su, u, reg: Matrices(var + reg, su)),
    "spherical": Kind(columns=lambda d, rank: (1, 0),
                      shapes=lambda k, d, rank: [(k,)],
                      given=lambda c, none: Matrices(c[0][:, None], none),
                      shown=lambda c: c.a[:, 0],
                      step=lambda var, su, u, reg: Matrices(var.mean(1, keepdim=True) + reg, su)),
    "lowrank": Kind(columns=lambda d, rank: (d, rank),
                    shapes=lambda k, d, rank: [(k, d), (k, d, rank)],
                    given=lambda c, none: Matrices(*c),
                    shown=lambda c: (c.a, c.u),
                    step=lowrank_step),
}


# --- the start -------------------------------------------------------------------------------------------------------

def nearest(x: Float[Tensor, "n d"], centres: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """The squared distance from each point to the nearest centre, and which one that is."""
    def search(piece: Tensor) -> Tensor:
        distance, i = torch.cdist(piece, centres).min(1)
        return torch.stack([distance.square(), i], 1)
    far, i = in_pieces(search, x, sum(centres.shape)).unbind(1)
    return far, i.long()


def kmeans(x: Float[Tensor, "n d"], k: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """k centres [k d], how many points are nearest to each [k], and the variance around them.

    Source: Lloyd 1982; the start: Arthur & Vassilvitskii 2007 (k-means++).
    """
    chosen, far = [torch.randint(len(x), (1,), generator=generator)], torch.tensor(torch.inf)
    while len(chosen) < k:                                 # each next one by its squared distance from those before
        far = torch.minimum(far, nearest(x, x[chosen[-1]].double())[0])
        chosen.append(torch.multinomial(far if far.any() else torch.ones_like(far), 1, generator=generator))
    centres = x[torch.cat(chosen)].double()
    for _ in range(ROUNDS):
        i = nearest(x, centres)[1]
        count = i.bincount(minlength=k)
        sums = torch.zeros(centres.shape, dtype=x.dtype).index_add(0, i, x).double()
        centres = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centres)
    return centres, count, float(nearest(x, centres)[0].mean() / x.shape[1])


def begun(x: Float[Tensor, "n d"], k: int, columns: tuple[int, int], generator: torch.Generator,
          *, reg: float | int) -> Gaussians:
    """What k-means finds, as round Gaussians of one width; the columns of U, where they are few, at random."""
    (n, d), (wide, rank) = x.shape, columns
    centres, count, spread = kmeans(x, k, generator)
    a = torch.full((k, wide), spread + reg, dtype=torch.float64)
    u = torch.randn(k, d, rank, generator=generator, dtype=torch.float64) * (spread / d) ** .5 * (rank < d)
    return Gaussians((count + 1).double() / (n + k), centres, Matrices(a, u))


# --- the two steps ---------------------------------------------------------------------------------------------------

def expected(now: Gaussians, x: Float[Tensor, "n d"]) -> tuple[float, list[Tensor]]:
    """The E-step: the mean of log p(x), and with shares r_k = P(k | x) the sums of r_k, r_k z, r_k z^2, r_k z y_k^T."""
    k, d, rank = now.covariances.u.shape
    n, first, second, cross = (torch.zeros(s, dtype=torch.float64) for s in ((k,), (k, d), (k, d), (k * rank, d)))
    total = 0.
    for piece in x.split(max(1, PIECE // now.width)):
        z = piece.double() - now.middle
        joint, y = now.joint(z)
        log_prob = joint.logsumexp(1, keepdim=True)
        r = (joint - log_prob).exp()
        total += float(log_prob.sum())
        n += r.sum(0)
        first += r.T @ z
        second += r.T @ z.square()
        cross += (r[..., None] * y).flatten(1).T @ z
    return total / len(x), [n, first, second, cross.reshape(k, rank, d).mT]


def maximised(now: Gaussians, sums: list[Tensor], kind: Kind, reg: float | int) -> Gaussians:
    """The M-step: weight, mean and covariance of each component become those of its share of the points."""
    held = sums[0] > EMPTY
    n, first, second, cross = (s[held] for s in sums)
    u, mean = now.inverse.precisions.u[held], first / n[:, None]
    y = torch.einsum("kd,kdr->kr", mean - now.centres[held], u)
    var = (second / n[:, None] - mean.square()).clamp(min=0)
    su = cross / n[:, None, None] - mean[..., None] * y[:, None]
    after = kind.step(var, su, u, reg)
    means, old = now.means.clone(), Matrices(now.covariances.a.clone(), now.covariances.u.clone())
    means[held], old.a[held], old.u[held] = mean + now.middle, after.a, after.u
    return Gaussians(sums[0] / sums[0].sum(), means, old)
