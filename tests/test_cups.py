"""Cups: the renderer against counting points, and the level that is read against the level that was drawn."""
import pytest
import torch

from minidiff.cups import LEVELS, read, render
from minidiff.data import rng
from minidiff.scenes import BACKGROUNDS, COLOURS, rgb

WATER, CREAM, NAVY = 4, 3, 2                                          # blue; of the backgrounds


def some(n, key="cups"):
    """n levels, colours and backgrounds."""
    generator = rng(key)
    return (torch.rand(n, generator=generator), torch.randint(len(COLOURS), (n,), generator=generator),
            torch.randint(len(BACKGROUNDS), (n,), generator=generator))


def counted(level, colour, background, size, fine=40):
    """One cup, each pixel the mean colour of fine x fine points, each of which lies in water, wall or neither."""
    at = (torch.arange(size * fine) + .5) / (size * fine)
    y, x = torch.meshgrid(at, at, indexing="ij")
    outside = (x > 1 / 4) & (x < 3 / 4) & (y > 1 / 8) & (y < 7 / 8)
    inside = (x > 5 / 16) & (x < 11 / 16) & (y > 1 / 8) & (y < 13 / 16)           # the wall is 1/16 thick; open above
    water = inside & (y > 13 / 16 - level * 11 / 16)
    wall = rgb(BACKGROUNDS)[NAVY] if background == CREAM else rgb(COLOURS)[list(COLOURS).index("white")]
    points = rgb(BACKGROUNDS)[background].expand(size * fine, size * fine, 3).clone()
    points[outside & ~inside], points[water] = wall, rgb(COLOURS)[colour]
    return points.unflatten(0, (size, fine)).unflatten(2, (size, fine)).mean((1, 3)).movedim(2, 0)


def test_each_pixel_is_the_mean_colour_of_its_points():
    level, colour, background = some(12)
    for size in (16, 32):
        x = render(level, colour, background, size)
        for i in range(12):
            expected = counted(level[i], int(colour[i]), int(background[i]), size)
            assert (x[i] - expected).abs().max() < 2 / 40 and (x[i] - expected).abs().mean() < .002


def test_water_grows_with_the_level_alone():
    """Its area is level * 3/8 * 11/16 of the picture, and nothing else changes."""
    level, n = torch.linspace(0, 1, 9), 9
    x = render(level, torch.full((n,), WATER), torch.zeros(n, dtype=torch.long))
    change = (x - x[:1]).sum((2, 3)) / 256
    full = rgb(COLOURS)[WATER] - rgb(BACKGROUNDS)[0]
    assert torch.allclose(change, level[:, None] * 3 / 8 * 11 / 16 * full, atol=1e-5)
    assert torch.equal((x - x[:1])[:, :, :, :5].abs().max(), torch.zeros(())) and x.min() >= -1 and x.max() <= 1


def test_a_clean_cup_is_read_as_it_was_drawn():
    for size, n in ((16, 600), (32, 60)):
        level, colour, background = some(n)
        read_level, read_colour, read_background, rms = read(render(level, colour, background, size))
        full = level > .02                                            # an empty cup has no colour
        assert (read_level - level).abs().max() < .006 and (read_level - level).abs().mean() < .003
        assert torch.equal(read_background, background) and torch.equal(read_colour[full], colour[full])
        assert rms.max() < .03                                        # between two levels of the table
    assert read(render(LEVELS, LEVELS.long(), LEVELS.long()))[0].equal(LEVELS)


def test_noise_moves_the_level_little_and_is_what_is_left():
    level, colour, background = some(300)
    x = render(level, colour, background)
    found = read(x + .1 * torch.randn(x.shape, generator=rng("cup noise")))
    assert (found[0] - level).abs().mean() < .01 and (found[0] - level).abs().max() < .05
    assert torch.equal(found[2], background) and float(found[3].mean()) == pytest.approx(.1, rel=.05)


def test_the_mean_of_the_pictures_is_no_half_full_cup():
    """Every pixel of the water is half water, half background, which no cup is: the rest tells."""
    colour, background = (t.flatten() for t in torch.meshgrid(torch.arange(8), torch.arange(4), indexing="ij"))
    empty, half, full = (render(torch.full((32,), level), colour, background) for level in (0., .5, 1.))
    assert read((empty + full) / 2)[3].min() > .05 and read(half)[3].max() == 0
    assert torch.equal(read(half)[0], torch.full((32,), .5))


def test_a_level_beyond_the_rim_is_refused():
    for wrong in (1.01, -.01, float("nan")):
        with pytest.raises(ValueError, match="lies between 0, empty, and 1, full to the rim"):
            render(torch.tensor([.5, wrong]), torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long))
