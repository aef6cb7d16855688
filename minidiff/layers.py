"""The few blocks that every network of the course is made of: residual block, attention, embedding of a number."""
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoids(t: Float[Tensor, "*b"], d: int, longest: float = 1e4) -> Float[Tensor, "*b d"]:
    """cos(t w_i), sin(t w_i) for the frequencies w_i = longest^(-2i/d), i = 0 ... d/2 - 1: from 1 to almost 1/longest.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    w = torch.exp(-math.log(longest) * torch.arange(d // 2, device=t.device) / (d // 2))
    return torch.cat([(t[..., None] * w).cos(), (t[..., None] * w).sin()], -1)


class TimeEmbedding(nn.Module):
    """A time in [0, 1] as a vector: sinusoids of 1000 t through a small network."""

    def __init__(self, d: int, d_out: int):
        super().__init__()
        self.d, self.net = d, nn.Sequential(nn.Linear(d, d_out), nn.SiLU(), nn.Linear(d_out, d_out))

    def forward(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """Source: Ho et al. 2020 (arXiv 2006.11239), appendix B."""
        return self.net(sinusoids(1000 * t.float(), self.d))


class GroupNorm(nn.GroupNorm):
    """gcd(c, 8) groups of channels, each normalised to mean 0 and variance 1, then scaled and shifted by channel.

    It computes in float32 whatever comes in: bfloat16 is slow and rough here.
    """

    def __init__(self, c: int):
        super().__init__(math.gcd(c, 8), c)

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        """Source: Wu & He 2018 (arXiv 1803.08494), equation 7."""
        return super().forward(x.float()).type_as(x)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), conditioned by a scale and a shift after the second norm."""

    def __init__(self, c_in: int, c_out: int, d_cond: int = 0):
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.cond = nn.Linear(d_cond, 2 * c_out) if d_cond else None
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)                         # at first the block passes on its skip and a bias

    def forward(self, x: Float[Tensor, "b c h w"], cond: Float[Tensor, "b d"] | None = None
                ) -> Float[Tensor, "b k h w"]:
        """Source: He et al. 2016 (arXiv 1603.05027), figure 4e; scale, shift: Dhariwal & Nichol 2021, section 3.1."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.cond is not None:
            scale, shift = self.cond(F.silu(cond))[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d_head)) v in several heads; q from x, k and v from `context` (x itself by default)."""

    def __init__(self, d: int, heads: int, d_context: int | None = None):
        super().__init__()
        if d % heads:
            raise ValueError(f"{heads} heads do not divide a width of {d}; the width must be a multiple of the heads")
        self.heads = heads
        self.q, self.kv = nn.Linear(d, d, bias=False), nn.Linear(d_context or d, 2 * d, bias=False)
        self.out = nn.Linear(d, d)

    def forward(self, x: Float[Tensor, "b l d"], context: Float[Tensor, "b m c"] | None = None, *,
                mask: Bool[Tensor, "b m"] | None = None, causal: bool = False, past: list[Tensor] | None = None
                ) -> Float[Tensor, "b l d"]:
        """mask: True where a token of the context may be looked at; past: keys and values of the tokens before x.

        `past` is a list that begins empty and grows with each call (a key-value cache): a later call brings one token.
        Source: Vaswani et al. 2017, section 3.2.
        """
        q, (k, v) = self.q(x), self.kv(x if context is None else context).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))       # [b heads l d/heads]
        if past:
            if x.shape[1] > 1:
                raise ValueError(f"with a past, tokens come one at a time, not {x.shape[1]}")
            k, v, causal = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2), False      # it may see them all
        if past is not None:
            past[:] = k, v
        mask = None if mask is None else mask[:, None, None, :]                      # [b 1 1 m]
        y = attend(q, k, v, mask=mask, causal=causal)                                # [b heads l d/heads]
        return self.out(y.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v.

    PyTorch's fused form, but for bfloat16 on a CPU, where its backward pass takes three to ten times as long as the
    formula's.
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -.5) @ k.transpose(-2, -1)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        mask = seen if mask is None else seen & mask
    return (scores if mask is None else scores.masked_fill(~mask, -1e4)).softmax(-1) @ v


class TransformerBlock(nn.Module):
    """Self-attention, then a small network on each token, each added to what came in."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(d), Attention(d, heads)
        self.norm2, self.mlp = nn.LayerNorm(d), nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Float[Tensor, "b l d"], *, mask: Bool[Tensor, "b l"] | None = None,
                causal: bool = False, past: list[Tensor] | None = None) -> Float[Tensor, "b l d"]:
        """Source: Radford et al. 2019 (GPT-2): the norm comes before each part."""
        x = x + self.attention(self.norm1(x), mask=mask, causal=causal, past=past)
        return x + self.mlp(self.norm2(x))
