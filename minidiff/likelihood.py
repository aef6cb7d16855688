"""What a diffusion model's likelihood is: the bound that its steps give, and the density that its ODE gives.

A step of the model from t to s is p(x_s | x_t) = N(mean(x_t, x0_hat), var), and a `Reverse` is the function that knows
x0_hat and var. The ODE is a flow: it carries pictures to noise, and its log-determinant is the integral of a
divergence. Everything is in nats a picture; a list of times runs from noise to data, as for a sampler.
"""
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minidiff.autoencoder import kl_to_normal, log_normal
from minidiff.data import rng
from minidiff.gaussians import log_mass
from minidiff.mixture import GaussianMixture
from minidiff.samplers import Denoise, Pair, added_variance, slope
from minidiff.schedules import Schedule, like

Guess = tuple[Tensor, Tensor]                                      # x0_hat; var for all, a row or a number
Reverse = Callable[[Tensor, Tensor, Tensor], Guess]                # (x_t, t, s) -> guess
Traced = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]         # (x_t, t) -> x0_hat, and its divergence in x_t [b]


# --- the bound --------------------------------------------------------------------------------------------------------

class Bound(NamedTuple):
    """The three kinds of terms whose sum is at least -log p(x0), on average over the noise; in nats a picture."""
    prior: Float[Tensor, "b"]                              # KL(q(x_1 | x0) || N(0, I)), at time 1
    steps: Float[Tensor, "b k"]                            # KL(q(x_s | x_t, x0) || p(x_s | x_t)), from noise to data
    last: Float[Tensor, "b"]                               # -log p(x0 | x_t) at the last t above 0

    @property
    def total(self) -> Float[Tensor, "b"]:
        """Their sum."""
        return self.prior + self.steps.sum(1) + self.last


def bound(reverse: Reverse, x0: Float[Tensor, "b *d"], times: Float[Tensor, "n"], schedule: Schedule, *,
          terms: int | None = None, levels: int | None = None, seed: int = 0, first: int = 0) -> Bound:
    """-log p(x0) <= KL at time 1 + sum of the steps' KLs - log p(x0 | x_t) of the last step, each with fresh noise.

    terms: of the inner steps only so many are drawn for each picture, from equal stretches of the list, and weighed so
    that the mean of their sum is right. levels: x0 lies on so many even steps from -1 to 1, and the last term is the
    probability of its step; without levels it is a density. Row i depends on (seed, first + i).
    Source: Ho et al. 2020 (arXiv 2006.11239), equation 5, for any list of times.
    """
    inner, eps = len(times) - 2, streams(x0, seed, first)
    flat = x0.double().flatten(1)
    alpha, sigma = (like(c, flat) for c in schedule(times[0]))
    if inner < 0 or schedule(times[-1])[1] != 0:
        raise ValueError("the list of times must go in at least one step down to 0, where a picture has no noise.")

    def met(i: Tensor) -> tuple[Guess, Pair, Pair]:
        t, s = times[i], times[i + 1]
        at, to = schedule(t), schedule(s)
        return reverse(like(at[0], x0) * x0 + like(at[1], x0) * next(eps), t, s), at, to
    which = torch.arange(inner) if terms is None else strata(inner, terms, range(first, first + len(x0)), seed)
    kls = [step_kl(*met(i), x0) * inner / len(which) for i in which]
    return Bound(kl_to_normal(alpha * flat, sigma.expand_as(flat)), torch.stack(kls, 1) if kls else flat[:, :0],
                 -log_last(met(torch.tensor(inner))[0], x0, levels))


def streams(x: Float[Tensor, "b *d"], seed: int, first: int) -> Iterator[Float[Tensor, "b *d"]]:
    """Noise like x without end; row i has a stream of its own, from which eight draws are made at a time."""
    generators = [rng("bound", seed, first + i) for i in range(len(x))]
    while True:
        yield from torch.stack([torch.randn(8, *x.shape[1:], generator=g) for g in generators], 1).to(x)


def strata(n: int, k: int, rows: range, seed: int) -> Int[Tensor, "k b"]:
    """For each row k numbers out of 0 ... n-1, one from each of k equal stretches; together each is equally likely."""
    if not 1 <= k <= n:
        raise ValueError(f"{k} terms cannot be drawn from {n} inner steps; terms must be 1 to {n}, or None for all.")
    dice = torch.stack([torch.rand(k, generator=rng("terms", seed, row), dtype=torch.float64) for row in rows], 1)
    return ((torch.arange(k)[:, None] + dice) * n / k).long().clamp(max=n - 1)


def step_kl(guess: Guess, at: Pair, to: Pair, x0: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """KL(q(x_s | x_t, x0) || N(mean(x_t, x0_hat), var)); the means are alpha_s var_{t|s}/sigma_t^2 (x0 - x0_hat) apart.

    Source: Ho et al. 2020, equations 7 and 8.
    """
    x0_hat, var = guess
    added = added_variance(at, to)
    true, var = (wide(c, x0).double() for c in (added * (to[1] / at[1]) ** 2, var))
    far = like(to[0] * added / at[1] ** 2, x0) * (x0 - x0_hat)
    return ((true / var - 1 - (true / var).log() + far.double().square() / var) / 2).flatten(1).sum(1)


def one_term(guess: Guess, at: Pair, to: Pair, x0: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """The term of a step of its own for each row: its KL, or -log p(x0 | x_t) where the step is the last one."""
    last, (x0_hat, var) = to[1] == 0, (wide(part, x0).expand_as(x0) for part in guess)
    nats = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    inner = ~last
    if inner.any():
        rows = tuple(tuple(c[inner] for c in pair) for pair in (at, to))
        nats[inner] = step_kl((x0_hat[inner], var[inner]), *rows, x0[inner])
    if last.any():
        nats[last] = -log_last((x0_hat[last], var[last]), x0[last])
    return nats


def log_last(guess: Guess, x0: Float[Tensor, "b *d"], levels: int | None = None) -> Float[Tensor, "b"]:
    """log N(x0; x0_hat, var), or with levels the log-probability of x0's step, the outer steps open, number by number.

    Source: Ho et al. 2020, equation 13.
    """
    mean, std = guess[0].double(), wide(guess[1], x0).double().sqrt().expand_as(x0)
    if levels is None:
        return log_normal(x0.double().flatten(1), mean.flatten(1), std.flatten(1))
    step = (x0.double() + 1) / 2 * (levels - 1)
    if levels < 2 or ((step - step.round().clamp(0, levels - 1)).abs() > .01).any():
        raise ValueError(f"levels={levels} needs pictures whose numbers lie on so many even steps from -1 to 1.")
    low, high = ((step.round() + half) * 2 / (levels - 1) - 1 for half in (-.5, .5))
    low, high = low.masked_fill(low < -1, -math.inf), high.masked_fill(high > 1, math.inf)
    return log_mass((low - mean) / std, (high - mean) / std).flatten(1).sum(1)


def wide(c: Float[Tensor, "..."], x: Float[Tensor, "b *d"]) -> Float[Tensor, "..."]:
    """A variance, one for all, one a row or one a number, ready to be combined with x."""
    return c if c.ndim == x.ndim else like(c, x.double())


# --- the ODE as a flow ------------------------------------------------------------------------------------------------

def carry(traced: Traced, x0: Float[Tensor, "b *d"], times: Float[Tensor, "n"],
          schedule: Schedule) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b"]]:
    """z, where the ODE dy/dphi = v carries y = x / r from data to noise, and log |det dz/dx0|, the integral of div v.

    Heun's steps along the list of times backwards, (alpha, sigma) = r (cos(phi), sin(phi)): second order. At sigma = 0
    v = -tan(phi) (y + score) and its divergence are 0, if the data have a smooth density.
    Source: Chen et al. 2018 (arXiv 1806.07366), theorem 1; Song et al. 2021 (arXiv 2011.13456), appendix D.2.
    """
    levels = [(t, *polar(schedule(t))) for t in times.flip(0)]
    y, log_det = x0 / levels[0][1].to(x0), -x0[0].numel() * levels[0][1].log().expand(len(x0)).to(x0.device)
    for (t, r, phi), (s, r_s, phi_s) in zip(levels[:-1], levels[1:], strict=True):
        turn = phi_s - phi
        v, div = turning(traced, y * r.to(y), t, schedule)
        v_s, div_s = turning(traced, (y + turn.to(y) * v) * r_s.to(y), s, schedule)
        y, log_det = y + turn.to(y) * (v + v_s) / 2, log_det + turn * (div + div_s) / 2
    return y, log_det


def polar(at: Pair) -> Pair:
    """r and phi of (alpha, sigma) = r (cos(phi), sin(phi))."""
    return torch.hypot(*at), torch.atan2(at[1], at[0])


def turning(traced: Traced, x: Float[Tensor, "b *d"], t: Float[Tensor, ""],
            schedule: Schedule) -> tuple[Tensor, Tensor]:
    """v = (cos(phi) y - x0_hat) / sin(phi) and its divergence in y, (d cos(phi) - r div x0_hat) / sin(phi)."""
    alpha, sigma = at = schedule(t)
    if sigma == 0:
        return torch.zeros_like(x), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    r = torch.hypot(*at)
    x0_hat, div = traced(x, t)
    return slope(x, x0_hat, at), (x[0].numel() * alpha / r - r * div.double()) * r / sigma


def ode_log_prob(traced: Traced, x0: Float[Tensor, "b *d"], times: Float[Tensor, "n"],
                 schedule: Schedule) -> Float[Tensor, "b"]:
    """log p(x0) = log N(z; 0, I) + log |det dz/dx0|, in nats: the model is its ODE from pure noise.

    Source: Song et al. 2021 (arXiv 2011.13456), equation 39.
    """
    z, log_det = carry(traced, x0, times, schedule)
    return log_normal(z.double().flatten(1), torch.zeros(()), torch.ones(()).double()) + log_det


# --- the divergence of x0_hat -----------------------------------------------------------------------------------------

def by_autograd(denoise: Denoise) -> Traced:
    """sum_i d x0_hat_i / d x_i, exactly: as many backward passes as a picture has numbers. Rows must not mix."""
    def traced(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0_hat = denoise(x, t)
            sums = x0_hat.flatten(1).sum(0)
            parts = [torch.autograd.grad(sums[i], x, retain_graph=True)[0].flatten(1)[:, i] for i in range(len(sums))]
        return x0_hat.detach(), torch.stack(parts).double().sum(0)
    return traced


def by_probes(denoise: Denoise, probes: Float[Tensor, "k b *d"]) -> Traced:
    """The mean over k probes e of e^T J e, whose expectation is tr J, if e has mean 0 and covariance I.

    The probes are held along the whole path. Source: Hutchinson 1990; Grathwohl et al. 2019 (arXiv 1810.01367),
    section 3.1.
    """
    def traced(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0_hat = denoise(x, t)
            pulled = [torch.autograd.grad(x0_hat, x, e.to(x0_hat), retain_graph=True)[0] * e for e in probes]
        return x0_hat.detach(), torch.stack(pulled).double().flatten(2).sum(2).mean(0)
    return traced


def signs(k: int, shape: tuple[int, ...], seed: int, *, first: int = 0) -> Float[Tensor, "k b *d"]:
    """k probes of numbers +1 and -1 for each row; those of row i depend on (seed, first + i)."""
    rows = [torch.randint(2, (k, *shape[1:]), generator=rng("signs", seed, first + i)) for i in range(shape[0])]
    return torch.stack(rows, 1) * 2. - 1


def exact(mixture: GaussianMixture, schedule: Schedule) -> Traced:
    """E[x0 | x_t] of a spherical or diag mixture, and its divergence alpha/sigma^2 tr Cov[x0 | x_t].

    In component k, x0 | x_t has the mean mu_k + gain_k (x_t - alpha mu_k) and the covariance sigma^2/alpha gain_k.
    """
    def traced(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = map(float, schedule(t))
        g, gain = mixture.gaussians.noised(alpha, sigma), mixture.gaussians.covariances.gain(alpha, sigma)
        if gain.u.shape[2]:
            raise ValueError("this divergence is for spherical and diag mixtures: use by_autograd for the others.")
        a, b = gain.a, (1 - alpha * gain.a) * mixture.means_                       # component k guesses a_k x + b_k

        def both(z: Tensor) -> Tensor:
            r, x = g.joint(z)[0].softmax(1), z + g.middle
            mean = (r @ a) * x + r @ b
            square = (r @ a.square()) * x.square() + 2 * (r @ (a * b)) * x + r @ b.square() - mean.square()
            trace = (r @ a).expand_as(x).sum(1) + alpha / sigma ** 2 * square.sum(1)
            return torch.cat([mean, trace[:, None]], 1)
        found = g.over(both, x.flatten(1))
        return found[:, :-1].reshape(x.shape).to(x.dtype), found[:, -1]
    return traced
