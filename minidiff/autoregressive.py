"""Drawing pixel by pixel. First the way that fails: every pixel on its own."""
import torch
from jaxtyping import Float, Int
from torch import Tensor


def rounded(pictures: Float[Tensor, "n c h w"], levels: int = 11) -> Float[Tensor, "n c h w"]:
    """Every channel on the nearest of `levels` even steps from -1 to 1, so that colours can be counted.

    Source: chapter 0.
    """
    if levels < 2:
        raise ValueError(f"a channel needs at least 2 levels to show anything, not {levels}")
    return ((pictures + 1) / 2 * (levels - 1)).round() / (levels - 1) * 2 - 1


def colour_codes(pictures: Float[Tensor, "n c h w"]) -> Int[Tensor, "n d"]:
    """One whole number for each pixel, equal where the colours are equal; d = h * w. Source: chapter 0."""
    colours = pictures.flatten(2).movedim(1, 2)                                 # [n d c]
    _, codes = colours.reshape(-1, colours.shape[2]).unique(dim=0, return_inverse=True)
    return codes.reshape(len(pictures), -1)


def independent_pixels(pictures: Float[Tensor, "n c h w"], count: int,
                       generator: torch.Generator) -> Float[Tensor, "m c h w"]:
    """x ~ prod_i p_i(x_i): pixel i is pixel i of one of the pictures, drawn anew for every pixel.

    Source: chapter 0, equation 0.5.
    """
    n, c, h, w = pictures.shape
    pick = torch.randint(n, (count, 1, h, w), generator=generator)
    return pictures.gather(0, pick.expand(-1, c, -1, -1))


def entropy(values: Int[Tensor, "n *d"]) -> float:
    """-sum p log2 p in bits, p the shares of the distinct rows."""
    p = values.unique(dim=0, return_counts=True)[1].double() / len(values)
    return float(-(p * p.log2()).sum())


def cost_of_independence(codes: Int[Tensor, "n d"]) -> float:
    """KL(p || prod_i p_i) = sum_i H(x_i) - H(x) in bits, p uniform over the rows; never below 0.

    Source: chapter 0, equation 0.6.
    """
    return sum(entropy(pixel) for pixel in codes.unbind(1)) - entropy(codes)
