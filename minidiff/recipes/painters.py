"""What chapter 6 compares: who reads the caption, and how the text enters the network."""
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minidiff import weights
from minidiff.latent import LatentAutoencoder
from minidiff.text import Text, TextConfig, TextEncoder
from minidiff.unet import SpatialTransformer, UNet, UNetConfig

NET = UNetConfig(4, 8, (24, 48), d_time=64, d_text=128, attend=(False, True))


# --- who reads --------------------------------------------------------------------------------------------------------

def pretrained() -> TextEncoder:
    """The shipped text encoder, as CLIP left it."""
    return weights.load("text-encoder")


class Table(nn.Module):
    """A vector for each word and one for each place in the caption; their mean stands for the whole."""

    def __init__(self):
        super().__init__()
        config = TextConfig()
        self.word = nn.Embedding(len(config.words), config.d)
        self.position = nn.Parameter(torch.randn(config.length, config.d) * .3)

    def forward(self, numbers: Int[Tensor, "b l"]) -> Text:
        """No word knows of another."""
        numbers = numbers[:, :int((numbers > 0).sum(1).max())]
        mask = numbers > 0
        x = self.word(numbers) + self.position[:numbers.shape[1]]                               # [b l d]
        return Text(x, (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), mask)


# --- what is denoised -------------------------------------------------------------------------------------------------

def shipped() -> LatentAutoencoder:
    """8x8 codes of the auto-encoder that ships."""
    return weights.load("latent-autoencoder")


class Pixels(nn.Module):
    """No code at all: the pictures themselves."""

    def encode(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """x."""
        return x

    def decode(self, z: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """z."""
        return z


def in_pixels(widths: tuple[int, ...], side: int) -> UNet:
    """The U-Net with more levels, so that its last two, at 8x8 and 4x4, are those of the U-Net of codes."""
    return UNet(replace(NET, channels=3, side=side, widths=widths, attend=(False,) * (len(widths) - 1) + (True,)))


# --- how text enters --------------------------------------------------------------------------------------------------

def crossing() -> UNet:
    """Keys and values of a cross-attention come from the words, the whole is added to the time."""
    return UNet(NET)


def words_alone() -> UNet:
    """The same without the whole: nothing is added to the time."""
    net = UNet(NET)
    net.pooled.requires_grad_(False)
    nn.init.zeros_(net.pooled.weight), nn.init.zeros_(net.pooled.bias)
    return net


class Joined(SpatialTransformer):
    """Self-attention among places *and* words: the words' vectors join the context (GLIDE)."""

    def __init__(self, d: int, heads: int, d_text: int):
        super().__init__(d, heads)
        self.word = nn.Linear(d_text, d)

    def forward(self, x: Float[Tensor, "b d h w"], text: Float[Tensor, "b l k"] | None = None,
                mask: Bool[Tensor, "b l"] | None = None) -> Float[Tensor, "b d h w"]:
        """Source: Nichol et al. 2021 (arXiv 2112.10741), section 2.3."""
        y = x.flatten(2).transpose(1, 2)                                                        # [b, h w, d]
        among = self.norm1(y)
        seen = torch.cat([mask.new_ones(y.shape[:2]), mask], 1)
        y = y + self.self_attention(among, torch.cat([among, self.word(text)], 1), mask=seen)
        y = y + self.mlp(self.norm3(y))
        return y.transpose(1, 2).unflatten(2, x.shape[2:])


def joined() -> UNet:
    """The U-Net with such transformers."""
    net = UNet(NET)
    for block in net.modules():
        if isinstance(getattr(block, "transformer", None), SpatialTransformer):
            block.transformer = Joined(block.transformer.norm1.normalized_shape[0], NET.heads, NET.d_text)
    return net


def pooled() -> UNet:
    """One vector for the whole caption, added to the time, as in every U-Net here; no word is looked at."""
    net = UNet(replace(NET, widths=(28, 52)))
    for part in net.modules():
        if isinstance(part, SpatialTransformer):
            part.norm2 = part.cross_attention = None
    return net


class Beside(nn.Module):
    """The whole caption as a picture of its own, channels beside z_t."""

    def __init__(self):
        super().__init__()
        self.net = UNet(replace(NET, channels=8, widths=(28, 52), d_text=0))
        self.picture = nn.Linear(NET.d_text, 4 * NET.side ** 2)

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], cond: Text) -> Float[Tensor, "b c h w"]:
        """The network's answer; the channels beside are asked for nothing."""
        beside = self.picture(cond.pooled).unflatten(1, (4, NET.side, NET.side))
        return self.net(torch.cat([x, beside], 1), t)[:, :4]
