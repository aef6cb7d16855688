"""CLIP: a picture and its caption become near vectors, other captions far ones."""
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.autoencoder import AutoencoderConfig, to_vector
from minidiff.data import Contrast
from minidiff.layers import TransformerBlock
from minidiff.text import TextEncoder


@dataclass(frozen=True)
class ClipConfig:
    """The picture encoder's widths, the width of the space in which picture and text meet, and the picture's side."""
    widths: tuple[int, ...] = (32, 64, 96)
    d: int = 128
    size: int = 32
    patch: int = 0                              # a vision transformer on patches of this side; 0: convolutions

    def __post_init__(self):
        if self.patch and self.size % self.patch:
            raise ValueError(f"pictures of side {self.size} are not cut into whole patches of side {self.patch}")


class PatchEncoder(nn.Module):
    """A vision transformer: (size / patch)^2 squares of the picture are its words; one more token tells the whole."""

    def __init__(self, config: ClipConfig, d: int = 96, layers: int = 3):
        super().__init__()
        self.cut = nn.Conv2d(3, d, config.patch, stride=config.patch)           # a linear map of each patch
        self.whole = nn.Parameter(torch.randn(1, 1, d) * .1)
        self.position = nn.Parameter(torch.randn((config.size // config.patch) ** 2 + 1, d) * .1)
        self.blocks = nn.Sequential(*(TransformerBlock(d, 4) for _ in range(layers)))
        self.out = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, config.d))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), equations 1 to 4."""
        patches = self.cut(x).flatten(2).transpose(1, 2)                        # [b, (h/p)(w/p), d]
        tokens = torch.cat([self.whole.expand(len(x), -1, -1), patches], 1)
        return self.out(self.blocks(tokens + self.position)[:, 0])


class Clip(nn.Module):
    """Two encoders into one space, compared by the cosine."""

    def __init__(self, config: ClipConfig, *, text: TextEncoder):
        super().__init__()
        self.config = config
        self.picture = PatchEncoder(config) if config.patch else to_vector(
            AutoencoderConfig(side=config.size, encoder=config.widths, neck=32), config.d)
        self.text = text
        self.project = nn.Linear(text.config.d, config.d, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(2.))

    def encode_pictures(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit vectors of pictures in [-1, 1]."""
        return F.normalize(self.picture(x).float(), dim=-1)

    def encode_text(self, numbers: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Unit vectors of captions as word numbers (`captions.encode`)."""
        return F.normalize(self.project(self.text(numbers).pooled).float(), dim=-1)

    def loss(self, batch: Contrast) -> dict[str, Tensor]:
        """Cross-entropy of finding the caption of each picture and the picture of each caption.

        Captions that are wrong in one point (hard negatives) stand among those to choose from.
        Source: Radford et al. 2021 (arXiv 2103.00020), figure 3; hard negatives: Yuksekgonul et al. 2023 (arXiv
        2210.01936).
        """
        b, k, length = batch.wrong.shape
        pictures = self.encode_pictures(batch.pictures)
        texts = self.encode_text(torch.cat([batch.captions, batch.wrong.reshape(b * k, length)]))
        scale = self.log_scale.clamp(max=4.6).exp()
        logits = scale * pictures @ texts.T                                     # [b, b + b k]
        logits[:, b:].masked_fill_(~batch.counts.reshape(1, -1), -torch.inf)
        right = torch.arange(b, device=logits.device)
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, :b].T, right)) / 2
        own = logits[:, b:].reshape(b, b, k)[right, right]                      # a picture with its own wrong ones
        return {"loss": loss, "retrieved": (logits.argmax(1) == right).float().mean(),
                "swaps seen": (logits.diagonal()[:, None] > own)[batch.counts].float().mean()}
