"""Mixtures of Gaussians: fitted, exact in density, score and noised self; and a world of scenes that is one."""
import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minidiff.captions import matches
from minidiff.data import rng
from minidiff.em import KINDS, Covariances, begun, expected, maximised
from minidiff.gaussians import Gaussians, Matrices, in_pieces
from minidiff.scenes import render, single

Scalar = float | int | Tensor

class GaussianMixture:
    """p(x) = sum_k w_k N(x; mu_k, C_k): weights_ [k], means_ [k d] and covariances_, found by `fit` or given to `of`.

    covariances_ has scikit-learn's form: full [k d d], diag [k d], spherical [k]; of lowrank, C = diag(a) + U U^T, it
    is the pair a [k d], U [k d rank]. Each step of EM adds reg to all variances. EM stops when the mean log-likelihood
    of a point changes by less than tol (0: after max_iter steps); the best of n_init starts is kept. `history_` holds
    that mean at the start and after each step, `converged_` tells whether tol stopped it.
    Points are [n d], or pictures, which are flattened. Densities are float64; what is like x has the dtype of x.
    """

    def __init__(self, k: int, covariance: str = "full", *, reg: float | int = 1e-6, tol: float | int = 1e-4,
                 max_iter: int = 100, n_init: int = 1, rank: int = 8, seed: int = 0):
        if covariance not in KINDS:
            raise ValueError(f"covariance is one of {', '.join(KINDS)}, not {covariance!r}")
        if min(k, max_iter, n_init, rank) < 1 or min(reg, tol) < 0:
            raise ValueError("k, max_iter, n_init and rank must be at least 1, and reg and tol at least 0")
        self.k, self.covariance, self.kind = k, covariance, KINDS[covariance]
        self.reg, self.tol, self.max_iter, self.n_init, self.rank, self.seed = reg, tol, max_iter, n_init, rank, seed
        self.fitted, self.history_, self.converged_ = None, [], False

    @classmethod
    def of(cls, weights: Float[Tensor, "..."], means: Float[Tensor, "k d"], covariances: Covariances,
           covariance: str = "full") -> "GaussianMixture":
        """The mixture with these parameters, covariances in the form of covariances_."""
        parts = [c.double() for c in (covariances if isinstance(covariances, tuple) else (covariances,))]
        (k, d), rank = means.shape, parts[-1].shape[-1]
        new = cls(k, covariance, rank=max(rank, 1))
        wanted, got = [(k,), *new.kind.shapes(k, d, rank)], [tuple(t.shape) for t in (weights, *parts)]
        if got != wanted:
            raise ValueError(f"weights and {covariance} covariances for {k} means of {d} numbers have the shapes "
                             f"{wanted}, not {got}")
        if not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-5:
            raise ValueError(f"weights must be at least 0 and add up to 1, not to {weights.sum():g}")
        weights, means = weights.double() / weights.double().sum(), means.double()
        new = new.holding(Gaussians(weights, means, new.kind.given(parts, means[:, :, None][:, :, :0])))
        new.log_prob(means[:1])                                # a singular covariance is refused now, not later
        return new

    def holding(self, gaussians: Gaussians) -> "GaussianMixture":
        """The same settings with other Gaussians."""
        new = copy.copy(self)
        new.fitted, new.history_, new.converged_ = gaussians, [], False
        return new

    @property
    def gaussians(self) -> Gaussians:
        """The Gaussians, if there are any."""
        if self.fitted is None:
            raise ValueError("this mixture has no parameters yet: call fit(x), or make it with GaussianMixture.of(...)")
        return self.fitted

    @property
    def weights_(self) -> Float[Tensor, "k"]:
        """w_k."""
        return self.gaussians.weights

    @property
    def means_(self) -> Float[Tensor, "k d"]:
        """mu_k."""
        return self.gaussians.means

    @property
    def covariances_(self) -> Covariances:
        """C_k, in the form of its kind."""
        return self.kind.shown(self.gaussians.covariances)

    # --- the density and what follows from it ------------------------------------------------------------------------

    def log_prob(self, x: Float[Tensor, "n *d"], levels: int | None = None) -> Float[Tensor, "n"]:
        """log p(x) = log sum_k w_k N(x; mu_k, C_k), in nats.

        levels: the exact log-probability of x when each number is rounded to so many even steps from -1 to 1, the outer
        ones open; for spherical and diag, and x on these steps.
        """
        g = self.gaussians
        x = rows(x, g.means.shape[1])
        return g.over(lambda z: g.joint(z)[0].logsumexp(1), x) if levels is None else g.log_steps(x, levels)

    def responsibilities(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n k"]:
        """P(k | x) = w_k N(x; mu_k, C_k) / p(x): how probable it is that x came from component k."""
        g = self.gaussians
        return g.over(lambda z: g.joint(z)[0].softmax(1), rows(x, g.means.shape[1]))

    def score(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        """grad log p(x) = -sum_k P(k | x) C_k^-1 (x - mu_k)."""
        g = self.gaussians

        def slope(z: Tensor) -> Tensor:
            return -g.inverse.precisions.pull(g.joint(z)[0].softmax(1), z, g.centres)
        return g.over(slope, rows(x, g.means.shape[1])).reshape(x.shape).to(x.dtype)

    def noised(self, alpha: Scalar, sigma: Scalar) -> "GaussianMixture":
        """The mixture that alpha x + sigma eps comes from: means alpha mu_k, covariances alpha^2 C_k + sigma^2 I."""
        return self.holding(self.gaussians.noised(*level(alpha, sigma)))

    def posterior_mean(self, x: Float[Tensor, "n *d"], alpha: Scalar, sigma: Scalar) -> Float[Tensor, "n *d"]:
        """E[x0 | alpha x0 + sigma eps = x] = sum_k P(k | x) (mu_k + gain_k (x - alpha mu_k)).

        P(k | x) is the noised mixture's, and gain_k = alpha C_k (alpha^2 C_k + sigma^2 I)^-1.
        """
        alpha, sigma = level(alpha, sigma)
        if sigma == 0:
            return x / alpha
        g, gain = self.gaussians.noised(alpha, sigma), self.gaussians.covariances.gain(alpha, sigma)

        def guess(z: Tensor) -> Tensor:
            r = g.joint(z)[0].softmax(1)
            return r @ self.means_ + gain.pull(r, z, g.centres)
        return g.over(guess, rows(x, g.means.shape[1])).reshape(x.shape).to(x.dtype)

    def sample(self, n: int, *, seed: int = 0) -> Float[Tensor, "n d"]:
        """n points; more points with the same seed begin with these."""
        weights, means, c = self.weights_, self.means_, self.gaussians.covariances
        k, d, rank = c.u.shape
        dice = torch.rand(n, 1 + d + rank, generator=rng("mixture", seed), dtype=torch.float64)

        def thrown(dice: Tensor) -> Tensor:
            i = torch.searchsorted(weights.cumsum(0), dice[:, 0].contiguous(), right=True).clamp(max=k - 1)
            z = torch.special.ndtri(dice[:, 1:].clamp(min=1e-17))
            return means[i] + c.a[i].sqrt() * z[:, :d] + (c.u[i] @ z[:, d:, None])[..., 0]
        return in_pieces(thrown, dice, d * (rank + 1))

    def entropy(self, n: int = 1000, *, seed: int = 0) -> tuple[float, float]:
        """H(k) + sum_k w_k H(N_k) - E[H(k | x)] in nats; the last from n samples, whose standard error comes second."""
        unsure = torch.special.entr(self.responsibilities(self.sample(n, seed=seed))).sum(1)
        within = self.gaussians.inverse.log_dets + self.means_.shape[1] * math.log(2 * math.pi * math.e)
        known = (torch.special.entr(self.weights_) + self.weights_ * within / 2).sum()
        return float(known - unsure.mean()), float(unsure.std() / n ** .5)

    def kl(self, log_prob: Callable[[Tensor], Tensor], n: int = 1000, *, seed: int = 0) -> tuple[float, float]:
        """KL(p || q) = E_p[log p(x) - log q(x)] in nats from n samples, p this mixture, log_prob(x [b d]) = log q(x).

        The standard error comes second. Both see the same samples, so that much of the noise cancels. If q is a network
        for pictures: `world.kl(lambda x: q.log_prob(x.float().reshape(-1, 3, 16, 16)))`.
        """
        x = self.sample(n, seed=seed)
        with torch.no_grad():
            gap = self.log_prob(x) - torch.cat([log_prob(piece).double().flatten() for piece in x.split(256)])
        return float(gap.mean()), float(gap.std() / n ** .5)

    # --- fitting -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n *d"], start: "GaussianMixture | None" = None) -> "GaussianMixture":
        """Maximum likelihood by EM, from k-means or from a given mixture of the same kind.

        Source: Dempster, Laird & Rubin 1977; chapter 1.
        """
        x, rank = rows(x, start.means_.shape[1] if start else None), (start or self).rank
        if len(x) < self.k:
            raise ValueError(f"{self.k} components need at least {self.k} points, not {len(x)}")
        if self.covariance == "lowrank" and rank >= x.shape[1]:
            raise ValueError(f"lowrank needs a rank below the {x.shape[1]} numbers of a point: not {rank}")
        if start and (start.k, start.covariance) != (self.k, self.covariance):
            raise ValueError(f"a fit of {self.k} {self.covariance} components begins with such components, "
                             f"not with {start.k} {start.covariance} ones")
        columns = self.kind.columns(x.shape[1], self.rank)
        starts = [start.gaussians] if start else (begun(x, self.k, columns, rng("fit", self.seed, i), reg=self.reg)
                                                  for i in range(self.n_init))
        best = max((self.climbed(x, g) for g in starts), key=lambda m: m.history_[-1])
        self.fitted, self.history_ = best.fitted, best.history_
        self.converged_ = abs(self.history_[-1] - self.history_[-2]) < self.tol
        for doubt in self.doubts(x):
            warnings.warn(doubt, stacklevel=3)                   # no_grad lies between
        return self

    def climbed(self, x: Float[Tensor, "n d"], now: Gaussians) -> "GaussianMixture":
        """E-step and M-step in turns."""
        likelihood, sums = expected(now, x)
        history = [likelihood]
        for _ in range(self.max_iter):
            now = maximised(now, sums, self.kind, self.reg)
            likelihood, sums = expected(now, x)
            history.append(likelihood)
            if abs(history[-1] - history[-2]) < self.tol:
                break
        new = self.holding(now)
        new.history_ = history
        return new

    def doubts(self, x: Float[Tensor, "n d"]) -> list[str]:
        """What should be known of the fit to x, in sentences."""
        empty = int((self.weights_ * len(x) < 1).sum())
        thin = int(((1 / self.gaussians.inverse.precisions.diagonal()).amin(1) < 2 * self.reg).sum())
        chosen = 0 < 1e-4 * x.var(0, correction=0).mean() < self.reg             # its width is meant
        sentences = {
            f"{empty} of {self.k} components hold less than one point: a smaller k would do.": empty,
            f"{thin} of {self.k} components have collapsed: in some direction only reg = {self.reg:g} gives them width "
            "and the likelihood means little; take a larger reg or a smaller k.": thin and not chosen,
            f"EM had not converged after {self.max_iter} steps, the last of which gained "
            f"{self.history_[-1] - self.history_[-2]:.2g} nats a point: take a larger max_iter or tol.":
                self.tol and not self.converged_}
        return [sentence for sentence, so in sentences.items() if so]


def rows(x: Float[Tensor, "n *d"], d: int | None = None) -> Float[Tensor, "n d"]:
    """x as rows of d numbers, if it can be."""
    if x.ndim < 2 or not x.is_floating_point() or d not in (None, math.prod(x.shape[1:])):
        raise ValueError(f"points are floating-point numbers, [n, {d or 'd'}], not {list(x.shape)} of {x.dtype}")
    if not x.isfinite().all():
        raise ValueError("points must be finite numbers, and some of these are nan or infinite")
    return x.flatten(1)


def level(alpha: Scalar, sigma: Scalar) -> tuple[float, float]:
    """alpha and sigma as Python's numbers, if they are a noise level."""
    if torch.as_tensor(alpha).numel() != 1 or torch.as_tensor(sigma).numel() != 1:
        raise ValueError("alpha and sigma are one number each: all points have the same noise level")
    alpha, sigma = float(alpha), float(sigma)
    if not (alpha >= 0 and sigma >= 0 and 0 < alpha + sigma < math.inf):
        raise ValueError(f"alpha and sigma are at least 0 and not both 0, not {alpha:g} and {sigma:g}")
    return alpha, sigma


# --- a world, and a file ---------------------------------------------------------------------------------------------

def of_world(name: str, std: float | int, given: str | None = None, size: int = 32) -> GaussianMixture:
    """A world as an exact mixture: x = picture of a scene + std eps, never clipped or rounded; x is [n, 3 size^2].

    Its scenes are those of the training list, equally likely; or those of them that fit the caption `given`.
    """
    if name != "single":
        raise ValueError(f"the scenes of world {name!r} cannot be listed; there is only 'single'")
    if not std > 0:
        raise ValueError(f"std must be above 0, or there is no density, not {std}")
    scenes = single("train")
    if given is not None:
        scenes = scenes[torch.tensor([matches(scene, given) for scene in scenes])]
    if not len(scenes):
        raise ValueError(f"no scene of the training list fits {given!r}; a caption of other scenes is needed")
    means, count = render(scenes, size).flatten(1).unique(dim=0, return_counts=True)
    variances = torch.full((len(means),), std ** 2, dtype=torch.float64)
    return GaussianMixture.of(count.double() / len(scenes), means, variances, "spherical")


@dataclass(frozen=True)
class StoredConfig:
    """The size and kind of a mixture."""
    k: int
    d: int
    covariance: str
    rank: int


class Stored(nn.Module):
    """A mixture as a file: `weights.save(path, Stored.of(mixture))`, then `weights.load(path).mixture()`; float32."""

    def __init__(self, config: StoredConfig):
        super().__init__()
        self.config, kind = config, KINDS[config.covariance]
        wide, rank = kind.columns(config.d, config.rank)
        shapes = {"weights": (config.k,), "means": (config.k, config.d), "std": (config.k, wide),
                  "u": (config.k, config.d, rank)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @staticmethod
    def of(mixture: GaussianMixture) -> "Stored":
        """The mixture's numbers, rounded to float32."""
        g = mixture.gaussians
        stored = Stored(StoredConfig(*g.means.shape, mixture.covariance, g.covariances.u.shape[2]))
        numbers = {"weights": g.weights, "means": g.means, "std": g.covariances.a.sqrt(), "u": g.covariances.u}
        stored.load_state_dict(numbers)
        return stored

    def mixture(self) -> GaussianMixture:
        """The mixture, ready for use."""
        weights, means, std, u = (self.get_buffer(name).double() for name in ("weights", "means", "std", "u"))
        new = GaussianMixture(self.config.k, self.config.covariance, rank=max(self.config.rank, 1))
        return new.holding(Gaussians(weights / weights.sum(), means, Matrices(std.square(), u)))
