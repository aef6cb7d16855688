"""Noise schedules: how much picture and how much noise there is at time t, x_t = alpha_t x0 + sigma_t eps.

Time runs from t = 0 (data) to t = 1 (noise) on every schedule. A schedule is any function of t alone that gives the
pair (alpha, sigma). It computes in float64 on the CPU; `like` brings its numbers to a batch's shape, dtype and device.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]


def like(c: Float[Tensor, "..."], x: Float[Tensor, "b *d"]) -> Float[Tensor, "..."]:
    """c, one number or one a row ([] or [b]), ready to be multiplied with the batch x."""
    if c.ndim > 1:
        raise ValueError(f"a coefficient has shape {list(c.shape)}, but it must be [] or [b], one number a row.")
    c = c.to(x.dtype).to(x.device)
    return c if c.ndim == 0 else c.reshape(-1, *[1] * (x.ndim - 1))


def exact_time(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """t in float64 on the CPU, once it is known to be a time that was never rounded to 16 bits."""
    if t.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"times are fractions in [0, 1] in float32 or float64, not {t.dtype}: divide step numbers by "
                         "T, and keep times out of 16 bits, which cannot tell one step from the next.")
    t = t.cpu().double()
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"times must lie between 0 (data) and 1 (noise), not {t.min():g} to {t.max():g}.")
    return t


def trigonometric(t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): a quarter turn, variance preserving, exactly 0 at the ends.

    Salimans & Ho (2022, arXiv 2202.00512), section 4 and appendix D.
    """
    t = exact_time(t)
    return torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)


def rectified(t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """alpha = 1 - t, sigma = t: straight lines from data to noise.

    Liu, Gong & Liu (2022, arXiv 2209.03003), equation 1, with their time run backwards.
    """
    t = exact_time(t)
    return 1 - t, t


class DiscreteSchedule:
    """alpha = sqrt(alpha_bar_k), sigma = sqrt(1 - alpha_bar_k) with k = round(t T), from a table k = 0 ... T.

    The table is a plain float64 tensor and no module's buffer, so `.half()` and `.to(device)` cannot touch it.
    Ho, Jain & Abbeel (2020, arXiv 2006.11239), equation 4.
    """

    def __init__(self, alpha_bar: Float[Tensor, "n"]):
        alpha_bar = alpha_bar.detach().cpu().double()
        if alpha_bar.ndim != 1 or len(alpha_bar) < 2 or alpha_bar[0] != 1 or alpha_bar[-1] < 0:
            raise ValueError("alpha_bar must hold T + 1 numbers, the first exactly 1 and none below 0.")
        if not (alpha_bar.diff() < 0).all():
            raise ValueError("alpha_bar must fall from each step to the next, because every step adds noise.")
        self.alpha_bar = alpha_bar
        self.T = len(alpha_bar) - 1

    @classmethod
    def from_betas(cls, beta: Float[Tensor, "t"]) -> "DiscreteSchedule":
        """alpha_bar_k = (1 - beta_1) ... (1 - beta_k), with alpha_bar_0 = 1."""
        beta = beta.detach().cpu().double()
        return cls(torch.cat([torch.ones(1).double(), torch.cumprod(1 - beta, 0)]))

    @classmethod
    def linear(cls, T: int = 1000) -> "DiscreteSchedule":
        """beta_k from 1e-4 to 0.02 in equal steps, whatever T is: a short schedule ends with picture left over.

        Ho, Jain & Abbeel (2020, arXiv 2006.11239), section 4.
        """
        return cls.from_betas(torch.linspace(1e-4, 0.02, T, dtype=torch.float64))

    @classmethod
    def cosine(cls, T: int = 1000) -> "DiscreteSchedule":
        """alpha_bar_k = f(k) / f(0), f(k) = cos^2(pi/2 (k/T + s) / (1 + s)), s = 0.008, each beta at most 0.999.

        Nichol & Dhariwal (2021, arXiv 2102.09672), equation 17.
        """
        s = 0.008
        f = torch.cos(math.pi / 2 * (torch.arange(T + 1).double() / T + s) / (1 + s)) ** 2
        return cls.from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))

    def __call__(self, t: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        alpha_bar = self.alpha_bar[torch.round(exact_time(t) * self.T).long()]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def __repr__(self) -> str:
        return f"DiscreteSchedule(T={self.T}, alpha_bar_T={self.alpha_bar[-1]:.3g})"


def add_noise(
    schedule: Schedule, x0: Float[Tensor, "b *d"], t: Float[Tensor, "..."], eps: Float[Tensor, "b *d"]
) -> Float[Tensor, "b *d"]:
    """x_t = alpha_t x0 + sigma_t eps, straight from x0 in one go.

    Ho, Jain & Abbeel (2020, arXiv 2006.11239), equation 4.
    """
    alpha, sigma = schedule(t)
    return like(alpha, x0) * x0 + like(sigma, x0) * eps


def times(n: int, T: int | None = None) -> Float[Tensor, "m"]:
    """1, (n-1)/n, ..., 1/n, 0: the n + 1 times of n equal steps from noise to data, in float64.

    With T they are rounded to the T steps of a discrete schedule: `times(50, schedule.T)`.
    """
    if n < 1 or (T is not None and n > T):
        most = "" if T is None else f" and at most the schedule's T = {T}"
        raise ValueError(f"{n} steps were asked for, but it must be at least 1{most}.")
    t = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    return t if T is None else torch.round(t * T) / T


def logit_normal(n: int, mean: float = 0.0, std: float = 1.0) -> Float[Tensor, "n"]:
    """Random times 1/(1 + exp(-u)) with u ~ N(mean, std^2): training then sees more of the middle than of the ends.

    Esser et al. (2024, arXiv 2403.03206), section 3.1.
    """
    return torch.sigmoid(mean + std * torch.randn(n))
