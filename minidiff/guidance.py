"""Functions that bend a denoiser: each takes a function (x, t) -> x0_hat and gives another one."""

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff.samplers import Denoise


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
