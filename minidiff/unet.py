"""One U-Net: down, middle, up, with skips; told of the time by every residual block, of the text by attention."""
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minidiff.layers import Attention, GroupNorm, ResidualBlock, TimeEmbedding


@dataclass(frozen=True)
class UNetConfig:
    """Channels and side of what is denoised, the width of each level, blocks in each, heads, width of the text or 0."""
    channels: int = 4
    side: int = 8
    widths: tuple[int, ...] = (96, 112)
    blocks: int = 1
    heads: int = 4
    d_time: int = 128
    d_text: int = 128
    attend: tuple[bool, ...] = (True, True)             # a spatial transformer after the residual blocks of this level?


class SpatialTransformer(nn.Module):
    """Every place looks at every place, then at every word, then thinks for itself; added to what came in."""

    def __init__(self, d: int, heads: int, d_text: int = 0):
        super().__init__()
        self.norm1, self.own = nn.LayerNorm(d), Attention(d, heads)
        self.norm2, self.words = (nn.LayerNorm(d), Attention(d, heads, d_text)) if d_text else (None, None)
        self.norm3, self.mlp = nn.LayerNorm(d), nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Float[Tensor, "b d h w"], text: Float[Tensor, "b l k"] | None = None,
                mask: Bool[Tensor, "b l"] | None = None) -> Float[Tensor, "b d h w"]:
        """Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.3 and appendix E.2.1."""
        y = x.flatten(2).transpose(1, 2)                                        # [b, h w, d]
        y = y + self.own(self.norm1(y))
        if self.words is not None and text is not None:
            y = y + self.words(self.norm2(y), text, mask=mask)
        y = y + self.mlp(self.norm3(y))
        return y.transpose(1, 2).unflatten(2, x.shape[2:])                      # [b, d, h, w]


class Block(nn.Module):
    """A residual block, and where asked a spatial transformer after it."""

    def __init__(self, c_in: int, c_out: int, config: UNetConfig, *, attend: bool = True):
        super().__init__()
        self.residual = ResidualBlock(c_in, c_out, config.d_time)
        self.transformer = SpatialTransformer(c_out, config.heads, config.d_text) if attend else None

    def forward(self, x: Float[Tensor, "b c h w"], time: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """Source: Rombach et al. 2022, appendix E.2.1."""
        x = self.residual(x, time)
        return x if self.transformer is None else self.transformer(x, text, mask)


class UNet(nn.Module):
    """net(x, t, cond): the network inside a denoiser; cond is a `Text` (tokens, pooled, mask) or None."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config, widths = config, config.widths
        self.time = TimeEmbedding(64, config.d_time)
        self.pooled = nn.Linear(config.d_text, config.d_time) if config.d_text else None
        self.enter = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.where = nn.Parameter(torch.randn(widths[0], config.side, config.side) * .1)
        self.down, self.up, c = nn.ModuleList(), nn.ModuleList(), widths[0]
        for level, width in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
            for _ in range(config.blocks):
                self.down.append(Block(c, width, config, attend=config.attend[level]))
                c = width
        self.middle = Block(c, c, config)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks):                                      # each takes the skip of its twin
                self.up.append(Block(c + width, width, config, attend=config.attend[level]))
                c = width
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(c, c, 3, padding=1)))
        self.leave = nn.Sequential(GroupNorm(c), nn.SiLU(), nn.Conv2d(c, config.channels, 3, padding=1))
        nn.init.zeros_(self.leave[-1].weight)

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], cond: tuple | None = None
                ) -> Float[Tensor, "b c h w"]:
        """Source: Ho et al. 2020 (arXiv 2006.11239), appendix B; the text: Rombach et al. 2022, section 3.3."""
        time = self.time(t)                                                     # [b, d_time]
        words, pooled, mask = cond if cond is not None else (None, None, None)
        if pooled is not None:
            time = time + self.pooled(pooled)
        x = self.enter(x) + self.where                                          # [b, widths[0], h, w]
        skips = []
        for part in self.down:
            if isinstance(part, Block):
                skips.append(x := part(x, time, words, mask))                   # [b, widths[i], h/2^i, w/2^i]
            else:
                x = part(x)
        x = self.middle(x, time, words, mask)
        for part in self.up:
            x = part(torch.cat([x, skips.pop()], 1), time, words, mask) if isinstance(part, Block) else part(x)
        return self.leave(x).float()                                            # [b, c, h, w]
