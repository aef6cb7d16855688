"""From noise to a picture: the one loop, its steps, and two second-order solvers.

A step goes from time t to the next time s in the list; `at` and `to` are the schedule's (alpha, sigma) at t and s.
Every path is a generator of (x_s, x0_hat): films, previews and early stops cost nothing.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff.data import rng
from minidiff.schedules import Schedule, like

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> x0_hat = E[x0 | x_t]
Pair = tuple[Tensor, Tensor]
Path = Iterator[tuple[Tensor, Tensor]]


def noise_like(seed: int, *, first: int = 0) -> Callable[[Tensor], Tensor]:
    """A `randn_like` for a step, with a stream of its own for each row; make a new one for every run.

    `sample(..., step=partial(ddim_step, eta=1., randn_like=noise_like(0)))`. The streams differ from those of `noise`.
    """
    streams: list[torch.Generator] = []

    def randn_like(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        streams.extend(rng("steps", seed, first + i) for i in range(len(streams), len(x)))
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in streams[: len(x)]]).to(x)

    return randn_like


def added_variance(at: Pair, to: Pair) -> Float[Tensor, "..."]:
    """var_{t|s} = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2: the noise that comes in between s and t.

    Kingma, Salimans, Poole & Ho (2021, arXiv 2107.00630), appendix A.1. It is DDPM's beta_t for s = t - 1.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    var = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    if not (var >= 0).all():
        raise ValueError("a step that draws noise must go to a time with less noise: walk the other way with eta = 0.")
    return var


def ddim_step(
    x: Float[Tensor, "b *d"],
    x0: Float[Tensor, "b *d"],
    at: Pair,
    to: Pair,
    *,
    eta: float = 0.0,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Float[Tensor, "b *d"]:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps_hat + std z,  std^2 = eta^2 var_{t|s} sigma_s^2 / sigma_t^2.

    Song, Meng & Ermon (2020, arXiv 2010.02502), equations 12 and 16, for any (alpha, sigma).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    if (sigma_t == 0).any():
        raise ValueError("a picture without noise shows no direction of noise: the first time must be above 0.")
    eps_hat = (x - like(alpha_t, x) * x0) / like(sigma_t, x)
    if eta == 0:
        return like(alpha_s, x) * x0 + like(sigma_s, x) * eps_hat
    std = eta * added_variance(at, to).sqrt() * sigma_s / sigma_t
    kept = (sigma_s**2 - std**2).clamp(min=0).sqrt()
    return like(alpha_s, x) * x0 + like(kept, x) * eps_hat + like(std, x) * randn_like(x)


def ancestral_step(
    x: Float[Tensor, "b *d"],
    x0: Float[Tensor, "b *d"],
    at: Pair,
    to: Pair,
    *,
    large: bool = False,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Float[Tensor, "b *d"]:
    """x_s ~ q(x_s | x_t, x0): mean (alpha_t/alpha_s) (sigma_s/sigma_t)^2 x + alpha_s (var_{t|s}/sigma_t^2) x0.

    Its variance is var_{t|s} sigma_s^2 / sigma_t^2, or with `large` var_{t|s}; no noise is drawn into sigma_s = 0.
    Ho, Jain & Abbeel (2020, arXiv 2006.11239), equations 6 and 7, for any (alpha, sigma) and any skip.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    var = added_variance(at, to)
    mean = like(alpha_t / alpha_s * (sigma_s / sigma_t) ** 2, x) * x + like(alpha_s * var / sigma_t**2, x) * x0
    std = var.sqrt() * (torch.sign(sigma_s) if large else sigma_s / sigma_t)
    return mean + like(std, x) * randn_like(x)


def sample_path(
    denoise: Denoise,
    x: Float[Tensor, "b *d"],
    times: Float[Tensor, "n"],
    schedule: Schedule,
    *,
    step: Callable[..., Tensor] = ddim_step,
) -> Path:
    """Guess the picture, take the step, and again: yields (x_s, x0_hat) after each step of the list of times."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        with torch.no_grad():  # in here and not around `yield`, whose caller may want gradients
            x0 = denoise(x, t)
            x = step(x, x0, schedule(t), schedule(s))
        yield x, x0


def last(path: Path) -> Float[Tensor, "b *d"]:
    """The x at the end of a path, keeping nothing on the way: `last(heun_path(...))`."""
    end = None
    for x, _ in path:
        end = x
    if end is None:
        raise ValueError("the path has no step, but its list of times must hold at least two.")
    return end


def sample(
    denoise: Denoise,
    x: Float[Tensor, "b *d"],
    times: Float[Tensor, "n"],
    schedule: Schedule,
    *,
    step: Callable[..., Tensor] = ddim_step,
) -> Float[Tensor, "b *d"]:
    """The last x of `sample_path`."""
    return last(sample_path(denoise, x, times, schedule, step=step))


def slope(x: Float[Tensor, "b *d"], x0: Float[Tensor, "b *d"], at: Pair) -> Float[Tensor, "b *d"]:
    """v = dy/dphi = (cos(phi) y - x0) / sin(phi), with y = x / r and (alpha, sigma) = r (cos(phi), sin(phi)).

    Salimans & Ho (2022, arXiv 2202.00512), appendix D.
    """
    alpha, sigma = at
    r = torch.hypot(alpha, sigma)
    return (like(alpha / r**2, x) * x - x0) * like(r / sigma, x)


def heun_path(denoise: Denoise, x: Float[Tensor, "b *d"], times: Float[Tensor, "n"], schedule: Schedule) -> Path:
    """y_s = y_t + (phi_s - phi_t) (v_t + v_s) / 2: look at where DDIM lands, then go with the mean of the two slopes.

    Second order, two evaluations a step. In the angle phi nothing becomes infinite, at the noise or at the data.
    Karras, Aittala, Aila & Laine (2022, arXiv 2206.00364), algorithm 1, who step in sigma / alpha.
    """
    for t, s in zip(times[:-1], times[1:], strict=True):
        at, to = schedule(t), schedule(s)
        with torch.no_grad():
            x0 = denoise(x, t)
            there = ddim_step(x, x0, at, to)
            if (to[1] > 0).all():  # into sigma = 0 the second guess would be `there` itself
                v = (slope(x, x0, at) + slope(there, denoise(there, s), to)) / 2
                turn = torch.atan2(to[1], to[0]) - torch.atan2(at[1], at[0])
                there = like(torch.hypot(*to), x) * (x / like(torch.hypot(*at), x) + like(turn, x) * v)
        x = there
        yield x, x0


def dpmpp_path(denoise: Denoise, x: Float[Tensor, "b *d"], times: Float[Tensor, "n"], schedule: Schedule) -> Path:
    """A DDIM step with x0 extrapolated to mid-step: x0 + h / (2 h_before) (x0 - x0_before), h in log(alpha/sigma).

    Second order for one evaluation a step, because the guess of the step before is used again. The first and the last
    step are plain DDIM; so is the second where alpha = 0 at the start (h_before is infinite there).

    Lu et al. (2022, arXiv 2211.01095), algorithm 2 (DPM-Solver++ 2M).
    """
    log_ratio = [torch.log(alpha / sigma) for alpha, sigma in map(schedule, times)]
    x0 = before = None
    for i in range(len(times) - 1):
        with torch.no_grad():
            before, x0 = x0, denoise(x, times[i])
            mid = x0
            if 0 < i < len(times) - 2:
                h, h_before = log_ratio[i + 1] - log_ratio[i], log_ratio[i] - log_ratio[i - 1]
                mid = x0 + like(h / (2 * h_before), x) * (x0 - before)
            x = ddim_step(x, mid, schedule(times[i]), schedule(times[i + 1]))
        yield x, x0
