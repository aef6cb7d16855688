"""One U-Net: down, middle, up, with skips; each residual block is told the time, attention brings in the text."""
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from minidiff.layers import Attention, GroupNorm, ResidualBlock, TimeEmbedding


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of; the side must be divisible by 2 at every level but the last."""
    channels: int = 4                                   # of what is denoised
    side: int = 8                                       # its height and width
    widths: tuple[int, ...] = (96, 112)                 # channels inside, level by level
    blocks: int = 1                                     # on the way down and on the way up, at each level
    heads: int = 4                                      # of every attention
    d_time: int = 128                                   # width of the time embedding
    d_text: int = 128                                   # width of the text's vectors; 0: no text
    attend: tuple[bool, ...] = (True, True)             # level by level: a spatial transformer after each block?
    answers: int = 1                                    # 2: a second picture comes out, in channels after the first

    def __post_init__(self):
        if len(self.attend) != len(self.widths):
            raise ValueError(f"{len(self.widths)} widths need as many entries in attend, not {len(self.attend)}")
        if self.side % 2 ** (len(self.widths) - 1):
            raise ValueError(f"a side of {self.side} cannot be halved {len(self.widths) - 1} times: take a multiple of "
                             f"{2 ** (len(self.widths) - 1)}")


class SpatialTransformer(nn.Module):
    """Self-attention among the places, cross-attention from the places to the words, an MLP; each is added on."""

    def __init__(self, d: int, heads: int, d_text: int = 0):
        super().__init__()
        self.norm1, self.self_attention = nn.LayerNorm(d), Attention(d, heads)
        self.norm2, self.cross_attention = (nn.LayerNorm(d), Attention(d, heads, d_text)) if d_text else (None, None)
        self.norm3, self.mlp = nn.LayerNorm(d), nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Float[Tensor, "b d h w"], text: Float[Tensor, "b l k"] | None = None,
                mask: Bool[Tensor, "b l"] | None = None) -> Float[Tensor, "b d h w"]:
        """text [b l k] with its mask [b l], True where there is a word.

        Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.3 and appendix E.2.1.
        """
        y = x.flatten(2).transpose(1, 2)                                        # [b, h w, d]
        y = y + self.self_attention(self.norm1(y))
        if self.cross_attention is not None:
            y = y + self.cross_attention(self.norm2(y), text, mask=mask)
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
        self.conv_in = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.position = nn.Parameter(torch.randn(widths[0], config.side, config.side) * .1)
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
        channels = config.channels * config.answers
        self.conv_out = nn.Sequential(GroupNorm(c), nn.SiLU(), nn.Conv2d(c, channels, 3, padding=1))
        nn.init.zeros_(self.conv_out[-1].weight)

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], cond: tuple | None = None
                ) -> Float[Tensor, "b k h w"]:
        """The network's answer; for no caption, cond is the encoded "" and not None.

        Source: Ho et al. 2020 (arXiv 2006.11239), appendix B; the text: Rombach et al. 2022, section 3.3.
        """
        if (cond is None) == bool(self.config.d_text):
            raise ValueError("this U-Net was built " + ("with text: pass cond, for no caption the encoded ''"
                                                       if self.config.d_text else "without text: leave cond out"))
        if x.shape[1:] != (self.config.channels, self.config.side, self.config.side):
            raise ValueError(f"this U-Net denoises {self.config.channels} channels with side {self.config.side}, "
                             f"not a batch of shape {list(x.shape)}")
        time = self.time(t)                                                     # [b, d_time]
        words, pooled, mask = cond if cond is not None else (None, None, None)
        if pooled is not None:
            time = time + self.pooled(pooled)
        x = self.conv_in(x) + self.position                                          # [b, widths[0], h, w]
        skips = []
        for part in self.down:
            if isinstance(part, Block):
                skips.append(x := part(x, time, words, mask))                   # [b, widths[i], h/2^i, w/2^i]
            else:
                x = part(x)
        x = self.middle(x, time, words, mask)
        for part in self.up:
            x = part(torch.cat([x, skips.pop()], 1), time, words, mask) if isinstance(part, Block) else part(x)
        return self.conv_out(x).float()                                         # [b, c answers, h, w]
