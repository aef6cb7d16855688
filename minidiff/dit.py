"""A denoising network without convolutions: the picture's patches are tokens, and the norms are told the time."""
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.layers import Attention, TimeEmbedding, sinusoids


@dataclass(frozen=True)
class DiTConfig:
    """What a diffusion transformer is made of; patch divides the side, heads divide the width, which 4 divides."""
    channels: int = 3                                   # of what is denoised
    side: int = 16
    patch: int = 2                                      # its squares are the tokens
    width: int = 64                                     # of a token
    depth: int = 4                                      # blocks
    heads: int = 4
    answers: int = 1                                    # 2: a second picture comes out, in channels after the first

    def __post_init__(self):
        if self.side % self.patch or self.width % self.heads or self.width % 4:
            raise ValueError(f"a side of {self.side} must be a multiple of the patch, {self.patch}, and a width of "
                             f"{self.width} a multiple of 4 and of the heads, {self.heads}")


def places(side: int, d: int) -> Float[Tensor, "n d"]:
    """A vector for each place of a grid: sinusoids of its row beside those of its column.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), appendix D.4; Vaswani et al. 2017, section 3.5.
    """
    line = sinusoids(torch.arange(side).float(), d // 2)                        # [side, d/2]
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


class AdaptiveBlock(nn.Module):
    """x + gate * part((1 + scale) * norm(x) + shift) for attention, then for an MLP; time gives gate, scale, shift.

    At first all three are 0 (adaLN-zero): the block hands on what it was given.
    """

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(d, elementwise_affine=False)
        self.attention = Attention(d, heads)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.told = zeroed(nn.Linear(d, 6 * d))

    def forward(self, x: Float[Tensor, "b l d"], time: Float[Tensor, "b d"]) -> Float[Tensor, "b l d"]:
        """Source: Peebles & Xie 2023 (arXiv 2212.09748), section 3.2."""
        told = self.told(F.silu(time))[:, None].chunk(6, -1)                    # each [b, 1, d]
        for part, (gate, scale, shift) in ((self.attention, told[:3]), (self.mlp, told[3:])):
            x = x + gate * part((1 + scale) * self.norm(x) + shift)
        return x


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias 0."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class DiT(nn.Module):
    """net(x, t, cond=None): the network inside a denoiser, for pictures without captions."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config, d, pixels = config, config.width, config.channels * config.patch ** 2
        self.time = TimeEmbedding(64, d)
        self.tokens = nn.Linear(pixels, d)
        self.register_buffer("place", places(config.side // config.patch, d), persistent=False)
        self.blocks = nn.ModuleList(AdaptiveBlock(d, config.heads) for _ in range(config.depth))
        self.norm, self.told = nn.LayerNorm(d, elementwise_affine=False), zeroed(nn.Linear(d, 2 * d))
        self.pixels = zeroed(nn.Linear(d, pixels * config.answers))

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], cond: object = None
                ) -> Float[Tensor, "b k h w"]:
        """Source: Peebles & Xie 2023 (arXiv 2212.09748), figure 3 and section 3.2."""
        patch, grid = self.config.patch, self.config.side // self.config.patch
        if cond is not None or x.shape[1:] != (self.config.channels, self.config.side, self.config.side):
            raise ValueError(f"this transformer denoises {self.config.channels} channels with side {self.config.side} "
                             f"and hears no cond; it was given a batch of shape {list(x.shape)}, cond {cond}")
        time = self.time(t)                                                     # [b, d]
        y = self.tokens(F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)) + self.place    # [b, grid^2, d]
        for block in self.blocks:
            y = block(y, time)
        scale, shift = self.told(F.silu(time))[:, None].chunk(2, -1)
        y = self.pixels((1 + scale) * self.norm(y) + shift)                     # [b, grid^2, c answers patch^2]
        return F.pixel_shuffle(y.transpose(1, 2).unflatten(2, (grid, grid)), patch).float()
