"""Drawing pixel by pixel: every pixel on its own, which fails, and each after those before it, as a writer writes."""
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.captions import VOCABULARY, encode, write
from minidiff.data import rng
from minidiff.layers import TransformerBlock
from minidiff.scenes import Scenes


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


# --- a palette: pictures as sequences of whole numbers ---------------------------------------------------------------

def palette(pictures: Float[Tensor, "n c h w"], colours: int, seed: int = 0, rounds: int = 20) -> Float[Tensor, "k c"]:
    """k colours that are near to the colours of all pixels: k-means, started by k-means++.

    Source: Lloyd 1982; the start: Arthur & Vassilvitskii 2007; for pixels: Chen et al. 2020 (iGPT).
    """
    points, count = pictures.movedim(1, -1).flatten(0, 2).unique(dim=0, return_counts=True)
    if not 0 < colours <= len(points):
        raise ValueError(f"these pictures have {len(points)} different colours: ask for that many or fewer, not "
                         f"{colours}")
    generator, chosen, weight = rng("palette", seed), points[:0], count.float()
    far = torch.full((len(points),), 4. * points.shape[1])                        # no two colours are farther apart
    for _ in range(colours):
        chosen = torch.cat([chosen, points[torch.multinomial(weight * far, 1, generator=generator)]])
        far = torch.minimum(far, (points - chosen[-1]).square().sum(1))
    for _ in range(rounds):                                       # each colour moves to the mean of those nearest to it
        nearest = torch.cdist(points, chosen).argmin(1)
        total = torch.zeros(colours).index_add(0, nearest, weight)
        sums = torch.zeros_like(chosen).index_add(0, nearest, weight[:, None] * points)
        chosen = torch.where(total[:, None] > 0, sums / total.clamp(min=1)[:, None], chosen)
    return chosen


def to_codes(pictures: Float[Tensor, "n c h w"], palette: Float[Tensor, "k c"]) -> Int[Tensor, "n d"]:
    """The number of the nearest colour for each pixel, row by row from the top left."""
    return torch.cdist(pictures.movedim(1, -1).flatten(1, 2), palette).argmin(-1)


def to_pictures(codes: Int[Tensor, "n d"], palette: Float[Tensor, "k c"]) -> Float[Tensor, "n c h w"]:
    """Square pictures from the numbers of their colours."""
    side = round(codes.shape[1] ** .5)
    if side * side != codes.shape[1]:
        raise ValueError(f"{codes.shape[1]} pixels do not fill a square")
    return palette[codes].unflatten(1, (side, side)).movedim(-1, 1)


class Written(NamedTuple):
    """Captions as word numbers, and the pictures that they tell of as colour numbers."""
    captions: Int[Tensor, "b l"]
    codes: Int[Tensor, "b d"]


def written(scenes: Scenes, codes: Int[Tensor, "n d"], batch: int, seed: int = 0) -> Callable[[int], Written]:
    """Random scenes with fresh captions and their codes: step -> batch."""
    def at(step: int) -> Written:
        generator = rng("written", seed, step)
        pick = torch.randint(len(scenes), (batch,), generator=generator)
        return Written(encode(write(scenes[pick], generator)), codes[pick])
    return at


# --- what every autoregressive model has in common -------------------------------------------------------------------

class Autoregressive(nn.Module):
    """p(x | y) = prod_i p(x_i | y, x_1, ..., x_(i-1)); a subclass computes the factors in `forward`.

    forward(captions [b l], codes [b m]) gives the logits of the pixels 0 ... m, each from the caption and the pixels
    before it: [b m+1 k].
    """

    def bits(self, captions: Int[Tensor, "b l"], codes: Int[Tensor, "b n"]) -> Float[Tensor, "b"]:
        """-log2 p(x | y) of whole pictures. Source: chapter 0, equation 0.12."""
        logits = self(captions, codes[:, :-1])                                    # [b n k]
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").sum(1) / math.log(2)

    def loss(self, batch: Written) -> dict[str, Tensor]:
        """The mean of -log p(x_i | y, x_1 ... x_(i-1)) over all pixels, in nats; `bits` are by picture."""
        bits = self.bits(batch.captions, batch.codes).mean()
        return {"loss": bits * math.log(2) / batch.codes.shape[1], "bits": bits.detach()}

    def next(self, captions: Int[Tensor, "b l"], codes: Int[Tensor, "b m"], cache: list | None) -> Float[Tensor, "b k"]:
        """Logits of the pixel that follows; `cache` is a list in which a model may keep what it needs again."""
        return self(captions, codes)[:, -1]

    @torch.no_grad()
    def path(self, captions: list[str], dice: Float[Tensor, "b n"], *, temperature: float = 1.,
             cached: bool = True) -> Iterator[Int[Tensor, "b i"]]:
        """The codes so far, after each pixel: the colour at which the summed probabilities pass the pixel's die.

        dice: numbers from 0 to 1, one for each pixel; temperature divides the logits.
        """
        if len(dice) != len(captions) or temperature <= 0:
            raise ValueError(f"each of {len(captions)} captions needs a row of dice, not {len(dice)} rows, and the "
                             f"temperature is above 0, not {temperature:g}")
        numbers, codes, cache = encode(captions), dice[:, :0].long(), [] if cached else None
        for die in dice.T:
            p = (self.next(numbers, codes, cache) / temperature).softmax(-1)     # [b k]
            colour = (p.cumsum(-1) < die[:, None]).sum(-1).clamp(max=p.shape[1] - 1)
            codes = torch.cat([codes, colour[:, None]], 1)
            yield codes


# --- a short past: the p pixels before -------------------------------------------------------------------------------

def past(x: Tensor, p: int) -> Tensor:
    """The p values before each place of a sequence, zeros before its beginning: [n d] -> [n d p]."""
    return F.pad(x, (p, 0))[:, :-1].unfold(1, p, 1)


def linear_ar(x: Float[Tensor, "n d"], p: int) -> tuple[Float[Tensor, "q"], float]:
    """x_i = a_1 x_(i-p) + ... + a_p x_(i-1) + a_(p+1) + std * noise by least squares: (a, std), q = p + 1.

    Source: Yule 1927; with Gaussian noise this is maximum likelihood.
    """
    inputs = F.pad(past(x, p), (0, 1), value=1.).flatten(0, 1).double()
    a = torch.linalg.lstsq(inputs, x.flatten()[:, None].double(), driver="gelsd").solution[:, 0]
    return a.to(x.dtype), float((x.flatten() - inputs @ a).square().mean().sqrt())


def linear_bits(x: Float[Tensor, "n d"], levels: Float[Tensor, "k"], a: Float[Tensor, "q"],
                std: float) -> Float[Tensor, "n"]:
    """-log2 p of sequences of the rising `levels`; each reaches half-way to its neighbours. Source: chapter 0."""
    mean = F.pad(past(x, len(a) - 1), (0, 1), value=1.) @ a
    edges = F.pad((levels[1:] + levels[:-1]) / 2, (1, 1))
    edges[0], edges[-1] = -torch.inf, torch.inf
    k = torch.bucketize(x.contiguous(), edges[1:-1])
    low, high = ((edge - mean).double() / std for edge in (edges[k], edges[k + 1]))
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)     # the tail that does not cancel
    a, b = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return -(a + torch.log1p(-(b - a).exp())).sum(1) / math.log(2)


def linear_draw(a: Float[Tensor, "q"], std: float, noise: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Sequences of the linear model, place by place, from standard normal noise."""
    x = noise.new_zeros(len(noise), len(a) - 1)                                   # the zeros before the beginning
    for z in noise.T:
        x = torch.cat([x, (x[:, 1 - len(a):] @ a[:-1] + a[-1] + std * z)[:, None]], 1)
    return x[:, len(a) - 1:]


class CausalConvolution(Autoregressive):
    """p(x_i | the p pixels before it), whatever the caption: a convolution over them, then two layers at each place.

    d: the numbers at each place in between; 0 leaves the two layers out: the logits are sums of what each pixel adds.
    Source: van den Oord et al. 2016 (arXiv 1609.03499), section 2.1, with one layer that looks back.
    """

    def __init__(self, colours: int, p: int = 34, d: int = 64):
        super().__init__()
        self.p, self.colour = p, nn.Embedding(colours, 16)
        deep = (nn.GELU(), nn.Conv1d(d, d, 1), nn.GELU(), nn.Conv1d(d, colours, 1)) if d else ()
        self.net = nn.Sequential(nn.Conv1d(16, d or colours, p), *deep)

    def forward(self, captions: Int[Tensor, "b l"], codes: Int[Tensor, "b m"]) -> Float[Tensor, "b n k"]:
        """Logits of the pixels 0 ... m; n = m + 1."""
        x = F.pad(self.colour(codes), (0, 0, self.p, 0))                          # [b p+m 16]
        return self.net(x.transpose(1, 2)).transpose(1, 2)


# --- pixel GPT -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class PixelGPTConfig:
    """Colours of the palette, side of the pictures; width, depth and heads of the transformer; words of captions."""
    colours: int = 64
    side: int = 16
    d: int = 96
    layers: int = 4
    heads: int = 4
    words: tuple[str, ...] = VOCABULARY
    length: int = 16                                     # tokens of the longest caption


class PixelGPT(Autoregressive):
    """p(x | y) = prod_i p(x_i | y, x_1, ..., x_(i-1)): the caption's words, then the pixels, as one sequence.

    Source: Chen et al. 2020 (iGPT), section 2; with a caption in front: Ramesh et al. 2021 (arXiv 2102.12092).
    """

    def __init__(self, config: PixelGPTConfig):
        super().__init__()
        self.config, d = config, config.d
        self.register_buffer("palette", torch.zeros(config.colours, 3))
        self.word, self.colour = nn.Embedding(len(config.words), d), nn.Embedding(config.colours, d)
        self.place = nn.Parameter(torch.randn(config.length, d) * .1)             # of a word
        self.row, self.column = (nn.Parameter(torch.randn(config.side, d) * .1) for _ in range(2))
        self.blocks = nn.ModuleList(TransformerBlock(d, config.heads) for _ in range(config.layers))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, config.colours)

    def words(self, captions: Int[Tensor, "b l"]) -> Float[Tensor, "b p d"]:
        """The first part of the sequence, as long as the longest caption that the model is made for."""
        if captions[:, self.config.length:].any():
            raise ValueError(f"a caption is longer than the {self.config.length} tokens that this model reads")
        return self.word(captions[:, :self.config.length]) + self.place

    def pixels(self, codes: Int[Tensor, "b m"], first: int = 0) -> Float[Tensor, "b m d"]:
        """The second part: colours at their places, from pixel number `first` on."""
        at = (self.row[:, None] + self.column).flatten(0, 1)                      # [side^2 d]
        if first + codes.shape[1] > len(at):
            raise ValueError(f"a picture of this model has {len(at)} pixels, not {first + codes.shape[1]} or more")
        return self.colour(codes) + at[first:first + codes.shape[1]]

    def read(self, x: Float[Tensor, "b m d"], past: list[list] | None = None) -> Float[Tensor, "b m k"]:
        """After each token, the logits of the pixel that follows; past: the key-value caches of the blocks."""
        for block, cache in zip(self.blocks, past or [None] * len(self.blocks), strict=True):
            x = block(x, causal=True, past=cache)
        return self.head(self.norm(x)).float()

    def forward(self, captions: Int[Tensor, "b l"], codes: Int[Tensor, "b m"]) -> Float[Tensor, "b n k"]:
        """Logits of the pixels 0 ... m, each from the caption and the pixels before it; n = m + 1."""
        x = torch.cat([self.words(captions), self.pixels(codes)], 1)
        return self.read(x)[:, self.config.length - 1:]

    def next(self, captions: Int[Tensor, "b l"], codes: Int[Tensor, "b m"], cache: list | None) -> Float[Tensor, "b k"]:
        """Logits of the pixel that follows. With a cache of keys and values, only the newest token is read."""
        if cache is None:
            return super().next(captions, codes, cache)
        if not cache:
            cache.extend([] for _ in self.blocks)
        m = codes.shape[1]
        return self.read(self.pixels(codes[:, -1:], m - 1) if m else self.words(captions), cache)[:, -1]

    def paint(self, captions: list[str], *, seed: int = 0, first: int = 0,
              temperature: float = 1.) -> Float[Tensor, "b 3 h w"]:
        """Pictures of the captions; the i-th depends on its caption, the seed and first + i alone."""
        if isinstance(captions, str) or not captions:
            raise TypeError("captions come as a list of at least one; put a single one into brackets")
        dice = torch.stack([torch.rand(self.config.side ** 2, generator=rng("dice", seed, first + i))
                            for i in range(len(captions))])
        *_, codes = self.path(captions, dice, temperature=temperature)
        return to_pictures(codes, self.palette)
