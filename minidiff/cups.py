"""A cup with a fill level, the picture whose mean is known: half of a full and an empty cup is a half-full one."""
import functools
import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minidiff.scenes import BACKGROUNDS, COLOURS, rgb

LEFT, RIGHT, RIM, BOTTOM, WALL = .25, .75, .125, .875, .0625           # in picture sides; the origin is the top left
LEVELS = torch.linspace(0, 1, 101)                                     # that `read` tells apart


def covered(low: Tensor, high: Tensor, size: int) -> Float[Tensor, "b size"]:
    """How much of each of `size` pixels in a row lies between low and high [b], in picture sides."""
    edges = torch.arange(size + 1) / size
    inside = torch.minimum(edges[1:], high[:, None]) - torch.maximum(edges[:-1], low[:, None])
    return inside.clamp(min=0) * size


def box(x: tuple[float, float], top: Float[Tensor, "b"], bottom: float, size: int) -> Float[Tensor, "b 1 size size"]:
    """How much of each pixel a rectangle covers: the product of its two sides."""
    low, high = (torch.full_like(top, edge) for edge in x)
    tall = covered(top, torch.full_like(top, bottom), size)
    return (tall[:, :, None] * covered(low, high, size)[:, None, :])[:, None]


def render(level: Float[Tensor, "b"], colour: Int[Tensor, "b"], background: Int[Tensor, "b"], size: int = 16
           ) -> Float[Tensor, "b 3 size size"]:
    """Cups filled with water of a colour up to a level in [0, 1], on a background; the wall is white, on cream navy."""
    if not ((level >= 0) & (level <= 1)).all():
        raise ValueError("a fill level lies between 0, empty, and 1, full to the rim")
    back = rgb(BACKGROUNDS)[background][:, :, None, None]
    cream = (background == list(BACKGROUNDS).index("cream"))[:, None]
    wall = torch.where(cream, rgb(BACKGROUNDS)[2], rgb(COLOURS)[7])[:, :, None, None]
    rim = torch.full_like(level, RIM)
    outer, inner = box((LEFT, RIGHT), rim, BOTTOM, size), box((LEFT + WALL, RIGHT - WALL), rim, BOTTOM - WALL, size)
    surface = BOTTOM - WALL - level * (BOTTOM - WALL - RIM)
    water = box((LEFT + WALL, RIGHT - WALL), surface, BOTTOM - WALL, size)
    ink = rgb(COLOURS)[colour][:, :, None, None]
    return back + (outer - inner) * (wall - back) + water * (ink - back)


@functools.cache
def every(size: int) -> tuple[Tensor, Tensor]:
    """All cups that `read` knows, as rows, and what they show: level, colour, background."""
    shown = itertools.product(range(len(LEVELS)), range(len(COLOURS)), range(len(BACKGROUNDS)))
    shown = torch.tensor(list(shown))
    return render(LEVELS[shown[:, 0]], shown[:, 1], shown[:, 2], size).flatten(1), shown


def read(x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Level, colour and background of the nearest cup, and the root mean square of what it leaves unexplained.

    Each is [b]. An empty cup has no colour of water; the first of the table is given.
    """
    cups, shown = every(x.shape[-1])
    squares = torch.cdist(x.flatten(1), cups, compute_mode="donot_use_mm_for_euclid_dist")
    rest, best = squares.min(1)
    return LEVELS[shown[best, 0]], shown[best, 1], shown[best, 2], rest / x[0].numel() ** .5
