"""Functions that bend a denoiser: each takes a function (x, t) -> x0_hat and gives another one.

They compose in any order: clamp(inpaint(cfg(positive, negative, 3.0), known, mask)) is a denoiser like any other, and
no sampler or network learns of it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from minidiff.samplers import Denoise, Path, added_variance, ddim_step
from minidiff.schedules import Schedule, like

LogProb = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> log p(y | x_t), one number a row


def cfg(positive: Denoise, negative: Denoise, scale: float) -> Denoise:
    """x0_negative + scale (x0_positive - x0_negative): 1 is off, 0 is the negative alone, above 1 overshoots.

    The negative is the guess without the caption, or with a caption to keep away from.
    Ho & Salimans (2022, arXiv 2207.12598), equation 6, with scale = 1 + w.
    """
    if scale == 1:
        return positive

    def guided(x: Float[Tensor, "b *d"], t: Float[Tensor, "..."]) -> Float[Tensor, "b *d"]:
        away = negative(x, t)
        return away + scale * (positive(x, t) - away)

    return guided


def cfg_doubled(both: Denoise, scale: float) -> Denoise:
    """`cfg` with one evaluation of a doubled batch: `both` answers for the positive rows, then for the negative ones.

    The caller joins the two conditions, because only the network knows what a condition is:
    `cfg_doubled(partial(denoiser, cond=text_encoder(encode(captions + [""] * len(captions)))), 5.0)`.
    Ho & Salimans (2022, arXiv 2207.12598), equation 6.
    """

    def guided(x: Float[Tensor, "b *d"], t: Float[Tensor, "..."]) -> Float[Tensor, "b *d"]:
        x0, away = both(torch.cat([x, x]), t.expand(len(x)).repeat(2)).chunk(2)
        return away + scale * (x0 - away)

    return guided


def clamp(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """x0_hat kept between low and high, where pictures live.

    Ho, Jain & Abbeel (2020, arXiv 2006.11239), section 3.2 and their code.
    """
    return lambda x, t: denoise(x, t).clamp(low, high)


def by_gradient(denoise: Denoise, log_prob: LogProb, schedule: Schedule, scale: float) -> Denoise:
    """x0_hat + scale sigma^2 / alpha grad_x log p(y | x_t): Bayes' rule at scale 1, further the same way above.

    `log_prob` is asked at the noisy x_t; it may itself call the denoiser and judge x0_hat. Where alpha = 0 nothing of
    the picture is left in x_t, no y can be read there, and the quotient has no value: begin a little later.
    Dhariwal & Nichol (2021, arXiv 2105.05233), algorithm 2, with the score in place of eps.
    """

    def guided(x: Float[Tensor, "b *d"], t: Float[Tensor, "..."]) -> Float[Tensor, "b *d"]:
        alpha, sigma = schedule(t)
        if (alpha == 0).any():
            raise ValueError("a gradient cannot guide where alpha = 0: begin later, or use `interval`")
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            said = log_prob(at, t)
            if said.shape != x.shape[:1]:
                raise ValueError(f"log_prob gives one number a row, {list(x.shape[:1])}, not {list(said.shape)}")
            (uphill,) = torch.autograd.grad(said.sum(), at)
        return denoise(x, t) + like(scale * sigma**2 / alpha, x) * uphill

    return guided


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` at times from low to high, `plain` before and after; outside it costs nothing.

    Kynkaanniemi et al. (2024, arXiv 2404.07724), section 3.
    """

    def chosen(x: Float[Tensor, "b *d"], t: Float[Tensor, "..."]) -> Float[Tensor, "b *d"]:
        within = (t >= low) & (t <= high)
        if within.all() or not within.any():
            return (guided if within.all() else plain)(x, t)
        return torch.where(like(within.to(t), x) > 0, guided(x, t), plain(x, t))

    return chosen


def rescale(guided: Denoise, positive: Denoise, share: float = 0.7) -> Denoise:
    """The guided guess, shrunk by share to the spread that the unguided one has: a cure for colours that are too loud.

    share: 0 is off, 1 gives each row the standard deviation of `positive`, which is evaluated once more.
    Lin et al. (2023, arXiv 2305.08891), equations 15 and 16, on x0_hat.
    """

    def mended(x: Float[Tensor, "b *d"], t: Float[Tensor, "..."]) -> Float[Tensor, "b *d"]:
        loud = guided(x, t)
        wanted, found = (guess.flatten(1).std(1) for guess in (positive(x, t), loud))
        return like(1 - share + share * wanted / found, x) * loud

    return mended


def inpaint(denoise: Denoise, known: Float[Tensor, "b *d"], mask: Shaped[Tensor, "..."]) -> Denoise:
    """x0_hat where the mask is True, the known picture elsewhere; the mask needs only broadcast to x.

    Under DDIM with eta = 0 the known part of x_t stays alpha_t known + sigma_t eps with one and the same eps, if it is
    so at the start; under `ancestral_step` it is drawn from q(x_s | x_t, known) at every step.
    Song et al. (2021, arXiv 2011.13456), appendix I.2, who replace x_t; here it follows from x0.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask is True where to paint and False where the picture is known, not {mask.dtype}")
    return lambda x, t: torch.where(mask, denoise(x, t), known.to(x))


def back_and_forth(times: Float[Tensor, "n"], jump: int, repeats: int) -> Float[Tensor, "m"]:
    """The falling times in pieces of `jump` steps, each walked `repeats` times: down, up again, down.

    Lugmayr et al. (2022, arXiv 2201.09865), figure 9, with jumps that do not overlap.
    """
    if jump < 1 or repeats < 1 or len(times) < 2:
        raise ValueError(f"give two times, a jump of 1, 1 repeat or more, not {len(times)}, {jump}, {repeats}")
    pieces = [times[i : i + jump + 1] for i in range(0, len(times) - 1, jump)]
    walked = [part for piece in pieces for part in [*[piece] * (repeats - 1), piece[:-1]]]
    return torch.cat([*walked, times[-1:]])


def repaint_path(denoise: Denoise, x: Float[Tensor, "b *d"], times: Float[Tensor, "n"], schedule: Schedule, *,
                 step: Callable[..., Tensor] = ddim_step,
                 randn_like: Callable[[Tensor], Tensor] = torch.randn_like) -> Path:
    """`sample_path` on times that may also rise: there x_s = alpha_s / alpha_t x_t + fresh noise, q(x_s | x_t).

    So what is new may come to terms with what is known, again and again; for `inpaint` with `back_and_forth` times.
    Lugmayr et al. (2022, arXiv 2201.09865), algorithm 1.
    """
    x0 = x
    for t, s in zip(times[:-1], times[1:], strict=True):
        at, to = schedule(t), schedule(s)
        with torch.no_grad():
            if s > t:
                x = like(to[0] / at[0], x) * x + like(added_variance(to, at).sqrt(), x) * randn_like(x)
            else:
                x0 = denoise(x, t)
                x = step(x, x0, at, to)
        yield x, x0
