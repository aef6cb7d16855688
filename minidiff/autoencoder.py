"""Auto-encoders: a picture into a code and back. Here are the two halves that every kind of them is made of."""
from jaxtyping import Float
from torch import Tensor, nn

from minidiff.layers import GroupNorm, ResidualBlock


class Encoder(nn.Module):
    """Pictures [b c h w] to codes [b d h/f w/f], f = 2^len(widths): each width halves the side."""

    def __init__(self, c: int, d: int, widths: tuple[int, ...], blocks: int = 1):
        super().__init__()
        layers = [nn.PixelUnshuffle(2), nn.Conv2d(4 * c, widths[0], 3, padding=1)]
        for before, width in zip((None, *widths), widths, strict=False):
            if before:
                layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width, width) for _ in range(blocks)]
        self.net = nn.Sequential(*layers, GroupNorm(widths[-1]), nn.SiLU(),
                                 nn.Conv2d(widths[-1], d, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The code of pictures; their sides must be multiples of f."""
        return self.net(x)


class Decoder(nn.Module):
    """Codes [b d i j] to pictures [b c h w]: the encoder backwards; widths from the code's side to the picture's."""

    def __init__(self, d: int, c: int, widths: tuple[int, ...], blocks: int = 2):
        super().__init__()
        layers = [nn.Conv2d(d, widths[0], 3, padding=1)]
        for before, width in zip((None, *widths), widths, strict=False):
            if before:
                layers += [nn.Conv2d(before, 4 * width, 1), nn.PixelShuffle(2)]
            layers += [ResidualBlock(width, width) for _ in range(blocks)]
        self.net = nn.Sequential(*layers, GroupNorm(widths[-1]), nn.SiLU(),
                                 nn.Conv2d(widths[-1], 4 * c, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, z: Float[Tensor, "b d i j"]) -> Float[Tensor, "b c h w"]:
        """The picture of codes, not kept within [-1, 1]."""
        return self.net(z)
