"""The text encoder: a caption's words as vectors that have read each other."""
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minidiff.captions import LENGTH, VOCABULARY
from minidiff.layers import TransformerBlock


class Text(NamedTuple):
    """An encoded caption: a vector for each token, one for the whole, and which tokens are words and not padding."""
    tokens: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b d"]
    mask: Bool[Tensor, "b l"]


@dataclass(frozen=True)
class TextConfig:
    """Width, depth and heads of the transformer; length and words are the captions'."""
    d: int = 128
    layers: int = 3
    heads: int = 4
    length: int = LENGTH
    words: tuple[str, ...] = VOCABULARY


class TextEncoder(nn.Module):
    """Word numbers -> Text: words with their neighbours, then transformer blocks; the start token is for the whole.

    The convolution over five words ties "red" to the "circle" beside it from the first step on: attention alone takes
    long to find that out, and until then no model knows which thing has which colour.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        if VOCABULARY[:len(config.words)] != config.words:
            raise ValueError("this text encoder was trained on other words, or another order of them, than today")
        self.config = config
        self.word = nn.Embedding(len(config.words), config.d)
        self.neighbours = nn.Conv1d(config.d, config.d, 5, padding=2)
        self.position = nn.Parameter(torch.randn(config.length, config.d) * .3)
        self.blocks = nn.ModuleList(TransformerBlock(config.d, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d)

    def forward(self, numbers: Int[Tensor, "b l"]) -> Text:
        """Source: Radford et al. 2021 (arXiv 2103.00020), section 2.4, with attention in both directions."""
        longest = int((numbers > 0).sum(1).max())
        numbers = numbers[:, :longest + 2]                                      # what follows a caption: two of padding
        mask = numbers > 0
        x = self.word(numbers)                                                  # [b l d]
        x = x + self.neighbours(x.transpose(1, 2)).transpose(1, 2) + self.position[:x.shape[1]]
        for block in self.blocks:
            x = block(x, mask=mask)                                             # [b l d]
        x = self.norm(x)
        return Text(x, x[:, 0], mask)
